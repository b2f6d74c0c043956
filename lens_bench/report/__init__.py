"""What people look at: leaderboard, comparison, gate, plots, pages."""

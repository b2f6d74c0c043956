"""Running a model over a suite: plan, journal, loop, merge."""

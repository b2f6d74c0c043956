"""The self-contained page about one run, or about two runs side by side."""

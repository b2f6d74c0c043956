"""Suites on disk: one module per format, and what all formats share."""

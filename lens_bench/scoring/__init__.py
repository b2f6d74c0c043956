"""Scoring: predictions and annotations to exact counts, metrics and their uncertainty, by named protocols."""

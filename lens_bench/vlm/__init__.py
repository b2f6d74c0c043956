"""Vision-language models that answer in words: local ones, ones behind an endpoint, and what is read out of answers.

Importing this package imports nothing heavy; ``local`` imports torch and transformers.
"""

"""SAM 2 prompted with boxes and points: an image is encoded once, any number of prompts reads the result.

Importing this package imports nothing heavy; its modules import torch and transformers.
"""

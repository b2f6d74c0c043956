"""SAM (the first) for every model that prompts it: an image is encoded once, any number of prompts reads the result.

Importing this package imports nothing heavy; its modules import torch and segment-anything.
"""

"""LENS: a vision-language model that answers, 64 context queries that read the answer, and SAM 2 that paints it.

Architecture after "LENS: Learning to Segment Anything with Unified Reinforced Reasoning" (arXiv 2508.14153) and the
released checkpoints. Importing this package imports nothing heavy; its modules import torch and transformers.
"""

"""LLaVA that writes the word [SEG], and SAM that paints it: what LISA and GLaMM have in common.

LISA (Lai et al., CVPR 2024) and GLaMM (Rasheed et al., CVPR 2024) differ in the vision tower's resolution, the
projector, a prefix of tensor names and the prompts; everything else is one architecture, kept here so that the two
baselines are one adapter each. Importing this package imports nothing heavy; its modules import torch.
"""

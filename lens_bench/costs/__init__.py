"""Work of the parts that several models share, from their shapes: language models, vision towers, SAM and SAM 2.

Only what an answer needs is counted: no padding of a batch, no rows that read along after their end.
"""

"""LENS: the adapter lies in the package, because checkpoints of our own trainer use it too."""

from __future__ import annotations

from lens_bench.lens.segmenter import LensSegmenter

__all__ = ["LensSegmenter"]

"""The controls are LENS with other weights: same code, another card."""

from __future__ import annotations

from lens_bench.lens.segmenter import LensSegmenter

__all__ = ["LensSegmenter"]

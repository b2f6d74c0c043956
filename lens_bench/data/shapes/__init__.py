"""Generated suites: pictures of simple things with exact masks and expressions that have one clear answer.

``shapes`` is written in the genuine REFER layout, ``shapes-multi`` in gRefCOCO's and ``shapes-reason`` in ReasonSeg's,
so that the readers of the real sets read them.
"""

from __future__ import annotations

from lens_bench.data.shapes.make import folder_of, is_made, make, splits, verify

__all__ = ["folder_of", "is_made", "make", "splits", "verify"]

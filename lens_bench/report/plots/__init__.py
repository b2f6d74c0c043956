"""Figures: SVG and PNG, one column wide, colour-blind safe, the same bytes from the same data.

Only this package imports matplotlib. ``draw_all`` draws everything that a set of runs holds; ``draw_training`` draws a
trainer's log.
"""

from __future__ import annotations

from lens_bench.report.plots.accuracy import draw_bars, draw_pareto, pareto_front
from lens_bench.report.plots.draw import Drawing, draw, draw_all
from lens_bench.report.plots.training import draw_training

__all__ = ["Drawing", "draw", "draw_all", "draw_bars", "draw_pareto", "draw_training", "pareto_front"]

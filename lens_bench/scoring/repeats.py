"""Several trainings of one model against several of another, on the same expressions.

A difference between two methods has two sources of chance: which images were asked about, and which seeds the
trainings had (Bouthillier et al., "Accounting for Variance in Machine Learning Benchmarks", MLSys 2021). Images are
resampled as in ``stats``, the same ones for every run. The spread between trainings of a side, of which three
or five are too few to resample, is added as the variance of a mean; the interval is Student's with the degrees of
freedom of Satterthwaite ("An Approximate Distribution of Estimates of Variance Components", Biometrics Bulletin 1946).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lens_bench.errors import UsageError
from lens_bench.scoring.protocols import Protocol
from lens_bench.scoring.ratios import Ratio, ratios
from lens_bench.scoring.stats import DRAWS, Interval, image_sums, metric_of, quantile_of_t, ratio_draws, resampled
from lens_bench.scoring.table import Floats, ScoreTable


@dataclass(frozen=True, slots=True)
class RepeatedDelta:
    """The difference of one metric between the means of two groups of runs.

    Attributes:
        metric: Flat name of the metric.
        a: Value of every run of the first side, ``b`` of the second.
        delta: Mean of the second side minus mean of the first.
        ci95: Interval of the difference over other images and other trainings. A side of one run has no spread to
            estimate; its own chance is then not in the interval.
        image_error: Standard error of the difference by the choice of images alone.
        training_error: The same by the trainings' seeds alone; 0 where both sides are single runs.
        n_images: Images compared.
    """

    metric: str
    a: tuple[float, ...]
    b: tuple[float, ...]
    delta: float
    ci95: Interval
    image_error: float
    training_error: float
    n_images: int


def repeated_delta(
    first: Sequence[ScoreTable],
    second: Sequence[ScoreTable],
    metric: str,
    protocol: Protocol,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> RepeatedDelta | None:
    """Compare two groups of runs, resampling the same images for all.

    Args:
        first: One table per training; all tables hold the same rows.
        second: Of the other side.
        metric: Flat name, see ``ratios.ratios``.
        protocol: The rules that all were scored by.
        draws: Number of resamples.
        seed: Of the draws.

    Returns:
        None where the metric does not apply to every run, or fewer than two images contribute.

    Raises:
        UsageError: A side is empty, the runs do not hold the same expressions, or no metric has this name.
    """
    tables = [*first, *second]
    if not first or not second:
        raise UsageError("a side has no run", "name a folder with at least one")
    rows = {(table.sample_ids, table.image_ids) for table in tables}
    if len(rows) > 1:
        raise UsageError("the runs do not hold the same expressions", "finish them: the same command again continues")
    found = [metric_of(ratios(table, protocol), metric) for table in tables]
    parts = [ratio for ratio in found if ratio is not None]
    values = [ratio.value for ratio in parts]
    known = [value for value in values if value is not None]
    sums = image_sums(parts, tables[0].cluster)
    images = int(np.count_nonzero(sums[:, 1::2].sum(axis=1)))
    if len(known) < len(tables) or images < 2:
        return None
    a, b = tuple(known[: len(first)]), tuple(known[len(first) :])
    by_image = _image_variance(parts, sums, images, len(a), draws, seed)
    sides = [(_mean_variance(side), len(side) - 1) for side in (a, b)]
    by_training = sum(variance for variance, _ in sides)
    error = math.sqrt(by_image + by_training)
    reach = error * quantile_of_t(_freedom([(by_image, images - 1), *sides]))
    delta = float(np.mean(b) - np.mean(a))
    return RepeatedDelta(
        metric, a, b, delta, (delta - reach, delta + reach), math.sqrt(by_image), math.sqrt(by_training), images
    )


def _image_variance(parts: Sequence[Ratio], sums: Floats, images: int, split: int, draws: int, seed: int) -> float:
    """Variance of the difference of means over resampled images."""
    drawn = resampled(sums, draws, seed)
    values = np.stack([ratio_draws(drawn, n, part.epsilon) for n, part in enumerate(parts)])
    deltas = values[split:].mean(axis=0) - values[:split].mean(axis=0)
    # The draws' variance is that of a population of these images.
    return float(np.nanvar(deltas, ddof=1)) * images / (images - 1)


def _mean_variance(values: Sequence[float]) -> float:
    """Variance of a mean of trainings; 0 for one, whose spread nobody knows."""
    return float(np.var(values, ddof=1)) / len(values) if len(values) > 1 else 0.0


def _freedom(parts: Sequence[tuple[float, int]]) -> float:
    """Degrees of freedom of a sum of variances with their own (Satterthwaite)."""
    total = sum(variance for variance, _ in parts)
    below = sum(variance**2 / freedom for variance, freedom in parts if variance)
    return total**2 / below if below else math.inf

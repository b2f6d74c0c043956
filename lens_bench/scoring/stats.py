"""Statistics of ratios of sums over expressions that come in images: intervals, paired tests, detectable effects.

Expressions of one image share its difficulty, so images are resampled, never expressions; and cIoU is no mean, so both
of its sums are formed anew in every draw (Cameron, Gelbach and Miller, "Bootstrap-based improvements for inference
with clustered errors", 2008, section III; Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 8
and 12). All draws are one matrix of image weights, so every metric, and both runs of a comparison, see the same images.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TypeAlias

import numpy as np

from lens_bench.errors import UsageError
from lens_bench.scoring.protocols import Protocol
from lens_bench.scoring.ratios import Ratio, ratios
from lens_bench.scoring.table import Floats, Ints, ScoreTable

Interval: TypeAlias = tuple[float, float]

DRAWS = 1000
LEVEL = 0.95
HEADLINE = ("ciou", "giou", "box_acc_0.5")
BLOCK = 4_000_000  # weights held at once
POWER = 0.8


@dataclass(frozen=True, slots=True)
class PairedDelta:
    """The difference of one metric between two runs on the same expressions.

    Attributes:
        metric: Flat name of the metric.
        delta: Second run minus first.
        ci95: Interval of the difference.
        p_value: Two-sided, of "there is no difference"; below 0.05 exactly where ``ci95`` excludes zero, up to the
            resolution of the draws.
        standard_error: Of the difference.
        mde: Smallest true difference that a comparison like this one finds with 80 % power at the 5 % level.
        n_samples: Expressions compared.
        n_images: Images they come from.
    """

    metric: str
    delta: float
    ci95: Interval
    p_value: float
    standard_error: float
    mde: float
    n_samples: int
    n_images: int


def clustered_ci(
    ratio: Ratio, cluster: Ints, *, draws: int = DRAWS, seed: int = 0, level: float = LEVEL
) -> Interval | None:
    """Interval of a ratio of sums by resampling whole images; None for fewer than two images that contribute.

    The ends are percentiles of the draws, taken a little further out for few images ("expanded percentile interval":
    Hesterberg, "What Teachers Should Know About the Bootstrap", The American Statistician 2015, section 5.3).

    Args:
        ratio: One entry per expression.
        cluster: Number of the image of every expression, int [expressions].
        draws: Number of resamples.
        seed: Of the draws.
        level: Share of such intervals that should hold the true value.
    """
    sums = image_sums([ratio], cluster)
    images = int(np.count_nonzero(sums[:, 1]))
    if images < 2:
        return None
    values = ratio_draws(resampled(sums, draws, seed), 0, ratio.epsilon)
    return _interval(values, images, level)


def intervals(
    table: ScoreTable,
    protocol: Protocol,
    names: Iterable[str] = HEADLINE,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Interval | None]:
    """95 % intervals of several metrics from the same draws; None where a metric does not apply or images are too few.

    Args:
        table: The scores.
        protocol: The rules they were made by.
        names: Flat names of metrics, see ``ratios.ratios``.
        draws: Number of resamples.
        seed: Of the draws.

    Raises:
        UsageError: No metric has this name.
    """
    known = ratios(table, protocol)
    wanted = {name: metric_of(known, name) for name in names}
    used = {name: ratio for name, ratio in wanted.items() if ratio is not None}
    sums = image_sums(list(used.values()), table.cluster)
    drawn = resampled(sums, draws, seed)
    found: dict[str, Interval | None] = dict.fromkeys(wanted)
    for position, (name, ratio) in enumerate(used.items()):
        images = int(np.count_nonzero(sums[:, 2 * position + 1]))
        if images >= 2:
            found[name] = _interval(ratio_draws(drawn, position, ratio.epsilon), images, LEVEL)
    return found


def paired_delta(
    first: ScoreTable, second: ScoreTable, metric: str, protocol: Protocol, *, draws: int = DRAWS, seed: int = 0
) -> PairedDelta | None:
    """Compare two runs on the same expressions, resampling the same images for both.

    Returns:
        ``second - first``; None where the metric does not apply to both or fewer than two images contribute.

    Raises:
        UsageError: The runs do not hold the same expressions (see ``common_rows``), or no metric has this name.
    """
    if first.sample_ids != second.sample_ids or first.image_ids != second.image_ids:
        raise UsageError(
            f"the runs hold {len(first)} and {len(second)} expressions that are not the same",
            "compare runs of one suite and split, or restrict both to what they share",
        )
    pair = metric_of(ratios(first, protocol), metric), metric_of(ratios(second, protocol), metric)
    if pair[0] is None or pair[1] is None:
        return None
    values = pair[0].value, pair[1].value
    sums = image_sums([pair[0], pair[1]], first.cluster)
    images = int(np.count_nonzero(sums[:, 1] + sums[:, 3]))
    if images < 2 or values[0] is None or values[1] is None:
        return None
    drawn = resampled(sums, draws, seed)
    deltas = ratio_draws(drawn, 1, pair[1].epsilon) - ratio_draws(drawn, 0, pair[0].epsilon)
    ci95 = _interval(deltas, images, LEVEL)
    if ci95 is None:
        return None
    error = _standard_error(deltas, images)
    return PairedDelta(
        metric=metric,
        delta=values[1] - values[0],
        ci95=ci95,
        p_value=_p_value(deltas, images),
        standard_error=error,
        mde=minimum_detectable_effect(error),
        n_samples=int((first.counted | second.counted).sum()),
        n_images=images,
    )


def common_rows(first: ScoreTable, second: ScoreTable) -> tuple[ScoreTable, ScoreTable]:
    """Both tables restricted to the expressions they share, ready for ``paired_delta``."""
    shared = set(first.sample_ids) & set(second.sample_ids)
    keep = [np.array([i in shared for i in table.sample_ids], dtype=np.bool_) for table in (first, second)]
    return first.rows(keep[0]), second.rows(keep[1])


def minimum_detectable_effect(standard_error: float, *, alpha: float = 1 - LEVEL, power: float = POWER) -> float:
    """Smallest true difference that a two-sided test at ``alpha`` finds with probability ``power``.

    ``(z_{1 - alpha/2} + z_{power}) * SE`` (Bloom, "Minimum Detectable Effects", Evaluation Review 1995).

    Args:
        standard_error: Of the (paired, clustered) difference.
        alpha: Of the test.
        power: Of the test.
    """
    normal = NormalDist()
    return (normal.inv_cdf(1 - alpha / 2) + normal.inv_cdf(power)) * standard_error


# ---------------------------------------------------------------------------------------------- draws


def metric_of(known: Mapping[str, Ratio | None], name: str) -> Ratio | None:
    """A metric by its flat name; None where it does not apply. Raises ``UsageError`` where there is none."""
    if name not in known:
        raise UsageError(f"no metric is called {name!r}", f"there are: {', '.join(known)}")
    return known[name]


def image_sums(parts: Sequence[Ratio], cluster: Ints) -> Floats:
    """Float [images, 2 * parts]: numerator and denominator of every ratio summed within images."""
    n_images = int(cluster.max()) + 1 if len(cluster) else 0
    columns = [np.bincount(cluster, column, n_images) for p in parts for column in (p.numerator, p.denominator)]
    return np.stack(columns, axis=1) if columns else np.zeros((n_images, 0))


def resampled(sums: Floats, draws: int, seed: int) -> Floats:
    """Float [draws, columns]: the sums over images drawn with replacement, as many as there are."""
    images, columns = sums.shape
    out = np.zeros((draws, columns))
    if not images or not columns:
        return out
    rng = np.random.default_rng(seed)
    step = max(1, BLOCK // images)
    for start in range(0, draws, step):
        count = min(step, draws - start)
        chosen = rng.integers(0, images, size=(count, images)) + np.arange(count)[:, None] * images
        weights = np.bincount(chosen.ravel(), minlength=count * images).reshape(count, images)
        out[start : start + count] = weights.astype(np.float64) @ sums
    return out


def ratio_draws(drawn: Floats, position: int, epsilon: float) -> Floats:
    """One ratio in every draw; nan where the draw holds nothing to divide by."""
    below = drawn[:, 2 * position + 1] + epsilon
    values: Floats = np.divide(drawn[:, 2 * position], below, out=np.full(len(drawn), np.nan), where=below > 0)
    return values


def _interval(values: Floats, images: int, level: float) -> Interval | None:
    """Expanded percentile interval; None where most draws hold nothing."""
    usable = values[~np.isnan(values)]
    if 2 * len(usable) <= len(values):
        return None
    tail = NormalDist().cdf(-math.sqrt(images / (images - 1)) * _t_of_z(_z(level), images - 1))
    low, high = np.quantile(usable, [tail, 1 - tail])
    return float(low), float(high)


def _p_value(deltas: Floats, images: int) -> float:
    """The level at which the expanded percentile interval of a difference starts to hold zero."""
    usable = deltas[~np.isnan(deltas)]
    beyond = min(int((usable <= 0).sum()), int((usable >= 0).sum()))
    tail = min(0.5, (1 + beyond) / (1 + len(usable)))
    z = -NormalDist().inv_cdf(tail)
    return 2 * NormalDist().cdf(-_z_of_t(z * math.sqrt((images - 1) / images), images - 1))


def _standard_error(values: Floats, images: int) -> float:
    """Standard deviation of the draws, corrected for the images that resampling treats as a population."""
    return float(np.nanstd(values, ddof=1)) * math.sqrt(images / (images - 1))


def quantile_of_t(freedom: float, level: float = LEVEL) -> float:
    """Where Student's t leaves ``level`` in the middle: 1 % too far out at 3 degrees of freedom, 4 at 2, 38 at 1."""
    return _z(level) if math.isinf(freedom) else _t_of_z(_z(level), freedom)


def _z(level: float) -> float:
    return NormalDist().inv_cdf(0.5 + level / 2)


def _z_of_t(t: float, freedom: float) -> float:
    """The normal quantile with the tail of Student's t, nearly (Wallace, Annals of Mathematical Statistics 1959)."""
    stretch = (8 * freedom + 1) / (8 * freedom + 3)
    return math.copysign(stretch * math.sqrt(freedom * math.log1p(t * t / freedom)), t)


def _t_of_z(z: float, freedom: float) -> float:
    """The inverse of ``_z_of_t``: off by less than half a per cent from five degrees of freedom on."""
    squeezed = z * (8 * freedom + 3) / (8 * freedom + 1)
    return math.copysign(math.sqrt(freedom * math.expm1(squeezed * squeezed / freedom)), z)

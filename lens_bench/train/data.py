"""What is trained on and in which order.

Everything here is a function of (recipe, data, step): there is no iterator whose state would have to be saved, so a
resumed training sees what an uninterrupted one would have seen, and any number of ranks shares the same steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from lens_bench.data.audit import audit
from lens_bench.data.split import Split, open_split
from lens_bench.errors import DataError, UsageError
from lens_bench.records import Sample
from lens_bench.registry import find_suite
from lens_bench.train.config import DataConfig
from lens_bench.train.draws import stream
from lens_bench.train.labels import Thing, rationales, referents, things

# Why expressions of a split cannot be used, by sample id; and what finds that for a split, ``suite/split``.
Problems: TypeAlias = Mapping[str, str]
Check: TypeAlias = Callable[[str, Split], Problems]


@dataclass(frozen=True, slots=True)
class Item:
    """One expression to learn from.

    Attributes:
        sample: As the reader gives it.
        image: Identity over all splits, ``suite/split/image_id``.
        rationale: Reason that leads to the answer; empty where the data has none.
        referent: Name of the thing that is meant; empty where the data does not say.
    """

    sample: Sample
    image: str
    rationale: str = ""
    referent: str = ""


@dataclass(frozen=True, slots=True)
class Unit:
    """What one draw gives: expressions of one image."""

    name: str
    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class Draw:
    """A unit as it occurs in training.

    Attributes:
        place: Position in the endless sequence of units; with the seed it fixes every draw about this occurrence.
        unit: Index of the unit.
        items: Expressions that are trained on this time.
    """

    place: int
    unit: int
    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Units and where they come from.

    Attributes:
        units: In a fixed order.
        hashes: Content hash of every split.
        dropped: Images left out because an evaluation split has them.
        things: Of every image, where the data has them.
        counts: Of every split, what its card expects and what was found, as in a run's manifest.
        partial: Of every split that is not what its card expects, in what it differs (``Split.shortfall``).
    """

    units: tuple[Unit, ...]
    hashes: Mapping[str, str]
    dropped: int
    things: Mapping[str, tuple[Thing, ...]]
    counts: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    partial: Mapping[str, str] = field(default_factory=dict)


# ---------------------------------------------------------------------------------------------- reading


def nothing_checked(_name: str, _split: Split) -> Problems:
    """Use every expression; what cannot be read fails where it is read."""
    return {}


def open_data(
    config: DataConfig, data_root: Path, *, with_things: bool = False, check: Check = nothing_checked
) -> TrainingData:
    """Open the splits of a recipe, without the images of evaluation splits.

    Args:
        config: Names the splits.
        data_root: Where suites lie.
        with_things: Also read every annotated thing of every image.
        check: Finds the expressions of a split that cannot be used, which are left out.

    Raises:
        UsageError: A name is not ``suite/split``.
        DataError: A split is missing or invalid, among them one that is held out: what it holds must be known.
    """
    splits = [_open(name, data_root) for name in config.splits]
    drop: Mapping[str, tuple[str, ...]] = {}
    if not config.paper_data:
        held_out = [_open(name, data_root) for name in _held_out(config)]
        drop = audit([*splits, *held_out], train=config.splits).drop
    items: list[Item] = []
    for name, split in zip(config.splits, splits, strict=True):
        items += _items(name, split, frozenset(drop.get(name, ())), check(name, split), no_target=config.no_target)
    items = _part(items, config.part)
    named = dict(zip(config.splits, splits, strict=True))
    if not items:
        raise DataError(f"nothing is left to train on of {', '.join(config.splits)}", "see data.part and data.held_out")
    return TrainingData(
        units=tuple(_units(items, config.unit)),
        hashes={name: split.content_hash for name, split in named.items()},
        counts={name: {"expected": s.expected, "found": asdict(s.counts)} for name, s in named.items()},
        partial={name: split.shortfall for name, split in named.items() if split.shortfall},
        dropped=sum(len(ids) for ids in drop.values()),
        things=_things(config.splits, splits) if with_things else {},
    )


def open_items(name: str, data_root: Path, check: Check = nothing_checked) -> list[Item]:
    """All expressions of a split (``suite/split``) that can be used, e.g. to evaluate on."""
    split = _open(name, data_root)
    return _items(name, split, frozenset(), check(name, split))


def evaluation_things(name: str, data_root: Path) -> dict[str, tuple[Thing, ...]]:
    """The things of every image of a split."""
    return _things((name,), [_open(name, data_root)])


def _open(name: str, data_root: Path) -> Split:
    suite, slash, split = name.rpartition("/")
    if not slash:
        raise UsageError(f"data: {name!r} is not of the form suite/split")
    # A generated split may be smaller than the card says; its own content hash is recorded.
    return open_split(find_suite(suite), split, data_root, allow_partial=True)


def _held_out(config: DataConfig) -> Iterator[str]:
    for name in config.held_out:
        suite, _, split = name.rpartition("/")
        names = find_suite(suite).splits if split == "*" else (split,)
        full = [f"{suite}/{n}" for n in names]
        yield from (n for n in full if n not in config.splits and not n.endswith(("/train", "-train")))


def _items(name: str, split: Split, drop: frozenset[str], problems: Problems, *, no_target: bool = False) -> list[Item]:
    reasons, names = rationales(split), referents(split)
    return [
        Item(s, f"{name}/{s.image_id}", reasons.get(s.key or "", ""), names.get(s.key or "", ""))
        for s in split.samples
        if s.image_id not in drop
        and s.id not in problems
        and (no_target if s.truth.no_target else bool(s.truth.parts or s.truth.outlines))
    ]


def _things(names: Sequence[str], splits: Sequence[Split]) -> dict[str, tuple[Thing, ...]]:
    found = {f"{n}/{i}": t for n, split in zip(names, splits, strict=True) for i, t in things(split).items()}
    if not found:
        raise DataError(f"{', '.join(names)}: annotations have no attributes", "stage vision needs a generated suite")
    return found


def _part(items: list[Item], part: tuple[float, float]) -> list[Item]:
    """The items of a share of the images, by their place in an order that no seed changes.

    So a part is the same pictures in every stage and every repetition: seeds that read other rationales would be
    compared by what they have read.
    """
    if part == (0.0, 1.0):
        return items
    images = sorted({item.image for item in items})
    order = stream(0, "part").permutation(len(images))
    first, last = (round(share * len(images)) for share in part)
    kept = {images[i] for i in order[first:last]}
    return [item for item in items if item.image in kept]


def _units(items: Sequence[Item], kind: str) -> Iterator[Unit]:
    if kind == "expression":
        yield from (Unit(item.sample.id, (item,)) for item in items)
        return
    groups: dict[str, list[Item]] = {}
    for item in items:
        key = item.image if kind == "image" else f"{item.image}/{item.sample.ref_id or item.sample.id}"
        groups.setdefault(key, []).append(item)
    yield from (Unit(name, tuple(group)) for name, group in groups.items())


# ---------------------------------------------------------------------------------------------- order


class Order:
    """Which units a step trains on.

    Without weights an epoch is a permutation of all units, and steps go on across its end. With weights every step
    draws different units in proportion to them.

    Args:
        units: What there is.
        config: Of the data.
        per_step: Units of a step, over all ranks.
        seed: Of all draws.
        weights: One per unit, positive.

    Raises:
        UsageError: A step is larger than the data.
    """

    def __init__(
        self,
        units: Sequence[Unit],
        config: DataConfig,
        per_step: int,
        seed: int,
        weights: NDArray[np.float64] | None = None,
    ) -> None:
        if per_step > len(units):
            raise UsageError(f"a step of {per_step} units is larger than the data ({len(units)})", "lower batch.units")
        self._units = units
        self._config = config
        self._per_step = per_step
        self._seed = seed
        self._shares = None if weights is None else weights / weights.sum()

    def weighted(self, weights: NDArray[np.float64]) -> Order:
        """The order of the same units under weights."""
        return Order(self._units, self._config, self._per_step, self._seed, weights)

    def draws(self, step: int) -> list[Draw]:
        """The units of a step, over all ranks, with the expressions that count this time."""
        places = range(step * self._per_step, (step + 1) * self._per_step)
        return [self._draw(place, unit) for place, unit in zip(places, self._indices(step, places), strict=True)]

    def substitute(self, place: int, attempt: int) -> Draw:
        """Another unit for a place whose own cannot be read; ``attempt`` counts from 0."""
        return self._draw(place, int(stream(self._seed, "substitute", place, attempt).integers(len(self._units))))

    def redraw(self, place: int, attempt: int) -> Draw:
        """Another unit for a place whose own teaches nothing; ``attempt`` counts from 0."""
        return self._draw(place, int(stream(self._seed, "redraw", place, attempt).integers(len(self._units))))

    def epochs(self, step: int) -> float:
        """How often the data has been gone over when ``step`` begins."""
        return step * self._per_step / len(self._units)

    def _indices(self, step: int, places: range) -> list[int]:
        count = len(self._units)
        if self._shares is not None:
            chosen = stream(self._seed, "curriculum", step).choice(count, len(places), replace=False, p=self._shares)
            return [int(i) for i in chosen]
        return [int(_permutation(self._seed, place // count, count)[place % count]) for place in places]

    def _draw(self, place: int, index: int) -> Draw:
        items = self._units[index].items
        limit = {"expression": len(items), "referent": 1, "image": self._config.per_image}[self._config.unit]
        if len(items) > limit:
            # Keyed by the place, not by the rank or the member: a group shares its sentence.
            chosen = stream(self._seed, "items", place).permutation(len(items))[:limit]
            items = tuple(items[i] for i in sorted(chosen))
        return Draw(place, index, items)


@lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    return stream(seed, "epoch", epoch).permutation(count)


def of_rank(draws: Sequence[Draw], rank: int, world: int) -> list[Draw]:
    """A rank's share of a step; units, and so groups, are never split.

    Raises:
        UsageError: The step does not divide by the number of ranks.
    """
    if len(draws) % world:
        raise UsageError(f"a step of {len(draws)} units does not divide by {world} processes", "change batch.units")
    size = len(draws) // world
    return list(draws[rank * size : (rank + 1) * size])


def failure_weights(measured: Mapping[int, float], count: int, floor: float, power: float) -> NDArray[np.float64]:
    """Weights of the curriculum from measured rewards.

    Args:
        measured: Reward in [0, 1] of some units by index, as a share of the largest possible.
        count: Number of units; those not measured get the mean of the others.
        floor: Weight of a reward of 1, beside 1 for a reward of 0.
        power: Of the failure.
    """
    known = np.full(count, np.mean(list(measured.values())) if measured else 0.0)
    for index, reward in measured.items():
        known[index] = reward
    weights: NDArray[np.float64] = floor + (1 - floor) * np.clip(1 - known, 0, 1) ** power
    return np.maximum(weights, 1e-6)

"""Which runs stand in one figure: those of the same split content under the same protocol."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lens_bench.report.namesakes import System, system_of
from lens_bench.report.plots.style import Look, look, slug
from lens_bench.report.runset import ScoredRun


@dataclass(frozen=True, slots=True)
class Shown:
    """One run as figures show it.

    Attributes:
        name: The model's, with what sets it apart from runs of the same model on the same split.
        ranked: It covers the whole split, and is no oracle.
    """

    run: ScoredRun
    name: str
    look: Look
    ranked: bool


@dataclass(frozen=True, slots=True)
class Group:
    """Runs that may be compared.

    Attributes:
        name: Part of the file names; unique.
    """

    suite: str
    split: str
    protocol: str
    name: str
    members: tuple[Shown, ...]

    @property
    def title(self) -> str:
        """``suite split``."""
        return f"{self.suite} {self.split}"


def groups_of(runs: Sequence[ScoredRun]) -> list[Group]:
    """Group runs by split content and protocol, in the order of suite and split.

    A model with the same weights and settings has the same name and colour in every group.
    """
    members: dict[tuple[str, str, str, str], list[ScoredRun]] = defaultdict(list)
    for run in runs:
        m = run.manifest
        members[m.suite, m.split, run.protocol.name, m.suite_hash].append(run)
    cells = Counter((suite, split) for suite, split, _, _ in members)
    names = _names(runs)
    looks = {name: look(i) for i, name in enumerate(sorted(set(names.values())))}
    groups = []
    for key in sorted(members, key=_order):
        suite, split, protocol, content = key
        apart = f"-{protocol}-{content[:6]}" if cells[suite, split] > 1 else ""
        shown = _shown(members[key], names, looks)
        groups.append(Group(suite, split, protocol, slug(f"{suite}-{split}{apart}"), shown))
    return groups


def _names(runs: Sequence[ScoredRun]) -> dict[System, str]:
    """The model's name, with as much of its weights' digest or of the run's as tells its namesakes apart."""
    systems = {system_of(run.manifest): run for run in runs}
    weights: dict[str, set[str]] = defaultdict(set)
    for model, digest, _ in systems:
        weights[model].add(digest)
    count = Counter(model for model, _, _ in systems)
    names = {}
    for system, run in systems.items():
        model, digest, _ = system
        if count[model] == 1:
            names[system] = model
        elif len(weights[model]) == count[model]:
            names[system] = f"{model}-{digest[:6]}"
        else:
            names[system] = f"{model}-{run.manifest.digest}"
    return names


def _shown(runs: Sequence[ScoredRun], names: Mapping[System, str], looks: Mapping[str, Look]) -> tuple[Shown, ...]:
    found: list[Shown] = []
    seen: Counter[str] = Counter()
    for run in sorted(runs, key=lambda r: (names[system_of(r.manifest)], r.files.root)):
        name = names[system_of(run.manifest)]
        seen[name] += 1
        whole = run.coverage == ""
        oracle = run.manifest.sees_ground_truth
        marks = [*(["oracle"] if oracle and "oracle" not in name else []), *([] if whole else ["incomplete"])]
        text = f"{name} #{seen[name]}" if seen[name] > 1 else name
        text = f"{text} ({', '.join(marks)})" if marks else text
        found.append(Shown(run, text, looks[name], whole and not oracle))
    return tuple(found)


def _order(key: tuple[str, str, str, str]) -> tuple[str, tuple[int, str], str, str]:
    suite, split, protocol, content = key
    splits = ("val", "testA", "testB", "test")
    return (suite, (splits.index(split) if split in splits else len(splits), split), protocol, content)

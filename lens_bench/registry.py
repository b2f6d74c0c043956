"""Where models and suites are found, and how a name becomes one.

Sources, in this order: the ``baselines/`` and ``suites/`` folders of the checkout (or of the installed wheel),
installed packages with an entry point in group ``lens_bench.models`` or ``lens_bench.suites`` (its value names the
package that holds the cards), and a path that the user gives. Looking things up imports no adapter and nothing heavy;
cards are validated when they are asked for.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, TypeVar, cast

from lens_bench.errors import LensBenchError, UsageError
from lens_bench.heads import Head, model_heads, suite_head
from lens_bench.trained import open_trained, result_of

if TYPE_CHECKING:
    from lens_bench.cards import ArgSpec, ModelCard, SuiteCard
    from lens_bench.records import ArgValue, ModelOptions
    from lens_bench.segmenter import Segmenter

MODELS_GROUP = "lens_bench.models"
SUITES_GROUP = "lens_bench.suites"
_PACKAGE = Path(__file__).resolve().parent

Named = TypeVar("Named", "Head", "ModelCard")


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Everything found. ``problems`` are files that could not be read: shown by ``list``, fatal when asked for."""

    models: tuple[Head, ...]
    suites: tuple[Head, ...]
    problems: tuple[LensBenchError, ...]


@cache
def catalogue() -> Catalogue:
    """Read the head of every card of the checkout (or wheel) and of installed packages, once per process."""
    problems: list[LensBenchError] = []
    models = [c for path in _model_files(problems) for c in _read(model_heads, path, problems) or ()]
    suites = [c for path in _suite_files(problems) if (c := _read(suite_head, path, problems)) is not None]
    return Catalogue(tuple(models), tuple(suites), tuple(problems))


def home(kind: str) -> Path:
    """The folder of the shipped cards (``baselines``, ``suites``): beside the package in a checkout, else inside it."""
    beside = _PACKAGE.parent / kind
    return beside if beside.is_dir() and (_PACKAGE.parent / "pyproject.toml").is_file() else _PACKAGE / kind


def find_model(reference: str) -> ModelCard:
    """A model by name, alias, or path (``./folder``, or ``./folder:name`` where the folder has several cards).

    A known name wins over a folder of that name; ``./name`` is always the folder. A training's folder is its result.

    Raises:
        UsageError: Unknown, ambiguous or unreadable.
        CheckpointError: A training that has no result yet.
    """
    path, name = split_reference(reference)
    if os.sep in reference:
        return _model_at(Path(path), name)
    models = catalogue().models
    known = any(reference in (c.name, *c.aliases) for c in models)
    if not known and (any(Path(path).glob("*/model.yaml")) or _is_model(Path(path)) or open_trained(Path(path))):
        return _model_at(Path(path), name)
    head = _pick(reference, models, "model")
    return _model_at(head.path, head.name)


def find_suite(reference: str) -> SuiteCard:
    """A suite by name, alias, or path to its YAML file. Raises ``UsageError`` where there is none."""
    from lens_bench.cards import read_suite_card

    if os.sep in reference or reference.endswith((".yaml", ".yml")):
        return read_suite_card(Path(reference))
    return read_suite_card(_pick(reference, catalogue().suites, "suite").path)


def split_reference(reference: str) -> tuple[str, str]:
    """What stands before and behind the last colon; nothing behind where the whole is a path, which may hold colons."""
    before, _, behind = reference.rpartition(":")
    whole = not before or os.sep in behind or Path(reference).exists()
    return (reference, "") if whole else (before, behind)


def suggest(name: str, known: Iterable[str]) -> str:
    """A hint for a name that does not exist: the close ones, whatever their case, else nothing."""
    by_lower = {k.lower(): k for k in known}
    close = [by_lower[k] for k in difflib.get_close_matches(name.lower(), list(by_lower), n=3)]
    return f"did you mean {' or '.join(close)}?" if close else ""


# ---------------------------------------------------------------------------------------------- arguments


def resolve_args(card: ModelCard, given: Mapping[str, str]) -> dict[str, ArgValue]:
    """Apply ``--model-arg`` values to the card's defaults, converted to the type of the default.

    Raises:
        UsageError: Unknown argument, a value that cannot be converted, or one outside the card's choices.
    """
    unknown = [k for k in given if k not in card.args]
    if unknown:
        hint = suggest(unknown[0], card.args) or f"{card.name} takes: {', '.join(card.args) or 'no arguments'}"
        raise UsageError(f"model {card.name} has no argument {unknown[0]!r}", hint)
    return {key: _convert(card, key, spec, given.get(key)) for key, spec in card.args.items()}


def _convert(card: ModelCard, key: str, spec: ArgSpec, text: str | None) -> ArgValue:
    if text is None:
        return spec.default
    value: ArgValue
    try:
        if isinstance(spec.default, bool):
            value = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[text.lower()]
        elif isinstance(spec.default, int):
            value = int(text)
        elif isinstance(spec.default, float):
            value = float(text)
        else:
            value = text
    except (ValueError, KeyError):
        kind = type(spec.default).__name__
        raise UsageError(f"--model-arg {key}={text}: {card.name} expects a value of type {kind}", spec.help) from None
    if spec.choices and value not in spec.choices:
        options = ", ".join(str(c) for c in spec.choices)
        raise UsageError(f"--model-arg {key}={text} is not one of: {options}", spec.help)
    return value


# ---------------------------------------------------------------------------------------------- adapters


def make_segmenter(card: ModelCard, options: ModelOptions) -> Segmenter:
    """Import the card's adapter and construct it.

    Raises:
        UsageError: The adapter cannot be imported or is not a segmenter; the message names the reason.
    """
    from lens_bench.segmenter import Segmenter

    factory = _resolve(card)
    segmenter = factory(options)
    if not isinstance(segmenter, Segmenter):
        raise UsageError(
            f"{card.adapter} of model {card.name} is not a segmenter",
            "it needs the methods load(), segment(tasks) and close(): see lens_bench/segmenter.py",
        )
    return segmenter


def _resolve(card: ModelCard) -> Callable[[ModelOptions], object]:
    where, _, attribute = card.adapter.partition(":")
    try:
        module = import_file(card.folder / where) if where.endswith(".py") else importlib.import_module(where)
    except (ImportError, SyntaxError) as error:
        raise UsageError(f"the adapter of model {card.name} cannot be imported: {error}", _readme(card)) from error
    found = getattr(module, attribute, None)
    if not callable(found):
        raise UsageError(f"{where} of model {card.name} has no class {attribute!r}")
    return cast("Callable[[ModelOptions], object]", found)


def _readme(card: ModelCard) -> str:
    path = card.folder / "README.md"
    return f"see {path}" if path.is_file() else ""


def import_file(path: Path) -> ModuleType:
    """Import a module by its path, as part of a package made of its folder, so that it can import its neighbours
    relatively (``from .prompts import ...``) without any folder being put on ``sys.path``.
    """  # noqa: D205 - one sentence
    path = path.resolve()
    if not path.is_file():
        raise ImportError(f"no file {path}")
    package = f"lens_bench_plugin_{hashlib.sha256(str(path.parent).encode()).hexdigest()[:12]}"
    if package not in sys.modules:
        spec = importlib.util.spec_from_loader(package, loader=None, is_package=True)
        if spec is None:
            raise ImportError(f"cannot make a package of {path.parent}")
        module = importlib.util.module_from_spec(spec)
        module.__path__ = [str(path.parent)]
        sys.modules[package] = module
    return importlib.import_module(f"{package}.{path.stem}")


# ---------------------------------------------------------------------------------------------- discovery


def _model_files(problems: list[LensBenchError]) -> Iterator[Path]:
    yield from sorted(home("baselines").glob("*/model.yaml"))
    yield from _plugin_files(MODELS_GROUP, ("model.yaml", "*/model.yaml"), problems)


def _suite_files(problems: list[LensBenchError]) -> Iterator[Path]:
    yield from _visible(home("suites").glob("*.yaml"))
    yield from _plugin_files(SUITES_GROUP, ("*.yaml",), problems)


def _visible(paths: Iterable[Path]) -> list[Path]:
    """Paths sorted, without hidden files such as the ``._*`` that macOS leaves."""
    return sorted(path for path in paths if not path.name.startswith("."))


def _plugin_files(group: str, patterns: tuple[str, ...], problems: list[LensBenchError]) -> Iterator[Path]:
    """The cards of installed packages: those that the first pattern which fits any finds in a package's folder."""
    for folder in _plugin_folders(group, problems):
        found = next((files for p in patterns if (files := _visible(folder.glob(p)))), [])
        if not found:
            problems.append(UsageError(f"{folder}, an entry point of group {group}, holds no {patterns[0]}"))
        yield from found


def _plugin_folders(group: str, problems: list[LensBenchError]) -> Iterator[Path]:
    known: set[Path] = set()
    for entry in sorted(entry_points(group=group), key=lambda e: (e.name, e.value)):
        folders = [f for f in _package_folders(entry.value) if f.is_dir()]
        if not folders:
            problems.append(UsageError(f"entry point {entry.name} of group {group} names no package: {entry.value}"))
        yield from (f for f in folders if f not in known)
        known.update(folders)


def _package_folders(value: str) -> list[Path]:
    """Where a package lies, found without importing it or a package above it."""
    top, *below = value.partition(":")[0].strip().split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return []
    return [Path(place, *below) for place in (spec.submodule_search_locations or ())] if spec else []


Content = TypeVar("Content")


def _read(reader: Callable[[Path], Content], path: Path, problems: list[LensBenchError]) -> Content | None:
    try:
        return reader(path)
    except LensBenchError as error:
        problems.append(error)
        return None


def _model_at(folder: Path, name: str) -> ModelCard:
    from lens_bench.cards import read_model_cards

    folder = folder.parent if folder.name == "model.yaml" else folder
    if not _is_model(folder) and (trained := open_trained(folder)) is not None:
        folder = result_of(trained)
    if not _is_model(folder) and (inside := sorted(folder.glob("*/model.yaml"))):
        shown = [str(path.parent) for path in inside]
        raise UsageError(f"{folder} is no model, but holds {len(shown)}", f"--model {' or '.join(shown[:3])}")
    cards = read_model_cards(folder / "model.yaml")
    if name:
        return _pick(name, cards, "model")
    if len(cards) > 1:
        options = ", ".join(f"{folder}:{c.name}" for c in cards)
        raise UsageError(f"{folder} holds {len(cards)} models", f"name one: {options}")
    return cards[0]


def _is_model(folder: Path) -> bool:
    return (folder / "model.yaml").is_file()


def _pick(name: str, cards: Iterable[Named], kind: str) -> Named:
    known = list(cards)
    found = [c for c in known if c.name == name] or [c for c in known if name in c.aliases]
    if not found:
        raise _unknown(name, known, kind)
    if len(found) > 1:
        where = " and ".join(str(c.folder) for c in found)
        raise UsageError(f"{kind} {name!r} is defined twice: in {where}", "name one by its path")
    return found[0]


def _unknown(name: str, known: list[Named], kind: str) -> LensBenchError:
    """What to say about a name that is not there: perhaps its card is, and cannot be read."""
    problems = catalogue().problems
    for problem in problems:
        if re.search(rf"(^|[/\\]){re.escape(name)}([/\\]model)?\.yaml|models\.{re.escape(name)}\.", problem.message):
            return problem
    hint = suggest(name, [c.name for c in known] + [alias for c in known for alias in c.aliases])
    if not hint and problems:
        hint = f"it may be on a card that cannot be read: {problems[0].message}"
    return UsageError(f"there is no {kind} {name!r}", hint or f"`lens-bench list {kind}s` shows them")

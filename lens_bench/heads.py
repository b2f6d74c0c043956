"""The head of a card: what listing and finding need of it, read without validating the rest.

Listing stays instant however many models and suites there are: a card is validated when it is used (``cards.py``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lens_bench.errors import UsageError
from lens_bench.parsing import parse_yaml

NAME = re.compile(r"[a-z0-9][a-z0-9.+_-]*")
NAME_HINT = "lower-case letters, digits and . + _ -"
SPLIT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_-]*")


@dataclass(frozen=True, slots=True)
class Head:
    """A card as far as a list shows it.

    Attributes:
        path: The file that holds the card.
        splits: Of a suite, in the order of the card.
        marks: What a reader of a model's results must know, in words.
        for_tests: The model misbehaves on purpose.
    """

    name: str
    title: str
    summary: str
    path: Path
    aliases: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    for_tests: bool = False

    @property
    def folder(self) -> Path:
        """The folder that holds the card."""
        return self.path.parent


def model_heads(path: Path) -> tuple[Head, ...]:
    """Heads of a ``model.yaml``. Raises ``UsageError`` where it is not one."""
    return tuple(_head(fields, path) for _, fields in model_entries(path))


def suite_head(path: Path) -> Head:
    """Head of a suite card. Raises ``UsageError`` where it is not one."""
    return _head(load_yaml(path), path)


def model_entries(path: Path) -> list[tuple[str, dict[str, object]]]:
    """The fields of each card of a ``model.yaml``, with where it stands in the file.

    The file is a single card, or ``models: {name: fields}`` with shared fields beside it.

    Raises:
        UsageError: The file is missing or is neither.
    """
    content = load_yaml(path)
    entries = content.pop("models", None)
    if entries is None:
        return [("", content)]
    if not isinstance(entries, dict) or not entries or not all(isinstance(e, dict) for e in entries.values()):
        raise UsageError(f"{path}: `models` must map names to fields")
    return [(f"models.{name}.", {**content, "name": name, **fields}) for name, fields in entries.items()]


def load_yaml(path: Path) -> dict[str, object]:
    """Read a YAML mapping. Raises ``UsageError`` where it cannot be read or is not one."""
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        model = path.name == "model.yaml"
        hint = "a model is a folder with model.yaml and adapter.py" if model else "`lens-bench list suites` shows names"
        raise UsageError(f"no card at {path}", hint) from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"{path} is not readable YAML: {error}") from None
    if not isinstance(content, dict):
        raise UsageError(f"{path} is not a mapping of fields")
    return content


def _head(fields: Mapping[str, object], path: Path) -> Head:
    name, splits, aliases = fields.get("name"), fields.get("splits"), fields.get("aliases")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise UsageError(f"{path}: name: {name!r} is not a name", NAME_HINT)
    return Head(
        name=name,
        title=str(fields.get("title", "")),
        summary=str(fields.get("summary", "")),
        path=path,
        aliases=tuple(map(str, aliases)) if isinstance(aliases, list) else (),
        splits=tuple(map(str, splits)) if isinstance(splits, dict) else (),
        marks=marks(bool(fields.get("sees_ground_truth")), bool(fields.get("python")), bool(fields.get("for_tests"))),
        for_tests=bool(fields.get("for_tests")),
    )


def marks(sees_ground_truth: bool, own_environment: bool, for_tests: bool) -> tuple[str, ...]:
    """The marks of a model, in words."""
    words = {"sees the ground truth": sees_ground_truth, "own environment": own_environment, "for tests": for_tests}
    return tuple(word for word, holds in words.items() if holds)

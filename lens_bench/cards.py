"""The two kinds of card: a model card (``model.yaml`` in a model's folder) and a suite card (``suites/*.yaml``).

Cards are data that people write, so they are validated strictly: an unknown key is an error, and an error names the
file and the field. Nothing heavy is imported; adapters and readers are named by a path that is resolved when needed.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from lens_bench.fields import checked
from lens_bench.heads import NAME, SPLIT_NAME, load_yaml, model_entries
from lens_bench.records import ArgValue

_ADAPTER = re.compile(r"[\w./-]+\.py:[A-Za-z_]\w*|[A-Za-z_][\w.]*:[A-Za-z_]\w*")

Name = Annotated[str, Field(pattern=rf"^{NAME.pattern}$")]
SplitName = Annotated[str, Field(pattern=rf"^{SPLIT_NAME.pattern}$")]


class _Card(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


AnyCard = TypeVar("AnyCard", bound=_Card)


class Published(_Card):
    """Published results a card is compared with: rows of ``results/published.csv``, named by their model."""

    model: str
    source: str = ""


# ---------------------------------------------------------------------------------------------- models


class ArgSpec(_Card):
    """One argument of a model: the default fixes its type."""

    default: ArgValue
    help: str
    choices: tuple[ArgValue, ...] = ()
    file: bool = Field(default=False, description="The value is a path; its content goes into the run's identity.")


class Weights(_Card):
    """Where a model's weights come from and how they are recognised."""

    hub: str = ""
    licence: str = ""
    sha256: dict[str, str] = {}
    notes: str = ""


class ModelCard(_Card):
    """A model: what it is, which class runs it, what it may see.

    ``adapter`` is ``file.py:Class``, relative to the card's folder, or ``package.module:Class``.
    """

    name: Name
    title: str
    summary: str
    adapter: str
    aliases: tuple[Name, ...] = ()
    suites: tuple[Name, ...] = Field(default=(), description="Where to begin with it: the suites it was trained for.")
    licence: str = ""
    source: str = ""
    weights: Weights | None = None
    args: dict[str, ArgSpec] = {}
    prompt: dict[str, ArgValue] = {}
    sees_ground_truth: bool = Field(default=False, description="An oracle: marked everywhere and never ranked.")
    reads_images: bool = True
    timed: bool = Field(
        default=True,
        description="False for a model that only looks its answers up: its calls are no measure of any model's speed.",
    )
    batch_size: int = Field(default=8, ge=1, description="Images per call where the user says `auto`.")
    devices: tuple[Literal["cpu", "cuda"], ...] = ("cpu", "cuda")
    dtypes: tuple[Literal["float32", "bfloat16", "float16"], ...] = ("float32", "bfloat16", "float16")
    engines: tuple[Name, ...] = ()
    gpus_per_worker: float = Field(default=1.0, gt=0, description="What one of several workers takes on a GPU machine.")
    python: str | None = Field(default=None, description="Interpreter of a foreign environment (see run/foreign.py).")
    for_tests: bool = Field(default=False, description="Misbehaves on purpose; left out of `list` unless asked for.")
    published: tuple[Published, ...] = ()
    folder: Path = Field(default=Path(), description="Set by the registry: where the card was found.")

    @field_validator("adapter")
    @classmethod
    def _adapter_form(cls, value: str) -> str:
        if not _ADAPTER.fullmatch(value):
            raise ValueError("expected 'file.py:Class' or 'package.module:Class'")
        return value


# ---------------------------------------------------------------------------------------------- suites


class Expected(_Card):
    """Published counts of a split. A figure that was not checked against a first-hand source is named as unverified."""

    images: int | None = None
    refs: int | None = None
    expressions: int | None = None
    empty: int | Literal["any"] = Field(
        default=0,
        description="How many annotations may cover no pixel although they do not say that nothing is meant.",
    )
    unverified: tuple[Literal["images", "refs", "expressions"], ...] = ()

    @property
    def verified(self) -> bool:
        """Whether every figure was checked."""
        return not self.unverified


class SplitCard(_Card):
    """One split of a suite; ``options`` override the suite's for its reader."""

    expected: Expected = Expected()
    options: dict[str, ArgValue] = {}
    roots: tuple[str, ...] = ()
    content_hash: str = Field(default="", description="Where given, opening the split checks it.")
    warning: str = Field(default="", description="Shown whenever the split is used, e.g. that it leaks.")


class Files(_Card):
    """Where people keep the files: the first root under the data root that holds every file is taken.

    Placeholders ``{split}`` and any reader option may stand in roots and file names.
    """

    roots: tuple[str, ...] = Field(min_length=1)
    required: dict[str, str] = {}
    optional: dict[str, str] = {}


class Images(_Card):
    """Where the images lie: the first existing root is taken. ``exif`` says which pixel grid the annotation lives on.

    ``apply``: the annotation was drawn on the image as a viewer shows it; ``ignore``: on the stored pixel grid.
    """

    roots: tuple[str, ...]
    exif: Literal["apply", "ignore"] = "ignore"
    note: str = ""


class Obtain(_Card):
    """How a person gets the files. Nothing is downloaded by the package itself."""

    text: str
    url: str = ""


class SuiteCard(_Card):
    """A suite: its splits, where its files are, how they are read, how it is scored."""

    name: Name
    title: str
    summary: str
    reader: str = Field(description="Name of a module of lens_bench.data, or 'package.module:function'.")
    protocol: str = "strict"
    splits: dict[SplitName, SplitCard]
    default_splits: tuple[SplitName, ...]
    files: Files | None = None
    images: Images | None = None
    options: dict[str, ArgValue] = {}
    columns: dict[str, str] = Field(default={}, description="For table readers: which column holds what.")
    tags: dict[str, str] = Field(default={}, description="Tags the summary reports apart, with their meaning.")
    generated: bool = Field(default=False, description="Made by `lens-bench data make` from a seed.")
    obtain: Obtain | None = None
    licence: str = ""
    published: tuple[Published, ...] = ()
    aliases: tuple[Name, ...] = ()
    folder: Path = Field(default=Path(), description="Set by the registry: where the card was found.")

    @model_validator(mode="after")
    def _defaults_exist(self) -> SuiteCard:
        unknown = [s for s in self.default_splits if s not in self.splits]
        if unknown or not self.splits:
            raise ValueError(f"default_splits names unknown splits: {', '.join(unknown) or '(none given)'}")
        return self


# ---------------------------------------------------------------------------------------------- reading


def read_model_cards(path: Path) -> tuple[ModelCard, ...]:
    """Read and validate all cards of a ``model.yaml``. Raises ``UsageError`` naming file and field."""
    return tuple(
        _validate(ModelCard, {**fields, "folder": path.parent}, path, entry) for entry, fields in model_entries(path)
    )


def read_suite_card(path: Path) -> SuiteCard:
    """Read and validate one suite card. Raises ``UsageError`` naming file and field."""
    return _validate(SuiteCard, {**load_yaml(path), "folder": path.parent}, path)


def _validate(kind: type[AnyCard], fields: dict[str, object], path: Path, entry: str = "") -> AnyCard:
    return checked(kind, fields, f"{path}: {entry}", "card")

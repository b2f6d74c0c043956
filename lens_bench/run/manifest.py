"""The manifest: everything that determines a run's predictions, and what they were made with.

A run directory is a function of the manifest's identity (suite content, model weights, generation settings); on resume
the identity and the libraries that do the arithmetic must be the same, and a difference is an error naming the field.
"""

from __future__ import annotations

import hashlib
import json
import reprlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from functools import cache
from typing import cast

from pydantic import TypeAdapter, ValidationError

from lens_bench.cards import ModelCard
from lens_bench.data.split import share, shortfall
from lens_bench.errors import DataError, UsageError
from lens_bench.heads import NAME, SPLIT_NAME
from lens_bench.perf.hardware import environment
from lens_bench.records import ArgValue
from lens_bench.run.files import SCHEMA_VERSION, JsonObject, RunFiles, first_problem, read_json, write_json

# Libraries whose version may change a prediction, those that decode images among them: a run is not continued under
# another version.
_ARITHMETIC = ("torch", "torchvision", "transformers", "vllm", "pillow", "opencv-python-headless")
_LATER = {"data", "pixels", "data_root"}  # fields that manifests of earlier versions do not have
_START_AGAIN = "`run --fresh` starts the run again from nothing"


@dataclass(frozen=True, slots=True)
class Settings:
    """How answers are generated: every setting that can change one. Another setting is another run directory.

    Attributes:
        args: The model's arguments; a file argument is represented by the digest of its content.
        prompt: The card's prompt block, which fixes template and text handling.
        limit: Number of expressions taken from the front of the split, or None for all of them.
    """

    args: Mapping[str, ArgValue]
    prompt: Mapping[str, ArgValue]
    dtype: str
    engine: str | None
    limit: int | None


@dataclass(frozen=True, slots=True)
class Manifest:
    """Content of ``manifest.json``.

    Attributes:
        suite_hash: Content hash of the whole split.
        model: The card's name; ``model_card`` holds what a reader of the result wants to know of it.
        weight_digest: Of the weights, or of the source folder for a model without any.
        load_report: What loading found; None until the model was loaded for the first time.
        protocol: Under which the run was started. Not part of the identity: predictions can be scored under any.
        shard: ``(index, count)`` where this directory holds one shard of a run.
        n_samples: Expressions of this run (or shard), ``n_images`` their images.
        device: Kind of device, ``cpu`` or ``cuda``.
        data: ``expected``: counts and content hash of the whole split as the suite's card gives them; ``found``: the
            counts of what was there; ``left_out``: expressions of this run that were left out because their annotation
            covers no pixel. Empty in a manifest of an earlier version.
        pixels: What decides how an image file becomes pixels: the EXIF policy and the version of the decoding. None for
            a model that reads no images.
        data_root: Where the data was; a hint for commands that need it again, not part of the identity.
        sessions: When and under what the model was loaded for this run, once for each time.
    """

    suite: str
    split: str
    suite_hash: str
    model: str
    model_card: Mapping[str, object]
    weight_digest: str
    settings: Settings
    seed: int
    protocol: str
    n_samples: int
    n_images: int
    device: str
    data: Mapping[str, object] = field(default_factory=dict)
    pixels: Mapping[str, ArgValue] | None = None
    data_root: str = ""
    shard: tuple[int, int] | None = None
    load_report: Mapping[str, object] | None = None
    sessions: tuple[Mapping[str, object], ...] = ()
    environment: Mapping[str, object] = field(default_factory=environment)
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    schema_version: int = SCHEMA_VERSION

    @property
    def digest(self) -> str:
        """Eight hexadecimal digits of the run's identity; shards of one run share it."""
        identity = {
            "schema": self.schema_version,
            "suite_hash": self.suite_hash,
            "weights": self.weight_digest,
            "settings": asdict(self.settings),
            "seed": self.seed,
            **({"pixels": dict(self.pixels)} if self.pixels is not None else {}),
        }
        text = json.dumps(identity, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    @property
    def sees_ground_truth(self) -> bool:
        """Whether the model is an oracle."""
        return bool(self.model_card.get("sees_ground_truth"))

    @property
    def timed(self) -> bool:
        """Whether the model's calls measure its speed: not where it looks its answers up."""
        return self.model_card.get("timed") is not False

    def coverage(self, answered: int) -> str:
        """What ``answered`` expressions are of the split, e.g. ``60 of 10,834 expressions``; empty for all of it.

        The measure is what the suite's card expects, or what was found where the card gives no number. A limit, an
        interruption, a shard and incomplete files all show here. Only a run without a remark is ranked.
        """
        parts = self.data.get("expected"), self.data.get("found")
        expected, found = (part if isinstance(part, Mapping) else {} for part in parts)
        total = expected.get("expressions") or found.get("expressions")
        if not isinstance(total, int):
            asked = self.settings.limit is not None or self.shard is not None
            if asked:
                return f"{answered:,} expressions"
            total = self.n_samples
        if answered != total:
            return share(answered, total, "expressions")
        return shortfall(expected, found, self.suite_hash)

    def write(self, files: RunFiles) -> None:
        """Write ``manifest.json``."""
        write_json(files.manifest, {"schema_version": self.schema_version, "digest": self.digest, **asdict(self)})


def describe_card(card: ModelCard) -> dict[str, object]:
    """What the manifest keeps of a model card."""
    return {
        "title": card.title,
        "adapter": card.adapter,
        "source": card.source,
        "licence": card.licence,
        "hub": card.weights.hub if card.weights else "",
        "sees_ground_truth": card.sees_ground_truth,
        "timed": card.timed,
        "python": card.python,
    }


def read_manifest(files: RunFiles) -> Manifest:
    """Read ``manifest.json``. Raises ``DataError`` where it is damaged or of another schema version."""
    content = read_json(files.manifest)
    version = content.get("schema_version")
    if version != SCHEMA_VERSION:
        raise DataError(
            f"{files.manifest} has schema version {reprlib.repr(version)}, this is version {SCHEMA_VERSION}",
            "score or repeat the run with the version of lens-bench that wrote it",
        )
    known = {f.name for f in fields(Manifest)}
    missing = known - content.keys() - _LATER
    if missing:
        raise DataError(f"{files.manifest} lacks {', '.join(sorted(missing))}", _START_AGAIN)
    try:
        manifest = _reader().validate_json(json.dumps(content), strict=True)
    except ValidationError as error:
        raise DataError(f"{files.manifest}: {first_problem(error)}", _START_AGAIN) from None
    if problem := _contradiction(manifest, content.get("digest")):
        raise DataError(f"{files.manifest}: {problem}", _START_AGAIN)
    return manifest


@cache
def _reader() -> TypeAdapter[Manifest]:
    return TypeAdapter(Manifest)


def _contradiction(manifest: Manifest, digest: object) -> str:
    """What no run can have written; empty for nothing."""
    # A card is looked up by the first: a path there would be read as one.
    for what, name, form in (("suite", manifest.suite, NAME), ("split", manifest.split, SPLIT_NAME)):
        if not form.fullmatch(name):
            return f"{reprlib.repr(name)} is not the name of a {what}"
    if digest != manifest.digest:
        return f"the digest is {reprlib.repr(digest)}, that of its fields {manifest.digest}"
    if manifest.shard is not None and not 1 <= manifest.shard[0] <= manifest.shard[1]:
        return f"there is no shard {manifest.shard[0]} of {manifest.shard[1]}"
    limit = manifest.settings.limit
    if not 0 <= manifest.n_images <= manifest.n_samples or (limit is not None and manifest.n_samples > limit):
        return f"{manifest.n_samples} expressions on {manifest.n_images} images with the limit {limit}"
    return ""


def check_same(stored: Manifest, wanted: Manifest, files: RunFiles) -> None:
    """Refuse to continue a run that is not the one asked for.

    Raises:
        UsageError: Names the first field that differs, with both values.
    """
    before, now = _comparable(stored), _comparable(wanted)
    for key in now:
        if before.get(key) != now[key]:
            raise UsageError(
                f"{files.root} holds a run with {key} = {before.get(key)!r}, this one has {now[key]!r}",
                "--fresh starts it again from nothing; another --out keeps both",
            )


def _comparable(manifest: Manifest) -> JsonObject:
    settings = asdict(manifest.settings)
    return {
        "suite": manifest.suite,
        "split": manifest.split,
        "suite_hash": manifest.suite_hash,
        "model": manifest.model,
        "weight_digest": manifest.weight_digest,
        **{f"settings.{k}": v for k, v in settings.items()},
        "seed": manifest.seed,
        **{f"pixels.{k}": v for k, v in (manifest.pixels or {}).items()},
        "shard": manifest.shard,
        "n_samples": manifest.n_samples,
        "device": manifest.device,
        **{f"environment.{name}": value for name, value in arithmetic(manifest.environment).items()},
    }


def arithmetic(environment: Mapping[str, object]) -> JsonObject:
    """The part of an environment that may change a prediction."""
    packages = cast("Mapping[str, object]", environment.get("packages") or {})
    return {f"packages.{name}": packages.get(name) for name in _ARITHMETIC} | {
        "model_packages": environment.get("model_packages")
    }


def commit(environment: Mapping[str, object]) -> str:
    """The commit of lens-bench that an environment names, in words; empty where it names none."""
    git = cast("Mapping[str, object]", environment.get("git") or {})
    return str(git.get("commit", ""))[:12] + (" with uncommitted changes" if git.get("dirty") else "")

"""From what the user asked for to what will be done: a plan per split, made before anything heavy is loaded.

Everything that can be wrong without the model is found here: an option that does not fit, a suite that is not there, an
image that is missing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from lens_bench.cards import ModelCard, SuiteCard
from lens_bench.data.empty import without_empty
from lens_bench.data.images import DECODING
from lens_bench.data.split import Split, open_split
from lens_bench.data.tasks import group_by_image, require_images
from lens_bench.errors import UsageError
from lens_bench.perf.hardware import environment
from lens_bench.records import ArgValue, ImageTask, ModelOptions, Query, Sample
from lens_bench.registry import make_segmenter, resolve_args, suggest
from lens_bench.run.answer import adapter_code
from lens_bench.run.files import RunFiles
from lens_bench.run.manifest import Manifest, Settings, describe_card
from lens_bench.scoring.protocols import get_protocol
from lens_bench.segmenter import RunsElsewhere, Segmenter, SupportsDigest

DEFAULT_OUT = Path("results/runs")


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asked for, for one split. Defaults are the command's.

    Attributes:
        args: ``--model-arg`` values as typed.
        batch_size: Images per call; None for ``auto``, which starts at the card's value.
        protocol: The run's own; None for the suite's.
        also: Further protocols that the predictions are scored under.
        shard: ``(i, n)``: the images whose number modulo n is i modulo n.
        max_errors: Share (float) or count (int) of failed expressions above which the run aborts.
    """

    args: Mapping[str, str] = field(default_factory=dict)
    data_root: Path = field(default_factory=Path)
    out: Path = DEFAULT_OUT
    protocol: str | None = None
    also: tuple[str, ...] = ()
    limit: int | None = None
    batch_size: int | None = None
    device: str | None = None
    dtype: str | None = None
    engine: str | None = None
    seed: int = 0
    shard: tuple[int, int] | None = None
    max_errors: int | float = 0.01
    fresh: bool = False
    retry_errors: bool = False
    allow_partial: bool = False
    timeout: float = 600.0


@dataclass(frozen=True, slots=True)
class Plan:
    """One split, one model, one run directory. ``samples`` are those of this run (limit and shard applied)."""

    request: Request
    split: Split
    card: ModelCard
    options: ModelOptions
    samples: tuple[Sample, ...]
    manifest: Manifest
    files: RunFiles

    @property
    def batch_size(self) -> int:
        """Images per call to start with."""
        return self.request.batch_size or self.card.batch_size

    def tasks(self, todo: Callable[[Sample], bool]) -> list[tuple[ImageTask, tuple[Sample, ...]]]:
        """Group the samples for which ``todo`` holds by image, in the order in which images first appear."""
        return [(self._task(group), group) for _, group in group_by_image(s for s in self.samples if todo(s))]

    def whole_split(self) -> list[ImageTask]:
        """All tasks of the split, also those beyond the limit or of other shards, without pixels."""
        return [self._task(group) for _, group in group_by_image(self.split.samples)]

    def _task(self, samples: Sequence[Sample]) -> ImageTask:
        reveal = self.card.sees_ground_truth
        queries = tuple(
            Query(s.id, s.expression, s.raw or s.expression, s.is_sentence, s.key, s.truth if reveal else None)
            for s in samples
        )
        return ImageTask(samples[0].image_id, samples[0].truth.size, queries)


def make_model(card: ModelCard, request: Request, *, elsewhere: bool = False) -> tuple[ModelOptions, Segmenter]:
    """Resolve the options and construct (not load) the model.

    Args:
        card: The model's.
        request: What is asked for.
        elsewhere: It will be loaded by workers, whose devices are not those of this process.

    Raises:
        UsageError: An option or argument does not fit, the device is not there, or the adapter cannot be imported.
        RunError: The adapter's constructor failed.
    """
    options = model_options(card, request)
    if not elsewhere and card.python is None:  # another interpreter has a torch of its own
        _require_device(card, options.device)
    with adapter_code(card.name, "constructing"):
        if card.python is None:
            return options, make_segmenter(card, options)
        from lens_bench.run.foreign import ForeignSegmenter

        return options, ForeignSegmenter(card, options, timeout=request.timeout)


def make_plan(
    suite: SuiteCard, split: str, card: ModelCard, options: ModelOptions, segmenter: Segmenter, request: Request
) -> Plan:
    """Open the split, look for its images, and work out the run directory.

    Raises:
        UsageError: A name does not exist.
        DataError: The split, or an image that the model would read, is missing or invalid.
        CheckpointError: The model's weights are not where they should be.
    """
    protocol = get_protocol(request.protocol or suite.protocol)
    for name in request.also:
        get_protocol(name)
    opened = open_split(suite, split, request.data_root, allow_partial=request.allow_partial)
    chosen = select_samples(opened.samples, request.limit, request.shard)
    samples = without_empty(opened, chosen, allow_partial=request.allow_partial)
    if card.reads_images:
        require_images(samples)
    settings = Settings(
        args=_identity(card, options.args),
        prompt=dict(card.prompt),
        dtype=options.dtype,
        engine=options.engine,
        limit=request.limit,
    )
    manifest = Manifest(
        suite=suite.name,
        split=split,
        suite_hash=opened.content_hash,
        model=card.name,
        model_card=describe_card(card),
        weight_digest=weights_of(segmenter, card),
        settings=settings,
        seed=request.seed,
        protocol=protocol.name,
        n_samples=len(samples),
        n_images=len({s.image_id for s in samples}),
        device=options.device.partition(":")[0],
        data={
            "expected": opened.expected,
            "found": asdict(opened.counts),
            **({"left_out": len(chosen) - len(samples)} if len(samples) < len(chosen) else {}),
        },
        pixels=_pixels(opened) if card.reads_images else None,
        data_root=str(request.data_root.resolve()),
        shard=request.shard,
        environment=_environment(segmenter),
    )
    return Plan(request, opened, card, options, samples, manifest, run_files(manifest, request.out))


def _pixels(split: Split) -> dict[str, ArgValue]:
    """What decides how the split's image files become pixels."""
    return {"exif": "apply" if split.source.exif else "ignore", "decoding": DECODING}


def run_files(manifest: Manifest, out: Path) -> RunFiles:
    """The directory of a run: ``<out>/<suite>/<split>/<model>-<digest8>``; a shard lies in ``shards/`` below it."""
    root = out / manifest.suite / manifest.split / f"{manifest.model}-{manifest.digest}"
    if manifest.shard:
        root = root / "shards" / "{}of{}".format(*manifest.shard)
    return RunFiles(root)


def model_options(card: ModelCard, request: Request) -> ModelOptions:
    """Resolve arguments, device, dtype and engine against the card. Raises ``UsageError`` where one does not fit."""
    device = request.device or _default_device(card)
    _offered(card, "device", device.partition(":")[0], card.devices)
    dtype = request.dtype or ("float32" if device == "cpu" and "float32" in card.dtypes else card.dtypes[0])
    _offered(card, "dtype", dtype, card.dtypes)
    engine = request.engine or (card.engines[0] if card.engines else None)
    if engine is not None:
        _offered(card, "engine", engine, card.engines)
    return ModelOptions(
        name=card.name,
        folder=str(card.folder),
        args=resolve_args(card, request.args),
        device=device,
        dtype=dtype,
        engine=engine,
        seed=request.seed,
    )


def weights_of(segmenter: Segmenter, card: ModelCard) -> str:
    """Digest (hex) of a model's weights, or of its source where it does not digest them."""
    return segmenter.weight_digest() if isinstance(segmenter, SupportsDigest) else source_digest(card)


def source_digest(card: ModelCard) -> str:
    """Identity of a model that does not digest its weights: its name, and everything that lies in its folder."""
    return folder_digest(card.folder, card.name)


def folder_digest(folder: Path, name: str = "") -> str:
    """SHA-256 (hex) over the names and contents of all files below a folder; hidden files and caches are left out."""
    digest = hashlib.sha256(name.encode())
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") or part == "__pycache__" for part in inside.parts):
            with path.open("rb") as stream:
                digest.update(f"{inside.as_posix()}\0".encode() + hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _environment(segmenter: Segmenter) -> dict[str, object]:
    elsewhere = {"model_packages": dict(segmenter.packages)} if isinstance(segmenter, RunsElsewhere) else {}
    return {**environment(), **elsewhere}


def select_samples(samples: tuple[Sample, ...], limit: int | None, shard: tuple[int, int] | None) -> tuple[Sample, ...]:
    """The first ``limit`` expressions, and of those the whole images of one shard.

    An image is never divided, so that work shared by its expressions is done once.
    """
    taken = samples if limit is None else samples[:limit]
    if shard is None:
        return taken
    number = {image: n for n, image in enumerate(dict.fromkeys(s.image_id for s in taken))}
    return tuple(s for s in taken if number[s.image_id] % shard[1] == shard[0] % shard[1])


def _identity(card: ModelCard, args: Mapping[str, ArgValue]) -> dict[str, ArgValue]:
    """Arguments as they enter the identity: a file by its content, not by where it lies."""
    return {k: _file_digest(card, k, v) if card.args[k].file and v else v for k, v in args.items()}


def _file_digest(card: ModelCard, key: str, value: ArgValue) -> str:
    path = Path(str(value))
    if not path.exists():
        raise UsageError(f"--model-arg {key}={value}: no such file", card.args[key].help)
    if path.is_dir():
        return f"sha256:{folder_digest(path)}"
    with path.open("rb") as stream:
        return f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"


def _default_device(card: ModelCard) -> str:
    if "cuda" not in card.devices:
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else card.devices[0]


def _require_device(card: ModelCard, device: str) -> None:
    """Refuse a CUDA device that torch does not see."""
    kind, colon, index = device.partition(":")
    if kind != "cuda":
        return
    if colon and not (index.isascii() and index.isdecimal()):
        raise UsageError(f"--device {device} is neither cuda nor cuda:N", "for example cuda:1")
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(index or 0) >= count:
        seen = f"there are {count}, numbered from 0" if count else "torch sees no CUDA device here"
        other = "--device cpu" if "cpu" in card.devices else f"model {card.name} computes on CUDA devices only"
        raise UsageError(f"--device {device}: {seen}", "a smaller number" if count else other)


def _offered(card: ModelCard, option: str, value: str, offered: Sequence[str]) -> None:
    if value not in offered:
        hint = suggest(value, offered) or f"it offers: {', '.join(offered) or 'none'}"
        raise UsageError(f"model {card.name} does not offer --{option} {value}", hint)

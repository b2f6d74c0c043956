"""What baselines made of a vision-language model and SAM 2 have in common: arguments, loading, identity, closing."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from lens_bench.checkpoint_files import digest
from lens_bench.errors import CheckpointError, UsageError
from lens_bench.hub_cache import cached_folder
from lens_bench.parsing import parse_json
from lens_bench.records import Cost, ImageTask, LoadReport, ModelOptions, Prediction
from lens_bench.sam2.prompts import Painter
from lens_bench.vlm.chat import Talker
from lens_bench.vlm.endpoint import Endpoint, EndpointSettings, read_base_url, read_key
from lens_bench.vlm.segmenter import Manner, VlmSegmenter
from lens_bench.vlm.sizing import Sizing

if TYPE_CHECKING:
    import torch

    from lens_bench.sam2.model import Encoded as Sam2Image
    from lens_bench.sam2.model import Sam2
    from lens_bench.vlm.sam1 import Encoded as SamImage
    from lens_bench.vlm.sam1 import Sam1

ENDPOINT, VLLM = "endpoint", "vllm"


class Arguments:
    """A card's arguments by type. A missing one is a mistake of the card, not of the user."""

    def __init__(self, options: ModelOptions) -> None:
        self._options = options

    def has(self, name: str) -> bool:
        """Whether the card has the argument."""
        return name in self._options.args

    def text(self, name: str) -> str:
        """A text."""
        return cast("str", self._of(name, str))

    def whole(self, name: str) -> int:
        """A whole number."""
        return cast("int", self._of(name, int))

    def real(self, name: str) -> float:
        """A number."""
        return float(cast("float", self._of(name, int, float)))

    def flag(self, name: str) -> bool:
        """Yes or no."""
        return cast("bool", self._of(name, bool))

    def _of(self, name: str, *kinds: type) -> object:
        value = self._options.args.get(name)
        if not isinstance(value, kinds):
            raise UsageError(f"the card of model {self._options.name} has no argument {name} of the right type")
        return value


class VlmAdapter(ABC):
    """A segmenter whose language model is local (engines ``hf``, ``vllm``) or behind an endpoint (``endpoint``).

    Subclasses say how it is asked and read.
    """

    def __init__(self, options: ModelOptions) -> None:
        self.options = options
        self.args = Arguments(options)
        self._segmenter: VlmSegmenter[SamImage] | VlmSegmenter[Sam2Image] | None = None
        self._forced: int | None = None

    @abstractmethod
    def manner(self) -> Manner:
        """How to ask and how to read.

        Raises:
            UsageError: An argument does not fit.
        """

    def weight_digest(self) -> str:
        """SHA-256 over SAM 2 and the language model, of which an endpoint tells little.

        Raises:
            CheckpointError: Weights are not where the arguments say.
            RunError: There is no endpoint.
            UsageError: It refuses the key, or an argument does not fit.
        """
        painter = digest(sam_path(self.options))  # first: a missing file is told before an endpoint is asked
        return hashlib.sha256(f"{talker_identity(self.options)}\n{painter}".encode()).hexdigest()

    def load(self) -> LoadReport:
        """Load SAM 2 and the language model, or look for the endpoint.

        Raises:
            CheckpointError: A file or tensor is missing, broken or does not fit.
            RunError: There is no endpoint.
            UsageError: It refuses the key or does not serve the model, or an argument does not fit.
        """
        found = load_talker(self.options, self._forced)
        if is_first_sam(self.options):
            return self._start(found, load_first_sam(self.options))
        return self._start(found, load_sam(self.options))

    def load_random(self, seed: int) -> LoadReport:
        """Build the shape of the card's repository, or of the folder's configuration, and SAM 2, without weights.

        Raises:
            UsageError: The engine needs a checkpoint, or nothing says what to build.
        """
        from lens_bench.lens.spread import devices_of
        from lens_bench.vlm.local import LocalSettings
        from lens_bench.vlm.random_weights import random_sam, random_vlm

        if self.options.engine in (ENDPOINT, VLLM):
            raise UsageError(f"the engine {self.options.engine} needs weights", "--engine hf")
        given = self.args.text("checkpoint")
        settings = LocalSettings(
            self._forced or self.args.whole("max_new_tokens"), self.args.whole("rows"), None, bool(self._forced)
        )
        folder = Path(given).expanduser() if given else None
        dtype = dtype_of(self.options)
        devices = devices_of(self.options.device, device_count(self.args))
        model = random_vlm(self.args.text("hub"), folder, seed, devices, dtype, settings)
        found = LoadedTalker(model, model.parameters, (f"random weights from seed {seed}", *model.notes))
        if is_first_sam(self.options):
            return self._start(found, load_first_sam(self.options))
        if self.args.text("sam"):
            return self._start(found, load_sam(self.options))
        said = self.args.text("sam_dtype")
        return self._start(found, random_sam(seed, self.options.device, dtype_of(self.options, said)))

    def force_length(self, tokens: int) -> None:
        """Write exactly so many tokens, and paint one mask whatever they say. Called before loading.

        Whether an endpoint can do that is seen while loading.
        """
        self._forced = tokens

    def costs(self, tasks: Sequence[ImageTask], predictions: Sequence[Prediction]) -> Mapping[str, Cost]:
        """Work of an answered call by stage; what an endpoint does is not known."""
        if self._segmenter is None:
            raise CheckpointError("costs was called before load")
        return self._segmenter.costs()

    def _start(self, found: LoadedTalker, sam: Painter[SamImage] | Painter[Sam2Image]) -> LoadReport:
        manner, sizing, three = self.manner(), sizing_of(self.args), self.args.flag("best_of_three")
        if self._forced:
            from lens_bench.vlm.random_weights import Boxed

            manner = Boxed(manner)
        self._segmenter = cast(
            "VlmSegmenter[SamImage] | VlmSegmenter[Sam2Image]",
            VlmSegmenter(found.talker, sam, manner, sizing, three, self.options.device),
        )
        return LoadReport(parameters=found.parameters + sam.parameters, notes=found.notes)

    def segment(self, tasks: Sequence[ImageTask]) -> list[Prediction]:
        """One prediction per query, tasks and queries in order."""
        if self._segmenter is None:
            raise CheckpointError("segment was called before load")
        return self._segmenter.segment(tasks)

    def close(self) -> None:
        """Free the models."""
        if self._segmenter is not None:
            self._segmenter.close()
        self._segmenter = None


# ---------------------------------------------------------------------------------------------- from arguments


@dataclass(frozen=True, slots=True)
class LoadedTalker:
    """A language model and what its load report says."""

    talker: Talker
    parameters: int
    notes: tuple[str, ...]


def load_talker(options: ModelOptions, forced: int | None = None) -> LoadedTalker:
    """The language model: behind an endpoint or in vLLM where the engine says so, else on transformers.

    Args:
        options: Of the card.
        forced: Length of every answer; None lets the model end it.

    Raises:
        CheckpointError: A file or tensor is missing, broken or does not fit.
        RunError: There is no endpoint.
        UsageError: It refuses the key or does not serve the model, or an argument does not fit.
    """
    args = Arguments(options)
    _check_engine(options, args)
    if options.engine == ENDPOINT:
        endpoint = endpoint_of(options, forced)
        unknown = "of a model behind an endpoint the name is known and what its server lists, neither weights nor work"
        return LoadedTalker(endpoint, 0, (*endpoint.check(), unknown))
    from lens_bench.lens.spread import devices_of

    devices = devices_of(options.device, device_count(args))
    if options.engine == VLLM:
        from lens_bench.lens.room import require_room
        from lens_bench.vllm_engine import VllmSettings
        from lens_bench.vlm.vllm_local import VllmVlm, context_of

        folder = language_path(options)
        share, context = args.real("vllm_share"), context_of(folder)
        require_room(forced or 0, context)
        settings = VllmSettings(options.device, options.dtype, context, share=share, devices=len(devices))
        running = VllmVlm(folder, settings, forced or args.whole("max_new_tokens"), bool(forced))
        return LoadedTalker(running, running.parameters, running.notes)
    from lens_bench.lens.quantise import bits_of
    from lens_bench.vlm.local import LocalSettings, LocalVlm

    bits = bits_of(args.text("load_in"), options.device) if args.has("load_in") else None
    local = LocalSettings(forced or args.whole("max_new_tokens"), args.whole("rows"), bits, bool(forced))
    model = LocalVlm.load(language_path(options), devices, dtype_of(options), local)
    return LoadedTalker(model, model.parameters, model.notes)


def _check_engine(options: ModelOptions, args: Arguments) -> None:
    """Raises ``UsageError`` where an argument does not go with the engine."""
    if options.engine in (ENDPOINT, VLLM) and args.has("load_in") and args.text("load_in") != "none":
        raise UsageError(f"load_in={args.text('load_in')} is for engine hf", "quantise what the engine serves instead")
    if options.engine == ENDPOINT and (count := device_count(args)) != 1:
        raise UsageError(f"devices={count} is for engines hf and vllm", "an endpoint has its own devices")


def device_count(args: Arguments) -> int:
    """GPUs of the language model: the argument ``devices``, where the card has it."""
    return args.whole("devices") if args.has("devices") else 1


def talker_identity(options: ModelOptions) -> str:
    """What tells language models apart: the digest of a local checkpoint; see ``Endpoint.identity`` for others.

    Raises:
        CheckpointError: There is no checkpoint.
        RunError: There is no endpoint.
        UsageError: It refuses the key, or an argument does not fit.
    """
    _check_engine(options, Arguments(options))
    if options.engine == ENDPOINT:
        return endpoint_of(options).identity()
    return digest(language_path(options))


def language_path(options: ModelOptions) -> Path:
    """Folder of a local language model: argument ``checkpoint``, else the repository ``hub`` in the local cache.

    Raises:
        CheckpointError: There is none. Nothing is downloaded.
    """
    args = Arguments(options)
    if given := args.text("checkpoint"):
        return Path(given).expanduser()
    return cached_folder(args.text("hub"), f"the weights of {options.name}", "checkpoint")


def sizing_of(args: Arguments) -> Sizing:
    """The arguments ``square``, ``factor``, ``min_pixels``, ``max_pixels``, ``kernel``."""
    return Sizing(
        args.whole("square"),
        args.whole("factor"),
        args.whole("min_pixels"),
        args.whole("max_pixels"),
        args.text("kernel"),
    )


def endpoint_of(options: ModelOptions, forced: int | None = None) -> Endpoint:
    """The arguments ``base_url``, ``model``, ``key_variable`` and those of ``EndpointSettings``.

    Args:
        options: Of the card.
        forced: Length of every answer; None lets the model end it.

    Raises:
        UsageError: One does not fit; the key itself is never shown.
    """
    args = Arguments(options)
    if not args.text("model"):
        raise UsageError(f"model {options.name} does not know which model to ask for", "--model-arg model=NAME")
    temperature = args.real("temperature")
    settings = EndpointSettings(
        base_url=read_base_url(args.text("base_url")),
        model=args.text("model"),
        max_tokens=forced or args.whole("max_new_tokens"),
        forced=bool(forced),
        token_field=cast("Literal['max_tokens', 'max_completion_tokens']", args.text("token_field")),
        temperature=temperature if temperature >= 0 else None,
        seed=options.seed if args.flag("send_seed") else None,
        timeout=args.real("timeout"),
        retries=args.whole("retries"),
        backoff=args.real("backoff"),
        concurrency=args.whole("concurrency"),
        picture=cast("Literal['png', 'jpeg']", args.text("picture")),
        extra=_json_object(args.text("extra")),
    )
    return Endpoint(settings, read_key(args.text("key_variable")))


def _json_object(text: str) -> Mapping[str, object]:
    try:
        content = parse_json(text or "{}")
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise UsageError("--model-arg extra is not a JSON object", """e.g. extra='{"top_k": 1}'""")
    return content


def sam_path(options: ModelOptions) -> Path:
    """SAM's file or folder: argument ``sam``, else the repository ``sam_hub`` of SAM 2 in the local cache.

    Raises:
        CheckpointError: There is none. Nothing is downloaded.
        UsageError: The first SAM is to paint, and no file is named.
    """
    args = Arguments(options)
    if given := args.text("sam"):
        return Path(given).expanduser()
    if is_first_sam(options):
        raise UsageError("painter=sam needs Meta's file", "--model-arg sam=sam_vit_h_4b8939.pth")
    return cached_folder(args.text("sam_hub"), f"SAM 2 of {options.name}", "sam")


def load_sam(options: ModelOptions) -> Sam2:
    """SAM 2 on the device, in the precision of ``sam_dtype``."""
    from lens_bench.sam2.model import Sam2

    said = Arguments(options).text("sam_dtype")
    return Sam2.load(sam_path(options), options.device, dtype_of(options, said))


def load_first_sam(options: ModelOptions) -> Sam1:
    """The first SAM on the device, in the precision of ``sam_dtype``."""
    from lens_bench.vlm.sam1 import Sam1

    said = Arguments(options).text("sam_dtype")
    return Sam1.load(sam_path(options), options.device, dtype_of(options, said))


def is_first_sam(options: ModelOptions) -> bool:
    """Whether the card offers the first SAM and it was chosen."""
    args = Arguments(options)
    return args.has("painter") and args.text("painter") == "sam"


def dtype_of(options: ModelOptions, said: str = "same") -> torch.dtype:
    """A precision by name; ``same`` is the run's."""
    import torch

    name = options.dtype if said == "same" else said
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]

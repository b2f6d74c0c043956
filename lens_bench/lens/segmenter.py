"""LENS behind the Segmenter protocol: what ``baselines/lens`` and every checkpoint folder of ours name as adapter."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from lens_bench.answers import why_no_box
from lens_bench.checkpoint_files import digest, visible
from lens_bench.errors import CheckpointError, UsageError
from lens_bench.hub_cache import cached_folder
from lens_bench.lens.attention import attention
from lens_bench.lens.checkpoint import describe, load
from lens_bench.lens.config import CONFIG_NAME, LensConfig, read_config, whole
from lens_bench.lens.costs import lens_costs
from lens_bench.lens.engine import Answer, Batches, Engine
from lens_bench.lens.modeling import LensModel
from lens_bench.lens.placing import Precision
from lens_bench.lens.prompts import HubTokenizer, Prompter, load_tokenizer
from lens_bench.lens.quantise import bits_of
from lens_bench.lens.recipe import Recipe
from lens_bench.lens.room import require_room, shortage
from lens_bench.lens.sizes import QWEN_IMAGE, named_size
from lens_bench.lens.spread import devices_of, notes_of
from lens_bench.lens.steps import Decode, resolve
from lens_bench.lens.writer import HfWriter, TextEngine, make_decoder
from lens_bench.records import ArgValue, Cost, ImageTask, LoadReport, ModelOptions, Prediction, Size, Tokens

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Arguments of a card that belong to the recipe.
_RECIPE = frozenset(Recipe.model_fields)
# Of the longest expressions, how many are tokenised to find the longest prompt; and tokens to advise for an answer.
_TOKENISED, _ANSWER = 32, 256


class LensSegmenter:
    """A LENS checkpoint, ours or the authors'.

    Arguments of the card: ``checkpoint`` (folder; empty for the card's own), ``hub`` (repository looked up in the local
    cache where ``checkpoint`` is empty and the card's folder has no weights), ``positions``, ``head_dtype``,
    ``sam_dtype``, ``rows``, ``decode`` (engine ``hf``: ``auto`` or one of ``steps.DECODES``), ``load_in`` (``none``, or
    ``8bit`` or ``4bit`` for the language model's blocks), ``devices`` (how many GPUs these are spread over, and vLLM
    divides its layers among), and every field of ``Recipe``.
    """

    def __init__(self, options: ModelOptions) -> None:
        self._options = options
        self._engine: Engine | None = None
        self._forced: int | None = None
        self._expected: tuple[tuple[Size, str], ...] = ()

    def weight_digest(self) -> str:
        """SHA-256 of everything in the checkpoint that can change an answer."""
        return digest(self.folder())

    def load(self) -> LoadReport:
        """Read and check the checkpoint, and build the engine.

        Raises:
            CheckpointError: A file or tensor is missing, broken or does not fit.
            UsageError: The engine or a precision does not exist here.
        """
        folder = self.folder()
        bits = bits_of(self._text("load_in", "none"), self._options.device)
        if bits and self._options.engine == "vllm":
            raise UsageError(f"load_in={bits} is for engine hf", "vLLM runs the weights as they are exported")
        loaded = load(folder, self._devices(), self._precision(), self._recipe(folder), bits)
        notes, warnings = self._start(loaded.model, load_tokenizer(folder))
        return LoadReport(loaded.report.parameters, loaded.report.ignored, (*loaded.report.notes, *notes), warnings)

    def load_random(self, seed: int) -> LoadReport:
        """Build the architecture of the checkpoint's configuration, or of the card where there is none.

        Raises:
            UsageError: Neither says what to build, or the engine needs files.
        """
        from lens_bench.lens.random_weights import random_lens, word_tokenizer

        config = self._shape()
        if self._options.engine not in (None, "hf"):
            raise UsageError(f"the engine {self._options.engine} needs a checkpoint on disk", "--engine hf needs none")
        devices = self._devices()
        model = random_lens(self._asked_as(config), seed, devices, self._precision())
        words = config.qwen.get("image_token_id") == QWEN_IMAGE
        tokenizer = word_tokenizer() if words else load_tokenizer(self.folder())
        parameters = sum(p.numel() for p in model.parameters())
        drawn = (f"random weights from seed {seed}", *notes_of(devices, model.qwen.model.language_model.layers))
        notes, warnings = self._start(model, tokenizer)
        return LoadReport(parameters, (), (*drawn, *notes), warnings)

    def expect(self, tasks: Sequence[ImageTask]) -> None:
        """Remember what will be asked, so that loading can say what will not fit."""
        longest = (max((query.expression for query in task.queries), key=len, default="") for task in tasks)
        self._expected = tuple(zip((task.size for task in tasks), longest, strict=True))

    def force_length(self, tokens: int) -> None:
        """Write exactly so many tokens for every expression, whatever they are. Called before loading."""
        self._forced = tokens

    def costs(self, tasks: Sequence[ImageTask], predictions: Sequence[Prediction]) -> Mapping[str, Cost]:
        """Work of an answered call by stage."""
        if self._engine is None:
            raise CheckpointError("costs was called before load")
        return lens_costs(self._engine, tasks, predictions)

    def segment(self, tasks: Sequence[ImageTask]) -> list[Prediction]:
        """Answer every query of every task, in order."""
        if self._engine is None:
            raise CheckpointError("segment was called before load")
        asks = [(n, query.expression) for n, task in enumerate(tasks) for query in task.queries]
        names = [query.sample_id for task in tasks for query in task.queries]
        answers = self._engine.answer([task.rgb for task in tasks], asks)
        share = {stage: 1000 * s / max(1, len(asks)) for stage, s in self._engine.seconds.items()}
        return [prediction(name, answer, share) for name, answer in zip(names, answers, strict=True)]

    def close(self) -> None:
        """Free the model and the text engine."""
        if self._engine is not None:
            self._engine.writer.close()
        self._engine = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _start(self, model: LensModel, tokenizer: HubTokenizer) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Build the engine of a model; returns the notes and the warnings of the load report."""
        positions = self._text("positions", "checkpoint")
        if positions in ("lens-1d", "mrope"):
            model.config = model.config.model_copy(update={"positions": positions})
        recipe, ends = model.config.recipe, frozenset(model.config.ends)
        if self._forced is not None:
            recipe = recipe.model_copy(update={"max_length": None, "max_new_tokens": self._forced})
            ends = frozenset()
        prompter = Prompter(recipe, tokenizer, ends, model.config.padding)
        if self._forced is not None:
            taken = len(prompter.before) + len(prompter.after("")) + 1 + model.config.head.queries
            require_room(self._forced, whole(model.qwen.config.get_text_config(), "max_position_embeddings"), taken)
        rows = self._options.args.get("rows")
        batches = Batches(rows=rows if isinstance(rows, int) and rows > 0 else None)
        writer, decoding = self._writer(model, tokenizer, prompter)
        backbone = model.qwen.model
        parts = {"language model": backbone.language_model, "vision tower": backbone.visual, "SAM 2": model.sam.sam2}
        self._engine = Engine(model, prompter, writer, batches)
        notes = (
            f"positions of the mask pass: {model.config.positions}",
            f"recipe: {json.dumps(recipe_facts(model))}",
            decoding,
            attention(parts),
        )
        return notes, self._too_long(self._engine, prompter)

    def _too_long(self, engine: Engine, prompter: Prompter) -> tuple[str, ...]:
        """A warning where prompts of what was announced leave no room for an answer."""
        if not self._expected:
            return ()
        longest = sorted({text for _, text in self._expected}, key=len)[-_TOKENISED:]
        text = len(prompter.before) + max(len(prompter.after(expression)) for expression in longest)
        sizes = [size for size, _ in self._expected]
        found = shortage(sizes, prompter.recipe, engine.patching, text, 1)
        if found is None:
            return ()
        height, width = found.size
        return (
            f"{found.images} of {len(sizes)} images leave no room for an answer within max_length="
            f"{found.limit} and will fail (one of {width}x{height} needs {found.needed} tokens before the first of the "
            f"answer); --model-arg max_length={found.needed + _ANSWER} or a smaller --model-arg max_pixels helps",
        )

    # ------------------------------------------------------------------------------------------ from the options

    def folder(self) -> Path:
        """The checkpoint's folder: argument, else the card's own, else the Hub repository in the local cache.

        Raises:
            CheckpointError: There is none; the hint says how to get it. Nothing is downloaded.
        """
        given = self._text("checkpoint")
        if given:
            return Path(given).expanduser()
        own = Path(self._options.folder)
        if (own / CONFIG_NAME).is_file() or visible(own, "*.safetensors"):
            return own
        hub = self._text("hub")
        if not hub:
            raise CheckpointError(
                f"model {self._options.name} has no weights in {own}", "name them: --model-arg checkpoint=FOLDER"
            )
        repository, _, inside = hub.partition(":")
        return cached_folder(repository, f"the weights of {self._options.name}", "checkpoint") / inside

    def _text(self, name: str, default: str = "") -> str:
        value = self._options.args.get(name, default)
        return value if isinstance(value, str) else default

    def _devices(self) -> tuple[str, ...]:
        return devices_of(self._options.device, self._options.args.get("devices", 1))

    def _decode(self, said: str, device: torch.device) -> Decode:
        """How engine hf decodes. Steps of fixed shapes keep keys and values in one slab, so on one device.

        Raises:
            UsageError: Not so on these devices.
        """
        if (count := len(self._devices())) == 1:
            return resolve(said, device)
        if said not in ("auto", "eager"):
            raise UsageError(f"decode={said} is for one device, not for devices={count}", "decode=eager")
        return "eager"

    def _recipe(self, folder: Path) -> Recipe | None:
        """The checkpoint's recipe with what the card or the user says otherwise; None where they say nothing."""
        if not any(name in _RECIPE for name in self._options.args):
            return None
        return self._asked_as(describe(folder)[0]).recipe

    def _asked_as(self, config: LensConfig) -> LensConfig:
        """The configuration with the recipe that the card or the user wants."""
        said: Mapping[str, ArgValue] = {k: v for k, v in self._options.args.items() if k in _RECIPE}
        try:
            recipe = Recipe.model_validate({**config.recipe.model_dump(), **said})
        except ValueError as error:
            raise UsageError(f"model {self._options.name}: {' '.join(str(error).split())}") from None
        return config.model_copy(update={"recipe": recipe})

    def _shape(self) -> LensConfig:
        """What to build without weights: ``lens_config.json`` of the folder, else the size that the card's name says.

        Raises:
            UsageError: Neither is there.
        """
        given = Path(self._text("checkpoint")).expanduser() if self._text("checkpoint") else Path(self._options.folder)
        if (given / CONFIG_NAME).is_file():
            return read_config(given / CONFIG_NAME)
        named = None if self._text("checkpoint") else named_size(self._options.name)
        if named is None:
            raise UsageError(
                f"nothing says what model {self._options.name} is without its weights",
                f"--model-arg checkpoint=FOLDER with {CONFIG_NAME} in it, or a released size such as lens-3b",
            )
        return named

    def _precision(self) -> Precision:
        def of(name: str) -> torch.dtype:
            said = self._text(name, "same")
            return _DTYPES[self._options.dtype if said == "same" else said]

        return Precision(_DTYPES[self._options.dtype], of("head_dtype"), of("sam_dtype"))

    def _writer(self, model: LensModel, tokenizer: HubTokenizer, prompter: Prompter) -> tuple[TextEngine, str]:
        """The text engine, and in words how it decodes."""
        engine, said = self._options.engine or "hf", self._text("decode", "auto")
        if engine == "hf":
            decode = self._decode(said, model.device)
            mrope = model.config.positions == "mrope"
            decoder = make_decoder(model, decode)
            writer = HfWriter(model, prompter.ends, prompter.padding, mrope, decoder=decoder)
            return writer, f"decoding: {decode}" + (" (auto)" if said == "auto" else "")
        if engine != "vllm":
            raise UsageError(f"no engine {engine!r}", "one of: hf, vllm")
        if said != "auto":
            raise UsageError(f"decode={said} is for engine hf; vLLM decodes in its own way", "leave decode out")
        from lens_bench.lens.vllm_writer import VllmWriter

        devices = len(self._devices())
        return VllmWriter(model, tokenizer, prompter.before, prompter.ends, devices), "decoding: vLLM"


def prediction(sample_id: str, answer: Answer, stages_ms: Mapping[str, float]) -> Prediction:
    """An answer as the record that is journalled."""
    if answer.mask is None:
        return Prediction(sample_id, "error", error=answer.error or "no mask", stages_ms=stages_ms)
    return Prediction(
        sample_id,
        "ok",
        mask=answer.mask,
        box=answer.box,
        text=answer.text,
        tokens=Tokens(answer.prompt_tokens, len(answer.ids)),
        stages_ms=stages_ms,
        error=why_no_box(answer.text) if answer.box is None else None,
    )


def recipe_facts(model: LensModel) -> dict[str, object]:
    """What of a recipe differs from the default, for the record of a run."""
    plain = Recipe().model_dump()
    return {k: v for k, v in model.config.recipe.model_dump().items() if v != plain[k]}

"""LENS behind the Segmenter protocol: what ``baselines/lens`` and every checkpoint folder of ours name as adapter."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from lens_bench.errors import CheckpointError, UsageError
from lens_bench.hub_cache import cached_folder
from lens_bench.lens.checkpoint import Precision, describe, load, weight_digest
from lens_bench.lens.config import CONFIG_NAME
from lens_bench.lens.engine import Answer, Batches, Engine
from lens_bench.lens.modeling import LensModel
from lens_bench.lens.prompts import HubTokenizer, Prompter, load_tokenizer
from lens_bench.lens.recipe import Recipe
from lens_bench.lens.writer import TextEngine
from lens_bench.records import ArgValue, ImageTask, LoadReport, ModelOptions, Prediction, Tokens

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Arguments of a card that belong to the recipe.
_RECIPE = frozenset(Recipe.model_fields)


class LensSegmenter:
    """A LENS checkpoint, ours or the authors'.

    Arguments of the card: ``checkpoint`` (folder; empty for the card's own), ``hub`` (repository looked up in the local
    cache where ``checkpoint`` is empty and the card's folder has no weights), ``positions``, ``head_dtype``,
    ``sam_dtype``, ``rows``, and every field of ``Recipe``.
    """

    def __init__(self, options: ModelOptions) -> None:
        self._options = options
        self._engine: Engine | None = None

    def weight_digest(self) -> str:
        """SHA-256 of the checkpoint's configuration and shards."""
        return weight_digest(self.folder())

    def load(self) -> LoadReport:
        """Read and check the checkpoint, and build the engine.

        Raises:
            CheckpointError: A file or tensor is missing, broken or does not fit.
            UsageError: The engine or a precision does not exist here.
        """
        options, folder = self._options, self.folder()
        recipe = self._recipe(folder)
        loaded = load(folder, options.device, self._precision(), recipe)
        model = loaded.model
        positions = self._text("positions", "checkpoint")
        if positions in ("lens-1d", "mrope"):
            model.config = model.config.model_copy(update={"positions": positions})
        tokenizer = load_tokenizer(folder)
        prompter = Prompter(model.config.recipe, tokenizer, frozenset(model.config.ends), model.config.padding)
        rows = options.args.get("rows")
        batches = Batches(rows=rows if isinstance(rows, int) and rows > 0 else None)
        self._engine = Engine(model, prompter, self._writer(model, tokenizer, prompter), batches)
        notes = (f"positions of the mask pass: {model.config.positions}", f"recipe: {json.dumps(recipe_facts(model))}")
        return LoadReport(loaded.report.parameters, loaded.report.ignored, (*loaded.report.notes, *notes))

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
        if (own / CONFIG_NAME).is_file() or any(own.glob("*.safetensors")):
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

    def _recipe(self, folder: Path) -> Recipe | None:
        """The checkpoint's recipe with what the card or the user says otherwise; None where they say nothing."""
        said: Mapping[str, ArgValue] = {k: v for k, v in self._options.args.items() if k in _RECIPE}
        if not said:
            return None
        config, _ = describe(folder)
        try:
            return Recipe.model_validate({**config.recipe.model_dump(), **said})
        except ValueError as error:
            raise UsageError(f"model {self._options.name}: {' '.join(str(error).split())}") from None

    def _precision(self) -> Precision:
        def of(name: str) -> torch.dtype:
            said = self._text(name, "same")
            return _DTYPES[self._options.dtype if said == "same" else said]

        return Precision(_DTYPES[self._options.dtype], of("head_dtype"), of("sam_dtype"))

    def _writer(self, model: LensModel, tokenizer: HubTokenizer, prompter: Prompter) -> TextEngine | None:
        engine = self._options.engine or "hf"
        if engine == "hf":
            return None
        if engine != "vllm":
            raise UsageError(f"no engine {engine!r}", "one of: hf, vllm")
        from lens_bench.lens.vllm_writer import VllmWriter

        return VllmWriter(model, tokenizer, prompter.before, prompter.ends)


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
    )


def recipe_facts(model: LensModel) -> dict[str, object]:
    """What of a recipe differs from the default, for the record of a run."""
    plain = Recipe().model_dump()
    return {k: v for k, v in model.config.recipe.model_dump().items() if v != plain[k]}

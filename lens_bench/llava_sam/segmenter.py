"""LISA and GLaMM behind the Segmenter protocol; an adapter says which family it is and writes the conversations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from lens_bench.checkpoint_files import digest, read_object
from lens_bench.errors import CheckpointError, DataError, RunError, UsageError
from lens_bench.finite import MASK_SCORES, TOKEN_SCORES
from lens_bench.hub_cache import cached_folder
from lens_bench.lens.prompts import special_in
from lens_bench.lens.quantise import bits_of
from lens_bench.lens.room import require_room
from lens_bench.lens.spread import devices_of, notes_of
from lens_bench.llava_sam.checkpoint import IMAGE_TOKENS, load
from lens_bench.llava_sam.config import Family, released_config
from lens_bench.llava_sam.conversation import Template, Turn
from lens_bench.llava_sam.costs import llava_costs
from lens_bench.llava_sam.engine import Answer, Ask, Engine
from lens_bench.llava_sam.modeling import LlavaSam
from lens_bench.llava_sam.tokens import SEG, SegTokenizer, load_tokenizer
from lens_bench.masks import union
from lens_bench.records import Cost, ImageTask, LoadReport, ModelOptions, Prediction, Size, Tokens

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_SLOT = "{expression}"


@dataclass(frozen=True, slots=True)
class Conversation:
    """What an adapter wants to ask.

    Attributes:
        image: Number of the task whose image is meant.
        turns: Questions, with forced answers or (the last only) without.
        sample_ids: The expression that each turn asks.
    """

    image: int
    turns: tuple[Turn, ...]
    sample_ids: tuple[str, ...]


class LlavaSegmenter:
    """A LISA or GLaMM checkpoint in the authors' layout. Subclasses implement ``conversations``.

    Arguments of the card: ``checkpoint`` and ``clip`` (folders; empty: the repositories ``hub`` and ``clip_hub`` in the
    local cache), ``phrase`` and ``sentence`` (questions with the placeholder ``{expression}``), ``answer`` (where it is
    forced), ``several`` (``first`` or ``union`` of the masks of a written answer), ``max_new_tokens``, ``rows``,
    ``load_in`` (``none``, or ``8bit`` or ``4bit`` for the language model's blocks), ``devices`` (how many GPUs they are
    spread over).

    Args:
        options: What the run is made with.
        family: Which of the two.
        lead: What the first question says before the image.
        follow: What it says between the image and the question proper.

    Raises:
        UsageError: An argument cannot be used.
    """

    def __init__(self, options: ModelOptions, family: Family, lead: str, follow: str) -> None:
        self.options = options
        self._family, self._lead, self._follow = family, lead, follow
        self._engine: Engine | None = None
        self._tokenizer: SegTokenizer | None = None
        self._template: Template | None = None
        self._forced = False
        self._last: tuple[Sequence[Ask], Sequence[Answer]] | None = None
        for name in ("phrase", "sentence"):
            if _SLOT not in self.text(name):
                raise UsageError(f"--model-arg {name}={self.text(name)!r} has no {_SLOT}")
        if SEG not in self.text("answer"):
            raise UsageError(f"--model-arg answer={self.text('answer')!r} has no {SEG}")
        self._rows, self._most = self._number("rows", 0), self._number("max_new_tokens", 1)
        self._devices = self._number("devices", 1)

    def conversations(self, tasks: Sequence[ImageTask]) -> list[Conversation]:
        """How the queries of the tasks are asked. Every query must be in exactly one conversation."""
        raise NotImplementedError

    # ------------------------------------------------------------------------------------------ Segmenter

    def weight_digest(self) -> str:
        """SHA-256 of everything in both checkpoints that can change an answer."""
        return digest(self._folder("checkpoint", "hub"), self._folder("clip", "clip_hub"))

    def load(self) -> LoadReport:
        """Read and check both checkpoints.

        Raises:
            CheckpointError: A file or tensor is missing, broken or does not fit.
        """
        folder, tower = self._folder("checkpoint", "hub"), self._folder("clip", "clip_hub")
        bits = bits_of(self.text("load_in"), self.options.device)
        devices = devices_of(self.options.device, self._devices)
        loaded = load(self._family, folder, tower, devices, _DTYPES[self.options.dtype], bits)
        self._start(loaded.model, loaded.tokenizer)
        return loaded.report

    def load_random(self, seed: int) -> LoadReport:
        """Build the model of the card's size, or of the named folders' configurations, without weights.

        Raises:
            UsageError: The card is of no released size and no folder is named.
            CheckpointError: A named folder has no configuration.
        """
        from lens_bench.llava_sam.random_weights import named_config, random_llava, word_tokens

        if self.text("checkpoint"):
            folders = self._folder("checkpoint", "hub"), self._folder("clip", "clip_hub")
            config = released_config(self._family, *(read_object(folder / "config.json") for folder in folders))
            tokenizer = load_tokenizer(folders[0], int(config.llama_config().vocab_size), IMAGE_TOKENS)
        else:
            named = named_config(self._family, self.options.name)
            if named is None:
                raise UsageError(
                    f"nothing says what model {self.options.name} is without its weights",
                    "--model-arg checkpoint=FOLDER and clip=FOLDER with config.json, or a released name: lisa-7b",
                )
            config, tokenizer = named, word_tokens(self._family)
        devices = devices_of(self.options.device, self._devices)
        model = random_llava(config, seed, devices, _DTYPES[self.options.dtype])
        self._start(model, tokenizer)
        notes = (f"random weights from seed {seed}", *notes_of(devices, model.llama.model.layers))
        return LoadReport(sum(p.numel() for p in model.parameters()), (), notes)

    def force_length(self, tokens: int) -> None:
        """Write exactly so many tokens, the last of them [SEG]. Called before loading.

        Raises:
            UsageError: In this mode the answer is given and nothing is written.
        """
        if self.text("mode") != "generated":
            raise UsageError(
                f"model {self.options.name} writes nothing in mode {self.text('mode')}", "--model-arg mode=generated"
            )
        self._forced, self._most = True, tokens

    def costs(self, tasks: Sequence[ImageTask], predictions: Sequence[Prediction]) -> Mapping[str, Cost]:
        """Work of an answered call by stage."""
        if self._engine is None or self._last is None:
            raise RunError("costs was called before segment")
        return llava_costs(self._engine.model, *self._last)

    def segment(self, tasks: Sequence[ImageTask]) -> list[Prediction]:
        """Answer every query of every task, in order."""
        engine, template = self._engine, self._template
        if engine is None or template is None:
            raise RunError("segment was called before load")
        conversations = self.conversations(tasks)
        asks = [self._ask(conversation, template, engine) for conversation in conversations]
        answers = engine.answer([task.rgb for task in tasks], asks)
        self._last = asks, answers
        queries = [query.sample_id for task in tasks for query in task.queries]
        share = {stage: 1000 * seconds / max(1, len(queries)) for stage, seconds in engine.seconds.items()}
        found: dict[str, Prediction] = {}
        for conversation, answer in zip(conversations, answers, strict=True):
            for prediction in self._predictions(conversation, answer, tasks[conversation.image].size, share):
                found[prediction.sample_id] = prediction
        return [found[sample_id] for sample_id in queries]

    def close(self) -> None:
        """Free the model."""
        self._engine = self._template = self._tokenizer = self._last = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _start(self, model: LlavaSam, tokenizer: SegTokenizer) -> None:
        if self._forced:
            require_room(self._most, model.config.context, model.image_tokens + 1)
        self._tokenizer = tokenizer
        self._template = Template(tokenizer, self._lead, self._follow)
        self._engine = Engine(model, tokenizer.seg, tokenizer.eos, self._rows or None, forced=self._forced)

    # ------------------------------------------------------------------------------------------ arguments

    def text(self, name: str) -> str:
        """A text argument; empty where the card does not have it."""
        value = self.options.args.get(name, "")
        return value if isinstance(value, str) else str(value)

    def _number(self, name: str, least: int) -> int:
        value = self.options.args.get(name, least)
        if not isinstance(value, int) or value < least:
            raise UsageError(f"--model-arg {name}={value}: a whole number of at least {least} is needed")
        return value

    def question(self, name: str, expression: str) -> str:
        """The question of template argument ``name``, ``phrase`` or ``sentence``.

        Raises:
            DataError: The expression holds one of the model's own tokens.
        """
        if self._tokenizer is not None and (held := special_in(expression, self._tokenizer.special)):
            raise DataError(held)
        return self.text(name).replace(_SLOT, expression)

    def _folder(self, argument: str, hub: str) -> Path:
        given = self.text(argument)
        if given:
            return Path(given).expanduser()
        repository = self.text(hub)
        what = f"the {'vision tower' if argument == 'clip' else 'checkpoint'} of {self.options.name}"
        if not repository:
            raise CheckpointError(f"{what} is nowhere named", f"name its folder: --model-arg {argument}=FOLDER")
        return cached_folder(repository, what, argument)

    # ------------------------------------------------------------------------------------------ one conversation

    def _ask(self, conversation: Conversation, template: Template, engine: Engine) -> Ask:
        prompt = template.write(conversation.turns)
        if conversation.turns[-1].answer is not None:
            return Ask(conversation.image, prompt)
        used = len(prompt.before) + engine.model.image_tokens + len(prompt.after)
        room = engine.model.config.context - used
        if room < (self._most if self._forced else 1):
            wanted = f"write {self._most} tokens" if self._forced else "answer"
            raise RunError(
                f"the prompt of {conversation.sample_ids[-1]} has {used} tokens and leaves no room to {wanted}"
            )
        return Ask(conversation.image, prompt, min(room, self._most))

    def _predictions(
        self, conversation: Conversation, answer: Answer, size: Size, share: Mapping[str, float]
    ) -> list[Prediction]:
        tokens = Tokens(answer.prompt_tokens, len(answer.ids))
        if conversation.turns[-1].answer is not None:
            rows = zip(conversation.sample_ids, conversation.turns, answer.masks, strict=True)
            return [
                Prediction(name, "error", error=MASK_SCORES, stages_ms=share)
                if mask is None
                else Prediction(name, "ok", mask=mask, text=turn.answer, tokens=tokens, stages_ms=share)
                for name, turn, mask in rows
            ]
        name = conversation.sample_ids[-1]
        text = self._tokenizer.decode(answer.ids) if self._tokenizer is not None else None
        masks = [mask for mask in answer.masks if mask is not None]
        if not answer.finite or len(masks) < len(answer.masks):
            why = MASK_SCORES if answer.finite else TOKEN_SCORES
            return [Prediction(name, "error", text=text, error=why, tokens=tokens, stages_ms=share)]
        if not masks:
            return [Prediction(name, "no_mask", text=text, tokens=tokens, stages_ms=share)]
        mask = union(masks, size) if self.text("several") == "union" else masks[0]
        return [Prediction(name, "ok", mask=mask, text=text, tokens=tokens, stages_ms=share)]

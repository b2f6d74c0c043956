"""A local vision-language model through transformers, whatever its architecture.

Prompts are written by the checkpoint's own chat template and read by greedy decoding under the checkpoint's own
generation settings (a repetition penalty, where it has one). For models of the Qwen-VL families a picture is encoded
once and the prompt up to it is read once, however many conversations begin with it (``shared``); other architectures do
both once per conversation, and the load report says so. Answers do not depend on what shares a batch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import cast

import torch
from PIL import Image
from torch import Tensor, nn

from lens_bench.errors import CheckpointError
from lens_bench.finite import TOKEN_SCORES
from lens_bench.lens.attention import attention, prefer_flash
from lens_bench.lens.batching import Budget, row_budget, row_bytes
from lens_bench.lens.prompts import special_tokens
from lens_bench.lens.quantise import Bits, quantise
from lens_bench.lens.room import require_room
from lens_bench.lens.spread import check_whole, scatter
from lens_bench.perf.clock import StageClock
from lens_bench.records import UNKNOWN_COST, Cost
from lens_bench.torchvision_guard import guard_torchvision
from lens_bench.vlm.chat import Conversation, Picture, Reply
from lens_bench.vlm.costs import VlmCosts
from lens_bench.vlm.prompting import (
    check_folder,
    end_ids,
    pictures_of,
    prompt_text,
    read_processor,
    reading_vlm,
    reply_of,
    special_of,
)
from lens_bench.vlm.shared import Sharing, can_share

guard_torchvision()

from transformers import (  # noqa: E402
    AutoModelForImageTextToText,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)
from transformers.utils.logging import disable_progress_bar  # noqa: E402

_ROW_TOKENS = 2048  # of a prompt with its image, and an answer


@dataclass(frozen=True, slots=True)
class LocalSettings:
    """How a local model is run.

    Attributes:
        max_new_tokens: Most tokens of an answer.
        rows: Conversations answered together; 0 for what fits.
        bits: Quantises the language model's blocks.
        forced: Every answer has exactly ``max_new_tokens``: nothing ends it before.
    """

    max_new_tokens: int = 1024
    rows: int = 0
    bits: Bits | None = None
    forced: bool = False


class LocalVlm:
    """A ``Talker`` on transformers.

    Args:
        model: In evaluation mode, on its device.
        processor: Of the same checkpoint.
        settings: How to run it.
        parameters: Their number, where blocks are quantised already.
        placed: What a reader should know of where blocks lie.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        settings: LocalSettings,
        parameters: int | None = None,
        placed: Sequence[str] = (),
    ) -> None:
        self._model = model
        self.parameters = sum(p.numel() for p in model.parameters()) if parameters is None else parameters
        self._processor = processor
        self._settings, self._placed = settings, placed
        self._tokenizer: PreTrainedTokenizerBase = processor.tokenizer
        self._tokenizer.padding_side = "left"
        self._special = special_tokens(self._tokenizer)
        self.sharing = Sharing(model, processor) if can_share(model, processor) else None
        per_row = row_bytes(model.config.get_text_config(), model.dtype, _ROW_TOKENS)
        self._rows = Budget(settings.rows or row_budget(model.device, per_row, cap=128), "conversations")
        self._penalty = float(model.generation_config.repetition_penalty or 1.0)
        self._costs = VlmCosts.of(model, processor)
        if settings.forced:
            text = model.config.get_text_config()
            require_room(settings.max_new_tokens, getattr(text, "max_position_embeddings", None))
            # Here, because ``generate`` fills in from here what is None.
            model.generation_config.eos_token_id = None

    @staticmethod
    def load(folder: Path, device: str | Sequence[str], dtype: torch.dtype, settings: LocalSettings) -> LocalVlm:
        """Read a checkpoint folder.

        Args:
            folder: The checkpoint.
            device: Where to; several, where the language model is to be spread over them.
            dtype: Of everything.
            settings: How to run it.

        Raises:
            CheckpointError: It is missing or broken, or a tensor is missing, unexpected or misshapen.
            UsageError: A model of this kind, or quantised blocks, cannot be spread.
        """
        devices = [device] if isinstance(device, str) else list(device)
        check_whole(settings.bits, devices)
        check_folder(folder)
        disable_progress_bar()  # type: ignore[no-untyped-call]
        with reading_vlm(folder):
            loaded: object = AutoModelForImageTextToText.from_pretrained(
                folder, dtype=dtype, local_files_only=True, trust_remote_code=False, output_loading_info=True
            )
        processor = read_processor(folder)
        model, info = cast("tuple[PreTrainedModel, Mapping[str, object]]", loaded)
        _check(folder, info)
        parameters = sum(p.numel() for p in model.parameters())
        if settings.bits:
            quantise(_blocks(folder, model), settings.bits, devices[0], dtype)
        placed = scatter(model, _language(model), devices)
        model.eval()  # type: ignore[no-untyped-call]
        if (tower := getattr(model.model, "visual", None)) is not None:
            prefer_flash(tower, model.device, dtype)
        return LocalVlm(model, processor, settings, parameters, placed)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the result should know."""
        parts = {
            "language model": _language(self._model),
            "vision tower": getattr(self._model.model, "visual", None),
        }
        notes = [attention({name: part for name, part in parts.items() if part is not None})]
        notes += self._placed
        if self._settings.bits:
            notes.append(f"the language model's blocks are held in {self._settings.bits}")
        if self._costs is None or self.sharing is None:
            notes.append("the work of a language model of this family is not known: no share of the ceilings")
        if self.sharing is None:
            notes.append("the vision tower runs once per expression, not once per image")
        return tuple(notes)

    def close(self) -> None:
        """Nothing is held beside the model."""

    @torch.inference_mode()
    def ask(self, conversations: Sequence[Conversation], clock: StageClock | None = None) -> list[Reply]:
        """One reply per conversation, in order.

        One that holds a special token as text, or that is answered with non-finite scores, has a reply with ``error``.

        Args:
            conversations: What is said.
            clock: Takes the stages ``prompt``, ``resize``, ``vision tower``, ``prefill`` and ``decode``; where
                the vision tower runs within the language model's first pass, all that is ``prefill``.

        Raises:
            OutOfMemoryError: A single conversation does not fit.
        """
        # In their order, not by length: those about one picture come one after the other and share it in a batch.
        held = {place: why for place, c in enumerate(conversations) if (why := special_of(c, self._special))}
        asked = [place for place in range(len(conversations)) if place not in held]
        bare = [place for place in asked if not pictures_of(conversations[place])]
        shown = [place for place in asked if pictures_of(conversations[place])]
        found = {place: Reply(error=why) for place, why in held.items()}
        work = partial(self._ask, clock=clock or StageClock(str(self._model.device)))
        for places in (shown, bare):
            found.update(zip(places, self._rows.run([conversations[p] for p in places], work), strict=True))
        return [found[place] for place in range(len(conversations))]

    def costs(self, conversations: Sequence[Conversation], replies: Sequence[Reply]) -> Mapping[str, Cost]:
        """Work by stage; not known for other families than Qwen's."""
        if self._costs is None or self.sharing is None:
            return {"prefill": UNKNOWN_COST, "decode": UNKNOWN_COST}
        return self._costs.stages(conversations, replies)

    # ------------------------------------------------------------------------------------------ one batch

    def _ask(self, conversations: Sequence[Conversation], clock: StageClock) -> list[Reply]:
        pictures = [pictures_of(conversation) for conversation in conversations]
        share = self.sharing if all(pictures) else None
        with clock.stage("prompt"):
            texts = [prompt_text(self._processor, conversation) for conversation in conversations]
            inputs = self._plain(texts, pictures) if share is None else {}
        if share is not None:
            inputs = share.inputs(texts, pictures, clock)
        inputs = {name: _to(value, self._model) for name, value in inputs.items()}
        mask = cast("Tensor", inputs["attention_mask"])
        width = mask.shape[1]
        config = self._greedy()
        penalty = [_RepetitionPenalty(self._penalty, mask)] if self._penalty != 1.0 else []
        generate = cast("Callable[..., Tensor]", self._model.generate)
        with _Passes(clock) as passes:
            processors = LogitsProcessorList([passes, *penalty])
            out = generate(**inputs, generation_config=config, logits_processor=processors)
        ends = end_ids(config.eos_token_id)
        answers = zip(out[:, width:].tolist(), mask.sum(dim=1).tolist(), passes.finite(), strict=True)
        return [self._reply(row, int(own), ends, finite) for row, own, finite in answers]

    def _reply(self, row: Sequence[int], prompt: int, ends: frozenset[int], finite: int) -> Reply:
        """The reply in ``row``, of whose tokens the first ``finite`` were chosen by finite scores."""
        reply = reply_of(self._tokenizer, row, prompt, ends)
        written = reply.tokens.completion if reply.tokens is not None else 0
        return reply if written <= finite else Reply(error=TOKEN_SCORES)

    def _greedy(self) -> GenerationConfig:
        """The checkpoint's generation settings without sampling; its repetition penalty is ours to apply."""
        config = copy.deepcopy(self._model.generation_config)
        # Neutral values: what is None, ``generate`` fills in from the checkpoint's settings.
        config.do_sample, config.repetition_penalty = False, 1.0
        config.temperature, config.top_p, config.top_k = 1.0, 1.0, 50
        config.max_new_tokens, config.max_length = self._settings.max_new_tokens, None
        return config

    def _plain(self, texts: list[str], pictures: list[list[Picture]]) -> dict[str, object]:
        """Inputs by the checkpoint's processor; every conversation has its own copy of its pictures."""
        images = [[Image.fromarray(p.pixels) for p in row] for row in pictures]
        given = {"images": images} if any(images) else {}
        return dict(self._processor(text=texts, padding=True, return_tensors="pt", **given))


class _Passes(LogitsProcessor):
    """Measures reading prompts and writing answers apart, and looks for scores that are not finite.

    Scores come for the first time when all is read. What is found of them stays on the device until the end.
    """

    def __init__(self, clock: StageClock) -> None:
        self._clock = clock
        self._stage = ExitStack()
        self._passes = 0
        self._finite: Tensor | None = None

    def __enter__(self) -> _Passes:
        self._stage.enter_context(self._clock.stage("prefill"))
        return self

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Called behind every pass; the scores stay as they are."""
        if self._finite is None:
            self._stage.close()
            self._stage.enter_context(self._clock.stage("decode"))
            self._finite = torch.zeros(len(scores), dtype=torch.long, device=scores.device)
        # A score that is no number wins, so the greatest of a row tells of all.
        self._finite += (self._finite == self._passes) & scores.amax(dim=-1).isfinite()
        self._passes += 1
        return scores

    def finite(self) -> list[int]:
        """How many passes of each row gave finite scores before the first that did not."""
        return [] if self._finite is None else self._finite.tolist()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stage.close()


class _RepetitionPenalty(LogitsProcessor):
    """Of transformers, but blind to padding: its own penalises the padding token in rows that happen to be padded."""

    def __init__(self, penalty: float, mask: Tensor) -> None:
        self._penalty = penalty
        self._mask = mask.bool()

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Divide positive scores of tokens already there by the penalty, multiply negative ones."""
        written = input_ids.shape[1] - self._mask.shape[1]
        real = torch.cat([self._mask, self._mask.new_ones(len(input_ids), written)], dim=1)
        # Only scores that change are looked at, few of the vocabulary. The last token of a row is never padding.
        seen = torch.where(real, input_ids, input_ids[:, -1:])
        found = scores.gather(1, seen)
        punished = torch.where(found < 0, found * self._penalty, found / self._penalty)
        return scores.scatter(1, seen, punished)


def _check(folder: Path, info: Mapping[str, object]) -> None:
    """Refuse what transformers only warns of."""
    problems = []
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        found = sorted(str(key) for key in cast("Sequence[object]", info.get(kind) or ()))
        if found:
            problems.append(f"{len(found)} {kind.removesuffix('_keys')}: {', '.join(found[:10])}")
    if problems:
        raise CheckpointError(f"{folder} does not fit its own configuration; {'; '.join(problems)}")


def _language(model: PreTrainedModel) -> PreTrainedModel:
    find = cast("Callable[[], PreTrainedModel]", model.get_decoder)
    return find()


def _blocks(folder: Path, model: PreTrainedModel) -> nn.ModuleList:
    """The layers of the language model."""
    layers = getattr(_language(model), "layers", None)
    if not isinstance(layers, nn.ModuleList):
        raise CheckpointError(f"{folder}: no layers of a language model that could be quantised", "load_in=none")
    return layers


def _to(value: object, model: PreTrainedModel) -> object:
    if not isinstance(value, Tensor):
        return value
    return value.to(model.device, model.dtype) if value.is_floating_point() else value.to(model.device)

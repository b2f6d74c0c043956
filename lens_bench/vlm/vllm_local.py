"""A local vision-language model of the Qwen-VL families through vLLM in this process.

Prompts, end tokens and repetition penalty are those of ``local``, so that greedy answers are the same; vLLM reads the
checkpoint's folder itself, shares what prompts have in common, and batches as it likes. It does
not show its scores, so non-finite ones are not noticed here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from lens_bench.checkpoint_files import read_object, visible, weight_files
from lens_bench.errors import CheckpointError
from lens_bench.lens.prompts import special_tokens
from lens_bench.perf.clock import StageClock
from lens_bench.records import UNKNOWN_COST, Cost, Size
from lens_bench.torchvision_guard import guard_torchvision
from lens_bench.vllm_engine import Request, VllmEngine, VllmSettings
from lens_bench.vlm.chat import Conversation, Reply
from lens_bench.vlm.costs import VlmCosts
from lens_bench.vlm.prompting import (
    check_folder,
    end_ids,
    pictures_of,
    prompt_text,
    read_processor,
    reply_of,
    special_of,
)
from lens_bench.vlm.shared import check_size, expands_marker, image_marker

guard_torchvision()

from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedModel  # noqa: E402

# Prompt and answer of every baseline here with a wide margin; a model's own limit where that is less.
CONTEXT = 8192


class VllmVlm:
    """A ``Talker`` on vLLM.

    Args:
        folder: The checkpoint.
        settings: How vLLM is started.
        max_new_tokens: Most tokens of an answer.
        forced: Every answer has exactly so many.

    Raises:
        CheckpointError: A file is missing or broken, or the model is of another family.
        UsageError: vLLM is not installed.
    """

    def __init__(self, folder: Path, settings: VllmSettings, max_new_tokens: int, forced: bool = False) -> None:
        shapes = check_folder(folder)
        if left := sorted({f.name for f in visible(folder, "*.safetensors")} - {f.name for f in weight_files(folder)}):
            raise CheckpointError(
                f"{folder} holds other weights, which vLLM would read as well: {', '.join(left)}",
                "move them elsewhere",
            )
        self.parameters = sum(math.prod(shape) for shape in shapes.values())
        self._processor = read_processor(folder)
        if not expands_marker(self._processor):
            raise CheckpointError(
                f"{folder} is not of the Qwen-VL families, whose prompts engine vllm writes here",
                "engine hf, or engine endpoint behind vLLM's server",
            )
        self._tokenizer = self._processor.tokenizer
        self._special = special_tokens(self._tokenizer)
        self._marker = int(self._tokenizer.convert_tokens_to_ids(image_marker(self._processor)))
        generation = _generation(folder)
        penalty = generation.get("repetition_penalty")
        self._penalty = float(penalty) if isinstance(penalty, int | float) else 1.0
        self._ends = frozenset() if forced else end_ids(generation.get("eos_token_id"))
        self._settings, self._most, self._forced = settings, max_new_tokens, forced
        self._folder = folder
        self._sizes: dict[Size, int] = {}
        self._engine = VllmEngine(folder, settings)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the result should know."""
        return (f"decoding: vLLM, context {self._settings.context} tokens",)

    def close(self) -> None:
        """Stop vLLM."""
        self._engine.close()

    def costs(self, conversations: Sequence[Conversation], replies: Sequence[Reply]) -> Mapping[str, Cost]:
        """Work of ``answer``, with beginnings that are shared read once; not known for other families than Qwen's."""
        if self._work is None:
            return {"answer": UNKNOWN_COST}
        return {"answer": sum(self._work.stages(conversations, replies).values(), Cost())}

    @cached_property
    def _work(self) -> VlmCosts | None:
        """From the configuration: how vLLM holds the weights is its own affair."""
        config = AutoConfig.from_pretrained(self._folder, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForImageTextToText.from_config(config)  # type: ignore[no-untyped-call]
        model.tie_weights()
        return VlmCosts.of(model.to(getattr(torch, self._settings.dtype)), self._processor)

    def ask(self, conversations: Sequence[Conversation], clock: StageClock | None = None) -> list[Reply]:
        """One reply per conversation, in order; one that leaves no room for an answer has a reply with ``error``.

        A call finds nothing of earlier ones, so that asking about the same picture again, as profiling does, is as much
        work as asking about another one.

        Args:
            conversations: What is said.
            clock: Takes the stages ``prompt`` and ``answer``.
        """
        clock = clock or StageClock(self._settings.device)
        with clock.stage("prompt"):
            found, requests = self._requests(conversations)
        with clock.stage("answer"):
            completions = self._engine.complete(list(requests.values()), self._ends, self._penalty)
            self._engine.forget()
        for place, completion in zip(requests, completions, strict=True):
            found[place] = reply_of(self._tokenizer, completion.ids, completion.prompt, self._ends)
        return [found[place] for place in range(len(conversations))]

    def _requests(self, conversations: Sequence[Conversation]) -> tuple[dict[int, Reply], dict[int, Request]]:
        """What vLLM is asked, by place, and replies to what it cannot be asked."""
        found: dict[int, Reply] = {}
        requests: dict[int, Request] = {}
        for place, conversation in enumerate(conversations):
            if held := special_of(conversation, self._special):
                found[place] = Reply(error=held)
                continue
            pictures = pictures_of(conversation)
            text = prompt_text(self._processor, conversation)
            ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
            length = len(ids) - len(pictures) + sum(self._tokens(p.size) for p in pictures)
            room = self._settings.context - length
            if room < (self._most if self._forced else 1):
                wanted = f"no room for {self._most}" if self._forced else "no room"
                why = f"the prompt has {length} tokens, which leaves {wanted} in a context of {self._settings.context}"
                found[place] = Reply(error=why)
                continue
            requests[place] = Request(tuple(ids), tuple(p.pixels for p in pictures), min(room, self._most))
        return found, requests

    def _tokens(self, size: Size) -> int:
        """Tokens of a picture; an error where the checkpoint's processor, and so vLLM, would size it again."""
        if size not in self._sizes:
            images = self._processor.image_processor
            blank = Image.fromarray(np.zeros((*size, 3), dtype=np.uint8))
            (grid,) = images(images=[blank], return_tensors="pt")["image_grid_thw"].tolist()
            check_size(size, grid, int(images.patch_size))
            self._sizes[size] = math.prod(grid) // int(images.merge_size) ** 2
        return self._sizes[size]


def context_of(folder: Path) -> int:
    """Longest row that vLLM should plan for.

    Raises:
        CheckpointError: The folder has no readable configuration.
    """
    content = read_object(folder / "config.json")
    text = content.get("text_config")
    limit = (text if isinstance(text, dict) else content).get("max_position_embeddings", CONTEXT)
    return min(CONTEXT, limit) if isinstance(limit, int) else CONTEXT


def _generation(folder: Path) -> dict[str, object]:
    """Generation settings of a checkpoint; where it has none, what its configuration says."""
    path = folder / "generation_config.json"
    content = read_object(folder / "config.json")
    text = content.get("text_config")
    plain = {**(text if isinstance(text, dict) else {}), **content}
    return read_object(path) if path.is_file() else plain

"""A local vision-language model of the Qwen-VL families through vLLM in this process.

Prompts, end tokens and repetition penalty are those of ``local``, so that greedy answers are the same; vLLM reads the
checkpoint's folder itself, shares what prompts have in common, and batches as it likes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from lens_bench.errors import CheckpointError
from lens_bench.records import Size
from lens_bench.vllm_engine import Request, VllmEngine, VllmSettings
from lens_bench.vlm.chat import Conversation, Reply
from lens_bench.vlm.prompting import check_folder, end_ids, pictures_of, prompt_text, read_processor, reply_of
from lens_bench.vlm.shared import check_size, expands_marker, image_marker

# Prompt and answer of every baseline here with a wide margin; a model's own limit where that is less.
CONTEXT = 8192


class VllmVlm:
    """A ``Talker`` on vLLM.

    Args:
        folder: The checkpoint.
        settings: How vLLM is started.
        max_new_tokens: Most tokens of an answer.

    Raises:
        CheckpointError: A file is missing or broken, or the model is of another family.
        UsageError: vLLM is not installed.
    """

    def __init__(self, folder: Path, settings: VllmSettings, max_new_tokens: int) -> None:
        shapes = check_folder(folder)
        self.parameters = sum(math.prod(shape) for shape in shapes.values())
        self._processor = read_processor(folder)
        if not expands_marker(self._processor):
            raise CheckpointError(
                f"{folder} is not of the Qwen-VL families, whose prompts engine vllm writes here",
                "engine hf, or engine endpoint behind vLLM's server",
            )
        self._tokenizer = self._processor.tokenizer
        self._marker = int(self._tokenizer.convert_tokens_to_ids(image_marker(self._processor)))
        generation = _generation(folder)
        penalty = generation.get("repetition_penalty")
        self._penalty = float(penalty) if isinstance(penalty, int | float) else 1.0
        self._ends = end_ids(generation.get("eos_token_id"))
        self._settings, self._most = settings, max_new_tokens
        self._sizes: dict[Size, int] = {}
        self._engine = VllmEngine(folder, settings)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the result should know."""
        return (f"decoding: vLLM, context {self._settings.context} tokens",)

    def close(self) -> None:
        """Stop vLLM."""
        self._engine.close()

    def ask(self, conversations: Sequence[Conversation]) -> list[Reply]:
        """One reply per conversation, in order; one that leaves no room for an answer has a reply with ``error``."""
        found: dict[int, Reply] = {}
        requests: dict[int, Request] = {}
        for place, conversation in enumerate(conversations):
            pictures = pictures_of(conversation)
            text = prompt_text(self._processor, conversation)
            ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
            length = len(ids) - len(pictures) + sum(self._tokens(p.size) for p in pictures)
            room = self._settings.context - length
            if room < 1:
                why = f"the prompt has {length} tokens, which leaves no room in a context of {self._settings.context}"
                found[place] = Reply(error=why)
                continue
            requests[place] = Request(tuple(ids), tuple(p.pixels for p in pictures), min(room, self._most))
        completions = self._engine.complete(list(requests.values()), self._ends, self._penalty)
        for place, completion in zip(requests, completions, strict=True):
            found[place] = reply_of(self._tokenizer, completion.ids, completion.prompt, self._ends)
        return [found[place] for place in range(len(conversations))]

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
    content = _read(folder / "config.json")
    text = content.get("text_config")
    limit = (text if isinstance(text, dict) else content).get("max_position_embeddings", CONTEXT)
    return min(CONTEXT, limit) if isinstance(limit, int) else CONTEXT


def _generation(folder: Path) -> dict[str, object]:
    """Generation settings of a checkpoint; where it has none, what its configuration says."""
    path = folder / "generation_config.json"
    content = _read(folder / "config.json")
    text = content.get("text_config")
    plain = {**(text if isinstance(text, dict) else {}), **content}
    return _read(path) if path.is_file() else plain


def _read(path: Path) -> dict[str, object]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise CheckpointError(f"{path} is not readable JSON") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is not a JSON object")
    return content

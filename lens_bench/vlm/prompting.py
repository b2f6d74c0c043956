"""Conversations in a checkpoint's own words, and its ids back as replies: what every local engine has in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import cast

from lens_bench.checkpoint_files import (
    read_object,
    reading,
    require_merged,
    require_no_code,
    require_unquantised,
    weight_files,
)
from lens_bench.errors import CheckpointError
from lens_bench.lens.prompts import require_tokenizer, special_in
from lens_bench.lens.sources import SafetensorsSource, Shape
from lens_bench.records import Tokens
from lens_bench.torchvision_guard import guard_torchvision
from lens_bench.vlm.chat import Conversation, Picture, Reply

guard_torchvision()

from transformers import AutoProcessor, PreTrainedTokenizerBase, ProcessorMixin  # noqa: E402

# Names that transformers gave a class in a release candidate, and the one that it has.
_RENAMED = {"Qwen2_5_VLImageProcessor": "Qwen2VLImageProcessor"}


def check_folder(folder: Path) -> Mapping[str, Shape]:
    """Shapes of the tensors of a checkpoint folder; a truncated file is named, not half read.

    Raises:
        CheckpointError: It is missing, incomplete, quantised, an adapter, or wants code of its own to be run.
    """
    if not folder.is_dir():
        raise CheckpointError(f"no checkpoint folder {folder}")
    require_merged(folder)
    require_no_code(folder)
    require_unquantised(folder)
    return SafetensorsSource(weight_files(folder)).shapes()


def read_processor(folder: Path) -> ProcessorMixin:
    """Processor and tokenizer of a checkpoint folder, with a chat template.

    Raises:
        CheckpointError: There is none, or it wants code of its own to be run.
    """
    require_no_code(folder)
    require_tokenizer(folder)
    _require_known_images(folder)
    with reading_vlm(folder):
        processor: ProcessorMixin = AutoProcessor.from_pretrained(  # type: ignore[no-untyped-call]
            folder, local_files_only=True, trust_remote_code=False
        )
    if not getattr(processor, "chat_template", None):
        raise CheckpointError(f"{folder} has no chat template", "is it an instruction-tuned model?")
    return processor


def _require_known_images(folder: Path) -> None:
    """Refuse a name that transformers gave an image processor once and has changed since.

    Raises:
        CheckpointError: The message names the key to edit.
    """
    for name in ("preprocessor_config.json", "processor_config.json"):
        content = read_object(folder / name) if (folder / name).is_file() else {}
        for block in (content, content.get("image_processor")):
            old = block.get("image_processor_type") if isinstance(block, dict) else None
            if isinstance(old, str) and old in _RENAMED:
                raise CheckpointError(
                    f"{folder / name} has image_processor_type {old}, a name that transformers has given up",
                    f"set image_processor_type to {_RENAMED[old]}, the same class",
                )


def special_of(conversation: Conversation, special: frozenset[str]) -> str:
    """Why a conversation cannot be held: a text in it would be read as a special token; empty where it can be."""
    texts = (part for turn in conversation for part in turn.parts if isinstance(part, str))
    return next((held for text in texts if (held := special_in(text, special))), "")


def reading_vlm(folder: Path) -> AbstractContextManager[None]:
    """Around what transformers loads from the folder of a vision-language model, see ``checkpoint_files.reading``."""
    return reading(
        f"{folder} cannot be loaded as a vision-language model",
        "a folder in transformers' format is needed, with processor and tokenizer",
    )


def pictures_of(conversation: Conversation) -> list[Picture]:
    """Its pictures in order."""
    return [part for turn in conversation for part in turn.parts if isinstance(part, Picture)]


def prompt_text(processor: ProcessorMixin, conversation: Conversation) -> str:
    """The prompt with one placeholder per picture, by the checkpoint's chat template."""
    messages = []
    for turn in conversation:
        content = [{"type": "text", "text": p} if isinstance(p, str) else {"type": "image"} for p in turn.parts]
        messages.append({"role": turn.role, "content": content})
    write = cast("Callable[..., str]", processor.apply_chat_template)
    return write(messages, tokenize=False, add_generation_prompt=True)


def end_ids(token: object) -> frozenset[int]:
    """Ids that end an answer, as a generation configuration holds them."""
    return frozenset(token if isinstance(token, list) else [token] if isinstance(token, int) else [])


def reply_of(tokenizer: PreTrainedTokenizerBase, row: Sequence[int], prompt: int, ends: frozenset[int]) -> Reply:
    """A reply from the ids that were written, whatever stands behind the first that ends it.

    Args:
        tokenizer: Of the checkpoint.
        row: What was written.
        prompt: Tokens of the prompt.
        ends: Ids that end an answer.
    """
    stop = next((place for place, token in enumerate(row) if token in ends), None)
    ids = list(row if stop is None else row[: stop + 1])
    text = tokenizer.decode(ids, skip_special_tokens=True)
    return Reply(str(text), Tokens(prompt, len(ids)), cut=stop is None)

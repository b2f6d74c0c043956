"""Conversations in a checkpoint's own words, and its ids back as replies: what every local engine has in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

from lens_bench.errors import CheckpointError
from lens_bench.lens.sources import SafetensorsSource, Shape, folder_shards
from lens_bench.records import Tokens
from lens_bench.torchvision_guard import guard_torchvision
from lens_bench.vlm.chat import Conversation, Picture, Reply

guard_torchvision()

from transformers import AutoProcessor, PreTrainedTokenizerBase, ProcessorMixin  # noqa: E402


def check_folder(folder: Path) -> Mapping[str, Shape]:
    """Shapes of the tensors of a checkpoint folder; a truncated file is named, not half read.

    Raises:
        CheckpointError: It is missing, incomplete, or an adapter.
    """
    if not folder.is_dir():
        raise CheckpointError(f"no checkpoint folder {folder}")
    if (folder / "adapter_config.json").is_file():
        raise CheckpointError(
            f"{folder} is a LoRA adapter, not a merged checkpoint", "merge it into its base model first"
        )
    return SafetensorsSource(folder_shards(folder)).shapes()


def read_processor(folder: Path) -> ProcessorMixin:
    """Processor and tokenizer of a checkpoint folder, with a chat template.

    Raises:
        CheckpointError: There is none.
    """
    try:
        processor: ProcessorMixin = AutoProcessor.from_pretrained(folder, local_files_only=True)  # type: ignore[no-untyped-call]
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise unreadable(folder, error) from None
    if not getattr(processor, "chat_template", None):
        raise CheckpointError(f"{folder} has no chat template", "is it an instruction-tuned model?")
    return processor


def unreadable(folder: Path, error: Exception) -> CheckpointError:
    """What transformers says of a folder that it cannot load."""
    return CheckpointError(
        f"{folder} cannot be loaded as a vision-language model: {' '.join(str(error).split())[:200]}",
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

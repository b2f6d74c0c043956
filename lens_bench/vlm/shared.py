"""What conversations about the same picture share, for models of the Qwen-VL families.

A picture is sized, cut into patches and encoded once, and the prompt up to the end of the last picture, which is all
but the question, is read once; its keys and values are then copied into every row that begins with it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import torch
from PIL import Image
from torch import Tensor

from lens_bench.errors import CheckpointError
from lens_bench.perf.clock import StageClock
from lens_bench.records import Size
from lens_bench.vlm.chat import Picture

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

Ids = list[int]


def can_share(model: PreTrainedModel, processor: ProcessorMixin) -> bool:
    """Whether pictures can be handed over encoded (the Qwen-VL families in recent versions of transformers)."""
    inner = getattr(model, "model", None)
    if inner is None or not hasattr(model, "get_image_features") or not hasattr(processor, "image_token"):
        return False
    parameters = inspect.signature(inner.forward).parameters
    return "mm_encoder_outputs" in parameters and "image_grid_thw" in parameters and hasattr(inner, "rope_deltas")


def expands_marker(processor: ProcessorMixin) -> bool:
    """Whether a prompt holds one placeholder per picture that stands for as many tokens as the picture has."""
    return hasattr(processor, "image_token") and hasattr(processor.image_processor, "merge_size")


def image_marker(processor: ProcessorMixin) -> str:
    """The placeholder."""
    return str(getattr(processor, "image_token"))  # noqa: B009 - not every processor has one


def check_size(size: Size, grid: Sequence[int], patch: int) -> None:
    """Pixels in an answer are those of the picture only if the checkpoint's processor does not size it again.

    Args:
        size: Of the picture as it is handed over.
        grid: (1, rows, columns) of patches that the processor makes of it.
        patch: Side of a patch.

    Raises:
        CheckpointError: It does.
    """
    _, rows, columns = grid
    if size != (rows * patch, columns * patch):
        raise CheckpointError(
            f"the processor sizes an image of {size[1]}x{size[0]} pixels again, to {columns * patch}x{rows * patch}",
            "set factor, min_pixels and max_pixels to what the checkpoint's processor keeps",
        )


class Sharing:
    """Writes the inputs of ``generate`` for rows with pictures.

    Args:
        model: One for which ``can_share`` holds.
        processor: Of the same checkpoint.
    """

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin) -> None:
        self._model = model
        self._images = processor.image_processor
        self._tokenizer = processor.tokenizer
        self._marker = image_marker(processor)
        self._marker_id = int(self._tokenizer.convert_tokens_to_ids(self._marker))
        self._padding = int(self._tokenizer.pad_token_id)

    def inputs(
        self, texts: Sequence[str], pictures: Sequence[Sequence[Picture]], clock: StageClock
    ) -> dict[str, object]:
        """Inputs of a batch, padded on the left.

        Args:
            texts: Prompts with one placeholder per picture.
            pictures: Those of each prompt, at least one.
            clock: Takes the stages ``resize`` (cutting pictures up), ``vision tower``, ``prompt``, and ``prefill``
                where beginnings are read.

        Raises:
            CheckpointError: The checkpoint's processor would size a picture again.
        """
        unique = list(dict.fromkeys(picture for row in pictures for picture in row))
        place = {picture: number for number, picture in enumerate(unique)}
        order = [[place[picture] for picture in row] for row in pictures]
        with clock.stage("resize"):
            shown = self._images(images=[Image.fromarray(p.pixels) for p in unique], return_tensors="pt")
        grids: Tensor = shown["image_grid_thw"]
        for picture, grid in zip(unique, grids.tolist(), strict=True):
            check_size(picture.size, grid, int(self._images.patch_size))
        with clock.stage("prompt"):
            rows = [self._ids(text, [grids[n] for n in numbers]) for text, numbers in zip(texts, order, strict=True)]
        encode = cast("Callable[..., object]", self._model.get_image_features)
        with clock.stage("vision tower"):
            pixels = shown["pixel_values"].to(self._model.device, self._model.dtype)
            tower = encode(pixels, grids.to(self._model.device), return_dict=True)
        heads = [row[: _last(row, self._marker_id) + 1] for row in rows]
        keys = [(tuple(head), tuple(numbers)) for head, numbers in zip(heads, order, strict=True)]
        first = {key: row for row, key in reversed(list(enumerate(keys)))}
        chosen = sorted(first.values())
        if len(chosen) == len(rows):
            return self._with_pictures(rows, order, grids, tower)
        read = self._with_pictures([heads[row] for row in chosen], [order[row] for row in chosen], grids, tower)
        index = [chosen.index(first[key]) for key in keys]
        with clock.stage("prefill"):
            return self._continued(read, index, [row[len(head) :] for row, head in zip(rows, heads, strict=True)])

    # ------------------------------------------------------------------------------------------ parts

    def _ids(self, text: str, grids: Sequence[Tensor]) -> Ids:
        """A prompt's ids; each placeholder stands as often as its picture has tokens, as the processor writes it."""
        merge = int(self._images.merge_size) ** 2
        counts = iter(int(grid.prod()) // merge for grid in grids)
        return list(self._tokenizer(_expand(text, self._marker, counts), add_special_tokens=False)["input_ids"])

    def _with_pictures(
        self, rows: Sequence[Ids], order: Sequence[Sequence[int]], grids: Tensor, tower: object
    ) -> dict[str, object]:
        """Rows that hold their pictures."""
        ids, mask = self._padded(rows)
        numbers = [number for row in order for number in row]
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "mm_token_type_ids": (ids == self._marker_id).int(),
            "image_grid_thw": grids[torch.tensor(numbers)].to(ids.device),
            "mm_encoder_outputs": {"image": _pick(tower, numbers, len(grids))},
        }

    def _continued(self, read: dict[str, object], index: Sequence[int], tails: Sequence[Ids]) -> dict[str, object]:
        """Rows behind beginnings that are read once: the row ``n`` begins with number ``index[n]``."""
        rows = torch.tensor(index, device=self._model.device)
        # Below the output layer: nobody asks what comes behind a picture.
        inner = self._model.model
        run = cast("Callable[..., object]", inner)
        cache = getattr(run(**read, use_cache=True), "past_key_values")  # noqa: B009
        cache.reorder_cache(rows)
        # How far positions run behind the number of tokens, since a picture takes fewer positions than tokens.
        inner.rope_deltas = cast("Tensor", inner.rope_deltas)[rows]
        ids, mask = self._padded(tails)
        heads, real = cast("Tensor", read["input_ids"]), cast("Tensor", read["attention_mask"])
        return {
            "input_ids": torch.cat([heads[rows], ids], dim=1),
            "attention_mask": torch.cat([real[rows], mask], dim=1),
            "past_key_values": cache,
        }

    def _padded(self, rows: Sequence[Ids]) -> tuple[Tensor, Tensor]:
        longest = max(map(len, rows))
        ids = torch.tensor([[self._padding] * (longest - len(row)) + row for row in rows], device=self._model.device)
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=self._model.device)
        return ids, mask


def _last(row: Ids, token: int) -> int:
    return len(row) - 1 - row[::-1].index(token)


def _expand(text: str, marker: str, counts: Iterator[int]) -> str:
    first, *others = text.split(marker)
    return first + "".join(marker * next(counts) + rest for rest in others)


def _pick(tower: object, order: Sequence[int], total: int) -> object:
    """The tower's output for pictures in another order, with repetitions.

    Features lie in tuples with an entry per picture; deep features in a list of such tuples.
    """

    def pick(value: object) -> object:
        if isinstance(value, tuple) and len(value) == total and all(isinstance(v, Tensor) for v in value):
            return tuple(value[n] for n in order)
        if isinstance(value, list):
            return [pick(v) for v in value]
        return None

    fields = {name: pick(value) for name, value in dict(tower).items()}  # type: ignore[call-overload]
    if fields.get("pooler_output") is None:
        raise TypeError(f"{type(tower).__name__} does not hold one entry per picture")
    return replace(tower, **fields)  # type: ignore[type-var]

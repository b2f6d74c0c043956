"""SAM 3 asked for a concept: every thing in an image that a noun phrase names.

transformers' ``Sam3Model`` holds the weights and does the arithmetic. The image encoder runs once per image and the
text encoder once per phrase of a call, whatever pairs of them are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor

from lens_bench import masks
from lens_bench.checkpoint_files import reading, require_merged, require_no_code, require_unquantised, weight_files
from lens_bench.errors import CheckpointError
from lens_bench.finite import finite_rows
from lens_bench.lens.batching import Budget
from lens_bench.lens.prompts import require_tokenizer, special_in, special_tokens
from lens_bench.lens.sources import SafetensorsSource
from lens_bench.records import Box, Pixels, Rle, Size
from lens_bench.torchvision_guard import guard_torchvision

guard_torchvision()

from transformers import Sam3Model, Sam3Processor  # noqa: E402
from transformers.models.sam3.modeling_sam3 import Sam3VisionEncoderOutput  # noqa: E402
from transformers.utils.logging import disable_progress_bar  # noqa: E402

if TYPE_CHECKING:
    from transformers.models.sam3.modeling_sam3 import Sam3ImageSegmentationOutput

# Length of the text encoder's table of positions.
PHRASE_TOKENS = 32
_MASK_THRESHOLD = 0.5


@dataclass(frozen=True, slots=True)
class Instance:
    """One thing that a phrase names: mask and box at the original size, probability."""

    mask: Rle
    box: Box
    score: float


@dataclass(frozen=True, slots=True)
class Found:
    """What a phrase names in an image.

    Attributes:
        instances: Most probable first.
        semantic: Pixels that belong to any of them, by SAM 3's own head for that.
        finite: Whether they come from finite numbers.
    """

    instances: tuple[Instance, ...]
    semantic: Rle
    finite: bool = True


@dataclass(frozen=True, slots=True)
class Seen:
    """One image behind the encoder: features and position encodings of each level, [1, C, h, w] each."""

    levels: tuple[Tensor, ...]
    positions: tuple[Tensor, ...]
    original: Size


class Sam3:
    """SAM 3 in evaluation mode.

    Args:
        model: On its device.
        processor: Of the same checkpoint.
        threshold: Probability from which a thing counts.
    """

    def __init__(self, model: Sam3Model, processor: Sam3Processor, threshold: float) -> None:
        self._model = model
        self._processor = processor
        self._threshold = threshold
        cuda = model.device.type == "cuda"
        self._images = Budget(8 if cuda else 1, "SAM 3 features")
        self._pairs = Budget(16 if cuda else 2, "SAM 3 phrases")

    @staticmethod
    def load(folder: Path, device: str, dtype: torch.dtype, threshold: float) -> Sam3:
        """Read a checkpoint in transformers' format; of ``facebook/sam3`` the video tracker is left out.

        Raises:
            CheckpointError: It is missing or broken, or a tensor is missing, unexpected or misshapen.
        """
        if not folder.is_dir():
            raise CheckpointError(f"no checkpoint folder {folder}")
        require_merged(folder)
        require_no_code(folder)
        require_unquantised(folder)
        SafetensorsSource(weight_files(folder))  # a truncated file is named, not half read
        disable_progress_bar()  # type: ignore[no-untyped-call]
        with reading(f"{folder} cannot be loaded as SAM 3", "a folder of facebook/sam3 with its processor is needed"):
            loaded: object = Sam3Model.from_pretrained(
                folder, dtype=dtype, local_files_only=True, trust_remote_code=False, output_loading_info=True
            )
            processor = Sam3Processor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        model, info = cast("tuple[Sam3Model, Mapping[str, Sequence[object]]]", loaded)
        problems = [f"{kind}: {sorted(map(str, info[kind]))[:5]}" for kind in sorted(info) if info[kind]]
        if problems:
            raise CheckpointError(f"{folder} does not fit SAM 3; {'; '.join(problems)}")
        require_tokenizer(folder)
        model.to(torch.device(device))  # type: ignore[arg-type]
        model.eval()  # type: ignore[no-untyped-call]
        return Sam3(model, processor, threshold)

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return sum(p.numel() for p in self._model.parameters())

    def is_cut(self, phrase: str) -> bool:
        """Whether a phrase is longer than the text encoder reads."""
        return len(self._processor.tokenizer(phrase)["input_ids"]) > PHRASE_TOKENS

    def refusal(self, phrase: str) -> str:
        """Why a phrase cannot be asked for: it holds a special token as text; empty where it can."""
        return special_in(phrase, special_tokens(self._processor.tokenizer))

    @torch.inference_mode()
    def encode(self, images: Sequence[Pixels]) -> list[Seen]:
        """Features of RGB images uint8 [H, W, 3], each computed once."""

        def work(batch: Sequence[Pixels]) -> list[Seen]:
            shown = self._processor.image_processor(images=list(batch), return_tensors="pt")["pixel_values"]
            out = self._model.get_vision_features(shown.to(self._model.device, self._model.dtype))
            return [
                Seen(
                    tuple(level[n : n + 1] for level in out.fpn_hidden_states),
                    # One grid for all images, or one each.
                    tuple(grid[:1] if len(grid) == 1 else grid[n : n + 1] for grid in out.fpn_position_encoding),
                    (int(pixels.shape[0]), int(pixels.shape[1])),
                )
                for n, pixels in enumerate(batch)
            ]

        return self._images.run(images, work)

    @torch.inference_mode()
    def find(self, pairs: Sequence[tuple[Seen, str]]) -> list[Found]:
        """What each phrase names in its image. A phrase is cut after 32 tokens, which is all the text encoder reads."""
        phrases = list(dict.fromkeys(phrase for _, phrase in pairs))
        texts = dict(zip(phrases, self._read(phrases), strict=True))

        def work(batch: Sequence[tuple[Seen, str]]) -> list[Found]:
            vision = cast("Callable[..., object]", Sam3VisionEncoderOutput)(
                fpn_hidden_states=_stack([seen.levels for seen, _ in batch]),
                fpn_position_encoding=_stack([seen.positions for seen, _ in batch]),
            )
            real = torch.stack([texts[phrase][0] for _, phrase in batch])
            text = _TextFeatures(torch.stack([texts[phrase][1] for _, phrase in batch]))
            run = cast("Callable[..., Sam3ImageSegmentationOutput]", self._model)
            out = run(vision_embeds=vision, text_embeds=text, attention_mask=real)
            return self._instances(out, [seen.original for seen, _ in batch])

        return self._pairs.run(pairs, work)

    def _read(self, phrases: Sequence[str]) -> list[tuple[Tensor, Tensor]]:
        """Attention mask [32] and features [32, C] of each phrase."""
        if not phrases:
            return []
        tokens = self._processor.tokenizer(
            list(phrases), return_tensors="pt", padding="max_length", max_length=PHRASE_TOKENS, truncation=True
        ).to(self._model.device)
        ids, real = tokens["input_ids"], tokens["attention_mask"]
        states = self._model.get_text_features(input_ids=ids, attention_mask=real).pooler_output
        return list(zip(real, states, strict=True))

    def _instances(self, out: Sam3ImageSegmentationOutput, sizes: Sequence[Size]) -> list[Found]:
        """By the checkpoint's own post-processing, which is bilinear to the original size and cut at one half."""
        things = self._processor.post_process_instance_segmentation(  # type: ignore[no-untyped-call]
            out, threshold=self._threshold, mask_threshold=_MASK_THRESHOLD, target_sizes=list(sizes)
        )
        everything = self._processor.post_process_semantic_segmentation(  # type: ignore[no-untyped-call]
            out, threshold=_MASK_THRESHOLD, target_sizes=list(sizes)
        )
        parts = (out.pred_logits, out.pred_boxes, out.pred_masks, out.semantic_seg, out.presence_logits)
        finite = torch.stack([finite_rows(part) for part in parts if part is not None]).all(dim=0).tolist()
        return [
            Found(_sorted(found, size), masks.encode(np.asarray(semantic.cpu(), dtype=np.uint8)), sound)
            for found, semantic, size, sound in zip(things, everything, sizes, finite, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class _TextFeatures:
    """What ``Sam3Model`` reads of precomputed text features."""

    pooler_output: Tensor


def _stack(rows: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    return tuple(torch.cat(level) for level in zip(*rows, strict=True))


def _sorted(found: Mapping[str, Tensor], size: Size) -> tuple[Instance, ...]:
    """Things without a pixel are left out: there is nothing to select or to draw."""
    scores = found["scores"].float().cpu()
    boxes, binary = found["boxes"].float().cpu(), found["masks"].cpu().numpy()
    out = []
    for n in scores.argsort(descending=True, stable=True).tolist():
        mask = masks.encode(np.asarray(binary[n], dtype=np.uint8))
        if masks.area(mask):
            x1, y1, x2, y2 = boxes[n].tolist()
            height, width = size
            box = (max(0.0, x1), max(0.0, y1), min(float(width), x2), min(float(height), y2))
            out.append(Instance(mask, box, float(scores[n])))
    return tuple(out)

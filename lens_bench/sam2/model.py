"""SAM 2 behind two functions: features of images, masks of prompts.

The weights are Meta's file or a folder of transformers' ``Sam2Model`` or ``Sam2VideoModel``; every tensor is checked
against the architecture. Arithmetic follows Meta's ``SAM2ImagePredictor``: the image is stretched to a square, prompts
are scaled with it, logits are upsampled to the original size and cut at 0.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lens_bench.checkpoint_files import read_object
from lens_bench.costs.sam2 import SamCosts
from lens_bench.errors import CheckpointError
from lens_bench.finite import finite_rows
from lens_bench.lens.batching import Budget
from lens_bench.lens.checkpoint import sam_checkpoint
from lens_bench.lens.config import sam_preset
from lens_bench.lens.hf import Sam2Config
from lens_bench.lens.host import Host
from lens_bench.lens.images import sam2_square
from lens_bench.lens.layouts import make_plan, own_shapes
from lens_bench.lens.sam import SamFeatures, SamPart, upsample
from lens_bench.lens.sources import Shape
from lens_bench.perf.clock import StageClock
from lens_bench.records import Cost, Pixels, Rle, Size
from lens_bench.sam2.prompts import SamMask, SamPrompt


@dataclass(frozen=True, slots=True)
class Encoded:
    """One image behind the encoder."""

    features: SamFeatures
    original: Size


class Sam2:
    """SAM 2 in evaluation mode.

    Args:
        part: The weights.
        device: Where they go.
        dtype: Their precision.
    """

    def __init__(self, part: SamPart, device: str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        self.part = part.to(device=device, dtype=dtype).eval()
        self._device, self._dtype = torch.device(device), dtype
        self._host = Host(self._device)
        self._positions: Tensor | None = None
        cuda = self._device.type == "cuda"
        self._images = Budget(16 if cuda else 1, "SAM 2 features")
        self._prompts = Budget(64 if cuda else 4, "SAM 2 masks")

    @staticmethod
    def load(path: Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Sam2:
        """Read and check a checkpoint.

        Raises:
            CheckpointError: It is missing, broken, or does not fit SAM 2.
        """
        if not path.exists():
            raise CheckpointError(
                f"no SAM 2 checkpoint {path}", "fetch it with `hf download facebook/sam2-hiera-large`"
            )
        layout, source = sam_checkpoint(path)
        config = _config(path, source.shapes())
        with torch.device("meta"):
            part = SamPart(config)
        plan = make_plan(layout, own_shapes(part, "sam."), source)
        rows: dict[str, dict[int, Tensor]] = {}
        state: dict[str, Tensor] = {}
        for slot, key in plan.keys.items():
            tensor = source.tensor(key).to(dtype)
            if slot.row is None:
                state[slot.name] = tensor
            else:
                rows.setdefault(slot.name, {})[slot.row] = tensor
        state |= {name: torch.cat([of[n] for n in sorted(of)]) for name, of in rows.items()}
        expected = own_shapes(part, "sam.")
        state |= {name: torch.zeros(expected[name], dtype=dtype) for name in plan.absent}
        state = {name.removeprefix("sam."): tensor for name, tensor in state.items()}
        part.load_state_dict(_with_aliases(part, state), strict=True, assign=True)
        return Sam2(part, device, dtype)

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return sum(p.numel() for p in self.part.sam2.parameters())

    @torch.inference_mode()
    def encode(self, images: Sequence[Pixels], clock: StageClock | None = None) -> list[Encoded]:
        """Features of RGB images uint8 [H, W, 3], each computed once; see ``Painter.encode``."""
        clock = clock or StageClock(str(self._device))

        def work(batch: Sequence[Pixels]) -> list[Encoded]:
            with clock.stage("resize"):
                squares = torch.stack([sam2_square(p, self.part.image_size) for p in batch])
            with clock.stage("SAM features"):
                features = self.part.features(squares.to(self._device, self._dtype))
            return [Encoded(features.row(n), (int(p.shape[0]), int(p.shape[1]))) for n, p in enumerate(batch)]

        return self._images.run(images, work)

    @torch.inference_mode()
    def masks(self, prompts: Sequence[tuple[Encoded, SamPrompt]], best_of_three: bool = True) -> list[SamMask]:
        """One mask per prompt, prompts of several images together.

        Args:
            prompts: Each with its image.
            best_of_three: Take the mask with the highest predicted IoU of three (what Seg-Zero does, and what Meta
                advises for points); else the single mask, which Meta advises for boxes.
        """

        def work(batch: Sequence[tuple[Encoded, SamPrompt]]) -> list[tuple[Future[Rle], Tensor]]:
            logits, scores = self._decode(batch, best_of_three)
            sizes = [encoded.original for encoded, _ in batch]
            found = [self._host.encode(upsample(low, size) > 0) for low, size in zip(logits, sizes, strict=True)]
            finite = finite_rows(logits) & scores.isfinite()
            return list(zip(found, torch.stack([scores, finite.float()], dim=1), strict=True))

        # Only prompts of one kind share a batch: padding would be a token that the others can see.
        kinds: dict[tuple[bool, int], list[int]] = {}
        for place, (_, prompt) in enumerate(prompts):
            kinds.setdefault((prompt.box is not None, len(prompt.points)), []).append(place)
        found: dict[int, tuple[Future[Rle], Tensor]] = {}
        for places in kinds.values():
            found.update(zip(places, self._prompts.run([prompts[p] for p in places], work), strict=True))
        # Waited for when the last batch is under way: encoding goes on beside decoding.
        numbers = torch.stack([found[place][1] for place in range(len(prompts))]).tolist() if prompts else []
        return [SamMask(found[place][0].result(), score, bool(ok)) for place, (score, ok) in enumerate(numbers)]

    def image_cost(self, count: int) -> Cost:
        """Work of encoding so many images."""
        return SamCosts.of(self.part).images(count)

    def mask_cost(self, prompts: Sequence[SamPrompt]) -> Cost:
        """Work of answering prompts. A box is two corners and a point that is none, as points without a box have."""
        return SamCosts.of(self.part).masks([len(p.points) + (3 if p.box is not None else 1) for p in prompts])

    # ------------------------------------------------------------------------------------------ decoding

    def _decode(self, batch: Sequence[tuple[Encoded, SamPrompt]], best_of_three: bool) -> tuple[Tensor, Tensor]:
        """Logits [N, S/4, S/4] and scores [N]."""
        model = self.part.sam2
        features = SamFeatures.stack([encoded.features for encoded, _ in batch])
        tokens = self._tokens(batch)
        dense = model.prompt_encoder.no_mask_embed.weight.view(1, -1, 1, 1).expand_as(features.image)
        if self._positions is None:
            self._positions = model.get_image_wide_positional_embeddings().to(features.image.dtype)
        positions = self._positions
        logits, scores = model.mask_decoder(
            image_embeddings=features.image,
            image_positional_embeddings=positions.expand(len(batch), -1, -1, -1),
            sparse_prompt_embeddings=tokens,
            dense_prompt_embeddings=dense,
            multimask_output=best_of_three,
            high_resolution_features=[features.fine, features.middle],
        )[:2]
        best = scores[:, 0].argmax(dim=1)
        rows = torch.arange(len(batch), device=best.device)
        return logits[rows, 0, best], scores[rows, 0, best].float()

    def _tokens(self, batch: Sequence[tuple[Encoded, SamPrompt]]) -> Tensor:
        """Sparse tokens [N, 1, T, C] of prompts of one kind."""
        side, dtype = self.part.image_size, self._dtype
        scales = torch.tensor([[side / e.original[1], side / e.original[0]] for e, _ in batch])
        points = labels = boxes = None
        if batch[0][1].points:
            points = torch.tensor([prompt.points for _, prompt in batch]) * scales[:, None]
            points = points.unsqueeze(1).to(self._device, dtype)
            labels = torch.ones(points.shape[:3], dtype=torch.long, device=self._device)
        if batch[0][1].box is not None:
            corners = torch.tensor([prompt.box for _, prompt in batch])
            boxes = (corners * scales.repeat(1, 2)).unsqueeze(1).to(self._device, dtype)
        tokens: Tensor = self.part.sam2.prompt_encoder(points, labels, boxes, None)[0]
        return tokens


def _with_aliases(part: SamPart, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state with the positional matrix under the second name that the module has for it."""
    matrix = state["sam2.shared_image_embedding.positional_embedding"]
    return {**state, **{name: matrix for name in part.state_dict() if name.endswith("embedding.positional_embedding")}}


def _config(path: Path, shapes: Mapping[str, Shape]) -> Sam2Config:
    """Architecture: from ``config.json`` of a folder, else told by the trunk of Meta's file.

    Raises:
        CheckpointError: Neither says it.
    """
    if path.is_dir() and (path / "config.json").is_file():
        return _hub_config(path / "config.json")
    trunk = re.compile(r"(image_encoder\.trunk|vision_encoder\.backbone)\.blocks\.(\d+)\.")
    blocks = {m[2] for key in shapes if (m := trunk.match(key))}
    embeds = ("image_encoder.trunk.pos_embed", "vision_encoder.backbone.pos_embed")
    width = next((shapes[key][1] for key in embeds if key in shapes), 0)
    sizes = {(96, 12): "sam2_hiera_t", (96, 16): "sam2_hiera_s", (112, 24): "sam2_hiera_b+", (144, 48): "sam2_hiera_l"}
    if (width, len(blocks)) not in sizes:
        raise CheckpointError(
            f"{path} is not a SAM 2 checkpoint: a trunk of {len(blocks)} blocks, {width} wide",
            "expected sam2_hiera_*.pt, sam2.1_hiera_*.pt, or a folder of facebook/sam2-hiera-*",
        )
    return _sam_config(sam_preset(sizes[width, len(blocks)]))


def _hub_config(file: Path) -> Sam2Config:
    content = read_object(file)
    parts = ("vision_config", "prompt_encoder_config", "mask_decoder_config")
    if not all(isinstance(content.get(part), dict) for part in parts):
        raise CheckpointError(f"{file} does not configure SAM 2", "expected a folder of facebook/sam2-hiera-*")
    return _sam_config({part: content[part] for part in parts})


def _sam_config(fields: Mapping[str, object]) -> Sam2Config:
    """The configuration object; it keeps and changes what it is given, so it gets a copy."""
    return Sam2Config(**json.loads(json.dumps(fields)))

"""The first SAM behind the two functions that ``sam2.model.Sam2`` has, for boxes.

Weights are Meta's files (``sam_vit_h_4b8939.pth`` and its siblings); the size is told by the tensors. Arithmetic
follows ``segment_anything.SamPredictor``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from lens_bench.costs.sam import sam_image_flops, sam_mask_flops
from lens_bench.costs.weights import weight_bytes
from lens_bench.errors import CheckpointError, UsageError
from lens_bench.finite import finite_rows
from lens_bench.lens.batching import Budget
from lens_bench.lens.host import Host
from lens_bench.lens.layouts import OWN, make_plan, own_shapes
from lens_bench.lens.sources import Shape, pickle_source
from lens_bench.perf.clock import StageClock
from lens_bench.records import Box, Cost, Pixels, Rle
from lens_bench.sam.images import SamImage, prepare
from lens_bench.sam.model import PATCH, SIDE, SamModel, SamSize, upsample
from lens_bench.sam2.prompts import SamMask, SamPrompt


@dataclass(frozen=True, slots=True)
class Encoded:
    """One image behind the encoder: features [1, C, S/16, S/16], and where the image lies in the square."""

    features: Tensor
    image: SamImage


class Sam1:
    """SAM in evaluation mode.

    Args:
        model: The weights.
        device: Where they go.
        dtype: Their precision.
    """

    def __init__(self, model: SamModel, device: str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        self.model = model.to(device=device, dtype=dtype).eval()
        self._device = torch.device(device)
        self._host = Host(self._device)
        cuda = self._device.type == "cuda"
        self._images = Budget(8 if cuda else 1, "SAM features")
        self._boxes = Budget(64 if cuda else 4, "SAM masks")

    @staticmethod
    def load(path: Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Sam1:
        """Read and check one of Meta's files.

        Raises:
            CheckpointError: It is missing, broken, or not SAM.
        """
        source = pickle_source(path)
        with torch.device("meta"):
            model = SamModel(_size(source.shapes(), path))
        plan = make_plan(OWN, own_shapes(model), source)
        state = {slot.name: source.tensor(key).to(dtype) for slot, key in plan.keys.items()}
        model.load_state_dict(state, strict=True, assign=True)
        return Sam1(model, device, dtype)

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return sum(p.numel() for p in self.model.parameters())

    @torch.inference_mode()
    def encode(self, images: Sequence[Pixels], clock: StageClock | None = None) -> list[Encoded]:
        """Features of RGB images uint8 [H, W, 3], each computed once; see ``Painter.encode``."""
        clock = clock or StageClock(str(self._device))

        def work(batch: Sequence[Pixels]) -> list[Encoded]:
            with clock.stage("resize"):
                prepared = [prepare(pixels, SIDE) for pixels in batch]
            with clock.stage("SAM features"):
                features = self.model.features(torch.stack([p.pixels for p in prepared]).to(self._device))
            return [Encoded(features[n : n + 1], image) for n, image in enumerate(prepared)]

        return self._images.run(images, work)

    @torch.inference_mode()
    def masks(self, prompts: Sequence[tuple[Encoded, SamPrompt]], best_of_three: bool = True) -> list[SamMask]:
        """One mask per prompt; see ``Sam2.masks``.

        Raises:
            UsageError: A prompt holds more than a box.
        """
        by_image: dict[int, list[int]] = {}
        for place, (encoded, prompt) in enumerate(prompts):
            if prompt.box is None or prompt.points:
                raise UsageError("SAM is prompted with boxes alone here", "points need SAM 2")
            by_image.setdefault(id(encoded), []).append(place)
        found: dict[int, tuple[Future[Rle], float, bool]] = {}
        for places in by_image.values():
            encoded = prompts[places[0]][0]
            boxes = [box for place in places if (box := prompts[place][1].box) is not None]
            work = partial(self._decode, encoded, best_of_three)
            found.update(zip(places, self._boxes.run(boxes, work), strict=True))
        painted = [found[place] for place in range(len(prompts))]
        return [SamMask(mask.result(), score, finite) for mask, score, finite in painted]

    def image_cost(self, count: int) -> Cost:
        """Work of encoding so many images, the weights read once."""
        flops = count * sam_image_flops(self.model.size)
        return Cost(flops, weight_bytes(self.model.image_encoder)) if count else Cost()

    def mask_cost(self, prompts: Sequence[SamPrompt]) -> Cost:
        """Work of answering boxes, of two tokens each."""
        flops = len(prompts) * sam_mask_flops(2)
        return Cost(flops, weight_bytes(self.model.mask_decoder)) if prompts else Cost()

    def _decode(
        self, encoded: Encoded, best_of_three: bool, boxes: Sequence[Box]
    ) -> list[tuple[Future[Rle], float, bool]]:
        model = self.model
        tokens = model.box_prompts(list(boxes), encoded.image).to(encoded.features)
        no_mask: Tensor = model.prompt_encoder.no_mask_embed.weight
        logits, scores = model.mask_decoder(
            image_embeddings=encoded.features,
            image_pe=model.positions(),
            sparse_prompt_embeddings=tokens,
            dense_prompt_embeddings=no_mask.view(1, -1, 1, 1).expand(len(boxes), -1, *encoded.features.shape[2:]),
            multimask_output=best_of_three,
        )
        best = scores.argmax(dim=1)
        rows = torch.arange(len(boxes), device=best.device)
        chosen, quality = logits[rows, best], scores[rows, best].float()
        binary = upsample(chosen, encoded.image) > 0
        finite = finite_rows(chosen) & quality.isfinite()
        numbers = torch.stack([quality, finite.float()], dim=1).tolist()
        return [(self._host.encode(mask), score, bool(ok)) for mask, (score, ok) in zip(binary, numbers, strict=True)]


def _size(shapes: Mapping[str, Shape], path: Path) -> SamSize:
    """The image encoder's size, told by its tensors.

    Raises:
        CheckpointError: There is no image encoder of SAM.
    """
    block = re.compile(r"image_encoder\.blocks\.(\d+)\.attn\.rel_pos_h")
    reach = {int(m[1]): shape for key, shape in shapes.items() if (m := block.fullmatch(key))}
    embedding = shapes.get("image_encoder.pos_embed", ())
    if not reach or len(embedding) != 4 or sorted(reach) != list(range(len(reach))):
        raise CheckpointError(f"{path} is not a SAM checkpoint", "expected one of Meta's sam_vit_*.pth")
    whole = 2 * (SIDE // PATCH) - 1  # offsets of a block that attends to the whole image
    return SamSize(
        width=embedding[3],
        depth=len(reach),
        heads=embedding[3] // reach[0][1],
        global_blocks=tuple(n for n in sorted(reach) if reach[n][0] == whole),
    )

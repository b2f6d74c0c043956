"""Text from vLLM: its own scheduler, paged cache and prefix sharing; the masks still come from one pass of ours.

vLLM reads a plain Qwen-VL folder, which is written to a temporary place from the model's own weights, so that a
checkpoint has one copy on disk and what vLLM runs is what was loaded. Images are handed over already resized; sides are
multiples of a token, so vLLM's processor leaves them alone, and the token counts agree with ours.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lens_bench.lens.images import QWEN_MEAN, QWEN_STD, Patching, Prepared
from lens_bench.lens.modeling import LensModel
from lens_bench.lens.prompts import HubTokenizer
from lens_bench.lens.save import export_qwen
from lens_bench.lens.writer import Row, Written
from lens_bench.records import Pixels
from lens_bench.vllm_engine import Request, VllmEngine, VllmSettings


class VllmWriter:
    """Greedy decoding by vLLM.

    Args:
        model: Its language model and vision tower are exported; it stays in use for the mask pass.
        tokenizer: Goes into the export.
        before: Prompt ids in front of the image.
        ends: Ids that end an answer; none where every answer is to have its whole budget.
        devices: Over how many devices vLLM divides every layer.

    Raises:
        UsageError: vLLM is not installed, or the model cannot be divided so.
    """

    def __init__(
        self,
        model: LensModel,
        tokenizer: HubTokenizer,
        before: Sequence[int],
        ends: frozenset[int],
        devices: int = 1,
    ) -> None:
        self._model = model
        self._before = tuple(before)
        self._ends = ends
        self._folder = tempfile.TemporaryDirectory(prefix="lens-bench-vllm-")
        path = Path(self._folder.name)
        export_qwen(model, path, tokenizer)
        dtype = str(model.text_dtype).removeprefix("torch.")
        self._engine = VllmEngine(path, VllmSettings(str(model.device), dtype, devices=devices))

    @property
    def wants_prefixes(self) -> bool:
        """VLLM reads the image itself."""
        return False

    def write(self, rows: Sequence[Row]) -> list[Written]:
        """Answer the rows, in order."""
        patching = Patching(self._model.patch, self._model.merge)
        seen: dict[int, Pixels] = {}
        for row in rows:
            if id(row.image) not in seen:
                seen[id(row.image)] = pixels_of(row.image, patching)
        requests = [
            Request((*self._before, self._model.image_token, *row.after), (seen[id(row.image)],), row.budget)
            for row in rows
        ]
        return [Written(found.ids) for found in self._engine.complete(requests, self._ends)]

    def preparation(self) -> float:
        """VLLM prepares its steps when it starts."""
        return 0.0

    def forget(self) -> None:
        """Drop what vLLM keeps of what was asked."""
        self._engine.forget()

    def close(self) -> None:
        """Stop vLLM and remove the export."""
        self._engine.close()
        self._folder.cleanup()


def pixels_of(image: Prepared, patching: Patching) -> Pixels:
    """The resized image of a prepared one, uint8 [H, W, 3]: the inverse of ``images.patches``."""
    p, m = patching.patch, patching.merge
    _, height, width = image.grid
    frames = image.patches.numpy().reshape(height // m, width // m, m, m, 3, patching.temporal, p, p)[:, :, :, :, :, 0]
    normal = frames.transpose(4, 0, 2, 5, 1, 3, 6).reshape(3, height * p, width * p).transpose(1, 2, 0)
    values = (normal * np.asarray(QWEN_STD) + np.asarray(QWEN_MEAN)) * 255
    return np.ascontiguousarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))

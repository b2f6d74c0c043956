"""Text from vLLM: its own scheduler, paged cache and prefix sharing; the masks still come from one pass of ours.

vLLM reads a plain Qwen-VL folder, which is written to a temporary place from the model's own weights, so that a
checkpoint has one copy on disk and what vLLM runs is what was loaded. Images are handed over already resized; sides are
multiples of a token, so vLLM's processor leaves them alone, and the token counts agree with ours.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from lens_bench.errors import RunError, UsageError
from lens_bench.lens.images import QWEN_MEAN, QWEN_STD, Patching, Prepared
from lens_bench.lens.modeling import LensModel
from lens_bench.lens.prompts import HubTokenizer
from lens_bench.lens.save import export_qwen
from lens_bench.lens.writer import Row, Written
from lens_bench.records import Pixels

if TYPE_CHECKING:
    from vllm import LLM

# Longest row that vLLM plans for; the recipes' limit of 768 and a wide margin for other recipes.
MAX_TOKENS = 4096


class VllmWriter:
    """Greedy decoding by vLLM.

    Args:
        model: Its language model and vision tower are exported; it stays in use for the mask pass.
        tokenizer: Goes into the export.
        before: Prompt ids in front of the image.
        ends: Ids that end an answer.
        share: Share of device memory for vLLM (GPU only).

    Raises:
        UsageError: vLLM is not installed.
    """

    def __init__(
        self,
        model: LensModel,
        tokenizer: HubTokenizer,
        before: Sequence[int],
        ends: frozenset[int],
        share: float = 0.4,
    ) -> None:
        self._model = model
        self._before = tuple(before)
        self._ends = ends
        self._folder = tempfile.TemporaryDirectory(prefix="lens-bench-vllm-")
        path = Path(self._folder.name)
        export_qwen(model, path, tokenizer)
        self._llm: LLM | None = _start(model, path, share)

    @property
    def wants_prefixes(self) -> bool:
        """VLLM reads the image itself."""
        return False

    def write(self, rows: Sequence[Row]) -> list[Written]:
        """Answer the rows, in order."""
        from vllm import SamplingParams

        if self._llm is None:
            raise RunError("the vLLM engine was closed")
        patching = Patching(self._model.patch, self._model.merge)
        seen = {id(row.image): Image.fromarray(pixels_of(row.image, patching)) for row in rows}
        requests = [
            {
                "prompt_token_ids": [*self._before, self._model.image_token, *row.after],
                "multi_modal_data": {"image": seen[id(row.image)]},
            }
            for row in rows
        ]
        settings = [
            SamplingParams(temperature=0.0, max_tokens=row.budget, stop_token_ids=sorted(self._ends), detokenize=False)
            for row in rows
        ]
        outputs = self._llm.generate(requests, settings, use_tqdm=False)
        return [Written(tuple(int(token) for token in output.outputs[0].token_ids)) for output in outputs]

    def preparation(self) -> float:
        """VLLM prepares its steps when it starts."""
        return 0.0

    def close(self) -> None:
        """Stop vLLM and remove the export."""
        if self._llm is not None:
            engine = getattr(self._llm.llm_engine, "engine_core", None)
            self._llm = None
            if engine is not None:
                engine.shutdown()
        self._folder.cleanup()


def _start(model: LensModel, folder: Path, share: float) -> LLM:
    cpu = model.device.type == "cpu"
    # The engine runs in this process: the device is shared with the mask pass, and tests need no second one.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    if cpu:
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    try:
        from vllm import LLM
    except ImportError:
        raise UsageError(
            "the vllm engine needs vLLM, which is not installed here", "pip install 'lens-bench[vllm]' (GPU)"
        ) from None
    if cpu:
        _inspect_here(model)
    options: dict[str, object] = {} if cpu else {"gpu_memory_utilization": share}
    return LLM(
        model=str(folder),
        dtype=str(model.text_dtype).removeprefix("torch."),
        max_model_len=MAX_TOKENS,
        limit_mm_per_prompt={"image": 1, "video": 0},
        enforce_eager=cpu,
        seed=0,
        **options,
    )


def _inspect_here(model: LensModel) -> None:
    """Hand vLLM the model's class, so that it need not look at it in a process of its own.

    That process imports torchvision before it loads any plugin, which fails where only a CUDA build of torchvision is
    at hand (``torchvision_guard``); here it is imported already.
    """
    from vllm import ModelRegistry

    if model.config.family == "qwen2_5_vl":
        from vllm.model_executor.models.qwen2_5_vl import Qwen2_5_VLForConditionalGeneration as Backbone
    else:
        from vllm.model_executor.models.qwen2_vl import Qwen2VLForConditionalGeneration as Backbone
    ModelRegistry.register_model(Backbone.__name__, Backbone)


def pixels_of(image: Prepared, patching: Patching) -> Pixels:
    """The resized image of a prepared one, uint8 [H, W, 3]: the inverse of ``images.patches``."""
    p, m = patching.patch, patching.merge
    _, height, width = image.grid
    frames = image.patches.numpy().reshape(height // m, width // m, m, m, 3, patching.temporal, p, p)[:, :, :, :, :, 0]
    normal = frames.transpose(4, 0, 2, 5, 1, 3, 6).reshape(3, height * p, width * p).transpose(1, 2, 0)
    values = (normal * np.asarray(QWEN_STD) + np.asarray(QWEN_MEAN)) * 255
    return np.ascontiguousarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))

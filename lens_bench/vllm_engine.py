"""vLLM in this process: its own scheduler, paged cache and prefix sharing behind one call.

What asks it hands over token ids with one placeholder per picture, and pictures that vLLM's processor leaves as they
are; so token counts and pixels are those of the other engines.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lens_bench.errors import CheckpointError, RunError, UsageError
from lens_bench.records import Pixels

if TYPE_CHECKING:
    from vllm import LLM

# Modules of vLLM that hold the classes of the Qwen-VL families.
_CLASSES = {
    "Qwen2VLForConditionalGeneration": "qwen2_vl",
    "Qwen2_5_VLForConditionalGeneration": "qwen2_5_vl",
    "Qwen3VLForConditionalGeneration": "qwen3_vl",
}


@dataclass(frozen=True, slots=True)
class VllmSettings:
    """How vLLM is started.

    Attributes:
        device: ``cpu``, ``cuda`` or ``cuda:<n>``.
        dtype: ``float32``, ``bfloat16`` or ``float16``.
        context: Longest row, prompt and answer together.
        pictures: Most pictures of a prompt.
        share: Share of device memory that vLLM takes (GPU only).
    """

    device: str
    dtype: str
    context: int = 4096
    pictures: int = 1
    share: float = 0.4


@dataclass(frozen=True, slots=True)
class Request:
    """One row to be continued greedily.

    Attributes:
        ids: The prompt, with one placeholder per picture.
        pictures: RGB uint8 [H, W, 3] in the order of the placeholders; one object is handed over once.
        budget: Most tokens of the answer.
    """

    ids: tuple[int, ...]
    pictures: tuple[Pixels, ...]
    budget: int


@dataclass(frozen=True, slots=True)
class Completion:
    """An answer.

    Attributes:
        ids: Its token ids, the end token included where there is one.
        prompt: Tokens of the prompt, those of its pictures included.
    """

    ids: tuple[int, ...]
    prompt: int


class VllmEngine:
    """A running vLLM.

    Args:
        folder: A checkpoint in transformers' format.
        settings: How to start it.

    Raises:
        UsageError: vLLM is not installed.
    """

    def __init__(self, folder: Path, settings: VllmSettings) -> None:
        self._llm: LLM | None = _start(folder, settings)

    def complete(
        self, requests: Sequence[Request], ends: frozenset[int], repetition_penalty: float = 1.0
    ) -> list[Completion]:
        """Continue the rows greedily, in order.

        Args:
            requests: The rows; each fits into the context.
            ends: Ids that end an answer.
            repetition_penalty: Of tokens that the row holds already.
        """
        from PIL import Image
        from vllm import SamplingParams

        if self._llm is None:
            raise RunError("the vLLM engine was closed")
        shown = {id(p): Image.fromarray(p) for request in requests for p in request.pictures}
        prompts = []
        for request in requests:
            prompt: dict[str, object] = {"prompt_token_ids": list(request.ids)}
            if request.pictures:
                prompt["multi_modal_data"] = {"image": [shown[id(p)] for p in request.pictures]}
            prompts.append(prompt)
        settings = [
            SamplingParams(
                temperature=0.0,
                max_tokens=request.budget,
                stop_token_ids=sorted(ends),
                repetition_penalty=repetition_penalty,
                detokenize=False,
            )
            for request in requests
        ]
        outputs = self._llm.generate(prompts, settings, use_tqdm=False)
        return [
            Completion(tuple(int(t) for t in output.outputs[0].token_ids), len(output.prompt_token_ids or ()))
            for output in outputs
        ]

    def close(self) -> None:
        """Stop vLLM."""
        if self._llm is not None:
            engine = getattr(self._llm.llm_engine, "engine_core", None)
            self._llm = None
            if engine is not None:
                engine.shutdown()


def _start(folder: Path, settings: VllmSettings) -> LLM:
    from lens_bench.torchvision_guard import guard_torchvision

    guard_torchvision()
    cpu = settings.device == "cpu"
    # The engine runs in this process: the device is shared with what paints masks, and tests need no second process.
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
        _inspect_here(folder)
    options: dict[str, object] = {} if cpu else {"gpu_memory_utilization": settings.share}
    return LLM(
        model=str(folder),
        dtype=settings.dtype,
        max_model_len=settings.context,
        limit_mm_per_prompt={"image": settings.pictures, "video": 0},
        enforce_eager=cpu,
        seed=0,
        **options,
    )


def _inspect_here(folder: Path) -> None:
    """Hand vLLM the model's class, so that it need not look at it in a process of its own.

    That process imports torchvision before it loads any plugin, which fails where only a CUDA build of torchvision is
    at hand (``torchvision_guard``); here it is imported already.
    """
    from vllm import ModelRegistry

    try:
        names = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("architectures") or []
    except (OSError, ValueError, AttributeError):
        raise CheckpointError(f"{folder / 'config.json'} is not readable JSON") from None
    for name in names:
        if name in _CLASSES:
            module = importlib.import_module(f"vllm.model_executor.models.{_CLASSES[name]}")
            ModelRegistry.register_model(name, getattr(module, name))

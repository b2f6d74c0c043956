"""vLLM in this process: its own scheduler, paged cache and prefix sharing behind one call.

What asks it hands over token ids with one placeholder per picture, and pictures that vLLM's processor leaves as they
are; so token counts and pixels are those of the other engines.
"""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from lens_bench.checkpoint_files import read_object
from lens_bench.errors import CheckpointError, RunError, UsageError
from lens_bench.out_of_memory import free_cached_memory
from lens_bench.records import Pixels

if TYPE_CHECKING:
    from torch import Tensor, nn
    from vllm import LLM

# Modules of vLLM that hold the classes of the Qwen-VL families.
_CLASSES = {
    "Qwen2VLForConditionalGeneration": "qwen2_vl",
    "Qwen2_5_VLForConditionalGeneration": "qwen2_5_vl",
    "Qwen3VLForConditionalGeneration": "qwen3_vl",
}
# Elements that are in float64 at once while weights are compared: 32 MB.
_PIECE = 2**22


@dataclass(frozen=True, slots=True)
class VllmSettings:
    """How vLLM is started.

    Attributes:
        device: ``cpu``, ``cuda`` or ``cuda:<n>``.
        dtype: ``float32``, ``bfloat16`` or ``float16``.
        context: Longest row, prompt and answer together.
        pictures: Most pictures of a prompt.
        share: Share of device memory that vLLM takes (GPU only).
        many: One of several processes that torch.distributed knows of, each with an engine of its own.
        devices: Over how many GPUs every layer is divided (tensor parallelism).
        sleeps: Whether ``rest`` gives device memory back, by vLLM's sleep mode (CUDA only).
    """

    device: str
    dtype: str
    context: int = 4096
    pictures: int = 1
    share: float = 0.4
    many: bool = False
    devices: int = 1
    sleeps: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    """One row to be continued greedily.

    Attributes:
        ids: The prompt, with one placeholder per picture.
        pictures: RGB uint8 [H, W, 3] in the order of the placeholders; one object is handed over once.
        budget: Most tokens of the answer; all of them where nothing ends one.
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


@dataclass(frozen=True, slots=True)
class Sampled:
    """A sampled answer: its ids, the end token included, and the log-probability of each at the temperature."""

    ids: tuple[int, ...]
    logps: tuple[float, ...]


class VllmEngine:
    """A running vLLM.

    Args:
        folder: A checkpoint in transformers' format.
        settings: How to start it.

    Raises:
        CheckpointError: The folder has no readable configuration.
        UsageError: vLLM is not installed, another GPU than the first is meant, or the model cannot be divided so.
    """

    def __init__(self, folder: Path, settings: VllmSettings) -> None:
        self._devices = settings.devices
        self._sleeps, self._asleep = settings.sleeps, False
        self._llm: LLM | None = _start(folder, settings)

    def complete(
        self, requests: Sequence[Request], ends: frozenset[int], repetition_penalty: float = 1.0
    ) -> list[Completion]:
        """Continue the rows greedily, in order.

        Args:
            requests: The rows; each fits into the context.
            ends: Ids that end an answer; none where every answer is to have its whole budget.
            repetition_penalty: Of tokens that the row holds already.

        Raises:
            RunError: An answer does not have its whole budget, though nothing ends one.
        """
        from vllm import SamplingParams

        settings = [
            SamplingParams(
                temperature=0.0,
                max_tokens=request.budget,
                stop_token_ids=sorted(ends),
                ignore_eos=not ends,
                repetition_penalty=repetition_penalty,
                detokenize=False,
            )
            for request in requests
        ]
        outputs = self._running().generate(_prompts(requests), settings, use_tqdm=False)
        found = [
            Completion(tuple(int(t) for t in output.outputs[0].token_ids), len(output.prompt_token_ids or ()))
            for output in outputs
        ]
        for request, answer in zip(requests, found, strict=True):
            if not ends and len(answer.ids) != request.budget:
                raise RunError(
                    f"vLLM wrote {len(answer.ids)} of {request.budget} tokens after a prompt of {answer.prompt}",
                    "fewer --new-tokens or a smaller --image-size",
                )
        return found

    def sample(
        self, requests: Sequence[Request], ends: frozenset[int], temperature: float, seeds: Sequence[int]
    ) -> list[Sampled]:
        """Continue each row by draws of its own seed from the whole distribution: nothing is truncated."""
        from vllm import SamplingParams

        settings = [
            SamplingParams(
                temperature=temperature,
                seed=seed,
                max_tokens=request.budget,
                stop_token_ids=sorted(ends),
                logprobs=0,
                detokenize=False,
            )
            for request, seed in zip(requests, seeds, strict=True)
        ]
        found = []
        for output in self._running().generate(_prompts(requests), settings, use_tqdm=False):
            answer = output.outputs[0]
            ids = tuple(int(token) for token in answer.token_ids)
            table = answer.logprobs or []
            found.append(Sampled(ids, tuple(float(row[t].logprob) for t, row in zip(ids, table, strict=True))))
        return found

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Put new weights in place of those of the same names in the checkpoint, and forget what the old ones gave.

        Layers that vLLM keeps as one (query, key and value; gate and up) must come whole.

        Raises:
            RunError: What vLLM holds then is not what was handed over, or each device holds a part of it.
        """
        llm = self._running()
        if self._devices > 1:
            raise RunError(f"weights of a vLLM that is divided over {self._devices} devices are not replaced")
        llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(weights.items())})
        llm.apply_model(_repack_tied)
        self.forget()
        wrong = llm.apply_model(lambda model: _differing(model, weights))[0]
        if wrong:
            raise RunError(f"vLLM did not take over {len(wrong)} of {len(weights)} weights, e.g. {wrong[0]}")

    def forget(self) -> None:
        """Drop keys and values, pictures and visual tokens of what was asked before."""
        llm = self._running()
        llm.reset_prefix_cache()
        llm.reset_mm_cache()
        llm.llm_engine.reset_encoder_cache()

    def rest(self) -> None:
        """Where it may sleep, move the weights to the host and drop keys and values until vLLM is used again."""
        if self._sleeps and not self._asleep:
            self._running().sleep(level=1)
            self._asleep = True

    def close(self) -> None:
        """Stop vLLM."""
        if self._llm is not None:
            engine = getattr(self._llm.llm_engine, "engine_core", None)
            self._llm = None
            if engine is not None:
                engine.shutdown()

    def _running(self) -> LLM:
        if self._llm is None:
            raise RunError("the vLLM engine was closed")
        if self._asleep:
            free_cached_memory()  # vLLM's memory is not torch's
            self._llm.wake_up()
            self._asleep = False
        return self._llm


def _prompts(requests: Sequence[Request]) -> list[dict[str, object]]:
    """Rows as vLLM takes them."""
    from PIL import Image

    shown = {id(p): Image.fromarray(p) for request in requests for p in request.pictures}
    prompts = []
    for request in requests:
        prompt: dict[str, object] = {"prompt_token_ids": list(request.ids)}
        if request.pictures:
            prompt["multi_modal_data"] = {"image": [shown[id(p)] for p in request.pictures]}
        prompts.append(prompt)
    return prompts


class _Packer(Protocol):
    """How one of vLLM's layers prepares its weights."""

    def process_weights_after_loading(self, layer: nn.Module) -> None: ...


class _Mapper(Protocol):
    """From the Hub's names to vLLM's."""

    def apply_list(self, values: list[str]) -> list[str]: ...


class _Packing(Protocol):
    """What vLLM's models say about names."""

    packed_modules_mapping: dict[str, list[str]]
    hf_to_vllm_mapper: _Mapper


def _repack_tied(model: nn.Module) -> None:
    """Let an output layer that is tied to the embeddings follow them.

    On a CPU vLLM multiplies with a packed copy of each weight, made when the layer is loaded. A tied output layer is in
    no checkpoint, so reloading leaves its copy as it was.
    """
    language = model.get_submodule("language_model")
    embedding, output = language.get_submodule("model.embed_tokens"), language.get_submodule("lm_head")
    if output.get_parameter("weight").data_ptr() == embedding.get_parameter("weight").data_ptr():
        cast("_Packer", output.quant_method).process_weights_after_loading(output)


def _differing(model: nn.Module, weights: Mapping[str, Tensor]) -> list[str]:
    """Names that vLLM does not have, or whose sums over all elements are not those of ``weights``.

    On a CPU packed copies, of which it keeps an empty parameter, cannot be compared; all names, where nothing can be.
    """
    packing = cast("_Packing", model)
    merged = {part: name for name, parts in packing.packed_modules_mapping.items() for part in parts}
    sent: dict[str, tuple[float, float]] = {}
    for name, tensor in weights.items():
        (own,) = packing.hf_to_vllm_mapper.apply_list([name])
        held = ".".join(merged.get(part, part) for part in own.split("."))
        total, size = sent.get(held, (0.0, 0.0))
        more, larger = _sums(tensor)
        sent[held] = (total + more, size + larger)
    have = dict(model.named_parameters(remove_duplicate=False))
    shown = {name: _sums(have[name])[0] for name in sent if name in have and have[name].numel()}
    if not shown:
        return list(sent)
    missing = [name for name in sent if name not in have]
    close = {n for n, value in shown.items() if math.isclose(value, sent[n][0], abs_tol=1e-9 * sent[n][1] + 1e-12)}
    return missing + [name for name in shown if name not in close]


def _sums(tensor: Tensor) -> tuple[float, float]:
    """Sums over all elements and over their magnitudes, in float64, of which only a piece is in memory at once."""
    import torch

    total = size = 0.0
    for piece in torch.split(tensor.detach().flatten(), _PIECE):
        values = piece.double()
        total += float(values.sum())
        size += float(values.abs().sum())
    return total, size


def _start(folder: Path, settings: VllmSettings) -> LLM:
    from lens_bench.torchvision_guard import guard_torchvision

    guard_torchvision()
    cpu, number = settings.device == "cpu", settings.device.partition(":")[2]
    if number not in ("", "0") and not settings.many:
        raise UsageError(
            f"vLLM runs on the first GPU that it sees, not on {settings.device}",
            f"CUDA_VISIBLE_DEVICES={number} and --device cuda",
        )
    check_parallel(folder, settings.devices)
    if settings.sleeps:
        _require_sleep(settings)
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
    if settings.sleeps:
        options["enable_sleep_mode"] = True
    if settings.many:
        options["distributed_executor_backend"] = "external_launcher"
    if settings.devices > 1:
        options["tensor_parallel_size"] = settings.devices
    return LLM(
        model=str(folder),
        dtype=settings.dtype,
        max_model_len=settings.context,
        limit_mm_per_prompt={"image": settings.pictures, "video": 0},
        enforce_eager=cpu,
        trust_remote_code=False,
        seed=0,
        # Of the distribution that is sampled from, not of the one before the temperature.
        logprobs_mode="processed_logprobs",
        **options,
    )


def _require_sleep(settings: VllmSettings) -> None:
    """Raise ``UsageError`` where vLLM cannot give its memory back."""
    without = "do without vLLM's sleep mode, e.g. --set grpo.vllm_sleep=false"
    if not settings.device.startswith("cuda"):
        raise UsageError(f"vLLM's sleep mode needs a CUDA device, this is {settings.device}", without)
    for name in ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"):
        if "expandable_segments:true" in os.environ.get(name, "").lower():
            raise UsageError(f"vLLM's sleep mode does not work with expandable_segments:True of {name}", without)


def check_parallel(folder: Path, devices: int) -> None:
    """Refuse what vLLM's tensor parallelism cannot divide, before any process is started for it.

    Attention is divided by heads, those of the language model and of the vision tower; heads of keys are divided, or
    repeated where they are fewer than devices.

    Raises:
        CheckpointError: The folder has no readable configuration.
        UsageError: The model cannot be divided so.
    """
    if devices == 1:
        return
    config = read_object(folder / "config.json")
    text, vision = config.get("text_config") or config, config.get("vision_config") or {}
    if not isinstance(text, dict) or not isinstance(vision, dict):
        raise CheckpointError(f"{folder / 'config.json'} describes no vision-language model")
    heads = {"attention heads": text.get("num_attention_heads"), "heads of its vision tower": vision.get("num_heads")}
    keys = text.get("num_key_value_heads")
    wrong = [f"{number} {what}" for what, number in heads.items() if isinstance(number, int) and number % devices]
    wrong += [f"{keys} heads of keys"] if isinstance(keys, int) and keys % devices and devices % keys else []
    if wrong:
        raise UsageError(f"devices={devices} does not divide the model's {wrong[0]}", "another number of GPUs")


def _inspect_here(folder: Path) -> None:
    """Hand vLLM the model's class, so that it need not look at it in a process of its own.

    That process imports torchvision before it loads any plugin, which fails where only a CUDA build of torchvision is
    at hand (``torchvision_guard``); here it is imported already.
    """
    from vllm import ModelRegistry

    names = read_object(folder / "config.json").get("architectures")
    for name in names if isinstance(names, list) else []:
        if name in _CLASSES:
            module = importlib.import_module(f"vllm.model_executor.models.{_CLASSES[name]}")
            ModelRegistry.register_model(name, getattr(module, name))

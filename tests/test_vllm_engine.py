"""What of vLLM's engine needs no vLLM: where it may run, and how weights that it took over are compared."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from lens_bench import vllm_engine
from lens_bench.errors import CheckpointError, RunError, UsageError
from lens_bench.vllm_engine import VllmEngine, VllmSettings, _differing, check_parallel


class Mapper:
    def apply_list(self, values: list[str]) -> list[str]:
        return [value.removeprefix("hub.") for value in values]


class Held(nn.ModuleDict):
    """A model as vLLM holds it: query, key and value are one layer."""

    packed_modules_mapping: ClassVar = {"qkv": ["q", "k", "v"]}
    hf_to_vllm_mapper: ClassVar = Mapper()


def test_another_gpu_than_the_first_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not on cuda:2") as caught:
        VllmEngine(tmp_path, VllmSettings("cuda:2", "bfloat16"))
    assert "CUDA_VISIBLE_DEVICES=2" in caught.value.hint


def test_weights_are_compared_under_the_names_that_vllm_gives_them() -> None:
    held = Held({"qkv": nn.Linear(2, 6, bias=False), "norm": nn.LayerNorm(2)})
    q, k, v = held.get_parameter("qkv.weight").detach().split(2)
    sent = {"hub.q": q, "hub.k": k, "hub.v": v}
    sent = {f"{name}.weight": part.clone() for name, part in sent.items()} | {"hub.norm.bias": torch.zeros(2)}
    assert _differing(held, sent) == []
    assert _differing(held, {**sent, "hub.k.weight": k + 0.1}) == ["qkv.weight"]
    assert _differing(held, {**sent, "hub.norm.bias": torch.ones(2)}) == ["norm.bias"]


def test_a_weight_that_vllm_does_not_have_was_not_taken_over() -> None:
    held = Held({"norm": nn.LayerNorm(2), "packed": nn.Linear(2, 2)})
    # As on a CPU, where the layer multiplies with a copy of its own.
    held["packed"].weight = nn.Parameter(torch.empty(0))
    bias = held.get_parameter("packed.bias").detach().clone()
    sent = {"hub.norm.bias": torch.zeros(2), "hub.packed.weight": torch.ones(2, 2), "hub.packed.bias": bias}
    assert _differing(held, sent) == []
    assert _differing(held, {**sent, "hub.other.weight": torch.ones(2)}) == ["other.weight"]
    assert _differing(held, {**sent, "hub.other.weight": torch.ones(2), "hub.packed.bias": bias + 1}) == [
        "other.weight",
        "packed.bias",
    ]


def test_where_no_weight_can_be_compared_none_was_taken_over() -> None:
    held = Held({"norm": nn.LayerNorm(2)})
    assert _differing(held, {"hub.other.weight": torch.ones(2)}) == ["other.weight"]
    assert _differing(held, {}) == []


# ---------------------------------------------------------------------------------------------- several GPUs


def described(folder: Path, **text: int) -> Path:
    heads = {"num_attention_heads": 16, "num_key_value_heads": 2, **text}
    vision = {"vision_config": {"num_heads": 16}}
    (folder / "config.json").write_text(json.dumps({"text_config": heads, **vision}))
    return folder


@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_heads_that_are_divided(devices: int, tmp_path: Path) -> None:
    check_parallel(described(tmp_path), devices)


@pytest.mark.parametrize(
    ("devices", "text", "why"),
    [
        (3, {}, "devices=3 does not divide the model's 16 attention heads"),
        (7, {"num_attention_heads": 28}, "the model's 16 heads of its vision tower"),
        (4, {"num_attention_heads": 24, "num_key_value_heads": 6}, "the model's 6 heads of keys"),
    ],
)
def test_heads_that_are_not(devices: int, text: dict[str, int], why: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=why):
        VllmEngine(described(tmp_path, **text), VllmSettings("cuda", "bfloat16", devices=devices))


def test_older_configurations_name_the_heads_beside_everything_else(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"num_attention_heads": 16, "num_key_value_heads": 2}))
    check_parallel(tmp_path, 2)
    with pytest.raises(UsageError, match="16 attention heads"):
        check_parallel(tmp_path, 3)
    (tmp_path / "config.json").write_text("[")
    with pytest.raises(CheckpointError, match="not readable JSON"):
        check_parallel(tmp_path, 3)


@pytest.mark.parametrize("devices", [1, 2])
def test_vllm_is_told_of_several_gpus(devices: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, object] = {}
    module = ModuleType("vllm")
    monkeypatch.setattr(module, "LLM", lambda **options: told.update(options) or SimpleNamespace(), raising=False)
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    engine = VllmEngine(described(tmp_path), VllmSettings("cuda", "bfloat16", devices=devices))
    assert told["model"] == str(tmp_path) and told.get("tensor_parallel_size", 1) == devices
    if devices > 1:
        with pytest.raises(RunError, match="divided over 2 devices are not replaced"):
            engine.load({})


# ---------------------------------------------------------------------------------------------- memory of comparing


class Wide(TorchDispatchMode):
    """Remembers the largest float64 tensor that is made."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> object:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.dtype == torch.float64:
            self.largest = max(self.largest, out.numel())
        return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_weights_are_summed_piece_by_piece(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """An embedding of a large vocabulary is never there in float64 as a whole, and the sums are those of the whole."""
    monkeypatch.setattr(vllm_engine, "_PIECE", 1000)
    weight = torch.randn(70, 50, generator=torch.Generator().manual_seed(0)).to(dtype)
    for tensor in (weight, weight.t(), weight[:, ::3]):
        before = tensor.clone()
        with Wide() as seen:
            total, size = vllm_engine._sums(tensor)
        whole = tensor.double()
        assert total == pytest.approx(float(whole.sum()), abs=1e-12 * float(whole.abs().sum()))
        assert size == pytest.approx(float(whole.abs().sum()), rel=1e-12)
        assert torch.equal(tensor, before)
        assert dtype == torch.float64 or 0 < seen.largest <= 1000


def test_one_changed_element_of_a_large_weight_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_engine, "_PIECE", 1000)
    held = Held({"embed": nn.Embedding(300, 20)})
    sent = {"hub.embed.weight": held.get_parameter("embed.weight").detach().clone()}
    assert _differing(held, sent) == []
    sent["hub.embed.weight"][150, 3] += 1e-3
    assert _differing(held, sent) == ["embed.weight"]
    with Wide() as seen:
        _differing(held, sent)
    assert 0 < seen.largest <= 1000


# ---------------------------------------------------------------------------------------------- sleep


class Llm:
    """As much of vLLM as sleeping needs; writes down what is called."""

    def __init__(self, **options: object) -> None:
        self.options, self.calls = options, list[str]()

    def sleep(self, level: int) -> None:
        self.calls.append(f"sleep {level}")

    def wake_up(self) -> None:
        self.calls.append("wake up")

    def generate(self, *_: object, **__: object) -> list[object]:
        self.calls.append("generate")
        return []


def started(folder: Path, monkeypatch: pytest.MonkeyPatch, settings: VllmSettings) -> tuple[VllmEngine, Llm]:
    module = ModuleType("vllm")
    for name, value in (("LLM", Llm), ("SamplingParams", SimpleNamespace)):
        monkeypatch.setattr(module, name, value, raising=False)
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    engine = VllmEngine(described(folder), settings)
    return engine, engine._llm  # type: ignore[return-value]


@pytest.mark.parametrize("sleeps", [True, False])
def test_it_sleeps_until_it_is_used(sleeps: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, llm = started(tmp_path, monkeypatch, VllmSettings("cuda", "bfloat16", sleeps=sleeps))
    assert llm.options.get("enable_sleep_mode", False) is sleeps
    monkeypatch.setattr(vllm_engine, "free_cached_memory", lambda: llm.calls.append("free"))
    for _ in range(2):
        engine.sample([], frozenset(), 1.0, [])
        engine.rest()
        engine.rest()
    asleep = ["generate", "sleep 1", "free", "wake up", "generate", "sleep 1"]
    assert llm.calls == (asleep if sleeps else ["generate", "generate"])


def test_where_it_cannot_sleep_is_said_before_it_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="needs a CUDA device, this is cpu") as caught:
        VllmEngine(described(tmp_path), VllmSettings("cpu", "float32", sleeps=True))
    assert "grpo.vllm_sleep=false" in caught.value.hint
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    with pytest.raises(UsageError, match="expandable_segments:True of PYTORCH_CUDA_ALLOC_CONF"):
        VllmEngine(described(tmp_path), VllmSettings("cuda", "bfloat16", sleeps=True))

"""What of vLLM's engine needs no vLLM: where it may run, and how weights that it took over are compared."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import nn

from lens_bench.errors import UsageError
from lens_bench.vllm_engine import VllmEngine, VllmSettings, _differing


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


def test_where_no_weight_can_be_compared_none_was_taken_over() -> None:
    held = Held({"norm": nn.LayerNorm(2)})
    assert _differing(held, {"hub.other.weight": torch.ones(2)}) == ["other.weight"]
    assert _differing(held, {}) == []

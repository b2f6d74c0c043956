"""How a training was launched: the shipped configurations are taken, and what is not offered is refused."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping

import pytest
import yaml
from accelerate.utils import DeepSpeedPlugin

from lens_bench.errors import UsageError
from lens_bench.train import devices
from lens_bench.train.devices import layout, make_accelerator, sharding
from lens_bench.train.recipe_files import RECIPES

from .conftest import tiny_recipe


def shipped(name: str) -> Mapping[str, object]:
    from accelerate.commands.config.config_args import load_config_from_file

    path = RECIPES / "accelerate" / f"{name}.yaml"
    kind = str(load_config_from_file(str(path)).distributed_type.value)
    return {**yaml.safe_load(path.read_text(encoding="utf-8")), "kind": kind}


@pytest.fixture
def fsdp(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """As ``accelerate launch`` sets the environment from the shipped configuration."""
    found = shipped("fsdp")
    assert found["kind"] == "FSDP"
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    for key, value in found["fsdp_config"].items():  # type: ignore[attr-defined]
        monkeypatch.setenv(key.upper(), str(value))
    return monkeypatch


def test_the_shipped_configuration_of_fsdp_is_taken(fsdp: pytest.MonkeyPatch) -> None:
    assert layout() == "fsdp"
    devices._require_fsdp(sharding())
    assert sharding().reshard_after_forward is True


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("FSDP_VERSION", "1", "set fsdp_version to 2"),
        ("FSDP_OFFLOAD_PARAMS", "true", "set fsdp_offload_params to false"),
        ("FSDP_ACTIVATION_CHECKPOINTING", "true", "activation_checkpointing"),
    ],
)
def test_fsdp_that_is_not_offered(fsdp: pytest.MonkeyPatch, variable: str, value: str, message: str) -> None:
    fsdp.setenv(variable, value)
    if variable == "FSDP_VERSION":
        fsdp.setenv("FSDP_RESHARD_AFTER_FORWARD", "FULL_SHARD")
    with pytest.raises(UsageError, match=message) as caught:
        devices._require_fsdp(sharding())
    assert caught.value.hint


def test_what_cannot_be_divided(fsdp: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="there is one"):
        make_accelerator(tiny_recipe("supervised"))
    for stage in ("sam", "vision"):
        with pytest.raises(UsageError, match=f"stage {stage}"):
            devices._require_divisible(tiny_recipe(stage), 2)
    with pytest.raises(UsageError, match="Muon") as caught:
        devices._require_divisible(tiny_recipe("supervised", {"optimiser": {"muon": ["language"]}}), 2)
    assert "optimiser.muon" in caught.value.hint
    devices._require_divisible(tiny_recipe("grpo"), 2)


def zero(**over: object) -> DeepSpeedPlugin:
    found = shipped("deepspeed-zero2")
    assert found["kind"] == "DEEPSPEED"
    settings = {**found["deepspeed_config"], **over}  # type: ignore[dict-item]
    return DeepSpeedPlugin(**settings)


def test_deepspeed_is_told_what_the_recipe_says() -> None:
    plugin = zero()
    recipe = tiny_recipe("grpo", {"batch": {"units": 8, "micro": 2}, "optimiser": {"max_norm": 0.3}})
    devices._set_deepspeed(plugin, recipe, 2)
    config = plugin.deepspeed_config
    assert (config["gradient_accumulation_steps"], config["train_micro_batch_size_per_gpu"]) == (2, 2)
    assert config["gradient_clipping"] == 0.3


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ({"zero_stage": 3}, "ZeRO-3"),
        ({"zero_stage": 0}, "ZeRO-0"),
        ({"offload_optimizer_device": "cpu"}, "on the host"),
    ],
)
def test_deepspeed_that_is_not_offered(over: Mapping[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        devices._set_deepspeed(zero(**over), tiny_recipe("grpo"), 1)
    assert "recipes/accelerate" in caught.value.hint


@pytest.mark.parametrize("key", ["optimizer", "scheduler", "bf16", "fp16"])
def test_deepspeed_must_not_say_what_the_recipe_does(key: str) -> None:
    plugin = zero()
    plugin.deepspeed_config[key] = {"enabled": True}
    with pytest.raises(UsageError, match=key):
        devices._set_deepspeed(plugin, tiny_recipe("grpo"), 1)


def test_deepspeeds_absence_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="not installed") as caught:
        make_accelerator(tiny_recipe("supervised"))
    assert "pip install deepspeed" in caught.value.hint

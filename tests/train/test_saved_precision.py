"""What a training saves, through the command line: every weight in ``saving.dtype``, and all of a small update."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from lens_bench.lens.checkpoint import load

from .commands import command, write_recipe
from .conftest import RATES, Run, tiny_recipe

RATE = 1e-6


def dtypes(folder: Path) -> set[str]:
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        return {str(file.get_slice(name).get_dtype()) for name in file.keys()}


@pytest.fixture
def start(run: Run) -> Path:
    return run(tiny_recipe("supervised", {"optimiser": {"steps": 1}}), "start")[0]


def frozen_in_half(start: Path, rates: dict[str, float], **over: object) -> dict[str, object]:
    model = {"fresh": None, "checkpoint": str(start), "dtype": "bfloat16"}
    settings = {"rates": {**dict.fromkeys(RATES["supervised"]), **rates}, "schedule": "constant"}
    return {"model": model, "optimiser": settings, "saving": {"every": 1}, **over}


def test_a_small_update_of_adapters_is_saved_whole(start: Path, data_root: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="adapters need peft")
    over = frozen_in_half(start, {"language": RATE}, lora={"rank": 4, "alpha": 8}, mask={"weight": 0})
    recipe = write_recipe(tiny_recipe("supervised", over), tmp_path / "lora.yaml")
    assert command(recipe, tmp_path / "out", data_root) == 0
    state = torch.load(tmp_path / "out" / "checkpoint-00000002" / "trainer_state.pt", weights_only=True)["extra"]
    before = {name: p.detach().bfloat16().float() for name, p in load(start).model.named_parameters()}
    after = {n: p.detach() for n, p in load(tmp_path / "out" / "checkpoint-00000002").model.named_parameters()}
    places = {name.removeprefix("lens.").partition(".lora_")[0] for name in state}
    assert len(places) == 7 * 2
    for place in places:
        left, right = (state[f"lens.{place}.lora_{which}.default.weight"] for which in "BA")
        update = 2 * left @ right
        held = after[f"{place}.weight"] - before[f"{place}.weight"]
        assert float(update.abs().max()) > 0 and float((held - update).norm() / update.norm()) < 0.05, place
    assert dtypes(tmp_path / "out" / "final") == {"F32"}


@pytest.mark.parametrize(("dtype", "name"), [("float32", "F32"), ("bfloat16", "BF16"), ("float16", "F16")])
def test_every_weight_has_the_wanted_precision(
    dtype: str, name: str, start: Path, data_root: Path, tmp_path: Path
) -> None:
    """Also those that were frozen in another one."""
    over = frozen_in_half(start, {"head": 1e-3}, text={"weight": 0})
    recipe = write_recipe(tiny_recipe("supervised", over), tmp_path / "head.yaml")
    assert command(recipe, tmp_path / "out", data_root, f"saving.dtype={dtype}") == 0
    assert dtypes(tmp_path / "out" / "final") == {name}
    trained = load_file(tmp_path / "out" / "final" / "model.safetensors")
    assert all(tensor.isfinite().all() for tensor in trained.values())

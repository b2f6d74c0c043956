"""Box-writing models without a checkpoint, and answers of a forced length."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText

from lens_bench.errors import UsageError
from lens_bench.records import ImageTask, ModelOptions, Query
from lens_bench.registry import find_model, make_segmenter, resolve_args
from lens_bench.sam2.tiny import save_tiny_sam2
from lens_bench.segmenter import Segmenter, SupportsForcedLength, SupportsRandomWeights
from lens_bench.vlm.local import LocalSettings
from lens_bench.vlm.random_weights import named_shape, random_sam, random_vlm
from lens_bench.vlm.tiny import save_tiny_vlm

DEVICES = (["cpu"], ["cpu", "cpu"])


@pytest.fixture(scope="module", params=["qwen2_5_vl", "qwen3_vl"])
def shape(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A language model's folder without its weights, and a tiny SAM 2."""
    root = tmp_path_factory.mktemp(request.param)
    folder = save_tiny_vlm(root / "vlm", request.param)
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    return {
        "checkpoint": str(folder),
        "sam": str(save_tiny_sam2(root / "sam")),
        "max_pixels": "20000",
        "factor": "28" if request.param == "qwen2_5_vl" else "32",
    }


def task() -> ImageTask:
    pixels = np.random.default_rng(1).integers(0, 255, (60, 90, 3), dtype=np.uint8)
    return ImageTask("i", (60, 90), (Query("a", "the left one"), Query("b", "x")), pixels)


def segmenter(args: dict[str, str], engine: str = "hf") -> Segmenter:
    card = find_model("qwen2.5-vl-3b+sam2")
    return make_segmenter(card, ModelOptions(card.name, str(card.folder), resolve_args(card, args), engine=engine))


def test_a_configuration_is_enough_and_answers_have_the_forced_length(shape: dict[str, str]) -> None:
    model = segmenter(shape)
    assert isinstance(model, SupportsRandomWeights) and isinstance(model, SupportsForcedLength)
    model.force_length(11)
    report = model.load_random(1)
    assert "random weights from seed 1" in report.notes and report.parameters > 100_000
    predictions = model.segment([task()])
    assert [p.tokens.completion for p in predictions if p.tokens] == [11, 11]
    assert all(p.status == "ok" and p.mask is not None for p in predictions)
    stages = {"resize", "prompt", "vision tower", "prefill", "decode", "SAM features", "masks"}
    assert set(predictions[0].stages_ms) == stages
    model.close()


def test_a_length_that_the_model_has_no_positions_for_is_refused_before_it_is_asked(shape: dict[str, str]) -> None:
    model = segmenter(shape)
    assert isinstance(model, SupportsRandomWeights) and isinstance(model, SupportsForcedLength)
    model.force_length(100_000)
    with pytest.raises(UsageError, match="--new-tokens 100000 is more than the model has room for: 4096 positions"):
        model.load_random(1)
    model.close()


def test_a_checkpoint_is_forced_too(tmp_path: Path) -> None:
    folder = save_tiny_vlm(tmp_path / "vlm", answer='{"bbox_2d": [1, 2, 30, 40]}')
    model = segmenter({"checkpoint": str(folder), "sam": str(save_tiny_sam2(tmp_path / "sam"))})
    assert isinstance(model, SupportsForcedLength)
    model.force_length(6)
    model.load()
    assert [p.tokens.completion for p in model.segment([task()]) if p.tokens] == [6, 6]


@pytest.mark.parametrize(
    ("hub", "billions"),
    [("Qwen/Qwen2.5-VL-3B-Instruct", 3.75), ("Qwen/Qwen2.5-VL-7B-Instruct", 8.29), ("Qwen/Qwen3-VL-8B-Instruct", 8.77)],
)
def test_released_shapes_have_the_parameters_of_the_released_models(hub: str, billions: float) -> None:
    config = named_shape(hub)
    assert config is not None
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    model.tie_weights()
    assert sum(p.numel() for p in model.parameters()) / 1e9 == pytest.approx(billions, rel=0.01)


def test_sam_is_drawn_at_its_full_size() -> None:
    sam = random_sam(0, "cpu", torch.bfloat16)
    assert sam.parameters == pytest.approx(217e6, rel=0.01)  # 224 million with the video tracker
    assert all(torch.isfinite(p).all() for p in sam.part.parameters())


@pytest.mark.parametrize("engine", ["endpoint", "vllm"])
def test_engines_that_need_weights_are_refused(shape: dict[str, str], engine: str) -> None:
    model = segmenter(shape, engine)
    assert isinstance(model, SupportsRandomWeights)
    with pytest.raises(UsageError, match=engine):
        model.load_random(0)


def test_an_unknown_model_is_refused(shape: dict[str, str]) -> None:
    model = segmenter({**shape, "checkpoint": "", "hub": "mine/model"})
    assert isinstance(model, SupportsRandomWeights)
    with pytest.raises(UsageError, match="mine/model"):
        model.load_random(0)


def test_a_model_without_weights_is_spread_too(shape: dict[str, str]) -> None:
    one, spread = (random_vlm("", Path(shape["checkpoint"]), 2, d, torch.float32, LocalSettings(4)) for d in DEVICES)
    other = dict(spread._model.named_parameters())
    assert all(torch.equal(p, other[name]) for name, p in one._model.named_parameters())
    assert "the language model's blocks are spread over 2 devices (cpu: 2)" in spread.notes
    with pytest.raises(AssertionError, match=r"tensors without a value: model\.language_model\.layers"):
        random_vlm("", Path(shape["checkpoint"]), 2, ["cpu", "meta"], torch.float32, LocalSettings(4))


@pytest.mark.parametrize(
    ("engine", "why"),
    [("hf", "needs GPUs"), ("vllm", "needs GPUs"), ("endpoint", "devices=2 is for engines hf and vllm")],
)
def test_devices_that_are_not_there(shape: dict[str, str], engine: str, why: str) -> None:
    for name in ("qwen2.5-vl-3b+sam2", "seg-zero-3b"):
        card = find_model(name)
        args = resolve_args(card, {"checkpoint": shape["checkpoint"], "sam": shape["sam"], "devices": "2"})
        with pytest.raises(UsageError, match=why):
            make_segmenter(card, ModelOptions(name, str(card.folder), args, engine=engine)).load()
    if engine == "hf":
        model = segmenter({**shape, "devices": "2"})
        assert isinstance(model, SupportsRandomWeights)
        with pytest.raises(UsageError, match=why):
            model.load_random(0)

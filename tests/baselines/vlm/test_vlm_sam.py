"""Vision-language models with SAM 2 through the run loop: local ones, and ones behind real HTTP servers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from lens_bench.errors import CheckpointError, UsageError
from lens_bench.finite import MASK_SCORES
from lens_bench.masks import decode, rle_from_json
from lens_bench.records import ModelOptions
from lens_bench.registry import find_model, make_segmenter, resolve_args
from lens_bench.vlm.tiny import save_tiny_vlm

from ...vlm.servers import FakeServer, pictures_of, serve, text_of
from .vlm_runs import IMAGES, run

KEY = "sk-secret-0123456789"


def quarter(request: dict[str, Any]) -> str:
    """A box in thousandths that differs from expression to expression."""
    text = text_of(request)
    x, y = 100 + sum(text.encode()) % 300, 100 + len(text) % 300
    return f'```json\n[{{"bbox_2d": [{x}, {y}, {x + 400}, {y + 400}], "label": "it"}}]\n```'


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with serve(FakeServer(quarter)) as fake:
        yield fake


def endpoint_args(server: FakeServer, sam: Path, **more: object) -> dict[str, object]:
    quick = {"timeout": 5, "retries": 2, "backoff": 0.001, "key_variable": "TEST_KEY"}
    return {"model": "tiny", "base_url": server.url, "sam": sam, **quick, **more}


def test_an_endpoint_through_the_run_loop(
    server: FakeServer, shapes: Path, sam2_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_KEY", KEY)
    ran = run("openai-compatible+sam2", shapes, tmp_path, endpoint_args(server, sam2_folder))
    assert set(ran.statuses) == {"ok"} and ran.summary["complete"]
    assert (
        len(server.requests) == len(ran.predictions) == ran.summary["n_samples"] and ran.summary["n_images"] == IMAGES
    )
    assert {h["Authorization"] for h in server.headers} == {f"Bearer {KEY}"}
    assert KEY not in ran.all_text
    for prediction in ran.predictions:
        x1, y1, x2, y2 = json.loads(prediction["text"].strip("`json\n"))[0]["bbox_2d"]
        height, width = prediction["mask"]["size"]
        wanted = (x1 * width / 1000, y1 * height / 1000, x2 * width / 1000, y2 * height / 1000)
        assert prediction["box"] == pytest.approx(wanted)
        assert prediction["tokens"]["completion"] > 0
        assert set(prediction["stages_ms"]) == {"resize", "answer", "SAM features", "masks"}
    assert len({p["mask"]["counts"] for p in ran.predictions}) > len(ran.predictions) // 2


def test_failures_stay_in_the_denominator(server: FakeServer, shapes: Path, sam2_folder: Path, tmp_path: Path) -> None:
    """Odd answers give no mask, a broken server gives errors, both count as empty masks; the others are not touched."""
    whole = run("openai-compatible+sam2", shapes, tmp_path / "whole", endpoint_args(server, sam2_folder))
    asked = [text_of(r) for r in server.requests]
    odd, broken = asked[0], asked[-1]
    assert odd != broken
    server.faults = {broken: ["cut", "garbage", "500"]}
    server.answer = lambda request: "I see no such thing." if text_of(request) == odd else quarter(request)
    ran = run("openai-compatible+sam2", shapes, tmp_path / "ran", endpoint_args(server, sam2_folder))
    assert ran.summary["n_samples"] == whole.summary["n_samples"]
    assert ran.summary["metrics"]["no_mask_rate"] > 0 and ran.summary["metrics"]["error_rate"] > 0
    for before, now in zip(whole.predictions, ran.predictions, strict=True):
        if now["status"] == "ok":
            assert now["mask"] == before["mask"]
        elif now["status"] == "error":
            assert now["mask"] is None and "status 500: status 500 (3 attempts)" in now["error"]
        else:
            assert now["mask"] is None and now["text"] == "I see no such thing."
    assert {"ok", "no_mask", "error"} == set(ran.statuses)
    assert ran.summary["metrics"]["giou"] <= whole.summary["metrics"]["giou"]


@pytest.mark.parametrize(
    ("coordinates", "order"), [("pixels", "xyxy"), ("thousandths", "yxyx"), ("unit", "xyxy"), ("pixels", "xywh")]
)
def test_conventions_name_the_same_box(
    coordinates: str, order: str, server: FakeServer, shapes: Path, sam2_folder: Path, tmp_path: Path
) -> None:
    def answer(request: dict[str, Any]) -> str:
        height, width = pictures_of(request["messages"][-1])[0].shape[:2]
        w, h = {"pixels": (width, height), "thousandths": (1000, 1000), "unit": (1, 1)}[coordinates]
        x1, y1, x2, y2 = 0.25 * w, 0.5 * h, 0.75 * w, 0.875 * h
        numbers = {"xyxy": [x1, y1, x2, y2], "yxyx": [y1, x1, y2, x2], "xywh": [x1, y1, x2 - x1, y2 - y1]}[order]
        return f"{numbers}"

    server.answer = answer
    args = endpoint_args(server, sam2_folder, coordinates=coordinates, order=order, factor=32, max_pixels=96 * 96)
    ran = run("openai-compatible+sam2", shapes, tmp_path, args, limit=4)
    for prediction in ran.predictions:
        height, width = prediction["mask"]["size"]
        assert prediction["box"] == pytest.approx((0.25 * width, 0.5 * height, 0.75 * width, 0.875 * height))


def test_all_boxes_are_joined(server: FakeServer, shapes: Path, sam2_folder: Path, tmp_path: Path) -> None:
    one, two = "[100, 100, 300, 300]", "[500, 500, 900, 900]"
    found = []
    for number, said in enumerate((one, two, f"{one} {two}")):
        server.answer = lambda request, said=said: said
        args = endpoint_args(server, sam2_folder, objects="all")
        ran = run("openai-compatible+sam2", shapes, tmp_path / str(number), args, limit=1)
        found.append(ran.predictions[0])
    first, second, both = (decode(rle_from_json(p["mask"])) for p in found)
    assert ((first | second) == both).all() and (first != second).any()
    assert found[2]["box"] is None and found[0]["box"] is not None
    args = endpoint_args(server, sam2_folder, objects="first")
    assert (
        run("openai-compatible+sam2", shapes, tmp_path / "f", args, limit=1).predictions[0]["mask"] == found[0]["mask"]
    )


@pytest.mark.parametrize(
    ("model", "family", "answer", "side"),
    [
        ("qwen2.5-vl-3b+sam2", "qwen2_5_vl", "[14, 28, 70, 84]", 28),
        ("qwen3-vl-8b+sam2", "qwen3_vl", "[90, 100, 500, 700]", 32),
    ],
)
def test_a_local_model_through_the_run_loop(
    model: str, family: Any, answer: str, side: int, shapes: Path, sam2_folder: Path, tmp_path: Path
) -> None:
    folder = save_tiny_vlm(tmp_path / "vlm", family, f'{{"bbox_2d": {answer}}}')
    args = {"checkpoint": folder, "sam": sam2_folder, "min_pixels": side**2, "max_pixels": (4 * side) ** 2}
    ran = run(model, shapes, tmp_path / "out", args)
    assert set(ran.statuses) == {"ok"}
    assert ran.summary["perf"]
    numbers = json.loads(answer)
    for prediction in ran.predictions:
        height, width = prediction["mask"]["size"]
        if family == "qwen3_vl":
            assert prediction["box"] == pytest.approx(
                [n * (height if i % 2 else width) / 1000 for i, n in enumerate(numbers)]
            )
        else:
            assert 0 <= prediction["box"][0] < prediction["box"][2] <= width
    random = save_tiny_vlm(tmp_path / "random", family)
    mumbled = run(model, shapes, tmp_path / "out2", {**args, "checkpoint": random, "max_new_tokens": 8})
    assert set(mumbled.statuses) == {"no_mask"} and mumbled.summary["metrics"]["no_mask_rate"] == 1.0
    assert mumbled.folder.name != ran.folder.name


def test_batches_change_nothing(server: FakeServer, shapes: Path, sam2_folder: Path, tmp_path: Path) -> None:
    args = endpoint_args(server, sam2_folder)
    one = run("openai-compatible+sam2", shapes, tmp_path / "1", args, batch_size=1)
    three = run("openai-compatible+sam2", shapes, tmp_path / "3", args, batch_size=3)
    pick = ("sample_id", "mask", "box", "text")
    assert [[p[k] for k in pick] for p in one.predictions] == [[p[k] for k in pick] for p in three.predictions]


def test_a_port_is_no_part_of_a_runs_identity(
    shapes: Path, sam2_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = set()
    for _ in range(2):
        with serve(FakeServer(quarter)) as server:
            monkeypatch.setenv("OPENAI_BASE_URL", server.url)
            args = endpoint_args(server, sam2_folder, base_url="")
            folders.add(run("openai-compatible+sam2", shapes, tmp_path, args, limit=2).folder)
    assert len(folders) == 1


CARDS = ["qwen2.5-vl-3b+sam2", "qwen2.5-vl-7b+sam2", "qwen3-vl-8b+sam2", "openai-compatible+sam2"]


@pytest.mark.parametrize("name", CARDS)
def test_released_cards_say_what_is_missing(name: str, monkeypatch: pytest.MonkeyPatch, sam2_folder: Path) -> None:
    card = find_model(name)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    options = ModelOptions(name, str(card.folder), resolve_args(card, {}), engine=card.engines[0])
    with pytest.raises(CheckpointError) as caught:
        make_segmenter(card, options).weight_digest()  # type: ignore[attr-defined]
    assert "hf download" in caught.value.hint
    options = ModelOptions(name, str(card.folder), resolve_args(card, {"sam": str(sam2_folder)}), engine="endpoint")
    with pytest.raises(UsageError):
        make_segmenter(card, options).load()


@pytest.mark.parametrize("args", [{"question": "where?"}, {"extra": "[1]"}, {"kernel": "bilinear", "max_pixels": "1"}])
def test_arguments_that_do_not_fit(args: dict[str, str], server: FakeServer, sam2_folder: Path) -> None:
    card = find_model("openai-compatible+sam2")
    given = {k: str(v) for k, v in endpoint_args(server, sam2_folder).items()} | args
    options = ModelOptions(card.name, str(card.folder), resolve_args(card, given), engine="endpoint")
    with pytest.raises(UsageError):
        make_segmenter(card, options).load()
    assert not server.requests


def test_the_first_sam_can_paint(server: FakeServer, shapes: Path, sam2_folder: Path, tmp_path: Path) -> None:
    import torch

    from lens_bench.sam.model import SamModel, SamSize

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.save(SamModel(SamSize(16, 2, 2, (1,))).state_dict(), tmp_path / "sam.pth")
    args = endpoint_args(server, tmp_path / "sam.pth", painter="sam")
    ran = run("openai-compatible+sam2", shapes, tmp_path / "out", args, limit=3)
    assert set(ran.statuses) == {"ok"} and all(p["box"] for p in ran.predictions)
    with pytest.raises(UsageError, match="needs Meta's file"):
        run("openai-compatible+sam2", shapes, tmp_path / "out", {**args, "sam": ""})
    with pytest.raises(CheckpointError, match="not a SAM 2 checkpoint"):
        run("openai-compatible+sam2", shapes, tmp_path / "out", {**args, "painter": "sam2"})


def test_a_sam_2_whose_numbers_are_none_makes_errors(
    server: FakeServer, shapes: Path, sam2_folder: Path, tmp_path: Path
) -> None:
    broken = Path(shutil.copytree(sam2_folder, tmp_path / "sam2"))
    tensors = load_file(broken / "model.safetensors")
    name = next(name for name in sorted(tensors) if name.startswith("mask_decoder.") and tensors[name].ndim > 1)
    save_file(tensors | {name: tensors[name] * float("nan")}, broken / "model.safetensors", {"format": "pt"})
    ran = run("openai-compatible+sam2", shapes, tmp_path / "out", endpoint_args(server, broken), limit=4)
    assert set(ran.statuses) == {"error"} and {p["error"] for p in ran.predictions} == {MASK_SCORES}
    assert MASK_SCORES == "non-finite values in the mask scores; try --dtype bfloat16 or float32"


def test_what_a_server_tells_of_its_model_is_part_of_the_identity(
    server: FakeServer, shapes: Path, sam2_folder: Path, tmp_path: Path
) -> None:
    folders = []
    for told in ({}, {"root": "/models/a", "created": 1}, {"root": "/models/a", "created": 2}, {"root": "/models/b"}):
        server.told = dict(told)
        args = endpoint_args(server, sam2_folder)
        folders.append(run("openai-compatible+sam2", shapes, tmp_path, args, limit=1).folder)
    assert folders[1] == folders[2] and len(set(folders)) == 3

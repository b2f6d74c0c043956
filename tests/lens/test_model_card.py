"""The YAML head of a checkpoint's README, as huggingface_hub itself reads it."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from lens_bench.lens.model_card import Result, head, on_hub, read_head
from lens_bench.lens.save import Story, save
from lens_bench.lens.tiny import byte_tokenizer, tiny_config, tiny_model

RESULT = Result("refcoco", "val", 64, {"ciou": 0.71234, "giou": 0.5, "box_right": 0.9}, "by hand")


def test_the_hub_reads_the_results(tmp_path: Path) -> None:
    story = Story("my-lens", licence="Apache-2.0", bases=("Qwen/Qwen2.5-VL-3B-Instruct",), results=(RESULT,))
    save(tiny_model(tiny_config()), tmp_path, byte_tokenizer(), story)
    card = ModelCard.load(tmp_path / "README.md")
    data = card.data
    assert (data.library_name, data.pipeline_tag, data.license) == ("lens-bench", "image-segmentation", "apache-2.0")
    assert data.base_model == "Qwen/Qwen2.5-VL-3B-Instruct" and "referring-segmentation" in data.tags
    assert data.model_name == "my-lens"
    ciou, giou = data.eval_results
    assert (ciou.metric_type, ciou.metric_value, ciou.metric_name) == ("ciou", 71.23, "cIoU (%)")
    assert (giou.metric_type, giou.metric_value) == ("giou", 50.0)
    assert (ciou.task_type, ciou.dataset_type, ciou.dataset_split) == ("image-segmentation", "refcoco", "val")
    assert (ciou.dataset_name, ciou.dataset_args) == ("refcoco val, 64 expressions", {"expressions": 64})
    assert card.text.lstrip().startswith("# my-lens")
    assert "- refcoco val, the first 64 expressions: cIoU 71.23 %, gIoU 50.00 %, by hand" in card.text


@pytest.mark.parametrize("results", [(), (Result("shapes", "val", 8, {"mask_iou": 0.5}, "by hand"),)])
def test_nothing_is_said_that_is_not_known(results: tuple[Result, ...], tmp_path: Path) -> None:
    save(tiny_model(tiny_config()), tmp_path, byte_tokenizer(), Story("plain", results=results))
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.eval_results is None and card.data.license is None and card.data.base_model is None
    assert "model-index" not in card.content and "## Evaluation" not in card.content


def test_a_licence_that_the_hub_does_not_know_is_named(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(head("x", "Qwen Research License"), encoding="utf-8")
    data = ModelCard.load(tmp_path / "README.md").data
    assert (data.license, data.license_name) == ("other", "Qwen Research License")
    assert read_head(tmp_path)["license_name"] == "Qwen Research License"


@pytest.mark.parametrize("content", [None, "# no head", "---\n[broken\n---\n", "---\n- a list\n---\n", b"\xff\xfe"])
def test_a_readme_without_a_head_says_nothing(content: str | bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "README.md").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert read_head(tmp_path) == {}


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("/data/Qwen2.5-VL-3B-Instruct", "Qwen/Qwen2.5-VL-3B-Instruct"),
        ("~/models/Qwen2-VL-2B-Instruct/", "Qwen/Qwen2-VL-2B-Instruct"),
        ("/c/hub/models--Qwen--Qwen2.5-VL-7B-Instruct/snapshots/0a1b", "Qwen/Qwen2.5-VL-7B-Instruct"),
        ("/c/hub/models--some-body--their.model/snapshots/0a1b/model.pt", "some-body/their.model"),
        ("sam2-hiera-large", "facebook/sam2-hiera-large"),
        ("/data/my-Qwen2.5-VL-3B-Instruct", ""),
        ("/data/final", ""),
        ("", ""),
    ],
)
def test_a_place_may_say_which_repository_it_is(place: str, name: str) -> None:
    assert on_hub(place) == name

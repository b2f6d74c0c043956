"""SAM 3 asked for the expression: against transformers' own forward, and through the run loop."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from lens_bench import masks
from lens_bench.errors import CheckpointError
from lens_bench.finite import MASK_SCORES
from lens_bench.records import ImageTask, ModelOptions, Pixels, Query
from lens_bench.registry import find_model, import_file, make_segmenter, resolve_args

from .tiny_sam3 import save_tiny_sam3
from .vlm_runs import IMAGES, run

ROOT = Path(__file__).resolve().parents[3]
PHRASES = ["red dog", "a cat", "the third from the left"]
LOW = 0.01  # random weights are sure of nothing


@pytest.fixture(scope="module")
def concepts() -> ModuleType:
    return import_file(ROOT / "baselines" / "sam3" / "concepts.py")


@pytest.fixture(scope="module")
def images() -> list[Pixels]:
    rng = np.random.default_rng(0)
    sizes = ((20, 30), (24, 16))
    coarse = [rng.integers(0, 256, (4, 4, 3), dtype=np.uint8) for _ in sizes]
    return [np.kron(c, np.ones((*s, 1), np.uint8)) for c, s in zip(coarse, sizes, strict=True)]


def test_shared_encoders_give_what_a_whole_forward_gives(
    concepts: ModuleType, images: list[Pixels], sam3_folder: Path
) -> None:
    sam = concepts.Sam3.load(sam3_folder, "cpu", torch.float32, LOW)
    seen = sam.encode(images)
    pairs = [(n, phrase) for phrase in PHRASES for n in range(len(images))]
    found = sam.find([(seen[n], phrase) for n, phrase in pairs])
    things = 0
    for (n, phrase), one in zip(pairs, found, strict=True):
        inputs = sam._processor(images=Image.fromarray(images[n]), text=phrase, return_tensors="pt")
        inputs.pop("original_sizes")
        with torch.no_grad():
            out = sam._model(**inputs)
        size = images[n].shape[:2]
        expected = sam._processor.post_process_instance_segmentation(out, threshold=LOW, target_sizes=[size])[0]
        order = expected["scores"].argsort(descending=True, stable=True)
        wanted = [masks.encode(expected["masks"][i].numpy().astype(np.uint8)) for i in order]
        wanted = [mask for mask in wanted if masks.area(mask)]
        things += len(wanted)
        assert len(one.instances) == len(wanted)
        for instance, mask in zip(one.instances, wanted, strict=True):
            assert np.mean(masks.decode(instance.mask) != masks.decode(mask)) < 1e-3
        scores = [i.score for i in one.instances]
        assert scores == sorted(scores, reverse=True)
        whole = sam._processor.post_process_semantic_segmentation(out, threshold=0.5, target_sizes=[size])[0]
        assert np.mean(masks.decode(one.semantic) != whole.numpy().astype(bool)) < 1e-3
    assert things > len(pairs)


def test_encoders_run_once(concepts: ModuleType, images: list[Pixels], sam3_folder: Path) -> None:
    sam = concepts.Sam3.load(sam3_folder, "cpu", torch.float32, LOW)
    vision: list[int] = []
    text: list[int] = []
    sam._model.vision_encoder.register_forward_hook(lambda m, args, out: vision.append(len(args[0])))
    sam._model.text_encoder.register_forward_hook(
        lambda m, args, kwargs, out: text.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    seen = sam.encode(images)
    sam.find([(image, phrase) for image in seen for phrase in PHRASES])
    assert sum(vision) == len(images) and text == [len(PHRASES)]
    assert sam.find([]) == []


def test_long_phrases_are_cut_and_none_is_lost(concepts: ModuleType, images: list[Pixels], sam3_folder: Path) -> None:
    sam = concepts.Sam3.load(sam3_folder, "cpu", torch.float32, 0.0)
    (seen,) = sam.encode(images[:1])
    long = "the one that " * 20
    one, two, other = (sam.find([(seen, phrase)])[0] for phrase in (long, long + "is red", ""))
    assert one == two != other
    assert sam.is_cut(long) and not sam.is_cut("dog")


@pytest.mark.parametrize("take", ["all", "best", "semantic"])
def test_through_the_run_loop(take: str, shapes: Path, sam3_folder: Path, tmp_path: Path) -> None:
    ran = run("sam3-text", shapes, tmp_path, {"sam": sam3_folder, "threshold": LOW, "take": take})
    assert ran.summary["complete"] and ran.summary["n_images"] == IMAGES and "error" not in ran.statuses
    drawn = [p for p in ran.predictions if p["status"] == "ok"]
    assert len(drawn) > len(ran.predictions) // 2 and len({p["mask"]["counts"] for p in drawn}) > IMAGES
    if take == "best":
        assert all(len(p["box"]) == 4 for p in drawn)
    again = run("sam3-text", shapes, tmp_path / "1", {"sam": sam3_folder, "threshold": LOW, "take": take}, batch_size=1)
    assert [p["mask"] for p in again.predictions] == [p["mask"] for p in ran.predictions]


def test_nothing_above_the_threshold_is_no_mask(shapes: Path, sam3_folder: Path, tmp_path: Path) -> None:
    ran = run("sam3-text", shapes, tmp_path, {"sam": sam3_folder, "threshold": 1.0})
    assert set(ran.statuses) == {"no_mask"} and ran.summary["metrics"]["no_mask_rate"] == 1.0


def test_the_released_layout_is_read(
    concepts: ModuleType, images: list[Pixels], sam3_folder: Path, tmp_path: Path
) -> None:
    """``facebook/sam3`` holds the video model: the detector below a prefix, the tracker beside it."""
    shutil.copytree(sam3_folder, tmp_path, dirs_exist_ok=True)
    detector = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "sam3_video", "detector_config": detector}))
    tensors = {f"detector_model.{k}": v for k, v in load_file(tmp_path / "model.safetensors").items()}
    tracker = {"tracker_model.a": torch.zeros(1), "tracker_neck.b": torch.zeros(1)}
    save_file(tensors | tracker, tmp_path / "model.safetensors", {"format": "pt"})
    found = [
        sam.find([(sam.encode(images[:1])[0], "a cat")])
        for sam in (concepts.Sam3.load(folder, "cpu", torch.float32, LOW) for folder in (tmp_path, sam3_folder))
    ]
    assert found[0] == found[1] and found[0][0].instances


def test_checkpoints_that_do_not_fit(
    concepts: ModuleType, sam3_folder: Path, sam2_folder: Path, tmp_path: Path
) -> None:
    def load(folder: Path) -> Any:
        return concepts.Sam3.load(folder, "cpu", torch.float32, 0.5)

    with pytest.raises(CheckpointError, match="no checkpoint folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="SAM 3"):
        load(sam2_folder)
    broken = save_tiny_sam3(tmp_path / "broken")
    tensors = load_file(broken / "model.safetensors")
    kept = {k: v for k, v in tensors.items() if k != "text_projection.bias"}
    save_file(kept | {"tracker_model.x": torch.zeros(1)}, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"missing_keys: \['text_projection.bias'\]$"):
        load(broken)
    save_file(tensors | {"tracker_model.x": torch.zeros(1)}, broken / "model.safetensors", {"format": "pt"})
    assert load(broken).parameters > 100_000
    card = find_model("sam3-text")
    options = ModelOptions(card.name, str(card.folder), resolve_args(card, {}))
    with pytest.raises(CheckpointError) as caught:
        make_segmenter(card, options).load()
    assert "hf download facebook/sam3" in caught.value.hint


@pytest.mark.parametrize("part", ["detr_decoder.box_head.", "mask_decoder.", "vision_encoder."])
def test_numbers_that_are_none_are_errors(part: str, shapes: Path, sam3_folder: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(sam3_folder, tmp_path / "sam3"))
    tensors = load_file(broken / "model.safetensors")
    name = next(name for name in sorted(tensors) if part in name and tensors[name].ndim > 1)
    save_file(tensors | {name: tensors[name] * float("nan")}, broken / "model.safetensors", {"format": "pt"})
    ran = run("sam3-text", shapes, tmp_path / "out", {"sam": broken, "threshold": LOW}, limit=4)
    assert set(ran.statuses) == {"error"} and {p["error"] for p in ran.predictions} == {MASK_SCORES}


def test_a_special_token_in_a_phrase_costs_its_own_answer_alone(sam3_folder: Path, images: list[Pixels]) -> None:
    card = find_model("sam3-text")
    args = resolve_args(card, {"sam": str(sam3_folder), "threshold": str(LOW)})
    model = make_segmenter(card, ModelOptions(card.name, str(card.folder), args))
    model.load()
    (token, *_) = sorted(model.sam._processor.tokenizer.all_special_tokens)  # type: ignore[attr-defined]
    queries = tuple(Query(f"s{n}", text) for n, text in enumerate(["dog", f"a {token} b", "cat"]))
    height, width = images[0].shape[:2]
    found = model.segment([ImageTask("i", (height, width), queries, images[0])])
    assert [p.status == "error" for p in found] == [False, True, False] and token in str(found[1].error)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_code_beside_the_weights_is_refused(name: str, concepts: ModuleType, sam3_folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(sam3_folder, tmp_path / "copy"))
    content = json.loads((copy / name).read_text())
    (copy / name).write_text(json.dumps({**content, "auto_map": {"AutoConfig": "code.Own"}}))
    with pytest.raises(CheckpointError, match=name):
        concepts.Sam3.load(copy, "cpu", torch.float32, LOW)


def test_an_adapter_beside_the_weights_is_refused(concepts: ModuleType, sam3_folder: Path, tmp_path: Path) -> None:
    """transformers would apply it where peft is installed, and leave it out elsewhere."""
    copy = Path(shutil.copytree(sam3_folder, tmp_path / "copy"))
    (copy / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="is a LoRA adapter, not a merged checkpoint"):
        concepts.Sam3.load(copy, "cpu", torch.float32, LOW)

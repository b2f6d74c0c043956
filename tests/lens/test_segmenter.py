"""LENS as a model of the harness: cards, local checkpoints, options, predictions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lens_bench import masks
from lens_bench.answers import UNREAD
from lens_bench.cards import read_model_cards
from lens_bench.errors import CheckpointError, UsageError
from lens_bench.lens.engine import Answer
from lens_bench.lens.prompts import strip_caption
from lens_bench.lens.recipe import Recipe
from lens_bench.lens.save import Story, save
from lens_bench.lens.segmenter import LensSegmenter
from lens_bench.lens.segmenter import prediction as record
from lens_bench.lens.tiny import byte_tokenizer, tiny_config, tiny_model
from lens_bench.records import ArgValue, ImageTask, ModelOptions, Pixels, Query
from lens_bench.registry import find_model, make_segmenter, resolve_args
from lens_bench.segmenter import Segmenter, SupportsDigest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint")
    save(tiny_model(tiny_config("lens-1d")), path, byte_tokenizer(), Story("tiny"))
    return path


def tasks(images: list[Pixels]) -> list[ImageTask]:
    names = [["left", "the big one"], ["x"], []]
    return [
        ImageTask(
            f"i{n}", (p.shape[0], p.shape[1]), tuple(Query(f"s{n}-{k}", text) for k, text in enumerate(names[n])), p
        )
        for n, p in enumerate(images)
    ]


def test_a_checkpoint_folder_is_a_model(folder: Path, images: list[Pixels]) -> None:
    card = find_model(str(folder))
    options = ModelOptions(card.name, str(card.folder), resolve_args(card, {}))
    segmenter = make_segmenter(card, options)
    assert isinstance(segmenter, Segmenter) and isinstance(segmenter, SupportsDigest)
    assert len(segmenter.weight_digest()) == 64
    report = segmenter.load()
    assert report.parameters > 300_000 and "positions of the mask pass: lens-1d" in report.notes
    predictions = segmenter.segment(tasks(images))
    assert [p.sample_id for p in predictions] == ["s0-0", "s0-1", "s1-0"]
    for prediction, image in zip(predictions, [images[0], images[0], images[1]], strict=True):
        assert prediction.status == "ok" and prediction.mask is not None and prediction.mask.size == image.shape[:2]
        assert prediction.tokens is not None and prediction.tokens.completion > 0
        assert "SAM 2 features" in prediction.stages_ms
    segmenter.close()
    with pytest.raises(CheckpointError, match="before load"):
        segmenter.segment(tasks(images))


@pytest.mark.parametrize("name", ["lens-3b", "lens-2b", "lens-3b-reasonseg", "lens-3b-reasonseg-cot"])
def test_released_cards_build_recipes_and_say_where_weights_come_from(name: str) -> None:
    card = find_model(name)
    args = resolve_args(card, {})
    Recipe.model_validate({k: v for k, v in args.items() if k in Recipe.model_fields})
    segmenter = make_segmenter(card, ModelOptions(name, str(card.folder), args))
    assert isinstance(segmenter, LensSegmenter)
    with pytest.raises(CheckpointError) as caught:
        segmenter.folder()
    assert "checkpoint=FOLDER" in caught.value.hint


def test_what_each_card_asks() -> None:
    cards = {c.name: resolve_args(c, {}) for c in read_model_cards(ROOT / "baselines" / "lens" / "model.yaml")}
    plain = "Output the bounding box of the {expression} in the image."
    assert {n for n, a in cards.items() if a["question"] == plain} == {"lens-3b", "lens-2b", "lens-3b-reasonseg"}
    thinking = str(cards["lens-3b-reasonseg-cot"]["question"])
    assert thinking.startswith('Locate "{expression}", report the bbox coordinates in JSON format.Compare ')
    assert thinking.endswith("i.e., <think>thinking process here</think><answer>answer here</answer>")
    assert {n for n, a in cards.items() if a["sizing"] == "longest-side"} == {
        "lens-3b-reasonseg",
        "lens-3b-reasonseg-cot",
    }
    assert cards["lens-2b"]["coordinates"] == "thousandths" and cards["lens-3b"]["coordinates"] == "pixels"
    assert all(a["max_length"] == 768 and a["strip_caption"] is False for a in cards.values())


def answers(folder: Path, images: list[Pixels], **args: ArgValue) -> list[str | None]:
    segmenter = LensSegmenter(ModelOptions("tiny", str(folder), args))
    segmenter.load()
    try:
        return [p.text for p in segmenter.segment(tasks(images))]
    finally:
        segmenter.close()


def test_arguments_change_how_it_is_asked(folder: Path, images: list[Pixels]) -> None:
    usual = answers(folder, images)
    assert usual == answers(folder, images, rows=1)
    assert usual != answers(folder, images, question="Where is {expression}?")
    assert usual != answers(folder, images, max_pixels=56 * 56, min_pixels=28 * 28)
    assert strip_caption("x") == "x"


@pytest.mark.parametrize("decode", ["auto", "eager", "static"])
def test_how_it_decodes_is_said_and_changes_nothing(folder: Path, images: list[Pixels], decode: str) -> None:
    segmenter = LensSegmenter(ModelOptions("tiny", str(folder), {"decode": decode}))
    notes = segmenter.load().notes
    assert f"decoding: {'eager (auto)' if decode == 'auto' else decode}" in notes
    assert "attention: language model sdpa, vision tower sdpa, SAM 2 sdpa" in notes
    assert [p.text for p in segmenter.segment(tasks(images))] == answers(folder, images)
    segmenter.close()


def test_positions_can_be_overridden(folder: Path, images: list[Pixels]) -> None:
    found = []
    for positions in ("checkpoint", "mrope"):
        segmenter = LensSegmenter(ModelOptions("tiny", str(folder), {"positions": positions}))
        segmenter.load()
        found.append([p.mask for p in segmenter.segment(tasks(images))])
    one, three = found
    assert all(a is not None and b is not None for a, b in zip(one, three, strict=True))
    assert any(not np.array_equal(masks.decode(a), masks.decode(b)) for a, b in zip(one, three, strict=True) if a and b)


def test_impossible_options_are_usage_errors(folder: Path) -> None:
    with pytest.raises(UsageError, match="engine"):
        LensSegmenter(ModelOptions("tiny", str(folder), {}, engine="magic")).load()
    with pytest.raises(UsageError, match="needs a CUDA device"):
        LensSegmenter(ModelOptions("tiny", str(folder), {"decode": "graphs"})).load()
    with pytest.raises(UsageError, match="is for engine hf"):
        LensSegmenter(ModelOptions("tiny", str(folder), {"decode": "static"}, engine="vllm")).load()
    with pytest.raises(UsageError, match="placeholder"):
        LensSegmenter(ModelOptions("tiny", str(folder), {"question": "what?"})).load()
    with pytest.raises(CheckpointError, match="no checkpoint folder"):
        LensSegmenter(ModelOptions("tiny", str(folder), {"checkpoint": "/nowhere"})).load()
    with pytest.raises(CheckpointError, match="no weights"):
        LensSegmenter(ModelOptions("tiny", str(folder.parent), {})).load()


def test_bfloat16_runs(folder: Path, images: list[Pixels]) -> None:
    options = ModelOptions("tiny", str(folder), {"sam_dtype": "float32"}, dtype="bfloat16")
    segmenter = LensSegmenter(options)
    segmenter.load()
    assert all(p.status == "ok" for p in segmenter.segment(tasks(images)))


def test_an_answer_with_numbers_but_no_box_is_marked() -> None:
    mask = masks.full((2, 2))
    for text, box, mark in (
        ("[1, 2, 3, 4, 5, 6]", None, UNREAD),
        ("it is not there", None, None),
        ("[1, 2, 3, 4]", (1.0, 2.0, 3.0, 4.0), None),
    ):
        found = record("s", Answer(text, (), box, mask, 1), {})
        assert (found.status, found.box, found.error) == ("ok", box, mark)

"""Every reader of a file, fed damaged files: it reads them or raises a ``LensBenchError``, and nothing else.

A new reader gets a line in one of the tables. ``LENS_BENCH_FUZZ=1000`` tries that many versions of each file.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from lens_bench.answers import read_answer
from lens_bench.cards import read_model_cards, read_suite_card
from lens_bench.checkpoint_files import digest, require_no_code, require_unquantised, weight_files
from lens_bench.data.images import read_encoded
from lens_bench.data.split import open_split
from lens_bench.data.verify import verify_split
from lens_bench.errors import LensBenchError
from lens_bench.lens.config import read_config
from lens_bench.lens.prompts import load_tokenizer
from lens_bench.lens.sources import SafetensorsSource, pickle_source
from lens_bench.masks import encode, rle_to_json
from lens_bench.perf.profile_file import PROFILE_NAME, profile_from_json
from lens_bench.picture import read_picture
from lens_bench.registry import find_suite
from lens_bench.report.gate_reference import make_reference, read_reference, write_reference
from lens_bench.report.leaderboard.measured import collect
from lens_bench.report.plots.training import read_log as drawn_log
from lens_bench.report.published import read_published
from lens_bench.report.runset import load_run
from lens_bench.report.view import reports
from lens_bench.run.evaluate import run_splits
from lens_bench.run.files import RunFiles, find_runs, read_json, read_scores
from lens_bench.run.journal import read, repair
from lens_bench.run.manifest import read_manifest
from lens_bench.run.plan import make_model
from lens_bench.run.predictions_file import read_predictions
from lens_bench.run.rescore import rescore
from lens_bench.run.seen_images import SeenImages
from lens_bench.train.begun import Begun, require_same, write_down
from lens_bench.train.curriculum import measured_rewards
from lens_bench.train.durable import damage, seal
from lens_bench.train.log import read_log
from lens_bench.train.recipe_files import load_recipe
from lens_bench.train.usable import find_problems, read_left_out
from lens_bench.vlm.endpoint import read_completion

from ..conftest import make_tiny
from ..data.conftest import SQUARE, Tiny
from ..report.test_profile_columns import profile_of, put
from ..train.conftest import tiny_recipe
from .mutations import mutations

REPOSITORY = Path(__file__).parents[2]
NUMBER = int(os.environ.get("LENS_BENCH_FUZZ", "24"))
FAST = 4 * NUMBER  # of readers that take no time


@dataclass(frozen=True)
class Target:
    """A reader.

    Attributes:
        make: Writes good files into an empty folder; returns the one to damage.
        read: Reads that file, and what it belongs to.
        number: How many damaged versions are tried.
    """

    make: Callable[[Path], Path]
    read: Callable[[Path], object]
    number: int = NUMBER


# ---------------------------------------------------------------------------------------------- suites

MASK = np.zeros((20, 30), dtype=bool)
MASK[2:8, 2:10] = True
RLE = rle_to_json(encode(MASK))


def _suite(write: Callable[[Tiny], Path], name: str, split: str) -> Target:
    """A split of a shipped card, opened and looked through as `data verify` does."""

    def make(folder: Path) -> Path:
        tiny = Tiny(folder)
        tiny.picture("somewhere.png")
        return write(tiny)

    def look(path: Path) -> None:
        verify_split(open_split(find_suite(name), split, _root(path), allow_partial=True), workers=1)

    return Target(make, look)


def _root(path: Path) -> Path:
    """The folder that `make` was given."""
    return next(parent for parent in path.parents if parent.name == "made")


def _refer(tiny: Tiny, part: str, **where: Any) -> Path:
    ref = tiny.ref(1, 7, 70, ["the dog", "a dog"], split=where.pop("split", "val"), **where.pop("more", {}))
    files = tiny.refer([ref], [tiny.image(7)], [tiny.annotation(70, 7), tiny.annotation(71, 7, RLE)], **where)
    return files[part]


def _coco(tiny: Tiny, part: str, form: str = "json") -> Path:
    tiny.picture("my_suite/images/a.png")
    content = {"images": [tiny.image(7, name="a.png")], "annotations": [tiny.annotation(70, 7)], "categories": []}
    annotations = tiny.json("my_suite/annotations.json", content)
    row = {"expression": "the dog", "ann_ids": [70], "tags": ["animal"], "id": "first"}
    expressions = annotations.parent / f"expressions.{form}"
    text = {
        "json": json.dumps([row]),
        "jsonl": json.dumps(row) + "\n",
        "csv": 'expression,ann_ids,tags\n"a, dog",70,x\n',
    }
    expressions.write_text(text[form])
    return annotations if part == "annotations" else expressions


def _reasonseg(tiny: Tiny) -> Path:
    points = [[2, 2], [10, 2], [10, 8], [2, 8]]
    shapes = [
        {"label": "target", "points": points, "shape_type": "polygon"},
        {"label": "ignore", "points": [[1, 1], [5, 5]], "shape_type": "circle"},
    ]
    tiny.picture("ReasonSeg/test/a.jpg")
    return tiny.json("ReasonSeg/test/a.json", {"text": ["the seat"], "is_sentence": False, "shapes": shapes})


def _gseval(tiny: Tiny) -> Path:
    row = {
        "idx": 0, "image_path": "unlabeled2017/a.jpg", "class_id": 1, "label": "x", "caption": "A dog.",
        "box": [2.0, 2.0, 10.0, 8.0], "segmentation": RLE,
    }  # fmt: skip
    path = tiny.root / "GroundingSuite-Eval.jsonl"
    path.write_text(json.dumps(row) + "\n" + json.dumps({**row, "idx": 1}) + "\n")
    return path


def _questions(tiny: Tiny) -> Path:
    answers = [[{"bbox": [2, 2, 8, 6], "segmentation": [list(SQUARE)]}], [{"segmentation": RLE}]]
    entry = {
        "height": 20, "width": 30, "image_id": 9, "coco_url": "http://x/val2017/000000000009.jpg",
        "questions": ["which?", "what?"], "answers": answers,
    }  # fmt: skip
    return tiny.json("muse/muse_val.json", [entry])


def _phrasecut(tiny: Tiny, part: str) -> Path:
    polygon = [[2, 2], [10, 2], [10, 8], [2, 8]]
    task = {
        "task_id": "5__1", "image_id": 5, "ann_ids": [1], "phrase": "black cat", "instance_boxes": [[2, 2, 8, 6]],
        "Polygons": [[polygon]], "phrase_structure": {"name": "cat", "attributes": ["black"], "type": "attribute"},
    }  # fmt: skip
    sizes = tiny.json("VGPhraseCut_v0/image_data_split3000.json", [{"image_id": 5, "height": 20, "width": 30}])
    tasks = tiny.json("VGPhraseCut_v0/refer_val.json", [task])
    return sizes if part == "sizes" else tasks


def _refcocom(tiny: Tiny, part: str) -> Path:
    record = {"img_name": "COCO_train2014_000000000009.jpg", "segment_id": 31, "sentences": [{"sent": "left ear"}]}
    path = tiny.json("refcocom/annotations/testA.json", [record])
    mask = tiny.root / "refcocom" / "masks" / "31.png"
    mask.parent.mkdir()
    Image.fromarray(MASK.astype(np.uint8) * 255).save(mask)
    return mask if part == "mask" else path


def _table(tiny: Tiny, name: str, form: str) -> Path:
    folder = tiny.root / name / "data"
    folder.mkdir(parents=True)
    picture = io.BytesIO()
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(picture, "PNG")
    image = {"bytes": picture.getvalue(), "path": None}
    if name == "hub":
        rows: dict[str, list[Any]] = {"image": [image], "text": ["the dog"], "mask": [MASK.tolist()], "image_id": ["a"]}
    else:
        info = {"file_name": "a.jpg", "height": 20, "width": 30}
        annotation = {"id": 70, "image_id": 7, "bbox": [2.0, 2.0, 8.0, 6.0], "segmentation": [list(SQUARE)]}
        ref = tiny.ref(1, 7, 70, ["the dog"])
        ref.pop("file_name")
        rows = {"image": [image], "image_info": [info], "ref_list": [[{"ann_info": annotation, "ref_info": ref}]]}
    table = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    path = folder / f"{'test' if name == 'hub' else 'refcoco_unc_val'}-00000-of-00001.{form}"
    if form == "parquet":
        table.to_parquet(path)
    else:
        path.write_text(
            json.dumps({"image": "x.png", "text": "the dog", "mask": MASK.tolist(), "image_id": "a"}) + "\n"
        )
        tiny.picture("hub/x.png")
    return path


SUITES = {
    "refer instances": _suite(partial(_refer, part="instances"), "refcoco", "val"),
    "refer refs": _suite(partial(_refer, part="refs"), "refcoco", "val"),
    "grefer refs": _suite(partial(_refer, part="refs", folder="grefcoco", name="grefs(unc).json"), "grefcoco", "val"),
    "ref-zom refs": _suite(
        partial(_refer, part="refs", folder="ref-zom", name="refs(final).p", split="test", more={"source": "one"}),
        "ref-zom", "test",
    ),
    "coco annotations": _suite(partial(_coco, part="annotations"), "coco-json", "all"),
    "coco expressions json": _suite(partial(_coco, part="expressions"), "coco-json", "all"),
    "coco expressions jsonl": _suite(partial(_coco, part="expressions", form="jsonl"), "coco-json", "all"),
    "coco expressions csv": _suite(partial(_coco, part="expressions", form="csv"), "coco-json", "all"),
    "labelme": _suite(_reasonseg, "reasonseg", "test"),
    "gseval": _suite(_gseval, "gseval", "eval"),
    "questions": _suite(_questions, "muse", "val"),
    "phrasecut tasks": _suite(partial(_phrasecut, part="tasks"), "phrasecut", "val"),
    "phrasecut sizes": _suite(partial(_phrasecut, part="sizes"), "phrasecut", "val"),
    "refcocom annotations": _suite(partial(_refcocom, part="annotations"), "refcocom", "testA"),
    "refcocom masks": _suite(partial(_refcocom, part="mask"), "refcocom", "testA"),
    "table parquet": _suite(partial(_table, name="hub", form="parquet"), "hub", "test"),
    "table jsonl": _suite(partial(_table, name="hub", form="jsonl"), "hub", "test"),
    "refer table": _suite(
        partial(_table, name="refcoco-benchmark", form="parquet"), "refcoco-benchmark", "refcoco-val"
    ),
}  # fmt: skip

# ---------------------------------------------------------------------------------------------- runs


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run by the engine, scored under two protocols, and a page beside it."""
    root = tmp_path_factory.mktemp("run")
    tiny = make_tiny(root, images=2)
    plan = tiny.plan("noisy-oracle", root / "runs", args={"shift": "6", "drop": "0.2"}, also=("lisa",))
    _, segmenter = make_model(plan.card, plan.request)
    list(run_splits([plan], segmenter))
    (plan.files.root / "report.html").write_text("<html></html>")
    put(plan.files, profile_of(plan.files))
    plan.files.root.rename(root / "runs" / "run")
    return root


def _everything(path: Path) -> None:
    """What the commands that list a folder of runs do: none of them stops at a damaged run."""
    runs = path.parent.parent
    collect(runs)
    reports(runs)
    list(find_runs(runs))


def _of_run(read_it: Callable[[RunFiles], object], name: str) -> Target:
    def make(folder: Path) -> Path:
        return folder / "runs" / "run" / name

    def look(path: Path) -> None:
        _everything(path)
        read_it(RunFiles(path.parent))

    return Target(make, look)


def _resume(files: RunFiles) -> None:
    repair(files.predictions)
    list(read(files.predictions))


def _rescored(files: RunFiles) -> None:
    root = files.root.parent.parent
    rescore(files, ["strict"], data_root=root / "data", suite=str(root / "tiny.yaml"))


def _scores_alone(files: RunFiles) -> None:
    read_scores(files.scores, hashlib.sha256(files.scores.read_bytes()).hexdigest())


RUNS = {
    "manifest": _of_run(read_manifest, "manifest.json"),
    "summary": _of_run(load_run, "summary.json"),
    "summary of another protocol": _of_run(lambda files: load_run(files, "lisa"), "summary.lisa.json"),
    "scores": _of_run(_scores_alone, "scores.jsonl"),
    "journal": _of_run(_resume, "predictions.jsonl"),
    "journal scored again": _of_run(_rescored, "predictions.jsonl"),
    "profile": _of_run(lambda files: profile_from_json(read_json(files.root / PROFILE_NAME), "it"), PROFILE_NAME),
}

# ---------------------------------------------------------------------------------------------- single files


def _written(name: str, content: bytes | str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return make


def _copied(source: str) -> Callable[[Path], Path]:
    return _written(Path(source).name, (REPOSITORY / source).read_bytes())


def _encoded(form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, form, **options)
    return buffer.getvalue()


PREDICTIONS = "".join(
    json.dumps({"sample_id": f"a/{i}", "mask": RLE, "box": [2, 2, 10, 8], "score": 0.5, "text": "x"}) + "\n"
    for i in range(2)
)


def _gate(folder: Path) -> Path:
    path = folder / "gate.json"
    source = find_runs(folder / "runs")[0]
    write_reference(path, make_reference(load_run(source)))
    return path


def _seen(folder: Path) -> Path:
    path = folder / "images.jsonl"
    with SeenImages(path, {}) as seen:
        for number in range(3):
            seen.see(f"image{number}", f"{number}.png", f"{number}-abc")
    return path


def _pickled(folder: Path) -> Path:
    torch.save({"model": {"a.weight": torch.zeros(2, 3), "b": torch.ones(4)}}, folder / "model.pt")
    return folder / "model.pt"


def _tensors(folder: Path) -> Path:
    save_file({"a.weight": torch.zeros(2, 3), "b": torch.ones(4)}, folder / "model.safetensors")
    return folder / "model.safetensors"


def _every_tensor(path: Path) -> None:
    source = SafetensorsSource([path])
    for name in source.shapes():
        source.tensor(name)


def _indexed(folder: Path) -> Path:
    save_file({"a": torch.zeros(2)}, folder / "model-00001-of-00001.safetensors")
    index = {"metadata": {}, "weight_map": {"a": "model-00001-of-00001.safetensors"}}
    return _written("model.safetensors.index.json", json.dumps(index))(folder)


def _checkpoint(path: Path) -> None:
    folder = path.parent
    require_no_code(folder)
    require_unquantised(folder)
    weight_files(folder)
    digest(folder)


def _beside_weights(name: str) -> Callable[[Path], Path]:
    """The settings of lens-nano, without its weights."""

    def make(folder: Path) -> Path:
        for path in (REPOSITORY / "baselines/lens_nano").glob("*.json"):
            shutil.copy(path, folder)
        return folder / name

    return make


def _tokenized(path: Path) -> None:
    load_tokenizer(path.parent).encode("the red circle")


SINGLE = {
    "tokenizer": Target(_beside_weights("tokenizer.json"), _tokenized),
    "settings of a tokenizer": Target(_beside_weights("tokenizer_config.json"), _tokenized),
    "reply of an endpoint": Target(
        _written("reply.json", json.dumps({"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}]})),
        lambda path: read_completion(path.read_bytes()), FAST,
    ),
    "suite card": Target(_copied("suites/refcoco.yaml"), read_suite_card, FAST),
    "model card": Target(_copied("baselines/lens_nano/model.yaml"), read_model_cards, FAST),
    "published numbers": Target(
        _written("published.csv", b"".join((REPOSITORY / "results/published.csv").read_bytes().splitlines(True)[:6])),
        read_published, FAST,
    ),
    "predictions": Target(_written("p.jsonl", PREDICTIONS), read_predictions, FAST),
    "predictions as a list": Target(
        _written("p.json", json.dumps([json.loads(line) for line in PREDICTIONS.splitlines()])), read_predictions, FAST
    ),
    "images of a run": Target(_seen, lambda path: SeenImages(path, {}).check(), FAST),
    "recipe": Target(_copied("lens_bench/train/recipes/nano-stage2.yaml"), lambda path: load_recipe(str(path)), FAST),
    "chain": Target(_copied("lens_bench/train/recipes/nano-smoke.yaml"), lambda path: load_recipe(str(path)), FAST),
    "training log": Target(
        _written("train_log.jsonl", "".join(json.dumps({"step": i, "loss": 1.5, "lr": 0.1}) + "\n" for i in range(4))),
        drawn_log, FAST,
    ),
    "png": Target(_written("a.png", _encoded("PNG")), lambda path: read_encoded(path.read_bytes(), "a", True), FAST),
    "jpeg": Target(_written("a.jpg", _encoded("JPEG")), lambda path: read_encoded(path.read_bytes(), "a", True), FAST),
    "tiff": Target(_written("a.tif", _encoded("TIFF")), lambda path: read_encoded(path.read_bytes(), "a", True), FAST),
    "webp": Target(_written("a.webp", _encoded("WEBP")), read_picture, FAST),
    "answer": Target(
        _written("a.txt", 'so <think>a [1, 2]</think> ```json\n{"bbox_2d": [10, 20, 30, 40], "label": "x"}```'),
        lambda path: read_answer(path.read_bytes().decode("utf-8", "replace")), FAST,
    ),
    "lens config": Target(_copied("baselines/lens_nano/lens_config.json"), read_config),
    "checkpoint index": Target(_indexed, _checkpoint, FAST),
    "safetensors": Target(_tensors, _every_tensor),
    "pickled tensors": Target(_pickled, pickle_source),
}  # fmt: skip

# ---------------------------------------------------------------------------------------------- trainings


def _recipe(folder: Path) -> Path:
    """What a training of one step leaves, as far as its readers look."""
    write_down(folder, Begun(tiny_recipe("supervised"), {"shapes/train": "a"}, "b"))
    (folder / "checkpoint-00000001").mkdir()
    _tensors(folder / "checkpoint-00000001")
    seal(folder / "checkpoint-00000001", 1)
    (folder / "train_log.jsonl").write_text("".join(json.dumps({"step": i, "loss": 1.5}) + "\n" for i in range(4)))
    return folder / "recipe.json"


def _continued(path: Path) -> None:
    begun = Begun(tiny_recipe("supervised", {"batch": {"micro": 1}}), {"shapes/train": "a"}, "b")
    require_same(path.parent, begun)
    write_down(path.parent, begun)


def _sealed(path: Path) -> None:
    damage(path.parent)


def _problems(folder: Path) -> Path:
    """What the check of a split remembers."""
    tiny = Tiny(folder)
    _coco(tiny, "annotations")
    os.environ["LENS_BENCH_CACHE"] = str(folder / "cache")  # the fixture puts it back
    _checked(folder / "cache" / "x")
    return next((folder / "cache").glob("*-problems.json"))


def _checked(path: Path) -> None:
    find_problems("coco-json/all", open_split(find_suite("coco-json"), "all", path.parents[1], allow_partial=True))


TRAININGS = {
    "recipe of a training": Target(_recipe, _continued),
    "log of a training": Target(
        lambda folder: _recipe(folder).with_name("train_log.jsonl"),
        lambda path: (read_log(path), drawn_log(path)),
        FAST,
    ),
    "digests": Target(lambda folder: _recipe(folder).parent / "checkpoint-00000001" / "digests.json", _sealed, FAST),
    "left out": Target(
        _written("left_out.json", json.dumps({"a/val": {"a/val/1": "broken image"}})), read_left_out, FAST
    ),
    "measured rewards": Target(_written("measured.json", json.dumps({"0": 0.5, "3": 1})), measured_rewards, FAST),
    "problems of a split": Target(_problems, _checked),
}
SINGLE["gate reference"] = Target(_gate, read_reference)

# ---------------------------------------------------------------------------------------------- the test

TARGETS = SUITES | RUNS | SINGLE | TRAININGS


@pytest.mark.parametrize("name", TARGETS)
def test_a_damaged_file_is_read_or_refused(
    name: str, whole_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LENS_BENCH_CACHE", "off")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    target, folder = TARGETS[name], tmp_path / "made"
    if name in RUNS or name == "gate reference":
        shutil.copytree(whole_run, folder)
    else:
        folder.mkdir()
    path = target.make(folder)
    good = path.read_bytes()
    target.read(path)
    refused = 0
    for what, content in mutations(good, name, target.number):
        path.write_bytes(content)
        try:
            target.read(path)
        except LensBenchError as error:
            refused += 1
            assert error.exit_code in (1, 2, 4, 5), what
        except Exception as error:
            error.add_note(f"{name}: {what}; see {path}")
            raise
    assert refused or name in PATIENT


# These read around damage on purpose: a cache is made again, a model's text may be anything.
PATIENT = {"answer", "reply of an endpoint", "problems of a split", "digests"}

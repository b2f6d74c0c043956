"""What a person's own data may hold without ending a training."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import yaml

from lens_bench import masks
from lens_bench.cli.app import app
from lens_bench.data import verify
from lens_bench.data.split import open_split
from lens_bench.errors import RunError
from lens_bench.records import Sample
from lens_bench.registry import find_suite
from lens_bench.train.album import truth_of
from lens_bench.train.data import open_data, open_items
from lens_bench.train.log import read_log
from lens_bench.train.loop import Where, train
from lens_bench.train.usable import find_problems
from lens_bench.trained import LEFT_OUT

from .commands import command, write_recipe
from .conftest import Watcher, tiny_recipe
from .own_set import BROKEN, LONG, NO_BOX, OUTSIDE, write_own_set

OWN = {"splits": ["coco-json/train"], "held_out": ["coco-json/val"], "unit": "expression"}
SEEN = {"split": "coco-json/val", "every": 2, "samples": 8}


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LENS_BENCH_CACHE", str(tmp_path / "cache"))
    write_own_set(tmp_path / "data", "train", 16, faults=True)
    write_own_set(tmp_path / "data", "val", 7, faults=True)
    return tmp_path / "data"


def test_what_cannot_be_used_is_found_and_remembered(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = open_split(find_suite("coco-json"), "train", own, allow_partial=True)
    found = find_problems("coco-json/train", split)
    kinds = {int(name.rpartition("/")[2]): reason.partition(":")[0] for name, reason in found.items()}
    assert kinds == {BROKEN: "broken image", LONG: "elongated image", OUTSIDE: kinds[OUTSIDE]}

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the images were decoded again")

    monkeypatch.setattr("lens_bench.train.usable.verify_split", refuse)
    assert find_problems("coco-json/train", split) == found
    # Other bytes are other images.
    split.samples[0].image.path.touch()  # type: ignore[attr-defined]
    with pytest.raises(AssertionError, match="decoded again"):
        find_problems("coco-json/train", split)


class Signalled:
    """Sends SIGTERM to this process in the middle of a check, and slows down what comes after it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
        self.calls, self.at, self._real = 0, at, verify._check
        monkeypatch.setattr(verify, "_check", self)
        monkeypatch.setattr("lens_bench.train.usable.os.cpu_count", lambda: 1)

    def __call__(self, samples: Sequence[Sample], *, decode: bool) -> verify.Checked:
        self.calls += 1
        if self.calls == self.at:
            os.kill(os.getpid(), signal.SIGTERM)
        if self.calls >= self.at:
            time.sleep(1.0)  # a busy machine needs some time to notice the signal
        return self._real(samples, decode=decode)


@pytest.mark.parametrize("cache", [True, False])
def test_a_signal_stops_the_check_and_what_was_checked_is_not_checked_again(
    cache: bool, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(tiny_recipe("supervised", {"data": OWN, "evaluation": SEEN}), tmp_path / "recipe.yaml")
    assert command(recipe, tmp_path / "whole", own) == 0
    shutil.rmtree(tmp_path / "cache")
    if not cache:
        monkeypatch.setenv("LENS_BENCH_CACHE", "off")
    first = Signalled(monkeypatch, at=6)
    capsys.readouterr()
    assert command(recipe, tmp_path / "parts", own) == 75
    said = " ".join(capsys.readouterr().err.split())
    assert "a signal stopped the check of coco-json/" in said and "the same command continues" in said
    assert 6 <= first.calls < 12 and not read_log(tmp_path / "parts" / "train_log.jsonl")
    kept = list((tmp_path / "cache").glob("*-checked.json"))
    done = sum(len(json.loads(path.read_text())["images"]) for path in kept)
    assert done >= 5 if cache else not kept
    second = Signalled(monkeypatch, at=99)
    assert command(recipe, tmp_path / "parts", own) == 0
    images = len(list(own.glob("my_suite/*/images/*.png")))
    assert second.calls == images - done
    assert not list((tmp_path / "cache").glob("*-checked.json"))
    one, other = (tmp_path / name / LEFT_OUT for name in ("whole", "parts"))
    assert json.loads(one.read_text()) == json.loads(other.read_text())


@pytest.mark.parametrize("content", ["{", "[]", '{"state": "another", "images": {}}', "unknown", "shape"])
def test_a_broken_memory_of_a_check_costs_only_the_time(
    content: str, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = open_split(find_suite("coco-json"), "train", own, allow_partial=True)
    whole = find_problems("coco-json/train", split)
    (path,) = (tmp_path / "cache").glob("*-problems.json")
    state = json.loads(path.read_text())["state"]
    finding = {"kind": "broken image", "sample_id": "of another split", "detail": ""}
    checked = {"findings": [finding], "empty": [], "overlapping": 0, "no_target": 0}
    more = {"unknown": {"0": checked}, "shape": {"0": 1}}
    if content in more:
        content = json.dumps({"state": state, "images": more[content]})
    path.rename(path.with_name(path.name.replace("-problems", "-checked"))).write_text(content)
    counted = Signalled(monkeypatch, at=99)
    assert find_problems("coco-json/train", split) == whole and counted.calls == 16


def test_a_signal_stops_the_making_of_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make = importlib.import_module("lens_bench.data.shapes.make")
    real = make._draw_chunk

    def draw(*arguments: object) -> object:
        os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments)

    monkeypatch.setattr(make, "_draw_chunk", draw)
    recipe = write_recipe(tiny_recipe("sam", {"data": {"images": 2 * make._CHUNK}}), tmp_path / "recipe.yaml")
    (tmp_path / "data").mkdir()
    assert command(recipe, tmp_path / "out", tmp_path / "data") == 75
    said = " ".join(capsys.readouterr().err.split())
    assert f"a signal stopped the making of data after image {make._CHUNK} of {2 * make._CHUNK}" in said
    assert not list(tmp_path.glob("data*/shapes/*"))


def test_the_box_of_the_mask_stands_in_for_a_placeholder(own: Path) -> None:
    items = {int(item.sample.id.rpartition("/")[2]): item for item in open_items("coco-json/train", own)}
    truth = items[NO_BOX].sample.truth
    assert truth.box == (0.0, 0.0, 0.0, 0.0)
    union, _, _ = masks.merge_truth(truth)
    assert truth_of(truth).box == masks.box_of(union) is not None
    other = items[0].sample.truth
    assert truth_of(other).box == other.box  # one that covers something stays


@pytest.mark.parametrize("stage", ["supervised", "grpo"])
def test_faults_of_a_set_are_reported_and_left_out(own: Path, tmp_path: Path, stage: str) -> None:
    recipe = tiny_recipe(stage, {"data": OWN, "evaluation": SEEN, "saving": {"every": 1}, "optimiser": {"steps": 4}})
    watcher = Watcher()
    train(recipe, Where(tmp_path / "out", own), watcher)
    notes = "\n".join(watcher.notes)
    for split in ("train", "val"):
        assert f"coco-json/{split}: 1 expression is left out (broken image: " in notes
        assert f"coco-json/{split}: 1 expression is left out (elongated image: " in notes
    left = json.loads((tmp_path / "out" / LEFT_OUT).read_text())
    assert {name: len(found) for name, found in left.items()} == {"coco-json/train": 3, "coco-json/val": 3}
    log = read_log(tmp_path / "out" / "train_log.jsonl")
    assert all(line["data/skipped"] == 0.0 for line in log)
    assert "eval/giou" in log[1]


def test_a_resumed_training_leaves_out_what_it_left_out_before(own: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe("supervised", {"data": OWN, "saving": {"every": 1}, "optimiser": {"steps": 4}})
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(recipe, Where(whole, own), Watcher())
    with pytest.raises(KeyboardInterrupt):
        train(recipe, Where(parts, own), Watcher(kill_at=2))
    # Mended in the meantime: the order of the data stays what it was.
    image = own / "my_suite" / "train" / "images" / f"{BROKEN:04d}.png"
    image.write_bytes((own / "my_suite" / "train" / "images" / "0000.png").read_bytes())
    train(recipe, Where(parts, own), Watcher())
    name = Path("final") / "model.safetensors"
    assert (whole / name).read_bytes() == (parts / name).read_bytes()


class Spoiler(Watcher):
    """Destroys every second image after the first step."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def step(self, values: Mapping[str, float]) -> None:
        super().step(values)
        for path in self._folder.glob("*[13579].png"):
            path.write_bytes(b"gone")


def test_an_image_that_fails_later_is_replaced_and_counted(own: Path, tmp_path: Path) -> None:
    settings = {"data": OWN, "optimiser": {"steps": 4}, "stop": {"unreadable": 1.0}}
    watcher = Spoiler(own / "my_suite" / "train" / "images")
    train(tiny_recipe("supervised", settings), Where(tmp_path / "out", own), watcher)
    skipped = [values["data/skipped"] for values in watcher.steps]
    assert len(skipped) == 4 and skipped[0] == 0 and sum(skipped) > 0
    assert any(note.startswith("skipped coco-json/train/") for note in watcher.notes)


def test_too_many_images_that_fail_later_end_the_training(own: Path, tmp_path: Path) -> None:
    settings = {"data": OWN, "optimiser": {"steps": 4}, "stop": {"unreadable": 0.0}}
    with pytest.raises(RunError, match=r"too many images cannot be read: .* of those drawn"):
        recipe = tiny_recipe("supervised", settings)
        train(recipe, Where(tmp_path / "out", own), Spoiler(own / "my_suite" / "train" / "images"))


def test_own_images_through_the_command_line(own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fields = tiny_recipe("supervised", {"data": OWN, "evaluation": SEEN, "optimiser": {"steps": 2}})
    path = tmp_path / "robots.yaml"
    path.write_text(yaml.safe_dump(fields.model_dump(mode="json", exclude_defaults=True)), encoding="utf-8")
    arguments = ["train", str(path), "--out", str(tmp_path / "out"), "--data-root", str(own)]
    app(arguments, standalone_mode=False)
    shown = capsys.readouterr().err
    assert "1 expression is left out (broken image" in shown and "1 expression is left out (elongated image" in shown
    assert (tmp_path / "out" / "final" / "model.safetensors").is_file()


def test_images_numbered_alike_in_two_folders_are_not_the_same(own: Path) -> None:
    data = open_data(tiny_recipe("supervised", {"data": OWN}).data, own)
    assert data.dropped == 1  # the elongated images are equal
    images = own / "my_suite"
    (images / "val" / "images" / "0005.png").write_bytes((images / "train" / "images" / "0005.png").read_bytes())
    assert open_data(tiny_recipe("supervised", {"data": OWN}).data, own).dropped == 2

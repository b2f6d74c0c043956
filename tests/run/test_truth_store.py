"""What is kept on disk is what would be made anew, whatever became of the file."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from lens_bench import masks
from lens_bench.records import GroundTruth, Outline, Polygon, Rle
from lens_bench.registry import find_model
from lens_bench.run import truth_store
from lens_bench.run.evaluate import run_splits
from lens_bench.run.plan import Request, make_model
from lens_bench.run.truth_store import TruthStore, cache_folder
from lens_bench.scoring.counts import PreparedTruth, prepare_truth
from lens_bench.scoring.protocols import PROTOCOLS, get_protocol

SIZE = (60, 90)


def blob(seed: int) -> Rle:
    return masks.encode(np.random.default_rng(seed).random(SIZE) < 0.3)


def square(x: float, y: float, side: float) -> tuple[float, ...]:
    return (x, y, x + side, y, x + side, y + side, x, y + side)


TRUTHS = (
    GroundTruth(SIZE, (Polygon(square(5, 5, 40)),), box=(5.0, 5.0, 45.0, 45.0)),
    GroundTruth(SIZE, (Polygon(square(5, 5, 30)), Polygon(square(20, 20, 30)))),  # overlapping parts
    GroundTruth(SIZE, (blob(0),), ignore=(blob(1),)),
    GroundTruth(SIZE, no_target=True),
    GroundTruth(SIZE, outlines=(Outline(square(3, 3, 50), False), Outline(square(20, 10, 9), True))),
)


def same(a: PreparedTruth, b: PreparedTruth) -> bool:
    facts = [(t.target, t.ignore, t.area, t.box, t.band.x, t.band.top, t.band.area, t.band.bits.shape) for t in (a, b)]
    return facts[0] == facts[1] and bool(np.array_equal(a.band.bits, b.band.bits))


@pytest.fixture
def nothing_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("made anew")

    monkeypatch.setattr(truth_store, "prepare_truth", refuse)


def fill(folder: Path, name: str = "strict") -> Path:
    with TruthStore("0" * 64, get_protocol(name), folder) as store:
        for truth in TRUTHS:
            store.prepare(truth)
    return max(folder.glob("*.bin"), key=lambda path: path.stat().st_mtime_ns)


@pytest.mark.parametrize("name", sorted(PROTOCOLS))
def test_a_second_run_finds_what_the_first_one_made(tmp_path: Path, name: str, request: pytest.FixtureRequest) -> None:
    protocol = get_protocol(name)
    expected = [prepare_truth(truth, protocol) for truth in TRUTHS]
    fill(tmp_path, name)
    request.getfixturevalue("nothing_is_made")
    with TruthStore("0" * 64, protocol, tmp_path) as store:
        assert all(same(store.prepare(t), e) for t, e in zip(TRUTHS, expected, strict=True))


def test_entries_are_added_to_those_that_are_there(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    strict = get_protocol("strict")
    for truths in (TRUTHS[:2], TRUTHS[1:4], TRUTHS[4:]):
        with TruthStore("0" * 64, strict, tmp_path) as store:
            for truth in truths:
                store.prepare(truth)
    expected = [prepare_truth(truth, strict) for truth in TRUTHS]
    request.getfixturevalue("nothing_is_made")
    with TruthStore("0" * 64, strict, tmp_path) as store:
        assert all(same(store.prepare(t), e) for t, e in zip(TRUTHS, expected, strict=True))


def test_other_annotations_protocols_and_splits_find_nothing(tmp_path: Path, nothing_is_made: None) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(truth_store, "prepare_truth", prepare_truth)
        fill(tmp_path)
    moved = GroundTruth(SIZE, (Polygon(square(5, 5, 41)),), box=(5.0, 5.0, 45.0, 45.0))
    for suite_hash, name, truth in (
        ("0" * 64, "strict", moved), ("1" * 64, "strict", TRUTHS[0]), ("0" * 64, "lisa", TRUTHS[0]),
    ):  # fmt: skip
        with TruthStore(suite_hash, get_protocol(name), tmp_path) as store, pytest.raises(AssertionError, match="anew"):
            store.prepare(truth)


def test_protocols_that_read_annotations_alike_share_a_file(tmp_path: Path) -> None:
    for name in ("strict", "gseval"):
        choices = [(p.merge, p.ignore, p.resize, p.truth_box_from_mask) for p in map(get_protocol, (name, "strict"))]
        with TruthStore("0" * 64, get_protocol(name), tmp_path) as store:
            store.prepare(TRUTHS[0])
        assert len(list(tmp_path.glob("*.bin"))) == len({*choices})


@pytest.mark.parametrize("seed", range(25))
def test_a_damaged_file_changes_nothing_and_is_mended(
    tmp_path: Path, seed: int, request: pytest.FixtureRequest
) -> None:
    path, rng, strict = fill(tmp_path), np.random.default_rng(seed), get_protocol("strict")
    whole = path.read_bytes()
    damaged = bytearray(whole)
    if seed % 5 == 0:
        del damaged[int(rng.integers(len(whole))) :]
    else:
        damaged[int(rng.integers(len(whole)))] ^= 1 << int(rng.integers(8))
    path.write_bytes(bytes(damaged))
    expected = [prepare_truth(truth, strict) for truth in TRUTHS]
    for _ in range(2):
        with TruthStore("0" * 64, strict, tmp_path) as store:
            assert all(same(store.prepare(t), e) for t, e in zip(TRUTHS, expected, strict=True))
        assert list(tmp_path.iterdir()) == [path]
        request.getfixturevalue("nothing_is_made")  # the second time


def test_a_folder_that_cannot_be_written_costs_nothing_but_time(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with TruthStore("0" * 64, get_protocol("strict"), tmp_path / "file" / "cache") as store:
        assert same(store.prepare(TRUTHS[0]), prepare_truth(TRUTHS[0], get_protocol("strict")))
    with TruthStore("0" * 64, get_protocol("strict"), None) as store:
        assert same(store.prepare(TRUTHS[0]), prepare_truth(TRUTHS[0], get_protocol("strict")))


def test_files_unused_for_longest_go_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new = fill(tmp_path)
    monkeypatch.setattr(truth_store, "MOST_BYTES", new.stat().st_size + 2500)
    for number in range(4):
        old = tmp_path / f"{number}.bin"
        old.write_bytes(b"x" * 1000)
        os.utime(old, (number, number))
    new.unlink()
    with TruthStore("0" * 64, get_protocol("strict"), tmp_path) as store:
        for truth in TRUTHS:
            store.prepare(truth)
    assert {p.name for p in tmp_path.iterdir()} == {new.name, "3.bin", "2.bin"}


def test_what_killed_writers_left_goes_and_what_is_being_written_stays(tmp_path: Path) -> None:
    path = fill(tmp_path)
    left, fresh, strange = (tmp_path / name for name in (f".{path.name}.7.tmp", ".00-00.bin.8.tmp", ".other.9.tmp"))
    for file, age in ((left, 2 * 3600), (fresh, 60), (strange, 2 * 3600)):
        file.write_bytes(b"half")
        os.utime(file, (path.stat().st_mtime - age,) * 2)
    fill(tmp_path)
    assert left.exists()  # nothing was written, nothing is looked at
    fill(tmp_path, "lisa")
    assert not left.exists() and fresh.exists() and strange.exists()


def test_what_a_run_holds_in_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(truth_store, "_MOST_NEW", 1)
    path = fill(tmp_path)
    assert path.stat().st_size < 1000  # one entry


def test_the_folder_is_the_users_to_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LENS_BENCH_CACHE", str(tmp_path / "here"))
    assert cache_folder() == tmp_path / "here"
    monkeypatch.setenv("LENS_BENCH_CACHE", "off")
    assert cache_folder() is None
    monkeypatch.delenv("LENS_BENCH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "lens-bench" / "truths"


def test_scores_of_a_run_are_the_same_bytes_with_and_without(
    tiny: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []
    for number, cache in enumerate(("off", str(tmp_path / "cache"), str(tmp_path / "cache"))):
        monkeypatch.setenv("LENS_BENCH_CACHE", cache)
        plan = tiny.plan("noisy-oracle", tmp_path / str(number), args={"shift": "4"})  # type: ignore[attr-defined]
        _, segmenter = make_model(find_model("noisy-oracle"), Request(args={"shift": "4"}))
        (outcome,) = run_splits([plan], segmenter)
        written.append(outcome.files.scores.read_bytes())
    assert written[0] == written[1] == written[2]
    assert len(list((tmp_path / "cache").glob("*.bin"))) == 1

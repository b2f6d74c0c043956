"""The reference models, through the registry like any plugin."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lens_bench.cards import read_model_cards
from lens_bench.errors import DataError, OutOfMemoryError, RunError, UsageError
from lens_bench.masks import area, box_of, decode, encode, full, merge_truth, overlap, union
from lens_bench.records import GroundTruth, ImageTask, ModelOptions, Outline, Polygon, Prediction, Query
from lens_bench.registry import find_model, home, import_file, make_segmenter, resolve_args
from lens_bench.run.answer import BatchSize, answer
from lens_bench.segmenter import Segmenter, SupportsDigest, SupportsExpect

SIZE = (40, 60)
SQUARE = Polygon((10.0, 10.0, 30.0, 10.0, 30.0, 30.0, 10.0, 30.0))
OVERLAPPING = Polygon((20.0, 5.0, 50.0, 5.0, 50.0, 20.0, 20.0, 20.0))
TRUTHS = {
    "one part": GroundTruth(SIZE, parts=(SQUARE,)),
    "overlapping parts": GroundTruth(SIZE, parts=(SQUARE, OVERLAPPING), box=(9.5, 4.0, 50.5, 31.0)),
    "ignore": GroundTruth(SIZE, parts=(SQUARE,), ignore=(OVERLAPPING,)),
    "outlines": GroundTruth(SIZE, outlines=(Outline(SQUARE.points, False), Outline(OVERLAPPING.points, True))),
    "empty": GroundTruth(SIZE),
    "no target": GroundTruth(SIZE, no_target=True),
}
NAMES = ["oracle", "oracle-box", "noisy-oracle", "empty", "full", "center", "replay", "slow", "crashing", "oom"]


def model(name: str, seed: int = 0, **args: object) -> Segmenter:
    card = find_model(name)
    given = {k: str(v) for k, v in args.items()}
    return make_segmenter(card, ModelOptions(card.name, str(card.folder), resolve_args(card, given), seed=seed))


def task(truths: Mapping[str, GroundTruth] = TRUTHS) -> ImageTask:
    return ImageTask("image", SIZE, tuple(Query(k, k, truth=t) for k, t in truths.items()))


def squares(count: int) -> list[ImageTask]:
    """Images with one target each, of many sizes and places."""
    tasks = []
    for i in range(count):
        x, y, side = 2 + 7 * i % 30, 2 + 5 * i % 15, 5 + i % 17
        box = Polygon((x, y, x + side, y, x + side, y + side, x, y + side))
        tasks.append(ImageTask(f"i{i}", SIZE, (Query(f"s/{i}", "it", truth=GroundTruth(SIZE, parts=(box,))),)))
    return tasks


def target(t: ImageTask) -> np.ndarray:
    return decode(merge_truth(t.queries[0].truth)[0])


def ratios(tasks: list[ImageTask], predictions: list[Prediction]) -> tuple[float, float]:
    """cIoU and gIoU from dense masks, as an independent check."""
    pairs = [
        (target(t), decode(p.mask) if p.mask else np.zeros(SIZE, bool)) for t, p in zip(tasks, predictions, strict=True)
    ]
    shared = np.array([(a & b).sum() for a, b in pairs])
    total = np.array([(a | b).sum() for a, b in pairs])
    return float(shared.sum() / total.sum()), float((shared / total).mean())


# ---------------------------------------------------------------------------------------------- cards


def test_the_cards() -> None:
    found = {m.name: m for m in read_model_cards(home("baselines") / "reference" / "model.yaml")}
    assert list(found) == NAMES
    assert {n for n, m in found.items() if m.sees_ground_truth} == {"oracle", "oracle-box", "noisy-oracle"}
    assert {n for n, m in found.items() if m.for_tests} == {"slow", "crashing", "oom"}
    assert not any(m.reads_images for m in found.values())
    assert all(spec.help for m in found.values() for spec in m.args.values())


@pytest.mark.parametrize("name", [n for n in NAMES if n != "replay"])
def test_every_model_is_a_segmenter_that_answers_in_order(name: str) -> None:
    args = {"limit": 100} if name == "oom" else {"ms": 0} if name == "slow" else {}
    segmenter = model(name, **args)
    assert segmenter.load().parameters == 0
    tasks = squares(5)
    predictions = segmenter.segment([*tasks, task()])
    assert [p.sample_id for p in predictions] == [f"s/{i}" for i in range(5)] + list(TRUTHS)
    assert all(p.mask is None or p.mask.size == SIZE for p in predictions)
    assert predictions[:5] == [p for t in tasks for p in segmenter.segment([t])]
    segmenter.close()


# ---------------------------------------------------------------------------------------------- oracles


def test_the_oracle_answers_with_the_union_and_the_annotated_box() -> None:
    predictions = dict(zip(TRUTHS, model("oracle").segment([task()]), strict=True))
    for name, truth in TRUTHS.items():
        joined, _, ignore = merge_truth(truth)
        if name == "no target":
            assert predictions[name] == Prediction(name, "no_mask")
            continue
        mask = predictions[name].mask
        assert predictions[name].status == "ok"
        outside = ~decode(ignore)
        assert np.array_equal(decode(mask) & outside, decode(joined) & outside)
        assert predictions[name].box == (truth.box or box_of(joined))
    assert area(predictions["overlapping parts"].mask) > area(merge_truth(TRUTHS["overlapping parts"])[1])


def test_the_box_oracle_fills_the_annotated_box() -> None:
    one, overlapping, _, _, empty, none = model("oracle-box").segment([task()])
    assert area(one.mask) == 400
    assert overlapping.box == (9.5, 4.0, 50.5, 31.0)
    assert box_of(overlapping.mask) == (9.0, 4.0, 50.0, 31.0)
    assert (area(empty.mask), empty.box) == (0, None)
    assert none.status == "no_mask"


@pytest.mark.parametrize("name", ["oracle", "oracle-box", "noisy-oracle"])
def test_an_oracle_without_the_truth_says_so(name: str) -> None:
    with pytest.raises(ValueError, match="came without its ground truth"):
        model(name).segment([ImageTask("a", SIZE, (Query("s/0", "x"),))])


# ---------------------------------------------------------------------------------------------- constants


def test_empty_full_and_center() -> None:
    size = (41, 67)
    asked = [ImageTask("a", size, (Query("s/0", "x"),))]
    (nothing,) = model("empty").segment(asked)
    assert (nothing.status, area(nothing.mask)) == ("ok", 0)
    (everything,) = model("full").segment(asked)
    assert (everything.mask, everything.box) == (full(size), (0.0, 0.0, 67.0, 41.0))
    (center,) = model("center", share=0.25).segment(asked)
    mask = decode(center.mask)
    assert mask.mean() == pytest.approx(0.25, abs=0.03)
    assert np.array_equal(mask, mask[::-1, ::-1])
    (all_of_it,) = model("center", share=1.0).segment(asked)
    assert all_of_it.mask == full(size)


@pytest.mark.parametrize("share", ["0", "1.01", "-0.5", "nan"])
def test_a_share_out_of_bounds(share: str) -> None:
    with pytest.raises(UsageError, match="--model-arg share="):
        model("center", share=share)


# ---------------------------------------------------------------------------------------------- noise


def test_without_strength_the_noisy_oracle_is_the_oracle() -> None:
    tasks = [task(), *squares(20)]
    assert model("noisy-oracle", seed=3).segment(tasks) == model("oracle").segment(tasks)


@given(st.permutations(range(12)), st.integers(1, 12))
@settings(max_examples=15, deadline=None)
def test_noise_depends_on_seed_and_sample_alone(order: list[int], cut: int) -> None:
    args = {"erode": 2.0, "shift": 6.0, "error_rate": 0.2, "drop": 0.2}
    tasks = squares(12)
    whole = {p.sample_id: p for p in model("noisy-oracle", **args).segment(tasks)}
    other = model("noisy-oracle", **args)
    shuffled = [tasks[i] for i in order]
    parts = [p for part in (shuffled[:cut], shuffled[cut:]) for p in other.segment(part)]
    assert {p.sample_id: p for p in parts} == whole


def test_another_seed_is_another_noise() -> None:
    tasks = squares(40)
    first, second = (model("noisy-oracle", seed=s, error_rate=0.3).segment(tasks) for s in (0, 1))
    assert first != second


def test_the_error_rate_lowers_giou_by_exactly_the_share_drawn() -> None:
    tasks = squares(400)
    correct = model("oracle").segment(tasks)
    wrong: dict[float, set[str]] = {}
    for rate in (0.02, 0.05, 0.06):
        predictions = model("noisy-oracle", error_rate=rate).segment(tasks)
        wrong[rate] = {p.sample_id for p, c in zip(predictions, correct, strict=True) if p != c}
        for p, c in zip(predictions, correct, strict=True):
            assert p == c or overlap(p.mask, c.mask) == 0
        assert ratios(tasks, predictions)[1] == pytest.approx(1 - len(wrong[rate]) / 400)
        assert len(wrong[rate]) / 400 == pytest.approx(rate, abs=0.03)
    assert wrong[0.02] < wrong[0.05] <= wrong[0.06]


def test_dropping_lowers_ciou_by_the_dropped_area() -> None:
    tasks = squares(200)
    predictions = model("noisy-oracle", drop=0.1).segment(tasks)
    areas = np.array([target(t).sum() for t in tasks])
    kept = np.array([p.status == "ok" for p in predictions])
    assert 0 < (~kept).sum() < 60
    assert ratios(tasks, predictions)[0] == pytest.approx(areas[kept].sum() / areas.sum())


@pytest.mark.parametrize(
    ("key", "strengths"), [("erode", (0.6, 1.0, 2.0)), ("erode", (-1.0, -2.0)), ("shift", (2, 4, 8))]
)
def test_more_noise_is_a_lower_ciou(key: str, strengths: tuple[float, ...]) -> None:
    tasks = squares(100)
    values = [ratios(tasks, model("noisy-oracle", **{key: s}).segment(tasks))[0] for s in strengths]
    assert values == sorted(values, reverse=True)
    assert 0.2 < values[-1] < values[0] < 1.0


noisy = import_file(home("baselines") / "reference" / "noisy.py")


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 5))
@settings(max_examples=40, deadline=None)
def test_erosion_and_dilation_against_distances_computed_one_by_one(seed: int, radius: float) -> None:
    rng = np.random.default_rng(seed)
    mask = np.zeros((12, 17), bool)
    mask[2:9, 3:12] = True
    mask ^= rng.random((12, 17)) < 0.05
    ys, xs = np.mgrid[:12, :17]

    def nearest(points: np.ndarray) -> np.ndarray:
        return np.min([np.hypot(ys - y, xs - x) for y, x in np.argwhere(points)], axis=0)

    inside, outside = nearest(~mask) - 0.5, nearest(mask) - 0.5
    clear = np.abs(inside - radius) > 1e-3
    assert np.array_equal(noisy.erode(mask, radius)[clear], (inside > radius)[clear])
    clear = np.abs(outside - radius) > 1e-3
    assert np.array_equal(noisy.erode(mask, -radius)[clear], (outside <= radius)[clear])


@given(st.integers(-20, 20), st.integers(-20, 20))
def test_shift_moves_pixels(dx: int, dy: int) -> None:
    mask = np.random.default_rng(1).random((9, 13)) < 0.5
    expected = np.zeros_like(mask)
    for y, x in np.argwhere(mask):
        if 0 <= y + dy < 9 and 0 <= x + dx < 13:
            expected[y + dy, x + dx] = True
    assert np.array_equal(noisy.shift(mask, dx, dy), expected)


def test_noise_leaves_empty_and_full_masks_alone() -> None:
    for mask in (np.zeros(SIZE, bool), np.ones(SIZE, bool)):
        assert np.array_equal(noisy.erode(mask, 3.0), mask)
        assert np.array_equal(noisy.erode(mask, -3.0), mask)


@pytest.mark.parametrize("args", [{"error_rate": 1.5}, {"drop": -0.1}, {"shift": -1.0}])
def test_strengths_out_of_bounds(args: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="expects a value from"):
        model("noisy-oracle", **args)


# ---------------------------------------------------------------------------------------------- replay


def test_replay_answers_with_the_rows(tmp_path: Path) -> None:
    tasks = squares(6)
    correct = model("oracle").segment(tasks)
    path = tmp_path / "theirs.json"
    rows = [{"sample_id": p.sample_id, "mask": {"size": list(SIZE), "counts": p.mask.counts.decode()}} for p in correct]
    path.write_text(json.dumps(rows[:5][::-1]))
    replay = model("replay", predictions=path)
    assert isinstance(replay, SupportsDigest)
    assert isinstance(replay, SupportsExpect)
    digest = replay.weight_digest()
    replay.expect(tasks)
    assert replay.load().warnings == ("5 of 6 expressions have a row",)
    assert [p.mask for p in replay.segment(tasks[1:5])] == [p.mask for p in correct[1:5]]
    assert replay.segment(tasks[5:])[0].status == "no_mask"
    path.write_text(json.dumps(rows))
    assert model("replay", predictions=path).weight_digest() != digest


def test_replay_refuses_before_anything_runs(tmp_path: Path) -> None:
    path = tmp_path / "theirs.jsonl"
    path.write_text('{"sample_id": "elsewhere/1", "box": null}\n')
    with pytest.raises(DataError, match="elsewhere/1"):
        model("replay", predictions=path).expect(squares(2))
    with pytest.raises(DataError, match="no predictions at"):
        model("replay", predictions=tmp_path / "none.jsonl").weight_digest()
    with pytest.raises(UsageError, match="needs a file"):
        model("replay")
    with pytest.raises(RunError, match="was not told"):
        model("replay", predictions=path).load()


# ---------------------------------------------------------------------------------------------- misbehaviour


def test_crashing_raises_on_a_fixed_share_and_the_loop_finds_it() -> None:
    tasks = squares(60)
    crashing = model("crashing", share=0.1, seed=2)
    whole = answer(crashing, tasks, BatchSize(60))
    singly = [p for t in tasks for p in answer(crashing, [t], BatchSize(1))]
    assert whole == singly
    failed = [p for p in whole if p.status == "error"]
    assert 0 < len(failed) < 20
    assert all(f"RuntimeError: crashing on purpose at {p.sample_id}" == p.error for p in failed)
    assert len({p.mask for p in whole if p.mask}) > 40


def test_crashing_on_one_expression_until_a_marker_is_there(tmp_path: Path) -> None:
    tasks = squares(3)
    with pytest.raises(RuntimeError, match="s/1"):
        model("crashing", sample_id="s/1").segment(tasks)
    args = {"sample_id": "s/1", "marker": tmp_path / "marker"}
    with pytest.raises(RuntimeError, match="s/1"):
        model("crashing", **args).segment(tasks)
    assert model("crashing", **args).segment(tasks) == model("crashing").segment(tasks)


def test_crashing_ends_its_process() -> None:
    script = """
        from lens_bench.records import ImageTask, ModelOptions, Query
        from lens_bench.registry import find_model, make_segmenter, resolve_args
        card = find_model("crashing")
        args = resolve_args(card, {"sample_id": "s/0", "exit": "true"})
        model = make_segmenter(card, ModelOptions(card.name, str(card.folder), args))
        try:
            model.segment([ImageTask("a", (4, 4), (Query("s/0", "x"),))])
        finally:
            print("still here")
    """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (137, "")


@pytest.mark.parametrize("kind", ["lens_bench", "python"])
def test_oom_is_found_by_halving(kind: str) -> None:
    tasks = squares(10)
    oom = model("oom", limit=3, kind=kind)
    with pytest.raises(OutOfMemoryError if kind == "lens_bench" else MemoryError, match="10 expressions in one call"):
        oom.segment(tasks)
    size = BatchSize(10)
    assert answer(oom, tasks, size) == model("oom", limit=100).segment(tasks)
    assert size.images <= 3


def test_slow_takes_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    assert model("slow", ms=250).segment(squares(3)) == model("crashing").segment(squares(3))
    assert slept == [0.25] * 3


def test_misplaced_masks_are_as_large_as_can_be() -> None:
    mask = target(squares(1)[0])
    wrong = noisy.misplace(mask)
    assert not (wrong & mask).any()
    assert wrong.sum() == mask.sum()
    assert area(union([encode(mask), encode(wrong)], SIZE)) == 2 * mask.sum()

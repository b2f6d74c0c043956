from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lens_bench.errors import DataError
from lens_bench.masks import box_iou, decode, encode, from_counts, rle_to_json
from lens_bench.records import ImageTask, Prediction, Query, Tokens
from lens_bench.run.box_format import BoxFormat
from lens_bench.run.predictions_file import join, read_predictions

SIZE = (3, 4)
MASK = from_counts(SIZE, [4, 2, 6])
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "gseval"


def tasks() -> list[ImageTask]:
    first = (Query("s/0", "the cat", key="100"), Query("s/1", "the dog", key="101"))
    second = (Query("s/2", "the cat", key="102"), Query("s/3", "no key"))
    return [ImageTask("a.jpg", SIZE, first), ImageTask("b.jpg", (5, 6), second)]


def written(tmp_path: Path, *rows: object) -> Path:
    path = tmp_path / "theirs.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def one(tmp_path: Path, **row: object) -> Prediction:
    """The prediction that one row becomes."""
    return join(read_predictions(written(tmp_path, row)), tasks()).predictions["s/0"]


# ---------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("field", ["mask", "segmentation", "rle"])
@pytest.mark.parametrize(
    "counts",
    [MASK.counts.decode(), [4, 2, 6], str(MASK.counts)],
    ids=["compressed", "uncompressed", "text of a bytes object"],
)
def test_masks_in_every_form(tmp_path: Path, field: str, counts: object) -> None:
    prediction = one(tmp_path, sample_id="s/0", **{field: {"size": list(SIZE), "counts": counts}})
    assert prediction == Prediction("s/0", "ok", mask=MASK)


def test_counts_with_a_backslash_survive_being_the_text_of_bytes(tmp_path: Path) -> None:
    mask = from_counts((60, 70), [4, 44, 4152])
    assert b"\\" in mask.counts
    path = written(tmp_path, {"key": "100", "rle": {"size": [60, 70], "counts": str(mask.counts)}})
    (row,) = read_predictions(path).rows
    assert row.answer.mask == mask


@pytest.mark.parametrize("field", ["box", "predicted_box"])
def test_a_box_alone_is_an_answer(tmp_path: Path, field: str) -> None:
    prediction = one(tmp_path, idx=100, **{field: [0, 1.5, 2, 3]})
    assert prediction == Prediction("s/0", "ok", box=(0.0, 1.5, 2.0, 3.0))


@pytest.mark.parametrize("field", ["mask", "segmentation", "rle", "box", "predicted_box"])
def test_null_is_no_answer(tmp_path: Path, field: str) -> None:
    assert one(tmp_path, sample_id="s/0", **{field: None}) == Prediction("s/0", "no_mask")


@pytest.mark.parametrize("key", [100, "100", 100.0])
@pytest.mark.parametrize("field", ["idx", "sent_id", "key"])
def test_numbers_and_their_texts_are_one_key(tmp_path: Path, field: str, key: object) -> None:
    assert one(tmp_path, **{field: key}, box=[0, 0, 1, 1]).status == "ok"


def test_everything_else_a_row_may_hold(tmp_path: Path) -> None:
    prediction = one(
        tmp_path,
        sample_id="s/0",
        mask=rle_to_json(MASK),
        box=[0, 0, 2, 2],
        score=1,
        text="Sure, it is <SEG>.",
        tokens={"prompt": 5, "completion": 0},
        stages_ms={"decode": 5.0},
        caption="theirs",
    )
    assert (prediction.mask, prediction.box, prediction.score) == (MASK, (0.0, 0.0, 2.0, 2.0), 1.0)
    assert (prediction.text, prediction.tokens) == ("Sure, it is <SEG>.", Tokens(5, 0))
    assert prediction.stages_ms == {}
    failed = one(tmp_path, sample_id="s/0", status="error", mask=None, error="boom")
    assert failed == Prediction("s/0", "error", error="boom")
    assert one(tmp_path, sample_id="s/0", status="no_mask") == Prediction("s/0", "no_mask")


def test_json_lines_and_array_are_the_same(tmp_path: Path) -> None:
    rows = [{"idx": 100, "box": [0, 0, 1, 1], "text": "a\u2028b, {\n["}, {"idx": 102, "box": None}]
    lines = read_predictions(written(tmp_path, *rows))
    for indent in (None, 2):
        array = tmp_path / "array.json"
        array.write_bytes(b"\xef\xbb\xbf\n " + json.dumps(rows, indent=indent, ensure_ascii=False).encode() + b"\n")
        read = read_predictions(array)
        assert [(r.field, r.name, r.answer) for r in read.rows] == [(r.field, r.name, r.answer) for r in lines.rows]
        assert read.sha256 == hashlib.sha256(array.read_bytes()).hexdigest()
    assert [r.line for r in lines.rows] == [1, 2]
    pretty = json.dumps(rows, indent=2).split("\n")
    assert [r.line for r in read.rows] == [2 + n for n, line in enumerate(pretty) if line == "  {"]


@given(st.lists(st.tuples(st.text(max_size=5), st.floats(0, 9)), min_size=1, max_size=5), st.sampled_from([None, 0, 3]))
@settings(max_examples=50, deadline=None)
def test_an_array_is_read_as_json_reads_it(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, float]], indent: int | None
) -> None:
    path = tmp_path_factory.mktemp("array") / "a.json"
    objects = [{"sample_id": "x" + name, "box": [0, 0, number, 1]} for name, number in rows]
    path.write_text(json.dumps(objects, indent=indent))
    read = read_predictions(path).rows
    assert [(r.name, list(r.answer.box)) for r in read] == [(o["sample_id"], o["box"]) for o in objects]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"idx": 1, "box": null}\n\n{"idx": 2, "box": nul}\n', ":3: malformed JSON: Expecting value"),
        (b'{"idx": 1, "box": null}\n{"idx": 2, "bo', ":2: malformed JSON"),
        (b'[\n{"idx": 1, "box": null},\n{"idx": }]', ":3: malformed JSON"),
        (b'[\n{"idx": 1, "box": null}\n{"idx": 2}]', ":2: malformed JSON: no ','"),
        (b'[{"idx": 1, "box": null},]', ":1: malformed JSON"),
        (b'[{"idx": 1, "box": null}', ":1: malformed JSON"),
        (b'[{"idx": 1, "box": null}] []', "text after the end"),
        (b"[" * 100_000, ":1: malformed JSON: nested too deeply"),
        (b'{"idx": 1}\n\xff\xfe', ":2: not UTF-8"),
        (b"", "holds no prediction"),
        (b"[]", "holds no prediction"),
        (b"3\n", ":1: a row must be a JSON object, this is a int"),
        (b'{"box": [0, 0, 1, 1]}', ":1: the row names no expression"),
        (b'{"sample_id": null, "box": null}', ":1: the row names no expression"),
        (b'{"idx": 1.5, "box": null}', "idx: 1.5 is not the name or number"),
        (b'{"idx": true, "box": null}', "idx: True is not the name or number"),
        (b'{"idx": 1, "bbox": [0, 0, 1, 1]}', ":1: idx 1 has no answer"),
        (b'{"idx": 1, "box": [0, 0, 1]}', r"the box \[0, 0, 1\] is not"),
        (b'{"idx": 1, "box": [0, 0, 1, NaN]}', "the box .* is not"),
        (b'{"idx": 1, "box": [0, 0, 1, "2"]}', "the box .* is not"),
        (b'{"idx": 1, "box": [0, 0, 1, 1], "predicted_box": [0, 0, 1, 2]}', "both `box` and `predicted_box`"),
        (b'{"idx": 1, "mask": {"size": [1, 2], "counts": [2]}, "rle": {}}', "both `mask` and `rle`"),
        (b'{"idx": 1, "mask": [[0, 0, 1, 1, 2, 2]]}', "idx 1: the mask is not an RLE object"),
        (b'{"idx": 1, "mask": {"size": [1, 2], "counts": [1]}}', "idx 1: .*covers? 1 pixels"),
        (b'{"idx": 1, "mask": {"size": [1, 2], "counts": [1, 1.0]}}', "not all integers"),
        (b'{"idx": 1, "mask": {"size": [-1, -2], "counts": [2]}}', r"has the size \[-1, -2\]"),
        (b'{"idx": 1, "mask": {"size": [1, 2], "counts": "zz"}}', "idx 1: mask"),
        (b'{"idx": 1, "mask": {"size": [1, 2], "counts": "b\'00"}}', "broken bytes literal"),
        (b'{"idx": 1, "mask": {"size": [1, 2], "counts": "b\'00\', 1"}}', "broken bytes literal"),
        (b'{"idx": 1, "box": null, "status": "fine"}', "unknown status 'fine'"),
        (b'{"idx": 1, "box": null, "status": "ok"}', "status 'ok' without a mask or box"),
        (b'{"idx": 1, "mask": {"size": [1, 2], "counts": [2]}, "status": "no_mask"}', "status 'no_mask' with a mask"),
        (b'{"idx": 1, "box": null, "score": Infinity}', "the score inf"),
        (b'{"idx": 1, "box": null, "text": 3}', "text is not a string"),
        (b'{"idx": 1, "box": null, "tokens": {"prompt": 3}}', "the tokens"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_predictions(path)
    assert caught.value.exit_code == 4
    assert str(path) in caught.value.message


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no predictions at .*none.jsonl: No such file"):
        read_predictions(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="Is a directory"):
        read_predictions(tmp_path)


# ---------------------------------------------------------------------------------------------- joining


def test_every_query_gets_a_prediction_in_order(tmp_path: Path) -> None:
    path = written(tmp_path, {"key": "102", "box": [0, 0, 1, 1]}, {"sample_id": "s/0", "mask": rle_to_json(MASK)})
    joined = join(read_predictions(path), tasks())
    assert list(joined.predictions) == ["s/0", "s/1", "s/2", "s/3"]
    assert all(name == p.sample_id for name, p in joined.predictions.items())
    assert (joined.joined, joined.missing, joined.boxes_only) == (2, 2, 1)
    assert str(joined) == "2 of 4 expressions have a row, 1 of them with a box only"
    missing = joined.predictions["s/3"]
    assert (missing.status, missing.mask, missing.error) == ("no_mask", None, "no row in theirs.jsonl")


def test_unknown_rows_are_named(tmp_path: Path) -> None:
    rows = [{"idx": i, "box": None} for i in (100, 7, 8)] + [{"sample_id": i, "box": None} for i in ("x", "100", "y")]
    with pytest.raises(DataError) as caught:
        join(read_predictions(written(tmp_path, *rows)), tasks())
    assert (
        "5 rows name no expression of this split: idx 7 (line 2), idx 8 (line 3), sample_id x (line 4) and 2 more"
        in (caught.value.message)
    )
    assert "s/0" in caught.value.hint
    assert "100" in caught.value.hint


def test_rows_for_one_expression_are_named_also_by_different_keys(tmp_path: Path) -> None:
    rows = [{"idx": 100, "box": None}, {"idx": 101, "box": None}, {"sample_id": "s/0", "box": None}]
    with pytest.raises(DataError, match=r"another row names too: idx 100 \(line 1\), sample_id s/0 \(line 3\)"):
        join(read_predictions(written(tmp_path, *rows)), tasks())


def test_a_key_that_several_expressions_share_is_refused(tmp_path: Path) -> None:
    shared = [ImageTask("a.jpg", SIZE, (Query("s/0", "x", key="1"), Query("s/1", "y", key="1")))]
    file = read_predictions(written(tmp_path, {"idx": 1, "box": None}))
    with pytest.raises(DataError, match="use sample_id: idx 1"):
        join(file, shared)
    assert join(read_predictions(written(tmp_path, {"sample_id": "s/1", "box": None})), shared).joined == 1


def test_a_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    turned = rle_to_json(encode(decode(MASK).T))
    path = written(tmp_path, {"idx": 101, "box": None}, {"idx": 100, "mask": turned})
    with pytest.raises(DataError, match=r":2: the mask of idx 100 is 3x4, its image 4x3"):
        join(read_predictions(path), tasks())


def test_ten_thousand_rows(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows, queries = [], []
    for i in range(10_000):
        corner = rng.integers(0, 50, size=2)
        mask = np.zeros((100, 120), dtype=bool)
        mask[corner[0] : corner[0] + 30, corner[1] : corner[1] + 40] = True
        rows.append({"sent_id": i, "mask": rle_to_json(encode(mask))})
        queries.append(Query(f"s/{i}", "x", key=str(i)))
    joined = join(read_predictions(written(tmp_path, *reversed(rows))), [ImageTask("a", (100, 120), tuple(queries))])
    assert joined.joined == 10_000
    assert [rle_to_json(p.mask) for p in joined.predictions.values()] == [r["mask"] for r in rows]


# ---------------------------------------------------------------------------------------------- real data


@pytest.mark.skipif(not SHARED.is_dir(), reason="the GroundingSuite files are not beside the repository")
def test_the_published_boxes_of_groundingsuite() -> None:
    """Claude 3.7's row of the published table: 23.8 over all, 56.7 / 2.6 / 20.7 / 9.4 by class."""
    rows = [json.loads(line) for line in (SHARED / "GroundingSuite-Eval.jsonl").open()]
    asked = [
        ImageTask(str(r["idx"]), tuple(r["segmentation"]["size"]), (Query(f"g/{r['idx']}", "", key=str(r["idx"])),))
        for r in rows
    ]
    joined = join(read_predictions(SHARED / "claude_predictions.jsonl"), asked)
    assert (joined.joined, joined.missing, joined.boxes_only) == (3715, 0, 3435)

    def accuracy(classes: set[int]) -> float:
        of_class = [r for r in rows if r["class_id"] in classes]
        boxes = [joined.predictions[f"g/{r['idx']}"].box for r in of_class]
        right = [b is not None and box_iou(b, r["box"]) >= 0.5 for b, r in zip(boxes, of_class, strict=True)]
        return round(sum(right) / len(right), 4)

    assert accuracy({1, 2, 3, 4}) == 0.2377
    assert [accuracy({c}) for c in (1, 2, 3, 4)] == [0.5668, 0.0264, 0.2068, 0.0939]


# ---------------------------------------------------------------------------------------------- forms of boxes


@pytest.mark.parametrize(
    ("form", "numbers", "box"),
    [
        ("xyxy", [1, 0, 3, 2], (1, 0, 3, 2)),
        ("xywh", [1, 0, 2, 2], (1, 0, 3, 2)),
        ("xyxy-norm", [0.25, 0, 0.75, 1], (1, 0, 3, 3)),
        ("xyxy", [1, 1, 1, 1], (1, 1, 1, 1)),  # empty, but not inverted
    ],
)
def test_boxes_come_in_pixels_whatever_their_form(
    tmp_path: Path, form: BoxFormat, numbers: list[float], box: tuple[float, ...]
) -> None:
    assert SIZE == (3, 4)
    file = read_predictions(written(tmp_path, {"sample_id": "s/0", "box": numbers}), form)
    assert join(file, tasks()).predictions["s/0"].box == box


@pytest.mark.parametrize(
    ("form", "numbers", "words"),
    [
        ("xyxy", [100, 50, 40, 60], "corners are inverted"),
        ("xyxy", [10, 50, 40, 30], "corners are inverted"),
        ("xyxy-norm", [0.5, 0.1, 0.2, 0.3], "corners are inverted"),
        ("xywh", [10, 10, -4, 5], "size is negative"),
        ("xyxy-norm", [10, 20, 30, 40], "fractions of the image"),
    ],
)
def test_a_box_that_has_not_this_form_is_named_with_file_and_line(
    tmp_path: Path, form: BoxFormat, numbers: list[float], words: str
) -> None:
    path = written(tmp_path, {"sample_id": "s/0", "box": None}, {"sample_id": "s/1", "box": numbers})
    with pytest.raises(DataError, match=words) as caught:
        read_predictions(path, form)
    assert caught.value.message.startswith(f"{path}:2: sample_id s/1: ") and "--box-format" in caught.value.hint


def test_boxes_that_miss_their_own_masks_are_counted(tmp_path: Path) -> None:
    """The mask covers (1, 1) to (3, 3): the second row's box is beside it, the third has no mask to miss."""
    mask = rle_to_json(encode(np.array([[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0]], dtype=bool)))
    rows = [
        {"sample_id": "s/0", "mask": mask, "box": [1, 1, 2, 2]},
        {"sample_id": "s/1", "mask": mask, "box": [0, 0, 1, 3]},
        {"sample_id": "s/2", "box": [3, 2, 4, 3]},
    ]
    (doubt,) = join(read_predictions(written(tmp_path, *rows)), tasks()).doubts
    assert doubt.startswith("1 of 2 boxes do not touch their own mask")
    assert join(read_predictions(written(tmp_path, rows[0])), tasks()).doubts == ()


def test_boxes_of_another_image_size_are_doubted(tmp_path: Path) -> None:
    """As of a model that answers in thousandths, or in pixels of the image as it saw it; the image has 4x3 pixels."""
    rows = [{"sample_id": "s/0", "box": [250, 0, 500, 333]}, {"sample_id": "s/1", "box": [0, 0, 5, 4]}]
    (doubt,) = join(read_predictions(written(tmp_path, *rows)), tasks()).doubts
    assert doubt.startswith("1 of 2 boxes reach beyond their image")
    assert join(read_predictions(written(tmp_path, rows[1])), tasks()).doubts == ()


def test_a_corner_that_no_number_holds_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no number holds its corner"):
        read_predictions(written(tmp_path, {"sample_id": "s/0", "box": [1e308, 0, 1e308, 4]}), "xywh")


def test_boxes_within_0_to_1_are_doubted(tmp_path: Path) -> None:
    rows = [{"sample_id": f"s/{n}", "box": [0.1, 0.2, 0.6, 1]} for n in range(2)]
    path = written(tmp_path, *rows)
    (doubt,) = join(read_predictions(path), tasks()).doubts
    assert "--box-format xyxy-norm" in doubt
    assert join(read_predictions(path, "xyxy-norm"), tasks()).doubts == ()

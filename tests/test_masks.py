"""Laws of masks.py: against dense arrays, against pycocotools, and on input that nobody should be able to break."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pycocotools import mask as coco

from lens_bench import masks
from lens_bench.errors import DataError
from lens_bench.records import Box, GroundTruth, Outline, Polygon, Rle

Bools = NDArray[np.bool_]


@st.composite
def sizes(draw: st.DrawFn, largest: int = 14) -> tuple[int, int]:
    return draw(st.integers(1, largest)), draw(st.integers(1, largest))


@st.composite
def dense(draw: st.DrawFn, count: int = 1) -> list[Bools]:
    """``count`` masks of one size, from nearly empty to nearly full, with long and short runs."""
    height, width = draw(sizes())
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    found = []
    for _ in range(count):
        share = draw(st.sampled_from([0.0, 0.05, 0.5, 0.95, 1.0]))
        mask = rng.random((height, width)) < share
        if draw(st.booleans()):
            mask = np.repeat(mask[:, :1], width, axis=1)
        found.append(mask)
    return found


def coco_decode(rle: Rle) -> Bools:
    return coco.decode({"size": list(rle.size), "counts": rle.counts}).astype(bool)


# ---------------------------------------------------------------------------------------------- run lengths


@given(dense())
def test_encode_and_decode_are_inverse_and_agree_with_pycocotools(found: list[Bools]) -> None:
    (mask,) = found
    rle = masks.encode(mask)
    assert rle.size == mask.shape
    assert np.array_equal(masks.decode(rle), mask)
    assert np.array_equal(masks.decode(rle), coco_decode(rle))
    assert masks.decode(rle).dtype == np.bool_
    assert masks.area(rle) == mask.sum()


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8])
def test_encode_takes_any_non_zero_for_foreground(dtype: type) -> None:
    mask = np.array([[0, 1], [255, 0]]).astype(dtype)
    assert masks.area(masks.encode(mask)) == 2


def test_encode_refuses_another_number_of_dimensions() -> None:
    with pytest.raises(ValueError, match="two dimensions"):
        masks.encode(np.zeros((2, 2, 2), dtype=bool))


@given(dense(count=3))
def test_union_overlap_and_intersection_equal_the_dense_ones(found: list[Bools]) -> None:
    a, b, c = found
    size = (a.shape[0], a.shape[1])
    ra, rb, rc = (masks.encode(m) for m in found)
    assert np.array_equal(masks.decode(masks.union([ra, rb, rc], size)), a | b | c)
    assert np.array_equal(masks.decode(masks.intersect(ra, rb)), a & b)
    assert masks.overlap(ra, rb) == (a & b).sum() == masks.overlap(rb, ra)


def test_union_of_nothing_is_empty() -> None:
    assert masks.area(masks.union([], (3, 4))) == 0
    assert masks.union([], (3, 4)).size == (3, 4)


@given(sizes())
def test_empty_and_full(size: tuple[int, int]) -> None:
    assert masks.area(masks.empty(size)) == 0
    assert masks.area(masks.full(size)) == math.prod(size)
    assert masks.decode(masks.full(size)).all()


@given(dense(), st.data())
def test_from_counts_reads_uncompressed_runs_with_and_without_empty_ones(
    found: list[Bools], data: st.DataObject
) -> None:
    (mask,) = found
    flat = mask.T.reshape(-1)
    counts, value = [0], False
    for pixel in flat:
        if pixel != value:
            counts.append(0)
            value = bool(pixel)
        counts[-1] += 1
    assert masks.from_counts(mask.shape, counts) == masks.encode(mask)
    # Cut runs in two with an empty one between: other encoders do, and pycocotools alone would stop there.
    at = data.draw(st.integers(0, len(counts) - 1))
    cut = data.draw(st.integers(0, counts[at]))
    split = [*counts[:at], cut, 0, counts[at] - cut, *counts[at + 1 :]]
    assert masks.from_counts(mask.shape, split) == masks.encode(mask)


@pytest.mark.parametrize(
    ("counts", "message"),
    [([3], "covers 3 pixels"), ([5, 2], "covers 7"), ([], "covers 0"), ([7, -1], "negative"), ([2**70], "covers")],
)
def test_from_counts_refuses_runs_that_do_not_fill_the_image(counts: list[int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        masks.from_counts((2, 3), counts)


# ---------------------------------------------------------------------------------------------- JSON


@given(dense())
def test_json_round_trip_in_every_form_that_people_write(found: list[Bools]) -> None:
    rle = masks.encode(found[0])
    assert masks.rle_from_json(masks.rle_to_json(rle)) == rle
    assert masks.rle_from_json({"size": list(rle.size), "counts": rle.counts}) == rle
    assert masks.rle_from_json({"size": rle.size, "counts": rle.counts.decode()}) == rle


def spelled(value: int) -> bytes:
    """One value in COCO's signed base-32 characters."""
    out = b""
    more = True
    while more:
        digit = value & 31
        value >>= 5
        more = value != -1 if digit & 16 else value != 0
        out += bytes([digit + (32 if more else 0) + 48])
    return out


def compressed(counts: list[int]) -> bytes:
    """COCO's compressed counts, from the description of the format."""
    return b"".join(spelled(c - counts[i - 2] if i > 2 else c) for i, c in enumerate(counts))


@given(st.lists(st.integers(0, 400), min_size=1, max_size=30))
def test_compressed_counts_of_any_runs_are_read_as_the_format_says(counts: list[int]) -> None:
    assume(sum(counts) > 0)
    size = (sum(counts), 1)
    rle = masks.rle_from_json({"size": list(size), "counts": compressed(counts)})
    expected = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    assert np.array_equal(masks.decode(rle)[:, 0], expected)
    assert np.array_equal(coco_decode(rle)[:, 0], expected)
    assert masks.overlap(rle, rle) == expected.sum()  # pycocotools stops at empty runs unless they are repaired


@pytest.mark.parametrize(
    ("obj", "message"),
    [
        (None, "not an RLE"),
        ([1, 2], "not an RLE"),
        ({"size": [2, 3]}, "not an RLE"),
        ({"counts": "6"}, "not an RLE"),
        ({"size": [2], "counts": "6"}, "has the size"),
        ({"size": "23", "counts": "6"}, "has the size"),
        ({"size": [2.0, 3.0], "counts": "6"}, "has the size"),
        ({"size": [True, 6], "counts": "6"}, "has the size"),
        ({"size": [-2, -3], "counts": "6"}, "has the size"),
        ({"size": [-2, -3], "counts": [6]}, "has the size"),
        ({"size": [0, 0], "counts": ""}, "has the size"),
        ({"size": [2**16, 2**16], "counts": [2**32]}, "has the size"),
        ({"size": [2, 3], "counts": 6}, "type int"),
        ({"size": [2, 3], "counts": [6.0]}, "not integers"),
        ({"size": [2, 3], "counts": ["6"]}, "not integers"),
        ({"size": [2, 3], "counts": [True, 5]}, "not integers"),
        ({"size": [2, 3], "counts": ""}, "covers 0"),
        ({"size": [2, 3], "counts": "5"}, "covers 5"),
        ({"size": [2, 3], "counts": "7"}, "covers 7"),
        ({"size": [2, 3], "counts": "O7"}, "negative"),
        ({"size": [2, 3], "counts": "6P"}, "middle of a run"),
        ({"size": [2, 3], "counts": " 6"}, "character"),
        ({"size": [2, 3], "counts": "6\x00"}, "character"),
        ({"size": [2, 3], "counts": "\u00e9"}, "character"),
        ({"size": [2, 3], "counts": b"\xff6"}, "character"),
        # Seven digits: pycocotools would shift a 32-bit integer out of range and read another number.
        ({"size": [2, 3], "counts": "VPPPPP0"}, "more than 30 bits"),
        # Two runs whose 32-bit sum is right and whose true sum is not.
        ({"size": [2, 3], "counts": spelled(2**28) * 8 + b"6"}, "covers"),
    ],
)
def test_rle_from_json_refuses_what_is_not_a_mask(obj: object, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        masks.rle_from_json(obj, "the mask of sample 7")
    assert "the mask of sample 7" in caught.value.message


@settings(max_examples=400)
@given(st.data())
def test_no_string_of_counts_reaches_pycocotools_out_of_bounds(data: st.DataObject) -> None:
    """Either a DataError, or runs that fill the image exactly, as a second reading of the format confirms."""
    size = data.draw(sizes(6))
    start = masks.encode(np.random.default_rng(data.draw(st.integers(0, 99))).random(size) < 0.5).counts
    text = bytearray(start)
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(text)))
        text[at : at + data.draw(st.integers(0, 2))] = data.draw(
            st.binary(max_size=2) | st.text("0123456789:;<=>?@ABCNOPQRSabcmno", max_size=2).map(str.encode)
        )
    try:
        rle = masks.rle_from_json({"size": list(size), "counts": bytes(text)})
    except DataError:
        return
    runs = slow_reading(bytes(text))
    assert min(runs) >= 0
    assert sum(runs) == math.prod(size)
    expected = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(size[1], size[0]).T
    assert np.array_equal(masks.decode(rle), expected)
    assert np.array_equal(coco_decode(rle), expected)
    assert masks.box_of(rle) == tight_box(expected)


@given(st.binary(max_size=12), sizes(3))
def test_arbitrary_bytes_are_refused_or_fill_the_image(data: bytes, size: tuple[int, int]) -> None:
    try:
        rle = masks.rle_from_json({"size": list(size), "counts": data})
    except DataError:
        return
    assert masks.decode(rle).shape == size
    assert masks.area(rle) == masks.decode(rle).sum()


def slow_reading(data: bytes) -> list[int]:
    values: list[int] = []
    value, shift = 0, 0
    for char in data:
        value |= (char - 48 & 31) << shift
        shift += 5
        if char - 48 & 32:
            continue
        if char - 48 & 16:
            value -= 1 << shift
        values.append(value + (values[-2] if len(values) > 2 else 0))
        value, shift = 0, 0
    assert shift == 0
    return values


# ---------------------------------------------------------------------------------------------- parts


def test_polygon_of_a_square() -> None:
    rle = masks.part_rle(Polygon((1, 1, 5, 1, 5, 4, 1, 4)), (6, 8))
    expected = np.zeros((6, 8), dtype=bool)
    expected[1:4, 1:5] = True
    assert np.array_equal(masks.decode(rle), expected)


@pytest.mark.parametrize("points", [(), (1.0, 1.0), (1.0, 1.0, 4.0, 4.0)])
def test_polygon_of_fewer_than_three_points_covers_nothing(points: tuple[float, ...]) -> None:
    assert masks.area(masks.part_rle(Polygon(points), (6, 8))) == 0


def test_a_polygon_that_would_take_gigabytes_to_draw_is_refused() -> None:
    corners = [((-1) ** n * 9e5, n / 10) for n in range(2000)]
    with pytest.raises(DataError, match="outline of more than"):
        masks.part_rle(Polygon(tuple(c for corner in corners for c in corner)), (6, 8))
    assert masks.area(masks.part_rle(Polygon((-9e5, -9e5, 9e5, -9e5, 9e5, 9e5)), (6, 8))) > 0


def test_polygon_leaving_the_image_is_clipped() -> None:
    assert masks.area(masks.part_rle(Polygon((-10, -10, 50, -10, 50, 50, -10, 50)), (6, 8))) == 48
    assert masks.area(masks.part_rle(Polygon((20, 20, 30, 20, 30, 30)), (6, 8))) == 0
    half = masks.decode(masks.part_rle(Polygon((4, -3, 20, -3, 20, 20, 4, 20)), (6, 8)))
    assert half[:, 4:].all()
    assert not half[:, :4].any()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e9])
def test_polygon_with_an_impossible_coordinate_is_refused(bad: float) -> None:
    with pytest.raises(DataError, match="coordinate"):
        masks.part_rle(Polygon((0, 0, bad, 0, 3, 3)), (6, 8))


def test_rle_part_of_another_size_is_refused() -> None:
    with pytest.raises(DataError, match="belongs to an image"):
        masks.part_rle(masks.empty((2, 3)), (3, 2))


def test_part_read_on_demand() -> None:
    class OnDemand:
        def rle(self, size: tuple[int, int]) -> Rle:
            return masks.full(size)

        def fingerprint(self) -> bytes:
            return b"x"

    assert masks.area(masks.part_rle(OnDemand(), (2, 3))) == 6


def test_something_else_is_no_part() -> None:
    with pytest.raises(TypeError, match="str"):
        masks.part_rle("polygon", (2, 3))  # type: ignore[arg-type]


@given(dense(count=4), st.integers(0, 4))
def test_merge_parts_gives_covered_and_covered_once(found: list[Bools], count: int) -> None:
    size = (found[0].shape[0], found[0].shape[1])
    joined, once = masks.merge_parts([masks.encode(m) for m in found[:count]], size)
    total = np.sum(found[:count], axis=0, dtype=int) if count else np.zeros(size, dtype=int)
    assert np.array_equal(masks.decode(joined), total > 0)
    assert np.array_equal(masks.decode(once), total == 1)


def test_merge_truth_keeps_ignore_apart_and_takes_outlines_before_parts() -> None:
    left, right = np.zeros((2, 4, 4), dtype=bool)
    left[:, :2], right[:, 3:] = True, True
    truth = GroundTruth((4, 4), parts=(masks.encode(left),), ignore=(masks.encode(right), masks.encode(right)))
    joined, once, ignore = masks.merge_truth(truth)
    assert joined == once == masks.encode(left)
    assert ignore == masks.encode(right)
    painted = GroundTruth((9, 9), outlines=(Outline((2, 2, 6, 2, 6, 6, 2, 6), ignore=False),))
    assert masks.area(masks.merge_truth(painted)[0]) == 25
    assert masks.area(masks.merge_truth(GroundTruth((4, 4)))[0]) == 0


# ---------------------------------------------------------------------------------------------- painting


def square(x: int, y: int, side: int) -> tuple[float, ...]:
    return (x, y, x + side, y, x + side, y + side, x, y + side)


def test_paint_fills_with_a_border_and_truncates_coordinates() -> None:
    target, ignore = masks.paint([Outline((2.9, 2.9, 6.9, 2.9, 6.9, 6.9, 2.9, 6.9), ignore=False)], (9, 9))
    expected = np.zeros((9, 9), dtype=bool)
    expected[2:7, 2:7] = True  # both ends inclusive: the outline itself is drawn
    assert np.array_equal(masks.decode(target), expected)
    assert masks.area(ignore) == 0


def test_paint_draws_an_outline_that_has_no_inside() -> None:
    target, _ = masks.paint([Outline((1, 1, 5, 1), ignore=False)], (4, 8))
    assert np.array_equal(np.argwhere(masks.decode(target)), [[1, x] for x in range(1, 6)])


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_paint_goes_from_large_to_small_whatever_the_order(order: tuple[int, ...]) -> None:
    shapes = [
        Outline(square(1, 1, 16), ignore=False),
        Outline(square(3, 3, 10), ignore=True),  # carves the target
        Outline(square(5, 5, 4), ignore=False),  # and this restores a part of it
    ]
    target, ignore = masks.paint([shapes[i] for i in order], (20, 20))
    assert masks.area(target) == 17**2 - 11**2 + 5**2
    assert masks.area(ignore) == 11**2 - 5**2
    assert masks.overlap(target, ignore) == 0


def test_paint_clips_at_the_image_and_skips_shapes_without_points() -> None:
    target, ignore = masks.paint([Outline((), ignore=True), Outline(square(-5, -5, 9), ignore=False)], (8, 8))
    assert masks.area(target) == 25
    assert masks.area(ignore) == 0
    assert [masks.area(m) for m in masks.paint([], (3, 3))] == [0, 0]


# ---------------------------------------------------------------------------------------------- boxes


def tight_box(mask: Bools) -> Box | None:
    ys, xs = np.nonzero(mask)
    return (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) if len(xs) else None


@given(dense())
def test_box_of_is_tight_and_its_mask_covers(found: list[Bools]) -> None:
    rle = masks.encode(found[0])
    box = masks.box_of(rle)
    assert box == tight_box(found[0])
    if box is not None:
        around = masks.box_mask(box, rle.size)
        assert masks.overlap(around, rle) == masks.area(rle)
        assert masks.box_of(around) == box


coordinates = st.floats(-20, 20, allow_nan=False).map(lambda v: round(v, 3))
boxes = st.tuples(coordinates, coordinates, coordinates, coordinates)


@given(boxes, sizes())
def test_box_mask_holds_the_pixels_whose_centre_is_inside(box: Box, size: tuple[int, int]) -> None:
    ys, xs = np.mgrid[: size[0], : size[1]] + 0.5
    inside = (box[0] <= xs) & (xs < box[2]) & (box[1] <= ys) & (ys < box[3])
    assert np.array_equal(masks.decode(masks.box_mask(box, size)), inside)


@given(boxes, boxes)
def test_box_iou_laws(a: Box, b: Box) -> None:
    value = masks.box_iou(a, b)
    assert 0.0 <= value <= 1.0
    assert value == masks.box_iou(b, a)
    width, height = a[2] - a[0], a[3] - a[1]
    if width > 1e-3 and height > 1e-3:
        assert masks.box_iou(a, a) == pytest.approx(1.0)
    else:
        assert masks.box_iou(a, a) in (0.0, 1.0)


@given(*[st.tuples(*[st.integers(-3, 12)] * 4)] * 2)
def test_box_iou_of_whole_numbers_counts_pixels(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    grid = []
    for x1, y1, x2, y2 in (a, b):
        ys, xs = np.mgrid[-3:12, -3:12]
        grid.append((x1 <= xs) & (xs < x2) & (y1 <= ys) & (ys < y2))
    union = (grid[0] | grid[1]).sum()
    assert masks.box_iou(a, b) == pytest.approx((grid[0] & grid[1]).sum() / union if union else 0.0)  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------- boundaries


@given(dense(), st.integers(1, 4))
def test_boundary_equals_repeated_erosion_with_a_zero_border(found: list[Bools], reach: int) -> None:
    (mask,) = found
    padded = np.pad(mask.astype(np.uint8), 1)
    for _ in range(reach):
        padded = cv2.erode(padded, np.ones((3, 3), np.uint8))
        padded = np.pad(padded[1:-1, 1:-1], 1)
    expected = mask & ~padded[1:-1, 1:-1].astype(bool)
    assert np.array_equal(masks.boundary_band(mask, reach), expected)
    assert np.array_equal(masks.boundary(mask, reach / math.hypot(*mask.shape)), expected)


@pytest.mark.parametrize(("size", "reach"), [((480, 640), 16), ((10, 10), 1), ((1, 1), 1), ((100, 100), 3)])
def test_boundary_is_two_per_cent_of_the_diagonal_and_at_least_one_pixel(size: tuple[int, int], reach: int) -> None:
    assert masks.boundary_reach(size) == reach


def test_boundary_of_a_full_image_is_its_border() -> None:
    band = masks.boundary(np.ones((50, 50), dtype=bool))
    assert not band[1:-1, 1:-1].any()
    assert band.sum() == 4 * 49

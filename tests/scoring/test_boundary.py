from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lens_bench import masks
from lens_bench.scoring import boundary
from lens_bench.scoring.boundary import EMPTY_BAND, Band, band_iou, band_of, figures_of


def blobs(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """A union of rectangles: masks with insides, so that the band is not the whole mask."""
    mask = np.zeros(size, dtype=bool)
    for _ in range(rng.integers(0, 4)):
        y, x = rng.integers(0, size[0]), rng.integers(0, size[1])
        mask[y : y + rng.integers(1, size[0] + 1), x : x + rng.integers(1, size[1] + 1)] = True
    return mask


@given(st.integers(0, 2**32 - 1), st.tuples(st.integers(1, 120), st.integers(1, 120)), st.booleans())
def test_cropped_bands_equal_those_of_whole_images(seed: int, size: tuple[int, int], with_ignore: bool) -> None:
    rng = np.random.default_rng(seed)
    a, b = blobs(rng, size), blobs(rng, size)
    ignored = blobs(rng, size) if with_ignore else np.zeros(size, dtype=bool)
    ignore = masks.encode(ignored) if with_ignore else None
    bands = [band_of(masks.encode(m), ignore) for m in (a, b)]
    full = [masks.boundary(m) & ~ignored for m in (a, b)]
    for band, whole in zip(bands, full, strict=True):
        assert band.area == whole.sum()
        pasted = np.zeros(size, dtype=bool)
        if len(band.bits):
            rows = slice(8 * band.top, 8 * (band.top + band.bits.shape[1]))
            cut = pasted[rows, band.x : band.x + len(band.bits)]
            cut[:] = np.unpackbits(band.bits, axis=1, count=len(cut), bitorder="little").T
        assert np.array_equal(pasted, whole)
    union = (full[0] | full[1]).sum()
    assert band_iou(*bands) == ((full[0] & full[1]).sum() / union if union else None)


def same(a: Band, b: Band) -> bool:
    return (a.x, a.top, a.area) == (b.x, b.top, b.area) and np.array_equal(a.bits, b.bits)


@given(st.integers(0, 2**32 - 1), st.booleans())
def test_masks_measured_together_are_as_measured_alone(seed: int, noisy: bool) -> None:
    """Of several sizes, some empty, full or alike: areas and boxes are pycocotools', bands those of one mask."""
    rng = np.random.default_rng(seed)
    sizes = [(int(rng.integers(1, 60)), int(rng.integers(1, 60))) for _ in range(2)]
    rles = [masks.full(sizes[0]), masks.empty(sizes[1])]
    for _ in range(12):
        size = sizes[int(rng.integers(2))]
        rles.append(masks.encode(rng.random(size) < rng.random() if noisy else blobs(rng, size)))
    rles.append(rles[4])
    for rle, figure in zip(rles, figures_of(rles), strict=True):
        assert figure.area == masks.area(rle)
        assert figure.box == masks.box_of(rle)
        assert same(figure.band, band_of(rle))


def test_how_many_masks_are_drawn_at_once_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    rles = [masks.encode(blobs(rng, (50, 70))) for _ in range(40)]
    together = figures_of(rles)
    for name, most in (("TOGETHER", 3), ("MOST_DRAWN", 1), ("MOST_DRAWN", 9000)):
        monkeypatch.setattr(boundary, name, most)
        again = figures_of(rles)
        assert [(f.area, f.box) for f in again] == [(f.area, f.box) for f in together]
        assert all(same(a.band, b.band) for a, b in zip(again, together, strict=True))


def test_equal_masks_have_boundary_iou_one_and_disjoint_ones_zero() -> None:
    left, right = np.zeros((2, 40, 40), dtype=bool)
    left[5:20, 5:15], right[5:20, 25:35] = True, True
    a, b = band_of(masks.encode(left)), band_of(masks.encode(right))
    assert band_iou(a, a) == 1.0
    assert band_iou(a, b) == 0.0
    assert band_iou(a, EMPTY_BAND) == 0.0
    assert band_iou(EMPTY_BAND, EMPTY_BAND) is None


def test_boundary_iou_sees_what_mask_iou_hardly_sees() -> None:
    """Two large discs whose outlines are three pixels apart."""
    ys, xs = np.mgrid[:300, :300]
    distance = np.hypot(ys - 150, xs - 150)
    large, small = distance < 120, distance < 114
    iou = (large & small).sum() / (large | small).sum()
    boundary = band_iou(band_of(masks.encode(large)), band_of(masks.encode(small)))
    assert iou > 0.9
    assert boundary is not None
    assert boundary < 0.4

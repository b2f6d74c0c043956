from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lens_bench import masks
from lens_bench.scoring.boundary import EMPTY_BAND, band_iou, band_of


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
        width = len(band.bits)
        if width:
            pasted[:, band.x : band.x + width] = np.unpackbits(band.bits, axis=1, count=size[0]).T
        assert np.array_equal(pasted, whole)
    union = (full[0] | full[1]).sum()
    assert band_iou(*bands) == ((full[0] & full[1]).sum() / union if union else None)


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

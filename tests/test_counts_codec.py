"""The codec against pycocotools, which defines the format."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco

from lens_bench import masks
from lens_bench.counts_codec import read_counts, without_empty_runs, write_counts
from lens_bench.errors import DataError


@given(st.lists(st.integers(1, 2**26), min_size=1, max_size=30), st.booleans())
def test_written_runs_are_those_of_pycocotools_and_are_read_back(runs: list[int], starts_inside: bool) -> None:
    lengths = np.asarray([0, *runs] if starts_inside else runs, dtype=np.int64)
    theirs = coco.frPyObjects({"size": [1, int(lengths.sum())], "counts": lengths.tolist()}, 1, int(lengths.sum()))
    assert write_counts(lengths) == theirs["counts"]
    np.testing.assert_array_equal(read_counts(theirs["counts"], "mask"), lengths)


@given(
    st.integers(0, 2**32 - 1),
    st.tuples(st.integers(1, 90), st.integers(1, 90)),
    st.sampled_from([0.0, 0.01, 0.5, 0.99, 1.0]),
    st.sampled_from(["C", "F", "rows", "turned"]),
    st.sampled_from([np.bool_, np.uint8, np.float32]),
)
def test_dense_masks_are_encoded_as_by_pycocotools(
    seed: int, size: tuple[int, int], share: float, layout: str, kind: type
) -> None:
    mask = (np.random.default_rng(seed).random(size) < share).astype(kind)
    if kind is not np.bool_:
        mask *= 200
    mask = {"C": mask, "F": np.asfortranarray(mask), "rows": mask[::2], "turned": mask.T}[layout]
    theirs = coco.encode(np.asfortranarray(mask != 0, dtype=np.uint8))
    ours = masks.encode(mask)
    assert (list(ours.size), ours.counts) == (theirs["size"], theirs["counts"])
    assert np.array_equal(masks.decode(ours), mask != 0)


def test_soft_and_noisy_outlines_are_encoded_as_by_pycocotools() -> None:
    """Either side of the number of runs from which on pycocotools is the faster one."""
    ys, xs = np.mgrid[:300, :400]
    noise = np.random.default_rng(0).random((300, 400))
    for amount in (0, 30, 100, 1000, 10_000):
        mask = (xs - 200) ** 2 + (ys - 150) ** 2 + amount * 30 * (noise - 0.5) < 100**2
        assert masks.encode(mask).counts == coco.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"]


def test_runs_of_nothing_are_joined() -> None:
    np.testing.assert_array_equal(without_empty_runs(np.array([0, 3, 0, 2, 4, 0, 1])), [0, 5, 5])
    np.testing.assert_array_equal(without_empty_runs(np.array([0, 3, 2])), [0, 3, 2])


@pytest.mark.parametrize("data", [b"P", b"0P", b"/", b"p", b"\xff", b"PPPPPPP0"])
def test_what_is_no_number_is_refused(data: bytes) -> None:
    with pytest.raises(DataError, match="the mask"):
        read_counts(data, "the mask")

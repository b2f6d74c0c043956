"""Grouping by image, and images that are not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lens_bench.data.images import ImageFile
from lens_bench.data.tasks import group_by_image, missing_images, require_images
from lens_bench.errors import DataError
from lens_bench.records import GroundTruth, Pixels, Sample


class _Elsewhere:
    """An image that is not a file."""

    name = "row 3"

    def __init__(self, there: bool) -> None:
        self.there = there

    def exists(self) -> bool:
        return self.there

    def read(self) -> Pixels:
        raise AssertionError("missing_images must not decode")


def _sample(number: int, image: Any, image_id: str = "") -> Sample:
    return Sample(f"s/{number}", image_id or image.name, image, "x", GroundTruth((1, 1)))


@given(st.lists(st.integers(0, 5)))
def test_grouping_keeps_every_sample_in_order_and_images_by_first_appearance(images: list[int]) -> None:
    samples = [_sample(n, ImageFile(Path(f"{i}.jpg"))) for n, i in enumerate(images)]
    groups = group_by_image(samples)
    assert [image_id for image_id, _ in groups] == list(dict.fromkeys(s.image_id for s in samples))
    for image_id, group in groups:
        assert list(group) == [s for s in samples if s.image_id == image_id]


def test_missing_images_are_the_first_sample_of_each(tiny: Any) -> None:
    there = tiny.picture("a/1.jpg")
    (tiny.root / "a" / "folder.jpg").mkdir()
    samples = [
        _sample(0, ImageFile(there)),
        _sample(1, ImageFile(tiny.root / "a" / "2.jpg")),
        _sample(2, ImageFile(tiny.root / "a" / "2.jpg")),
        _sample(3, ImageFile(tiny.root / "gone" / "1.jpg")),
        _sample(4, ImageFile(tiny.root / "a" / "folder.jpg")),
        _sample(5, ImageFile(there / "below a file.jpg")),
        _sample(6, _Elsewhere(True), "e"),
        _sample(7, _Elsewhere(False), "f"),
    ]
    assert [s.id for s in missing_images(samples)] == ["s/1", "s/3", "s/4", "s/5", "s/7"]


def test_one_clear_error_names_the_sample(tiny: Any) -> None:
    there = ImageFile(tiny.picture("1.jpg"))
    gone = [ImageFile(tiny.root / f"gone{i}.jpg") for i in range(3)]
    require_images([_sample(0, there)])
    with pytest.raises(DataError, match=r"the image of s/1 is missing: .*gone0\.jpg \(and 2 more images\)") as caught:
        require_images([_sample(0, there), *(_sample(i + 1, image) for i, image in enumerate(gone))])
    assert caught.value.exit_code == 4
    with pytest.raises(DataError, match=r"gone0\.jpg$"):
        require_images([_sample(1, gone[0])])

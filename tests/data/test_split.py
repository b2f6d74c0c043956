"""Opening a split: what all formats share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lens_bench.cards import SuiteCard
from lens_bench.data.content import content_hash
from lens_bench.data.split import Source, count, default_data_root, locate, open_split
from lens_bench.errors import DataError, UsageError
from lens_bench.records import GroundTruth, Outline, Polygon, Sample
from lens_bench.registry import find_suite


def _card(**changes: Any) -> SuiteCard:
    fields = {
        "name": "own", "title": "t", "summary": "s", "reader": "coco_json", "splits": {"all": {}},
        "default_splits": ["all"], "options": {"kind": "x"},
        "files": {
            "required": {"annotations": "annotations.json"}, "optional": {"expressions_json": "expressions.json"},
            "roots": ["first/{kind}", "second/{split}", "third"],
        },
        "images": {"roots": ["{kind}/images", "images"], "exif": "apply"},
    }  # fmt: skip
    return SuiteCard.model_validate({**fields, **changes})


def _write(tiny: Any, folder: str, expressions: int = 1) -> None:
    tiny.json(f"{folder}/annotations.json", {"images": [tiny.image(1)], "annotations": [tiny.annotation(10, 1)]})
    tiny.json(f"{folder}/expressions.json", [{"expression": f"x{i}", "ann_ids": [10]} for i in range(expressions)])


def test_the_first_root_with_every_required_file_is_taken(tiny: Any) -> None:
    _write(tiny, "third")
    assert locate(_card(), "all", tiny.root).files["annotations"] == tiny.root / "third/annotations.json"
    _write(tiny, "second/all")
    assert locate(_card(), "all", tiny.root).files["annotations"].parent == tiny.root / "second/all"
    (tiny.root / "first/x").mkdir(parents=True)
    assert locate(_card(), "all", tiny.root).files["annotations"].parent == tiny.root / "second/all"


def test_where_a_split_was_looked_for_is_said(tiny: Any) -> None:
    with pytest.raises(DataError, match=r"annotations\.json \(nor in 2 other places\)$"):
        locate(_card(), "all", tiny.root)
    one = {"required": {"annotations": "annotations.json"}, "roots": ["only"]}
    with pytest.raises(DataError, match=r"only/annotations\.json$"):
        locate(_card(files=one), "all", tiny.root)


def test_a_splits_own_roots_and_options_come_first(tiny: Any) -> None:
    _write(tiny, "first/x")
    _write(tiny, "first/y")
    _write(tiny, "own place")
    card = _card(splits={"all": {}, "b": {"options": {"kind": "y"}}, "c": {"roots": ["own place"]}})
    assert locate(card, "b", tiny.root).files["annotations"].parent.name == "y"
    assert locate(card, "b", tiny.root).options == {"split": "b", "kind": "y"}
    assert locate(card, "c", tiny.root).files["annotations"].parent.name == "own place"


def test_the_image_folder_is_the_first_that_exists_else_the_first_named(tiny: Any) -> None:
    _write(tiny, "third")
    source = locate(_card(), "all", tiny.root)
    assert (source.images, source.exif) == (tiny.root / "x/images", True)
    tiny.picture("images/a.jpg")
    assert locate(_card(), "all", tiny.root).images == tiny.root / "images"
    assert locate(_card(images=None), "all", tiny.root).images is None


def test_a_card_without_an_image_folder_says_so(tiny: Any) -> None:
    _write(tiny, "third")
    with pytest.raises(UsageError, match="suite own names no folder of images"):
        open_split(_card(images=None), "all", tiny.root)


def test_an_unknown_split_is_suggested(tiny: Any) -> None:
    with pytest.raises(UsageError, match="has no split 'testa'") as caught:
        open_split(find_suite("refcoco"), "testa", tiny.root)
    assert "testA" in caught.value.hint


def test_counts_are_checked_unless_partial(tiny: Any) -> None:
    _write(tiny, "third", expressions=3)
    card = _card(splits={"all": {"expected": {"images": 1, "expressions": 4}}})
    with pytest.raises(DataError, match="own all: 4 expressions expected, 3 found"):
        open_split(card, "all", tiny.root)
    split = open_split(card, "all", tiny.root, allow_partial=True)
    assert split.counts == count(split.samples)
    assert (split.counts.images, split.counts.refs, split.counts.expressions) == (1, 1, 3)


def test_a_content_hash_on_the_card_is_checked(tiny: Any) -> None:
    _write(tiny, "third")
    found = open_split(_card(), "all", tiny.root).content_hash
    assert open_split(_card(splits={"all": {"content_hash": found}}), "all", tiny.root).content_hash == found
    with pytest.raises(DataError, match="differs from the card's 000"):
        open_split(_card(splits={"all": {"content_hash": "0" * 64}}), "all", tiny.root)


def test_an_empty_split_is_an_error(tiny: Any) -> None:
    _write(tiny, "third", expressions=0)
    with pytest.raises(DataError, match="own all has no expression"):
        open_split(_card(), "all", tiny.root)


def test_a_reader_of_ones_own(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tiny.root / "my_reader.py").write_text(
        "from lens_bench.data.paths import image_file\n"
        "from lens_bench.records import GroundTruth, Sample\n"
        "def read(source):\n"
        "    yield Sample('own/1', 'a', image_file(source, 'a.jpg'), 'x', GroundTruth((2, 2)))\n"
    )
    monkeypatch.syspath_prepend(str(tiny.root))
    card = _card(reader="my_reader:read", files=None)
    assert open_split(card, "all", tiny.root).samples[0].id == "own/1"
    with pytest.raises(UsageError, match="its reader 'nowhere:read' cannot be imported"):
        open_split(_card(reader="nowhere:read", files=None), "all", tiny.root)
    with pytest.raises(UsageError, match="cannot be imported"):
        open_split(_card(reader="no-such-format", files=None), "all", tiny.root)


def test_the_data_root_is_the_environments_or_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LENS_BENCH_DATA", "/somewhere")
    assert default_data_root() == Path("/somewhere")
    monkeypatch.delenv("LENS_BENCH_DATA")
    assert default_data_root() == Path.home() / ".cache" / "lens-bench"


# ---------------------------------------------------------------------------------------------- content

TRUTH = GroundTruth((20, 30), parts=(Polygon((1.0, 2.0, 3.0, 4.0, 5.0, 6.0)),), box=(1.0, 2.0, 3.0, 4.0))
CHANGES: list[dict[str, Any]] = [
    {"id": "s/2"},
    {"image_id": "b"},
    {"expression": "a cat"},
    {"tags": ("x",)},
    {"truth": replace(TRUTH, size=(20, 31))},
    {"truth": replace(TRUTH, box=None)},
    {"truth": replace(TRUTH, no_target=True)},
    {"truth": replace(TRUTH, parts=(Polygon((1.0, 2.0, 3.0, 4.0, 5.0, 6.5)),))},
    {"truth": replace(TRUTH, parts=(), ignore=TRUTH.parts)},
    {"truth": replace(TRUTH, parts=(), outlines=(Outline((1.0, 2.0, 3.0, 4.0, 5.0, 6.0), False),))},
    {"truth": replace(TRUTH, parts=(), outlines=(Outline((1.0, 2.0, 3.0, 4.0, 5.0, 6.0), True),))},
]


def test_every_part_of_the_content_is_in_its_hash() -> None:
    from lens_bench.data.images import ImageFile

    sample = Sample("s/1", "a", ImageFile(Path("a.jpg")), "a dog", TRUTH)
    hashes = [content_hash([sample]), *(content_hash([replace(sample, **change)]) for change in CHANGES)]
    assert len(set(hashes)) == len(hashes)
    elsewhere = replace(sample, image=ImageFile(Path("elsewhere/a.jpg"), exif=True))
    assert content_hash([elsewhere]) == hashes[0]


def test_a_source_is_immutable(tiny: Any) -> None:
    source: Source = tiny.source({})
    with pytest.raises(AttributeError):
        source.split = "x"  # type: ignore[misc]

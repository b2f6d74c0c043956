"""Tables: every form of mask and every way they lie on disk, and never the network."""

from __future__ import annotations

import io
import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lens_bench.data import hub, tables
from lens_bench.data.audit import image_identity
from lens_bench.data.split import open_split
from lens_bench.errors import DataError, UsageError
from lens_bench.masks import area, decode, encode, merge_truth, rle_to_json
from lens_bench.records import Sample
from lens_bench.registry import find_suite

datasets = pytest.importorskip("datasets")

SIZES = [(20, 30), (9, 14)]
COLUMNS = {"image": "image", "text": "text", "mask": "mask", "image_id": "image_id"}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def _mask(index: int) -> np.ndarray:
    mask = np.zeros(SIZES[index], dtype=bool)
    mask[1:5, 2 : 9 + index] = True
    return mask


def _png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def _pixels(index: int) -> np.ndarray:
    return np.random.default_rng(index).integers(0, 255, (*SIZES[index], 3), dtype=np.uint8)


POLYGON = [2.0, 1.0, 9.0, 1.0, 9.0, 5.0, 2.0, 5.0]
FORMS: dict[str, tuple[str, list[Any]]] = {
    "dense bool": ("dense", [_mask(i).tolist() for i in range(2)]),
    "dense numbers": ("dense", [(_mask(i) * 255).tolist() for i in range(2)]),
    "png bytes": ("png", [_png(_mask(i).astype(np.uint8) * 7) for i in range(2)]),
    "png image": ("png", [{"bytes": _png(_mask(i)), "path": None} for i in range(2)]),
    "rle": ("rle", [rle_to_json(encode(_mask(i))) for i in range(2)]),
    "list of rle": ("rle", [[rle_to_json(encode(_mask(i)))] for i in range(2)]),
    "rle as text": ("rle", [json.dumps(rle_to_json(encode(_mask(i)))) for i in range(2)]),
}


def _table(masks: list[Any], **more: list[Any]) -> Any:
    columns = {
        "image": [{"bytes": _png(_pixels(i)), "path": None} for i in range(2)], "text": ["the dog", "the cat"],
        "mask": masks, "image_id": ["a", "b"], **more,
    }  # fmt: skip
    return datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())


def _read(tiny: Any, path: Path, form: str = "dense", **changes: Any) -> list[Sample]:
    columns = {**COLUMNS, **changes.pop("columns", {})}
    options = {"split": "test", "mask": form, **changes.pop("options", {})}
    return list(hub.read(tiny.source({"data": path}, suite="mine", columns=columns, options=options, **changes)))


@pytest.mark.parametrize("name", FORMS)
def test_every_form_of_mask_is_read(tiny: Any, name: str) -> None:
    form, masks = FORMS[name]
    path = tiny.root / "t.parquet"
    _table(masks).to_parquet(path)
    samples = _read(tiny, path, form)
    for index, sample in enumerate(samples):
        assert sample.truth.size == SIZES[index]
        np.testing.assert_array_equal(decode(merge_truth(sample.truth)[0]), _mask(index))
        np.testing.assert_array_equal(sample.image.read(), _pixels(index))
    assert [s.id for s in samples] == ["mine/test/0/0", "mine/test/1/0"]
    assert [s.image_id for s in samples] == ["a", "b"]


@pytest.mark.parametrize("masks", [[[POLYGON], [POLYGON]], [POLYGON, POLYGON], [json.dumps([POLYGON])] * 2])
def test_polygons_are_read(tiny: Any, masks: list[Any]) -> None:
    path = tiny.root / "t.parquet"
    _table(masks).to_parquet(path)
    assert [area(merge_truth(s.truth)[0]) for s in _read(tiny, path, "polygon")] == [28, 28]


def _save_parquet(table: Any, root: Path) -> Path:
    (root / "t/data").mkdir(parents=True)
    table.to_parquet(root / "t/data/test-00000-of-00001.parquet")
    table.select([0]).to_parquet(root / "t/data/train-00000-of-00001.parquet")
    return root / "t"


def _save_disk(table: Any, root: Path) -> Path:
    table.save_to_disk(root / "t")
    return root / "t"


def _save_dict(table: Any, root: Path) -> Path:
    datasets.DatasetDict({"test": table, "train": table.select([0])}).save_to_disk(root / "t")
    return root / "t"


@pytest.mark.parametrize("save", [_save_parquet, _save_disk, _save_dict])
def test_every_way_a_table_lies_on_disk(tiny: Any, save: Any) -> None:
    path = save(_table(FORMS["dense bool"][1]), tiny.root)
    samples = _read(tiny, path, options={"table_split": "test"})
    assert [s.expression for s in samples] == ["the dog", "the cat"]


def test_a_split_whose_name_begins_like_anothers_is_not_mixed_with_it(tiny: Any) -> None:
    table = _table(FORMS["dense bool"][1])
    folder = tiny.root / "t"
    folder.mkdir()
    table.to_parquet(folder / "test_mixed-0.parquet")
    assert len(_read(tiny, folder, options={"table_split": "test"})) == 2
    table.select([0]).to_parquet(folder / "test-0.parquet")
    assert len(_read(tiny, folder, options={"table_split": "test"})) == 1
    table.to_parquet(folder / "test-dev-00000-of-00001.parquet")
    assert len(_read(tiny, folder, options={"table_split": "test"})) == 1
    assert len(_read(tiny, folder, options={"table_split": "test-dev"})) == 2


def test_a_split_of_a_folder_is_not_mixed_with_the_others(tiny: Any) -> None:
    """Also where the card does not say ``table_split``, as with ``save_to_disk`` and on the hub."""
    table = _table(FORMS["dense bool"][1])
    table.to_parquet(tiny.root / "part-a.parquet")
    table.to_parquet(tiny.root / "part-b.parquet")
    assert len(_read(tiny, tiny.root)) == 4
    table.select([0]).to_parquet(tiny.root / "test-00000-of-00001.parquet")
    assert len(_read(tiny, tiny.root)) == 1


def test_one_of_several_tables_is_not_guessed(tiny: Any) -> None:
    """Configurations lie in folders of their own; together they are no split."""
    table = _table(FORMS["dense bool"][1])
    for folder in ("t/a", "t/b"):
        (tiny.root / folder).mkdir(parents=True)
        table.to_parquet(tiny.root / folder / "test.parquet")
    with pytest.raises(DataError, match=r"any of 2 tables: .*a/test.parquet, .*b/test.parquet"):
        _read(tiny, tiny.root / "t", options={"table_split": "test"})
    assert len(_read(tiny, tiny.root / "t/b", options={"table_split": "test"})) == 2


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_json_tables_name_image_files(tiny: Any, suffix: str) -> None:
    tiny.picture("images/a.png", size=SIZES[0])
    row = {"file": "a.png", "words": ["the dog", "it"], "seg": rle_to_json(encode(_mask(0)))}
    path = tiny.root / f"t.{suffix}"
    path.write_text(json.dumps([row]) if suffix == "json" else json.dumps(row) + "\n")
    columns = {"image": "file", "text": "words", "mask": "seg"}
    source = tiny.source({"data": path}, columns=columns, options={"split": "test", "mask": "rle"})
    samples = list(hub.read(source))
    assert [s.id for s in samples] == ["tiny/test/0/0", "tiny/test/0/1"]
    assert samples[0].image.exists()
    assert samples[0].truth.size == SIZES[0]
    assert samples[0].image is samples[1].image
    (tiny.root / "images" / "a.png").unlink()
    assert not samples[0].image.exists()


def test_all_columns_that_can_be_mapped(tiny: Any) -> None:
    more = {"h": [20, 9], "w": [30, 14], "xywh": [[1.0, 2.0, 3.0, 4.0]] * 2, "n": [5, 6], "long": [True, False],
            "family": [["x", "y"], []]}  # fmt: skip
    path = tiny.root / "t.parquet"
    _table(FORMS["dense bool"][1], **more).to_parquet(path)
    columns = {"height": "h", "width": "w", "box": "xywh", "key": "n", "is_sentence": "long", "tags": "family"}
    first, second = _read(tiny, path, columns=columns, options={"box": "xywh"})
    assert first.truth.box == (1.0, 2.0, 4.0, 6.0)
    assert (first.key, first.is_sentence, first.tags) == ("5", True, ("x", "y"))
    assert (second.key, second.is_sentence, second.tags) == ("6", False, ())


def test_fingerprints_follow_the_pixels(tiny: Any) -> None:
    prints = []
    for index, flip in enumerate([False, True, False]):
        mask = _mask(0)
        mask[0, 0] = flip
        path = tiny.root / f"{index}.parquet"
        _table([mask.tolist(), _mask(1).tolist()]).to_parquet(path)
        part = _read(tiny, path)[0].truth.parts[0]
        assert isinstance(part, tables.CellMask)
        prints.append(part.fingerprint())
    assert prints[0] == prints[2] != prints[1]


def test_a_mask_of_another_size_is_named_when_it_is_read(tiny: Any) -> None:
    path = tiny.root / "t.parquet"
    _table(FORMS["dense bool"][1], h=[21, 9], w=[30, 14]).to_parquet(path)
    sample = _read(tiny, path, columns={"height": "h", "width": "w"})[0]
    with pytest.raises(DataError, match=r"mask of row 0 of .* is 30x20, its image 30x21"):
        merge_truth(sample.truth)


@pytest.mark.parametrize(
    ("masks", "form", "message"),
    [
        ([[[True], [True, False]], [[True]]], "dense", "not a mask of rows of one length"),
        (["x", "y"], "dense", "is not a dense mask"),
        (["x", "y"], "rle", "text that is not JSON"),
        ([None, None], "png", "holds no image"),
    ],
)
def test_a_malformed_mask_is_named(tiny: Any, masks: list[Any], form: str, message: str) -> None:
    path = tiny.root / "t.parquet"
    _table(masks).to_parquet(path)
    with pytest.raises(DataError, match=message) as caught:
        merge_truth(_read(tiny, path, form)[0].truth)
    assert "row 0 of" in caught.value.message


def test_mistakes_on_a_card_are_named(tiny: Any) -> None:
    path = tiny.root / "t.parquet"
    _table(FORMS["dense bool"][1]).to_parquet(path)
    with pytest.raises(DataError, match="has no column 'seg'") as caught:
        _read(tiny, path, columns={"mask": "seg"})
    assert "image, text, mask, image_id" in caught.value.hint
    with pytest.raises(UsageError, match="maps an unknown column 'pixels'"):
        _read(tiny, path, columns={"pixels": "x"})
    with pytest.raises(UsageError, match="mask form 'bitmap'"):
        _read(tiny, path, "bitmap")
    with pytest.raises(UsageError, match="does not say which column holds the text"):
        list(hub.read(tiny.source({"data": path}, columns={"image": "image"})))
    (tiny.root / "empty").mkdir()
    with pytest.raises(DataError, match="does not hold a table of split 'val'"):
        _read(tiny, tiny.root / "empty", options={"table_split": "val"})
    (tiny.root / "bad.parquet").write_bytes(b"no")
    with pytest.raises(DataError, match=r"bad\.parquet cannot be read"):
        _read(tiny, tiny.root / "bad.parquet")


def _refuse(*_: object, **__: object) -> None:
    raise AssertionError("the network was used")


def test_nothing_is_downloaded_unless_the_card_says_so(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(datasets, "load_dataset", _refuse)
    source = tiny.source({}, columns=COLUMNS, options={"repo": "owner/name"})
    with pytest.raises(DataError, match="owner/name is not on disk, and suite tiny does not allow a download"):
        list(hub.read(source))
    with pytest.raises(UsageError, match="names neither a file `data` nor an option `repo`"):
        list(hub.read(tiny.source({}, columns=COLUMNS)))


@pytest.mark.parametrize("value", ["1", "true", "ON"])
def test_nothing_is_ever_downloaded_offline(tiny: Any, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    monkeypatch.setattr(datasets, "load_dataset", _refuse)
    source = tiny.source({}, columns=COLUMNS, options={"repo": "owner/name", "download": True})
    with pytest.raises(DataError, match="HF_HUB_OFFLINE forbids"):
        list(hub.read(source))


def test_a_download_that_is_allowed_asks_for_the_revision(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    asked: list[Any] = []

    def load(*args: Any, **more: Any) -> Any:
        asked.append((args, more))
        return _table(FORMS["dense bool"][1])

    monkeypatch.setattr(datasets, "load_dataset", load)
    options = {"repo": "owner/name", "download": True, "revision": "0123abc", "table_split": "test"}
    assert len(list(hub.read(tiny.source({}, columns=COLUMNS, options=options)))) == 2
    assert asked == [(("owner/name",), {"split": "test", "revision": "0123abc", "name": None})]


def test_the_seg_zero_mirror_is_found_through_its_card(tiny: Any) -> None:
    table = _table(FORMS["dense bool"][1], ann_id=["a", "b"], img_height=[20, 9], img_width=[30, 14])
    (tiny.root / "ReasonSeg_val/data").mkdir(parents=True)
    table.to_parquet(tiny.root / "ReasonSeg_val/data/test-00000-of-00001.parquet")
    split = open_split(find_suite("reasonseg-mirror"), "val", tiny.root, allow_partial=True)
    assert split.counts.expressions == 2
    assert split.samples[0].key == "a"
    assert "Ignore regions are part of the target" in split.warning
    with pytest.raises(DataError, match="200 expressions expected, 2 found"):
        open_split(find_suite("reasonseg-mirror"), "val", tiny.root)


def test_the_readmes_card_of_a_table_works_as_it_stands(tiny: Any) -> None:
    readme = (Path(__file__).parents[2] / "suites" / "README.md").read_text(encoding="utf-8")
    card = next(block for block in readme.split("```yaml\n") if block.startswith("name: plants")).split("```")[0]
    (tiny.root / "plants.yaml").write_text(card, encoding="utf-8")
    table = _table(FORMS["rle"][1], bbox=[[1.0, 2.0, 3.0, 4.0]] * 2, family=["rose", "oak"])
    table = table.rename_columns(
        {"image": "photo", "text": "description", "mask": "segmentation", "image_id": "photo_id"}
    )
    (tiny.root / "plants").mkdir()
    table.to_parquet(tiny.root / "plants/test-0.parquet")
    split = open_split(find_suite(str(tiny.root / "plants.yaml")), "test", tiny.root, allow_partial=True)
    assert [s.tags for s in split.samples] == [("rose",), ("oak",)]
    assert split.samples[0].truth.box == (1.0, 2.0, 4.0, 6.0)


# ---------------------------------------------------------------------------------------------- REFER as a table


def _refer_table(tiny: Any, other: list[list[float]] | None = None, images: int = 1) -> Path:
    def ref(ref_id: int, ann_id: int, segmentation: list[list[float]]) -> dict[str, Any]:
        record = tiny.ref(ref_id, 581857, ann_id, ["left dog", "the dog"])
        del record["file_name"]
        return {
            "ann_info": {"id": ann_id, "image_id": 581857, "bbox": [2.0, 1.0, 7.0, 4.0], "segmentation": segmentation},
            "ref_info": record,
        }

    info = {"file_name": "COCO_train2014_000000581857.jpg", "height": 20, "width": 30}
    pieces = [POLYGON, [20.0, 1.0, 28.0, 1.0, 28.0, 5.0]]
    rows = {
        "image": [{"bytes": _png(_pixels(0)), "path": None}] * images, "image_info": [info] * images,
        "ref_list": [[ref(1, 70, pieces), ref(2, 70, other or pieces), ref(3, 71, [])]] * images,
    }  # fmt: skip
    folder = tiny.root / "refcoco-benchmark" / "data"
    folder.mkdir(parents=True)
    table = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    table.to_parquet(folder / "refcoco_unc_val-00000-of-00001-2c68.parquet")
    table.to_parquet(folder / "refcoco_unc_valid_other-00000.parquet")
    return folder


# ---------------------------------------------------------------------------------------------- files of a table


@pytest.mark.parametrize("folder", ["v[12]", "v?", "v*", "a{b,c}", "[!x]", "one [two]"])
def test_a_folders_name_is_no_pattern(tiny: Any, folder: str) -> None:
    for name, text in ((folder, "right"), ("v1", "wrong"), ("v2", "wrong"), ("ab", "wrong")):
        (tiny.root / name).mkdir()
        table = _table(FORMS["dense bool"][1]).remove_columns("text").add_column("text", [text, text])
        table.to_parquet(tiny.root / name / "test.parquet")
    assert [s.expression for s in _read(tiny, tiny.root / folder)] == ["right", "right"]
    assert len(_read(tiny, tiny.root / folder / "test.parquet")) == 2


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["test-00000-of-00003", "test-00002-of-00003"], "holds 2 of the 3 parts of test: part 00001 is missing"),
        (["test-00000-of-00002"], "holds 1 of the 2 parts of test: part 00001 is missing"),
        (["test-00001-of-00002-a1b2"], "part 00000 is missing"),
        (["test-00000-of-00002", "test-00001-of-00002", "test-00000-of-00003"], "parts of two versions of test"),
        (["test-00000-of-00001-aa", "test-00000-of-00001-bb"], "a part of test twice"),
        (["test_00000_of_00002"], "holds 1 of the 2 parts of test: part 00001 is missing"),
        (["test-0-of-2"], "part 00001 is missing"),
    ],
)
def test_a_table_of_which_parts_are_missing_is_refused(tiny: Any, names: list[str], message: str) -> None:
    for name in names:
        _table(FORMS["dense bool"][1]).to_parquet(tiny.root / f"{name}.parquet")
    (tiny.root / "train-00000-of-00009.parquet").write_bytes(b"another split's")
    with pytest.raises(DataError, match=message):
        _read(tiny, tiny.root, options={"table_split": "test"})


def test_all_parts_are_read_and_hidden_files_passed_by(tiny: Any) -> None:
    folder = tiny.root / "data"
    for name in ("test-00000-of-00002", "test-00001-of-00002"):
        folder.mkdir(exist_ok=True)
        _table(FORMS["dense bool"][1]).to_parquet(folder / f"{name}.parquet")
    (folder / "._test-00000-of-00002.parquet").write_bytes(b"\x00\x05\x16\x07")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "test-00005-of-00009.parquet").write_bytes(b"x")
    assert len(_read(tiny, folder)) == len(_read(tiny, folder, options={"table_split": "test"})) == 4


def test_a_replaced_table_is_read_anew_even_under_its_old_time(tiny: Any) -> None:
    path = tiny.root / "t.parquet"
    for text in ("old", "new"):
        _table(FORMS["dense bool"][1]).remove_columns("text").add_column("text", [text, text]).to_parquet(path)
        os.utime(path, (1_000_000_000, 1_000_000_000))
        assert [s.expression for s in _read(tiny, path)] == [text, text]


def test_rows_of_one_image_id_hold_one_image(tiny: Any) -> None:
    path = tiny.root / "t.parquet"
    table = _table(FORMS["dense bool"][1]).remove_columns("image_id").add_column("image_id", ["a", "a"])
    table.to_parquet(path)
    with pytest.raises(DataError, match=r"image of row 0 of .* and row 1 hold different images"):
        _read(tiny, path)
    same = [{"bytes": _png(_pixels(0)), "path": None}] * 2
    rows = {"image": same, "text": ["a", "b"], "mask": [_mask(0).tolist()] * 2, "image_id": ["a", "a"]}
    datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image()).to_parquet(path)
    assert [s.image_id for s in _read(tiny, path)] == ["a", "a"]


@pytest.mark.parametrize("value", ["False", 2, 0.5])
def test_a_text_is_no_boolean(tiny: Any, value: object) -> None:
    path = tiny.root / "t.parquet"
    _table(FORMS["dense bool"][1], long=[value, value]).to_parquet(path)
    with pytest.raises(DataError, match=r"is_sentence of row 0 of .* is not a boolean"):
        _read(tiny, path, columns={"is_sentence": "long"})


@pytest.mark.parametrize("kind", ["parquet", "arrow", "save_to_disk", "jsonl"])
def test_a_damaged_table_is_named(tiny: Any, kind: str) -> None:
    table = _table(FORMS["dense bool"][1]).remove_columns("image").add_column("image", ["a.png", "b.png"])
    path = tiny.root / f"t.{kind}"
    if kind == "parquet":
        table.to_parquet(path)
    elif kind == "jsonl":
        table.to_json(path)
    else:
        table.save_to_disk(tiny.root / "saved")
        path = next((tiny.root / "saved").glob("*.arrow")) if kind == "arrow" else tiny.root / "saved" / "state.json"
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(25):
        damaged = np.frombuffer(content, dtype=np.uint8).copy()
        damaged[rng.integers(0, len(damaged), 3)] = rng.integers(0, 256, 3)
        path.write_bytes(damaged.tobytes()[: int(rng.integers(len(content) // 2, len(content) + 1))])
        with suppress(DataError):
            for sample in _read(tiny, path.parent if kind == "save_to_disk" else path):
                merge_truth(sample.truth)


def test_refer_tables_with_one_id_for_two_things_are_refused(tiny: Any) -> None:
    folder = _refer_table(tiny, other=[POLYGON])
    with pytest.raises(DataError, match=r"row 0 of .* has two different annotations with the id 70"):
        open_split(find_suite("refcoco-benchmark"), "refcoco-val", tiny.root, allow_partial=True)
    shutil.rmtree(folder)
    _refer_table(tiny, images=2)
    with pytest.raises(DataError, match=r"rows 0 and 1 of .* both are about image"):
        open_split(find_suite("refcoco-benchmark"), "refcoco-val", tiny.root, allow_partial=True)


def test_refer_sets_are_read_from_their_table_with_whole_polygons(tiny: Any) -> None:
    _refer_table(tiny)
    split = open_split(find_suite("refcoco-benchmark"), "refcoco-val", tiny.root, allow_partial=True)
    samples = split.samples
    assert (split.counts.images, split.counts.refs, split.counts.expressions) == (1, 3, 6)
    assert samples[0].id == "refcoco-benchmark/refcoco-val/ref1/sent10"
    assert (samples[0].expression, samples[0].raw, samples[0].key) == ("left dog", "Left dog!", "10")
    assert len(samples[0].truth.parts) == 2
    assert samples[0].truth.box == (2.0, 1.0, 9.0, 5.0)
    assert samples[0].truth is samples[2].truth
    assert samples[4].truth.parts == ()
    np.testing.assert_array_equal(samples[0].image.read(), _pixels(0))
    assert image_identity(samples[0]) == "coco:581857"

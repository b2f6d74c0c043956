"""What counts as a mask: two values, in a cell of any nesting or a file of any kind. Everything else is refused."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from lens_bench.data import hub
from lens_bench.data.dense import mask_of, size_of
from lens_bench.data.mask_files import MaskFile, decode_mask, threshold_of
from lens_bench.errors import DataError, UsageError
from lens_bench.masks import decode

datasets = pytest.importorskip("datasets")

MASK = np.zeros((4, 6), dtype=bool)
MASK[1:3, 2:5] = True
PALETTE = [0, 0, 0, 200, 10, 10, 10, 200, 10]


# ---------------------------------------------------------------------------------------------- cells


def _cell(value: object, kind: pa.DataType | None = None) -> pa.Scalar:
    return pa.array([value], type=kind)[0]


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", "uint16", "float16", "float32", "float64"])
def test_booleans_integers_and_floats_of_0_and_1_are_masks(dtype: str) -> None:
    cell = _cell(MASK.astype(dtype).tolist(), pa.list_(pa.list_(pa.from_numpy_dtype(np.dtype(dtype)))))
    assert size_of(cell, "x") == (4, 6)
    np.testing.assert_array_equal(mask_of(cell, None, "x"), MASK)


@pytest.mark.parametrize("kind", ["list", "large_list", "fixed", "mixed"])
@pytest.mark.parametrize("nesting", ["hw", "1hw", "hw1"])
def test_every_nesting_of_a_mask_is_read(kind: str, nesting: str) -> None:
    value = {"hw": MASK, "1hw": MASK[None], "hw1": MASK[:, :, None]}[nesting]
    arrow: pa.DataType = pa.bool_()
    for number, length in enumerate(reversed(value.shape)):
        fixed = kind == "fixed" or (kind == "mixed" and number == 0)
        arrow = pa.large_list(arrow) if kind == "large_list" else pa.list_(arrow, length) if fixed else pa.list_(arrow)
    np.testing.assert_array_equal(mask_of(_cell(value.tolist(), arrow), None, "x"), MASK)


@pytest.mark.parametrize("feature", ["Array2D", "Array3D"])
def test_arrays_of_datasets_are_read(tmp_path: Path, feature: str) -> None:
    mask = MASK if feature == "Array2D" else MASK[None]
    kind = getattr(datasets, feature)(shape=mask.shape, dtype="uint8")
    features = datasets.Features({"mask": kind})
    table = datasets.Dataset.from_dict({"mask": [mask.astype(np.uint8)]}, features=features)
    cell = table.with_format("arrow")[0].column("mask")[0]
    np.testing.assert_array_equal(mask_of(cell, None, "x"), MASK)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.where(MASK, 0.95, 0.05).tolist(), "x has values that are neither 0 nor 1"),
        (np.where(MASK, 3.2, -4.1).tolist(), "x has values that are neither 0 nor 1"),
        (np.where(MASK, 1.0, np.nan).tolist(), "x has values that are neither 0 nor 1"),
        (np.where(MASK, np.nan, 0.0).tolist(), "x has values that are neither 0 nor 1"),
        ([[0.0, 0.5, 1.0]], "more than one value beside 0"),
        ([[0, 1, 2]], "more than one value beside 0"),
        ([[1, 2]], "more than one value beside 0"),
        ([[0, -1, 1]], "more than one value beside 0"),
        ([[True, None]], "has 1 values that are null"),
        ([[0.0, None]], "has 1 values that are null"),
        ([[True], None], "not a mask of rows of one length"),
        ([None, None], "nested 1 deep"),
        ([[True], [True, False]], "not a mask of rows of one length"),
        ([[[True], [True, False]]], "not a mask of rows of one length"),
        ([[[[True]]]], "nested 4 deep"),
        ([[[True, True], [True, True]], [[True, True], [True, True]]], "nested 3 deep"),
        ([True, False], "nested 1 deep"),
        ([], "has the size|nested 1 deep|not a mask"),
        ([[]], "has the size"),
        ([["a", "b"]], "x holds string"),
        ([[{"a": 1}]], "x holds struct"),
        ("text", "not a dense mask, but string"),
        (5, "not a dense mask, but int64"),
        (b"bytes", "not a dense mask, but binary"),
        ({"bytes": b""}, "not a dense mask, but struct"),
        (None, "not a dense mask"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_what_is_no_dense_mask_is_refused(value: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        mask_of(_cell(value), None, "x")


def test_a_threshold_says_what_is_foreground() -> None:
    cell = _cell(np.where(MASK, 0.95, 0.05).tolist())
    np.testing.assert_array_equal(mask_of(cell, 0.5, "x"), MASK)
    np.testing.assert_array_equal(mask_of(_cell([[0, 1, 2]]), 2, "x"), [[False, False, True]])
    with pytest.raises(DataError, match="not finite"):
        mask_of(_cell([[0.1, float("nan")]]), 0.5, "x")


@pytest.mark.parametrize(("value", "good"), [(None, True), (0.5, True), (128, True), ("128", False), (True, False)])
def test_a_threshold_is_a_number(tiny: Any, value: Any, good: bool) -> None:
    source = tiny.source({}, options={"mask_threshold": value})
    if good:
        assert threshold_of(source) == value
    else:
        with pytest.raises(UsageError, match="mask_threshold"):
            threshold_of(source)


def test_a_threshold_on_the_card_reaches_cells_and_changes_the_content(
    tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tiny.root / "cache")
    soft = np.where(MASK, 200, 10).astype(np.uint8)
    image = {"bytes": _bytes(Image.fromarray(np.zeros((4, 6, 3), dtype=np.uint8))), "path": None}
    for form, cell in (("dense", soft.tolist()), ("png", _bytes(Image.fromarray(soft)))):
        path = tiny.root / f"{form}.parquet"
        rows = {"image": [image], "text": ["a"], "mask": [cell]}
        datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image()).to_parquet(path)
        columns = {"image": "image", "text": "text", "mask": "mask"}
        prints = []
        for threshold in (100, 5):
            options = {"mask": form, "mask_threshold": threshold}
            (sample,) = hub.read(tiny.source({"data": path}, columns=columns, options=options))
            (part,) = sample.truth.parts
            assert decode(part.rle((4, 6))).sum() == (6 if threshold == 100 else 24)  # type: ignore[union-attr]
            prints.append(part.fingerprint())  # type: ignore[union-attr]
        assert prints[0] != prints[1]


# ---------------------------------------------------------------------------------------------- files


def _bytes(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def _image(array: np.ndarray, mode: str | None = None) -> Image.Image:
    image = Image.fromarray(array)
    return image if mode is None else image.convert(mode)


def _palette(colours: list[int], indices: np.ndarray = MASK) -> Image.Image:
    image = Image.fromarray(indices.astype(np.uint8), "L").copy()
    image = Image.frombytes("P", image.size, image.tobytes())
    image.putpalette(colours)
    return image


def _alpha(colour: np.ndarray, alpha: np.ndarray) -> Image.Image:
    image = Image.fromarray(colour.astype(np.uint8)).convert("RGB")
    image.putalpha(Image.fromarray(alpha.astype(np.uint8)))
    return image


GOOD = {
    "1 bit": _image(MASK),
    "0 and 255": _image(MASK * np.uint8(255)),
    "0 and 1": _image(MASK.astype(np.uint8)),
    "16 bits": _image(MASK * np.uint16(65535)),
    "32 bits": _image(MASK * np.int32(70000)),
    "colour": _image((MASK[:, :, None] * np.array([0, 0, 9])).astype(np.uint8)),
    "palette": _palette(PALETTE),
    "opaque": _alpha(MASK * 255, np.full(MASK.shape, 255)),
    "alpha beside a mask": _alpha(MASK * 255, MASK * 255),
    "grey and alpha": _alpha(MASK * 255, MASK * 255).convert("LA"),
}


@pytest.mark.parametrize("name", GOOD)
def test_images_of_two_values_are_masks(name: str) -> None:
    kind = "TIFF" if name == "32 bits" else "PNG"
    np.testing.assert_array_equal(decode_mask(_bytes(GOOD[name], kind), "x"), MASK)


@pytest.mark.parametrize("value", [0, 255])
def test_a_mask_of_one_value_is_empty_or_full(value: int) -> None:
    assert decode_mask(_bytes(_image(np.full((4, 6), value, dtype=np.uint8))), "x").all() == (value != 0)


FLOATS = [np.where(MASK, 0.9, 0.1).astype(np.float32), np.where(MASK, np.nan, 0.0).astype(np.float32)]
BAD: dict[str, tuple[bytes, str]] = {
    "soft edges": (_bytes(_image(np.arange(24, dtype=np.uint8).reshape(4, 6))), "more than one value beside 0"),
    "two greys": (_bytes(_image(np.where(MASK, 255, 254).astype(np.uint8))), "more than one value beside 0"),
    "16 bits": (_bytes(_image(np.arange(24, dtype=np.uint16).reshape(4, 6))), "more than one value beside 0"),
    "objects in colours": (_bytes(_palette(PALETTE, MASK + MASK.cumsum(1) // 3)), "more than one value beside 0"),
    "white palette": (_bytes(_palette([255, 255, 255, 0, 0, 0])), "palette"),
    "two blacks": (_bytes(_palette([0, 0, 0, 0, 0, 0, 9, 9, 9])), "palette"),
    "cut-out": (_bytes(_alpha(np.zeros(MASK.shape), MASK * 255)), "its alpha channel is not"),
    "jpeg": (_bytes(_image(MASK * np.uint8(255)), "JPEG"), "lossy format"),
    "jpeg, all black": (_bytes(_image(np.zeros((4, 6), dtype=np.uint8)), "JPEG"), "lossy format"),
    "webp": (_bytes(_image(MASK * np.uint8(255), "RGB"), "WEBP"), "lossy format"),
    "cmyk": (_bytes(_image(MASK * np.uint8(255), "CMYK"), "TIFF"), "colour mode CMYK"),
    "probabilities": (_bytes(_image(FLOATS[0]), "TIFF"), "neither 0 nor 1"),
    "nan": (_bytes(_image(FLOATS[1]), "TIFF"), "neither 0 nor 1"),
    "not an image": (b"x", "cannot be decoded"),
}


@pytest.mark.parametrize("name", BAD)
def test_images_that_would_have_to_be_guessed_at_are_refused(tmp_path: Path, name: str) -> None:
    data, message = BAD[name]
    path = tmp_path / "mask.png"
    path.write_bytes(data)
    with pytest.raises(DataError, match=message) as caught:
        MaskFile(path).rle((4, 6))
    assert str(path) in caught.value.message


def test_jpeg_in_a_tiff_is_lossy_too() -> None:
    data = _bytes(_image(MASK * np.uint8(255)), "TIFF", compression="jpeg")
    with pytest.raises(DataError, match="lossy"):
        decode_mask(data, "x")


@pytest.mark.parametrize("name", ["soft edges", "jpeg", "probabilities", "white palette"])
def test_a_threshold_reads_them(name: str) -> None:
    image = Image.open(io.BytesIO(BAD[name][0]))
    values = np.asarray(image.convert("L") if image.mode == "P" else image)
    threshold = 0.5 if name == "probabilities" else 12
    np.testing.assert_array_equal(decode_mask(BAD[name][0], "x", threshold), values >= threshold)


def test_masks_are_on_the_grid_of_the_stored_pixels() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind in ("PNG", "TIFF"):
        np.testing.assert_array_equal(decode_mask(_bytes(_image(MASK), kind, exif=exif), "x"), MASK)

"""Weight files that are cut off, altered, of another kind, or made to eat memory: one line each."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

from lens_bench.errors import CheckpointError
from lens_bench.lens.sources import SafetensorsSource, pickle_source

TENSORS = {"a.weight": torch.arange(60.0).view(6, 10), "b": torch.zeros(3, dtype=torch.bfloat16)}


def archive() -> bytes:
    stream = io.BytesIO()
    torch.save({"model": TENSORS}, stream)
    return stream.getvalue()


def legacy() -> bytes:
    stream = io.BytesIO()
    torch.save({"model": TENSORS}, stream, _use_new_zipfile_serialization=False)
    return stream.getvalue()


def read(file: Path) -> None:
    """Everything that a loader does with a file; a file that says less than the whole truth is one it may accept."""
    try:
        source = SafetensorsSource([file]) if file.suffix == ".safetensors" else pickle_source(file)
        for name in source.shapes():
            source.tensor(name)
    except CheckpointError as error:
        assert error.exit_code == 5 and "\n" not in error.message and len(error.message) < 400


def refused(file: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        pickle_source(file)
    assert file.name in caught.value.message and "\n" not in caught.value.message


@pytest.mark.parametrize("make", [archive, legacy])
def test_both_formats_of_torch_are_read(make: object, tmp_path: Path) -> None:
    """Files of before PyTorch 1.6 are no archives and cannot be mapped."""
    (tmp_path / "x.pt").write_bytes(make())  # type: ignore[operator]
    source = pickle_source(tmp_path / "x.pt")
    assert source.shapes() == {"a.weight": (6, 10), "b": (3,)}
    assert torch.equal(source.tensor("a.weight"), TENSORS["a.weight"])


@pytest.mark.parametrize("kind", ["archive", "legacy", "safetensors"])
def test_damaged_files_end_in_one_line(kind: str, tmp_path: Path) -> None:
    content = {"archive": archive, "legacy": legacy, "safetensors": lambda: save(TENSORS)}[kind]()
    file = tmp_path / ("x.safetensors" if kind == "safetensors" else "x.bin")
    rng = np.random.default_rng(0)
    for _ in range(150):
        data = bytearray(content)
        for _ in range(rng.integers(1, 6)):
            data[rng.integers(len(data))] = rng.integers(256)
        file.write_bytes(bytes(data))
        read(file)
    for cut in [0, 1, 4, 8, 9, *rng.integers(10, len(content), 40).tolist()]:
        file.write_bytes(content[:cut])
        with pytest.raises(CheckpointError):
            SafetensorsSource([file]) if kind == "safetensors" else pickle_source(file)


def test_files_of_another_kind(tmp_path: Path) -> None:
    file = tmp_path / "x.pt"
    for content in (b"hello", b"PK\x03\x04", b"\x80\x02}q\x00.", pickle.dumps({"a": 1}), save(TENSORS), b"<html>404"):
        file.write_bytes(content)
        refused(file)
    file.unlink()
    file.mkdir()
    refused(file)


def test_an_archive_that_unpacks_to_more_than_it_holds(tmp_path: Path) -> None:
    file = tmp_path / "bomb.pt"
    (tmp_path / "plain.pt").write_bytes(archive())
    with zipfile.ZipFile(tmp_path / "plain.pt") as plain, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as bomb:
        for entry in plain.infolist():
            bomb.writestr(entry.filename, plain.read(entry))
        bomb.writestr("archive/data/9", b"\0" * 50_000_000)
    assert file.stat().st_size < 100_000
    with pytest.raises(CheckpointError, match="unpacks to more than it holds"):
        pickle_source(file)


def doubled(times: int) -> bytes:
    """A tuple of twice the same tuple of twice the same, and so on, with an empty dictionary below it on the stack."""
    twice = b"".join(b"h%c" % n + b"h%c" % n + b"\x86q%c" % (n + 1) for n in range(times))
    return b"\x80\x02}q\x7f)q\x00" + twice + b"h\x7fh%c" % times


BOMBS = {
    "a doubled tuple as a key": doubled(60) + b"K\x01s.",
    "a doubled tuple in a set": b"\x80\x02cbuiltins\nset\n" + doubled(60)[2:] + b"\x85R.",
    "a nested tuple as a key": b"\x80\x02})" + b"\x85" * 1_000_000 + b"K\x01s.",
    "bytes of 2**40": b"\x80\x02cbuiltins\nbytearray\n\x8a\x06" + (2**40).to_bytes(6, "little") + b"\x85R.",
    "a text of 4 GB": b"\x80\x02X\xff\xff\xff\xff.",
}


@pytest.mark.parametrize("kind", ["archive", "legacy"])
@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_before_torch_sees_it(tmp_path: Path, name: str, kind: str) -> None:
    file = tmp_path / "bomb.pt"
    if kind == "archive":
        with zipfile.ZipFile(io.BytesIO(archive())) as plain, zipfile.ZipFile(file, "w") as bomb:
            for entry in plain.infolist():
                bomb.writestr(entry.filename, BOMBS[name] if entry.filename.endswith("data.pkl") else plain.read(entry))
    else:
        before = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
        file.write_bytes(b"".join(pickle.dumps(value, 2) for value in before) + BOMBS[name])
    with pytest.raises(CheckpointError, match=r"is not a checkpoint of tensors: it (holds|is no pickle)"):
        pickle_source(file)

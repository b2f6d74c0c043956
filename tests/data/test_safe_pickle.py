"""Pickles: plain data in every protocol is read, and nothing that a pickle names is ever run."""

from __future__ import annotations

import builtins
import copyreg
import functools
import os
import pickle
import pickletools
import struct
import tracemalloc
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lens_bench.data import safe_pickle
from lens_bench.data.jsonio import clean_text
from lens_bench.data.safe_pickle import load_pickle
from lens_bench.errors import DataError
from lens_bench.pickle_machine import Machine

PLAIN = {"a": [1, 2.5, None, True], "b": ("x", b"\xff\x00"), "c": {1, 2}, "d": frozenset({"é"}), "e": -(2**80), "": b""}


def _write(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "refs(unc).p"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_is_read_in_every_protocol(tmp_path: Path, protocol: int) -> None:
    assert load_pickle(_write(tmp_path, pickle.dumps(PLAIN, protocol))) == PLAIN


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=15,
)


@settings(max_examples=60, deadline=None)
@given(value=values, protocol=st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_any_plain_value_comes_back(tmp_path_factory: pytest.TempPathFactory, value: object, protocol: int) -> None:
    path = tmp_path_factory.mktemp("p") / "x.p"
    path.write_bytes(pickle.dumps(value, protocol))
    assert load_pickle(path) == value


def test_python_2_sets_and_strings(tmp_path: Path) -> None:
    # pickle.dumps({"s": set(["a"]), "t": "caf\xc3\xa9", "u": u"\xe9"}, 2) of Python 2.7
    data = (
        b"\x80\x02}q\x00(U\x01uq\x01X\x02\x00\x00\x00\xc3\xa9q\x02U\x01tq\x03U\x05caf\xc3\xa9q\x04U\x01sq\x05"
        b"c__builtin__\nset\nq\x06]q\x07U\x01aq\x08a\x85q\tRq\nu."
    )
    assert load_pickle(_write(tmp_path, data)) == {"u": "é", "t": "café", "s": {"a"}}


@pytest.mark.parametrize(
    ("raw", "text"), [(b"plain", "plain"), (b"caf\xe9", "café"), ("naïve".encode(), "naïve"), (b"\xff\xfe", "ÿþ")]
)
def test_python_2_text_is_utf_8_or_else_latin_1(raw: bytes, text: str) -> None:
    assert clean_text(raw.decode("utf-8", "surrogateescape")) == text


def test_a_lone_surrogate_becomes_writable() -> None:
    assert clean_text("a\ud800b") == "a?b"


# ---------------------------------------------------------------------------------------------- malice


class _Runs:
    """Pickles to a call of ``function(*arguments)``."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def _op(*parts: bytes) -> bytes:
    return b"".join(parts)


def _text(text: str) -> bytes:
    data = text.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _attacks(marker: Path) -> dict[str, bytes]:
    command = f"touch '{marker}'"
    code = f"open({str(marker)!r}, 'w').close()"
    nested = _Runs(functools.partial, os.system, command)
    attacks = {
        f"os.system, protocol {n}": pickle.dumps({"refs": [_Runs(os.system, command)]}, n)
        for n in range(pickle.HIGHEST_PROTOCOL + 1)
    }
    attacks |= {
        "eval": pickle.dumps(_Runs(builtins.eval, code), 2),
        "exec": pickle.dumps(_Runs(builtins.exec, code), 4),
        "open": pickle.dumps(_Runs(builtins.open, str(marker), "w"), 2),
        "getattr": _op(
            b"\x80\x02cbuiltins\ngetattr\n", b"cos\nsystem\n", _text("__call__"), b"\x86R", _text(command), b"\x85R."
        ),
        "partial": pickle.dumps(nested, 2),
        "import": pickle.dumps(_Runs(builtins.__import__, "os"), 2),
        "python 2 builtin": _op(b"\x80\x02c__builtin__\neval\n", _text(code), b"\x85R."),
        "INST": _op(b"(S'", command.encode().replace(b"'", b"\\'"), b"'\nios\nsystem\n."),
        "OBJ": _op(b"(cos\nsystem\n", _text(command), b"o."),
        "STACK_GLOBAL": _op(b"\x80\x04", b"\x8c\x02os\x8c\x06system\x93", _text(command), b"\x85R."),
        "STACK_GLOBAL of a dotted name": _op(
            b"\x80\x04", _text("builtins"), _text("set.__class__"), b"\x93", _text(command), b"\x85R."
        ),
        "STACK_GLOBAL from the memo": _op(
            b"\x80\x04", _text("os"), b"\x94", _text("system"), b"\x94", b"00h\x00h\x01\x93", _text(command), b"\x85R."
        ),
        "NEWOBJ": _op(b"\x80\x02csubprocess\nPopen\n", _text(command), b"\x85\x81."),
        "NEWOBJ_EX": _op(b"\x80\x04csubprocess\nPopen\n", _text(command), b"\x85}\x92."),
        "codecs with another codec": _op(b"\x80\x02c_codecs\nencode\n", _text("x"), _text("rot13"), b"\x86R."),
        "codecs of another thing": _op(b"\x80\x02c_codecs\nencode\n", b"]", _text("latin1"), b"\x86R."),
        "bytes of a size": _op(b"\x80\x02c__builtin__\nbytes\n", b"J\x00\x00\x00\x40", b"\x85R."),
        "bytearray": pickle.dumps(bytearray(b"x"), 2),
        "attributes of an admitted stand-in": _op(
            b"\x80\x02c_codecs\nencode\n", b"}", _text("__call__"), b"cos\nsystem\n", b"sb", _text(command), b"\x85R."
        ),
        "OrderedDict": pickle.dumps(OrderedDict(a=1), 2),
        "own class": b"\x80\x02clens_bench.errors\nDataError\n)\x81.",
        "copyreg": b"ccopy_reg\n_reconstructor\n(c__builtin__\nobject\nc__builtin__\nobject\nNtR.",
        "persistent id": b"Pid\n.",
        "persistent id in binary": b"\x80\x02K\x01Q.",
        "hidden in a dict that is dropped": _op(b"cos\nsystem\n", _text(command), b"\x85R0", b"]."),
    }
    return attacks


NAMES = sorted(_attacks(Path("marker")))


@pytest.mark.parametrize("name", NAMES)
def test_a_pickle_that_runs_something_is_refused_and_does_not_run_it(tmp_path: Path, name: str) -> None:
    marker = tmp_path / "ran"
    path = _write(tmp_path, _attacks(marker)[name])
    with pytest.raises(DataError) as caught:
        load_pickle(path)
    assert not marker.exists()
    assert caught.value.exit_code == 4
    assert "refs(unc).p" in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("name", ["os.system, protocol 0", "eval", "STACK_GLOBAL", "INST", "getattr", "OBJ"])
def test_the_attacks_are_real(tmp_path: Path, name: str) -> None:
    marker = tmp_path / "ran"
    data = _attacks(marker)[name]
    assert list(pickletools.genops(data))
    pickle.loads(data)
    assert marker.exists()


def test_the_message_names_what_was_asked_for(tmp_path: Path) -> None:
    path = _write(tmp_path, pickle.dumps(_Runs(os.system, "true"), 2))
    with pytest.raises(DataError, match=r"is refused: it asks for posix\.system|nt\.system"):
        load_pickle(path)


def test_extension_codes_are_refused_even_where_one_is_registered(tmp_path: Path) -> None:
    copyreg.add_extension("os", "getcwd", 240)
    try:
        with pytest.raises(DataError, match="it asks for an extension code"):
            load_pickle(_write(tmp_path, b"\x80\x02\x82\xf0)R."))
    finally:
        copyreg.remove_extension("os", "getcwd", 240)


def test_numpy_values_are_refused_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="numpy") as caught:
        load_pickle(_write(tmp_path, pickle.dumps([{"ref_id": np.int64(3)}], 2)))
    assert "plain numbers" in caught.value.hint


# ---------------------------------------------------------------------------------------------- bombs


def _doubled(times: int) -> bytes:
    """A tuple of twice the same tuple of twice the same, and so on: small in memory, 2**times leaves to a hash."""
    return b"K\x01" + b"".join(
        b"r" + struct.pack("<I", n) + b"j" + struct.pack("<I", n) + b"\x86" for n in range(times)
    )


BOMBS = {
    "a doubled tuple as a key": b"\x80\x02}" + _doubled(60) + b"K\x01s.",
    "a doubled tuple in a set": b"\x80\x04\x8f(" + _doubled(60) + b"\x90.",
    "a doubled tuple in a set by call": b"\x80\x02c__builtin__\nset\n(" + _doubled(60) + b"l\x85R.",
    "a doubled tuple duplicated": b"\x80\x02}K\x01" + b"2\x86" * 60 + b"K\x01s.",
    "a doubled frozenset": b"\x80\x04}(\x91" + b"2(2\x91\x91" * 60 + b"K\x01s.",
    "numbers that share a hash": b"\x80\x02}" + b"".join(
        b"\x8a\x0a" + (n * (2**61 - 1)).to_bytes(10, "little") + b"Ns" for n in range(2000)
    ) + b".",
    "bytes of 2**62": b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b".",
    "bytes of 2 GB": b"\x80\x03B\xff\xff\xff\x7f.",
    "text of 4 GB": b"\x80\x02X\xff\xff\xff\xff.",
    "text of a negative length": b"\x80\x02T\xff\xff\xff\xff.",
    "a bytearray of 2**40": b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b".",
    "an integer of 2 GB": b"\x80\x02\x8b\xff\xff\xff\x7f.",
    "an integer of 5,000 bytes": b"\x80\x02\x8b" + struct.pack("<I", 5000) + b"\x7f" * 5000 + b".",
    "an integer of 5,000 digits": b"I" + b"9" * 5000 + b"\n.",
    "a frame of 2**62": b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"N.",
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_before_it_goes_off(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"refs\(unc\)\.p is (refused|not a readable pickle)"):
        load_pickle(_write(tmp_path, BOMBS[name]))


@pytest.mark.parametrize("put", [b"r\xff\xff\xff\x7f", b"p2147483647\n", b"r\xff\xff\xff\xff"])
def test_nine_bytes_do_not_allocate_gigabytes(tmp_path: Path, put: bytes) -> None:
    path = _write(tmp_path, b"\x80\x02]" + put + b".")
    tracemalloc.start()
    try:
        assert load_pickle(path) == []
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("opening", "closing"), [(b"(", b"l"), (b"(", b"t"), (b"", b"\x85")])
def test_deep_nesting_does_not_exhaust_the_stack(tmp_path: Path, opening: bytes, closing: bytes) -> None:
    path = _write(tmp_path, b"\x80\x02" + opening * 200_000 + b"N" + closing * 200_000 + b".")
    assert load_pickle(path)
    with pytest.raises(DataError, match="as a key"):
        load_pickle(_write(tmp_path, b"\x80\x02}" + b"N" + b"\x85" * 200_000 + b"Ns."))


# ---------------------------------------------------------------------------------------------- both readers

REFS = [
    {
        "ref_id": n, "sent_ids": [n], "ann_id": n * 70_000, "score": 0.5, "split": "val", "none": None, "ok": True,
        "sentences": [{"sent_id": n, "raw": "Caf\u00e9 'x' \\ \n", "sent": "left" * 9, "tokens": ["a", "b"]}],
    }
    for n in range(300)
]  # fmt: skip


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_both_readers_read_refers_files_alike(protocol: int) -> None:
    data = pickle.dumps(REFS, protocol)
    assert safe_pickle._is_ordinary(data)
    assert Machine(data).run() == pickle.loads(data) == safe_pickle._read(data) == REFS


def test_a_long_sentence_or_a_tuple_goes_to_the_slow_reader(tmp_path: Path) -> None:
    for value in ([{"sent": "x" * 300}], [{"box": (1, 2)}]):
        data = pickle.dumps(value, 2)
        assert not safe_pickle._is_ordinary(data)
        assert load_pickle(_write(tmp_path, data)) == value


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_damaged_pickle_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    content = bytearray(pickle.dumps(REFS[:2], data.draw(st.integers(0, pickle.HIGHEST_PROTOCOL))))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("p") / "x.p"
    path.write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]))
    with suppress(DataError):
        load_pickle(path)


@pytest.mark.parametrize("data", [b"", b"\x80", b"\x80\x02]q", b"garbage", b"\x80\x02K\x01a.", b"\x80\xff.", b"(l"])
def test_a_damaged_pickle_is_named(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(DataError, match=r"refs\(unc\)\.p is not a readable pickle"):
        load_pickle(_write(tmp_path, data))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.p cannot be read"):
        load_pickle(tmp_path / "gone.p")

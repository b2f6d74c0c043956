"""Pickles: plain data in every protocol is read, and nothing that a pickle names is ever run."""

from __future__ import annotations

import builtins
import copyreg
import functools
import os
import pickle
import pickletools
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lens_bench.data.safe_pickle import clean_text, load_pickle
from lens_bench.errors import DataError

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
        with pytest.raises(DataError, match=r"it asks for os\.getcwd"):
            load_pickle(_write(tmp_path, b"\x80\x02\x82\xf0)R."))
    finally:
        copyreg.remove_extension("os", "getcwd", 240)


def test_numpy_values_are_refused_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="numpy") as caught:
        load_pickle(_write(tmp_path, pickle.dumps([{"ref_id": np.int64(3)}], 2)))
    assert "plain numbers" in caught.value.hint


@pytest.mark.parametrize("data", [b"", b"\x80", b"\x80\x02]q", b"garbage", b"\x80\x02K\x01a.", b"\x80\xff.", b"(l"])
def test_a_damaged_pickle_is_named(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(DataError, match=r"refs\(unc\)\.p is not a readable pickle"):
        load_pickle(_write(tmp_path, data))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.p cannot be read"):
        load_pickle(tmp_path / "gone.p")

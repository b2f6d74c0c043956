"""Every parser of the package fails in one way, whatever the file holds."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import lens_bench
from lens_bench.errors import DataError
from lens_bench.parsing import MAX_DEPTH, csv_rows, parse_json, parse_yaml

BOMB = "a0: &a0 [1, 1]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 60))


@pytest.mark.parametrize(
    "content",
    ["", "[" * 100_000, "1" * 5_000, "[" * 101 + "]" * 101, '{"a":' * 200 + "1" + "}" * 200, b"\xff", b"\xff\xfe\x00"],
)
def test_json_fails_with_a_value_error(content: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_json(content)


def test_json_that_is_not_too_deep_is_read() -> None:
    assert parse_json("[" * MAX_DEPTH + "]" * MAX_DEPTH) is not None
    assert parse_json('{"a": [1, 2.5, "é", null]}') == {"a": [1, 2.5, "é", None]}


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", '{"a": -Infinity}'])
def test_constants_that_json_does_not_have_are_refused_on_request(text: str) -> None:
    parse_json(text)
    with pytest.raises(ValueError, match="is not a JSON value"):
        parse_json(text.encode(), nan=False)


@pytest.mark.parametrize(
    "content",
    [
        "a: 2024-13-45",
        "a: 2024-01-01 25:00:00",
        "1" * 5_000,
        "a: &a [*a]",
        "&a {x: *a}",
        BOMB,
        "[" * 100_000,
        "- " * 100_000,
        "? " * 1_000,
        "!!timestamp a",
        "!!int ''",
        "!!float .",
        "!!bool x",
        "!!python/object/apply:os.system [echo]",
        "a: [",
        "? [a]\n: 1",
        "\0",
        "\ud800",
    ],
)
def test_yaml_fails_with_a_value_error_of_one_line(content: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        parse_yaml(content)
    assert "\n" not in str(caught.value)


def test_yaml_keeps_aliases_and_merges() -> None:
    assert parse_yaml("a: &a {x: 1}\nb: *a\nc: {<<: *a, y: 2}") == {"a": {"x": 1}, "b": {"x": 1}, "c": {"x": 1, "y": 2}}


def test_csv_names_the_line_of_a_broken_byte_and_of_a_long_field(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"a,b\n1,2\n\xff,3\n")
    with pytest.raises(DataError, match=r"a\.csv, line 3: not UTF-8"):
        list(csv_rows(path))
    path.write_text("a,b\n1," + "x" * 200_000 + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.csv, line 2: field larger than field limit"):
        list(csv_rows(path))
    path.write_text('a,b\n"1\n2",3\n4,5\n', encoding="utf-8")
    assert list(csv_rows(path)) == [(1, ["a", "b"]), (3, ["1\n2", "3"]), (4, ["4", "5"])]


# A file that runs in other people's environments, copies of values that the package itself made, and the parsers.
_MAY_PARSE = {"parsing.py", "run/foreign_server.py", "data/shapes/refer_writer.py", "lens/save.py"}


def test_nothing_else_calls_the_parsers() -> None:
    root = Path(lens_bench.__file__).parent
    found = []
    for path in sorted(root.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or path.relative_to(root).as_posix() in _MAY_PARSE:
                continue
            name = ast.unparse(node.func)
            copies = bool(node.args) and ast.unparse(node.args[0]).startswith("json.dumps(")
            if name in ("json.loads", "json.load", "yaml.load", "yaml.safe_load", "csv.reader") and not copies:
                found.append(f"{path.relative_to(root)}:{node.lineno}: {name}")
    assert not found, "call lens_bench.parsing instead"

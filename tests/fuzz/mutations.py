"""Seeded damage to a file: bytes changed anywhere, and values of JSON, YAML and CSV replaced by awkward ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from random import Random

# Written as they stand, because no JSON writer would produce most of them.
_RAW = (
    "null", "true", "[]", "{}", '""', "0", "-1", "-5", "--5", "1e999", "NaN", "-Infinity", "0.5", "1" + "0" * 30,
    "9" * 400, "9" * 5000, "2024-13-45", "[" * 3000 + "]" * 3000, "[" * 100_000, '{"a":' * 2000 + "1" + "}" * 2000,
    '"\\ud800"', '"\\u0000"', '"\\u001b[2J"', '"\u0130"', '"../../x"', '"/"', json.dumps("x" * 20_000),
    '[[0,0],[1,"a"]]', "[[1]]", "[null]", '{"size":[1000000000,1000000000],"counts":"0"}',
    '{"size":[-1,3],"counts":[3]}', "!!python/name:os.system", "&a [*a]",
)  # fmt: skip
_MARK = "@@here@@"
_PIECES = (
    b"\x00",
    b"\xff\xfe",
    b"\xc4",
    b"\r",
    b"\n\n",
    b'"',
    b"}",
    b"]",
    b",",
    b"-",
    b"\x1b[2J",
    b"9" * 5000,
    b"[" * 3000,
)


def mutations(content: bytes, seed: str, number: int) -> Iterator[tuple[str, bytes]]:
    """Yield ``number`` damaged versions of a file, each with what was done to it.

    Half of them change bytes. Where the content is JSON or lines of JSON, the other half replace, remove or repeat one
    of its values; else all of them change bytes.
    """
    structured = _values(content)
    for index in range(number):
        random = Random(f"{seed}/{index}")
        if structured and index % 2:
            yield _of_value(structured, random)
        else:
            yield _of_bytes(content, random)


def _of_bytes(content: bytes, random: Random) -> tuple[str, bytes]:
    at = random.randrange(len(content) + 1)
    end = min(len(content), at + random.choice((1, 1, 2, 8, 64)))
    kind = random.choice(("flip", "cut", "remove", "insert", "zero", "repeat", "digit"))
    if kind == "flip" and at < len(content):
        return f"flip bit at {at}", content[:at] + bytes([content[at] ^ (1 << random.randrange(8))]) + content[at + 1 :]
    if kind == "cut":
        return f"cut at {at}", content[:at]
    if kind == "remove":
        return f"remove {at}:{end}", content[:at] + content[end:]
    if kind == "zero":
        return f"zero {at}:{end}", content[:at] + bytes(end - at) + content[end:]
    if kind == "repeat":
        return f"repeat {at}:{end}", content[:end] + content[at:end] * random.choice((1, 2, 500)) + content[end:]
    if kind == "digit":
        digits = [i for i, byte in enumerate(content) if 48 <= byte < 58]
        if digits:
            at = random.choice(digits)
            raw = random.choice(_RAW).encode()
            return f"digit at {at} becomes {raw[:30]!r}", content[:at] + raw + content[at + 1 :]
    piece = random.choice(_PIECES)
    return f"insert {piece[:8]!r} at {at}", content[:at] + piece + content[at:]


def _values(content: bytes) -> list[object]:
    """The documents of a file: one of JSON, or one a line. Empty for another kind of file."""
    try:
        return [json.loads(content)]
    except (ValueError, RecursionError):
        pass
    try:
        return [json.loads(line) for line in content.splitlines() if line.strip()]
    except (ValueError, RecursionError):
        return []


def _of_value(documents: list[object], random: Random) -> tuple[str, bytes]:
    places = [(number, path) for number, value in enumerate(documents) for path in _paths(value)]
    # By depth first, so that the few fields at the top are not drowned by a thousand coordinates.
    depth = random.choice(sorted({len(path) for _, path in places}))
    number, path = random.choice([place for place in places if len(place[1]) == depth])
    kind = random.choice(("replace", "replace", "replace", "remove", "repeat", "rename"))
    raw = random.choice(_RAW)
    changed = [json.loads(json.dumps(value)) for value in documents]
    if not path:
        changed[number] = _MARK
        kind = "replace"
    else:
        inner = changed[number]
        for step in path[:-1]:
            inner = inner[step]
        last = path[-1]
        if kind == "remove":
            del inner[last]
        elif kind == "repeat" and isinstance(inner, list):
            inner.insert(last, inner[last])
        elif kind == "rename" and isinstance(inner, dict):
            inner[random.choice(("", "\x1b", "x" * 5000, f"{last} "))] = inner.pop(last)
        else:
            kind = "replace"
            inner[last] = _MARK
    text = "\n".join(json.dumps(value) for value in changed).replace(f'"{_MARK}"', raw)
    where = "/".join(map(str, path)) or "the document"
    return f"{kind} {where} of {number}" + (f" by {raw[:30]}" if kind == "replace" else ""), text.encode()


def _paths(value: object, before: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    yield before
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield from _paths(item, (*before, key))

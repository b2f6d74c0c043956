"""The stack machine that a pickle is a program for, reduced to what plain data needs.

It imports nothing, allocates in proportion to the bytes it reads, and hashes only texts, bytes and numbers, so that its
time and memory are linear in the size of the pickle. The operations are documented in ``pickletools`` of the standard
library. ``data.safe_pickle`` reads REFER's files with it, ``tensor_pickle`` looks through checkpoints before torch.
"""

from __future__ import annotations

import codecs
import mmap
import struct
from collections.abc import Callable, Mapping
from enum import Enum
from typing import ClassVar, Final, NoReturn, TypeAlias

_MAX_LONG = 1024  # bytes of an integer
_MAX_KEY = 2**60  # larger integers can be chosen so that their hashes collide


class Forbidden(Exception):
    """The pickle asked for something that plain data does not need."""


class Broken(Exception):
    """The bytes are not a pickle."""


class _Name(Enum):
    """The importable names that pickles of plain data hold; what they stand for is done in ``Machine.reduce``."""

    SET = "set"
    FROZENSET = "frozenset"
    BYTES = "bytes"
    ENCODE = "encode"


_ADMITTED: Final[dict[tuple[str, str], _Name]] = {
    **{(m, n.value): n for m in ("builtins", "__builtin__") for n in (_Name.SET, _Name.FROZENSET, _Name.BYTES)},
    ("_codecs", "encode"): _Name.ENCODE,
}


_Operation: TypeAlias = Callable[["Machine"], None]


class Machine:
    """Runs one pickle. ``at`` is the position of the next byte; ``stack`` what was built since the last mark.

    Args:
        data: Where the pickle is.
        at: Where in it the pickle begins.
    """

    operations: ClassVar[tuple[_Operation, ...]]

    def __init__(self, data: bytes | mmap.mmap, at: int = 0) -> None:
        self.data = data
        self.at = at
        self.stack: list[object] = []
        self.marked: list[list[object]] = []
        self.memo: dict[int, object] = {}

    def run(self) -> object:
        """The object that the pickle describes."""
        data, size, operations = self.data, len(self.data), self.operations
        while self.at < size:
            code = data[self.at]
            self.at += 1
            if code == _STOP:
                return self.stack.pop()
            operations[code](self)
        raise Broken("it ends before its last object")

    # ------------------------------------------------------------------------------------------ reading

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes."""
        end = self.at + count
        if count < 0 or end > len(self.data):
            raise Broken(f"it names {count} bytes where {len(self.data) - self.at} are left")
        piece = self.data[self.at : end]
        self.at = end
        return piece

    def sized(self, width: int, *, signed: bool = False) -> bytes:
        """Bytes behind a length of ``width`` bytes."""
        return self.take(int.from_bytes(self.take(width), "little", signed=signed))

    def line(self) -> bytes:
        """The bytes up to a line feed, which is passed."""
        end = self.data.find(b"\n", self.at)
        if end < 0:
            raise Broken("a line has no end")
        piece = self.data[self.at : end]
        self.at = end + 1
        return piece

    def unmark(self) -> list[object]:
        """What was built since the last mark; the stack before it is restored."""
        items = self.stack
        self.stack = self.marked.pop()
        return items

    # ------------------------------------------------------------------------------------------ building

    def tuple_of(self, count: int) -> None:
        """The top ``count`` objects as one tuple."""
        if len(self.stack) < count:
            raise Broken("a tuple of more than there is")
        self.stack[-count:] = [self.tuple(self.stack[-count:])]

    def tuple(self, items: list[object]) -> object:
        """A tuple of what was built."""
        return tuple(items)

    def append(self, items: list[object]) -> None:
        """Add items to the list on top."""
        target = self.stack[-1]
        if not isinstance(target, list):
            raise Broken(f"it appends to {type(target).__name__}")
        target.extend(items)

    def assign(self, items: list[object]) -> None:
        """Add keys and values, by turns, to the dict on top."""
        target = self.stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise Broken(f"it assigns to {type(target).__name__}")
        for index in range(0, len(items), 2):
            key = items[index]
            target[key if type(key) is str else self.hashable(key)] = items[index + 1]

    def hashable(self, value: object) -> object:
        """A key or an element, if its hash takes a time that its size bounds."""
        if value is None or isinstance(value, str | bytes | float):
            return value
        if isinstance(value, int) and -_MAX_KEY <= value < _MAX_KEY:
            return value
        kind = "a large number" if isinstance(value, int) else type(value).__name__
        raise Forbidden(f"{kind} as a key, where plain data has texts")

    def add(self, items: list[object]) -> None:
        """Add elements to the set on top."""
        target = self.stack[-1]
        if not isinstance(target, set):
            raise Broken(f"it adds to {type(target).__name__}")
        target.update(map(self.hashable, items))

    def get(self, index: int) -> None:
        """Push an object that was remembered."""
        self.stack.append(self.memo[index])

    def name(self, module: object, name: object) -> None:
        """Push an importable name, if it is admitted."""
        known = _ADMITTED.get((module, name)) if isinstance(module, str) and isinstance(name, str) else None
        if known is None:
            raise Forbidden(f"{module}.{name}" if isinstance(module, str) else "a name that is not a text")
        self.stack.append(known)

    def reduce(self) -> None:
        """Call one of the admitted names, as far as pickles of sets (protocols 0-3) and bytes (0-2) do."""
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, _Name) or not isinstance(arguments, tuple):
            raise Forbidden(f"a call of {type(function).__name__}")
        if function in (_Name.SET, _Name.FROZENSET):
            items = arguments[0] if len(arguments) == 1 else [] if not arguments else None
            if not isinstance(items, list | tuple):
                raise Forbidden("a set of something other than a list")
            elements = map(self.hashable, items)
            self.stack.append(set(elements) if function is _Name.SET else frozenset(elements))
        elif function is _Name.BYTES and not arguments:
            self.stack.append(b"")
        elif function is _Name.ENCODE and _is_latin(arguments):
            self.stack.append(str(arguments[0]).encode("latin1"))
        else:
            raise Forbidden(f"{function.value} with other arguments than plain data needs")


def _is_latin(arguments: tuple[object, ...]) -> bool:
    """Whether the arguments are a text and ``latin1``, as ``pickle.dumps(b"...", 2)`` writes."""
    return len(arguments) == 2 and isinstance(arguments[0], str) and arguments[1] == "latin1"


# ---------------------------------------------------------------------------------------------- operations

_STOP: Final = ord(".")


def _unknown(m: Machine) -> NoReturn:
    raise Broken(f"it has no operation {m.data[m.at - 1]:#04x}")


def _refused(what: str) -> _Operation:
    def refuse(m: Machine) -> None:
        raise Forbidden(what)

    return refuse


def _push(value: object) -> _Operation:
    return lambda m: m.stack.append(value)


def _bytes(width: int) -> _Operation:
    return lambda m: m.stack.append(m.sized(width))


def _text(width: int) -> _Operation:
    return lambda m: m.stack.append(str(m.sized(width), "utf-8", "surrogatepass"))


def _python2(width: int) -> _Operation:
    return lambda m: m.stack.append(str(m.sized(width, signed=width > 1), "utf-8", "surrogateescape"))


def _integer(width: int, *, signed: bool = False) -> _Operation:
    return lambda m: m.stack.append(int.from_bytes(m.take(width), "little", signed=signed))


def _long(width: int) -> _Operation:
    def push(m: Machine) -> None:
        data = m.sized(width)
        if len(data) > _MAX_LONG:
            raise Forbidden(f"an integer of {len(data)} bytes")
        m.stack.append(int.from_bytes(data, "little", signed=True))

    return push


def _decimal(m: Machine) -> None:
    line = m.line()
    m.stack.append({b"00": False, b"01": True}[line] if line in (b"00", b"01") else _number(line))


def _number(line: bytes) -> int:
    """A number in digits, with the ``L`` of Python 2. Raises ``ValueError`` also beyond 4,300 digits."""
    return int(line[:-1] if line[-1:] == b"L" else line)


def _quoted(m: Machine) -> None:
    line = m.line().strip()
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
        raise Broken("a text without quotes")
    inner = line[1:-1]
    raw = codecs.escape_decode(inner)[0] if b"\\" in inner else inner
    m.stack.append(str(raw, "utf-8", "surrogateescape"))


def _put(width: int) -> _Operation:
    def put(m: Machine) -> None:
        m.memo[int.from_bytes(m.take(width), "little") if width else _number(m.line())] = m.stack[-1]

    return put


def _get(width: int) -> _Operation:
    return lambda m: m.get(int.from_bytes(m.take(width), "little") if width else _number(m.line()))


def _memoize(m: Machine) -> None:
    m.memo[len(m.memo)] = m.stack[-1]


def _mark(m: Machine) -> None:
    m.marked.append(m.stack)
    m.stack = []


def _pop(m: Machine) -> None:
    if m.stack:
        m.stack.pop()
    else:
        m.unmark()


def _list(m: Machine) -> None:
    items = m.unmark()
    m.stack.append(items)


def _tuple(m: Machine) -> None:
    items = m.unmark()
    m.stack.append(m.tuple(items))


def _dict(m: Machine) -> None:
    items = m.unmark()
    m.stack.append({})
    m.assign(items)


def _frozenset(m: Machine) -> None:
    items = m.unmark()
    m.stack.append(frozenset(map(m.hashable, items)))


def _many(method: Callable[[Machine, list[object]], None]) -> _Operation:
    def act(m: Machine) -> None:
        items = m.unmark()
        method(m, items)

    return act


def _append(m: Machine) -> None:
    item = m.stack.pop()
    m.append([item])


def _assign(m: Machine) -> None:
    value, key = m.stack.pop(), m.stack.pop()
    m.assign([key, value])


def _global(m: Machine) -> None:
    m.name(m.line().decode("utf-8"), m.line().decode("utf-8"))


def _stack_global(m: Machine) -> None:
    name, module = m.stack.pop(), m.stack.pop()
    m.name(module, name)


def _protocol(m: Machine) -> None:
    version = m.take(1)[0]
    if version > 5:
        raise Broken(f"protocol {version} is not known")


def _frame(m: Machine) -> None:
    """Frames say how much to read at once, and all is read already."""
    length = int.from_bytes(m.take(8), "little")
    if length > len(m.data) - m.at:
        raise Broken("a frame is longer than the file")


_NAMED: Final[dict[bytes, _Operation]] = {
    # numbers and constants
    b"N": _push(None), b"\x88": _push(True), b"\x89": _push(False),
    b"I": _decimal, b"L": lambda m: m.stack.append(_number(m.line())), b"F": lambda m: m.stack.append(float(m.line())),
    b"K": _integer(1), b"M": _integer(2), b"J": _integer(4, signed=True), b"\x8a": _long(1), b"\x8b": _long(4),
    b"G": lambda m: m.stack.append(struct.unpack(">d", m.take(8))[0]),
    # texts and bytes
    b"S": _quoted, b"U": _python2(1), b"T": _python2(4),
    b"V": lambda m: m.stack.append(str(m.line(), "raw-unicode-escape")),
    b"\x8c": _text(1), b"X": _text(4), b"\x8d": _text(8), b"C": _bytes(1), b"B": _bytes(4), b"\x8e": _bytes(8),
    # containers; those that are made empty are new every time
    b"]": lambda m: m.stack.append([]), b"}": lambda m: m.stack.append({}), b")": _push(()),
    b"\x8f": lambda m: m.stack.append(set()), b"(": _mark, b"l": _list, b"t": _tuple, b"d": _dict,
    b"\x85": lambda m: m.tuple_of(1), b"\x86": lambda m: m.tuple_of(2), b"\x87": lambda m: m.tuple_of(3),
    b"\x91": _frozenset, b"a": _append, b"e": _many(Machine.append), b"s": _assign, b"u": _many(Machine.assign),
    b"\x90": _many(Machine.add),
    # the stack and the memo
    b"0": _pop, b"1": lambda m: m.unmark().clear(), b"2": lambda m: m.stack.append(m.stack[-1]),
    b"p": _put(0), b"q": _put(1), b"r": _put(4), b"\x94": _memoize, b"g": _get(0), b"h": _get(1), b"j": _get(4),
    b"\x80": _protocol, b"\x95": _frame,
    # code
    b"c": _global, b"\x93": _stack_global, b"R": lambda m: m.reduce(), b"i": _global,
    b"o": _refused("an object of a class"), b"\x81": _refused("an object of a class"),
    b"\x92": _refused("an object of a class"), b"b": _refused("attributes of an object"),
    b"P": _refused("a persistent id"), b"Q": _refused("a persistent id"),
    b"\x82": _refused("an extension code"), b"\x83": _refused("an extension code"),
    b"\x84": _refused("an extension code"), b"\x96": _refused("a bytearray"),
    b"\x97": _refused("a buffer outside the file"), b"\x98": _refused("a buffer outside the file"),
}  # fmt: skip


def table(more: Mapping[bytes, Callable[[Machine], None]]) -> tuple[Callable[[Machine], None], ...]:
    """The operations by their code, with those in ``more`` in the place of the usual ones."""
    named = {**_NAMED, **more}
    return tuple(named.get(bytes((code,)), _unknown) for code in range(256))


Machine.operations = table({})

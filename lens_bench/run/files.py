"""The files of a run directory: their names, and reading and writing them without ever leaving half a file.

``predictions.jsonl`` is the only file that cannot be made again; it is the journal's (``journal.py``). All others are
written whole, to a temporary name first, and renamed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from pydantic import ValidationError

from lens_bench.atomic import write_text
from lens_bench.errors import DataError, RunError, UsageError
from lens_bench.masks import rle_from_json
from lens_bench.parsing import parse_json
from lens_bench.records import Box, Prediction, Score, Status, Tokens
from lens_bench.run.contract import plain
from lens_bench.scoring.metrics import score_from_json, score_to_json

SCHEMA_VERSION = 1
JsonObject = dict[str, object]

# Made once: `json.dumps` would make an encoder a line.
_score_line = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode
_prediction_line = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode
_quoted = json.encoder.encode_basestring
_NOTHING: JsonObject = dict.fromkeys(("box", "score", "text", "tokens"), None) | {"stages_ms": {}, "error": None}
_NO_MORE = _prediction_line(_NOTHING)[1:]  # of an answer that is a mask and nothing else


@dataclass(frozen=True, slots=True)
class RunFiles:
    """Paths of one run directory."""

    root: Path

    @property
    def manifest(self) -> Path:
        """What was run, on what: see ``manifest.Manifest``."""
        return self.root / "manifest.json"

    @property
    def predictions(self) -> Path:
        """One line per expression, in the order in which answers came."""
        return self.root / "predictions.jsonl"

    @property
    def images(self) -> Path:
        """One line per image that was read: see ``seen_images``."""
        return self.root / "images.jsonl"

    @property
    def scores(self) -> Path:
        """One line per scored expression, in the suite's order, under the run's own protocol."""
        return self.root / "scores.jsonl"

    @property
    def summary(self) -> Path:
        """Metrics, intervals, speed, under the run's own protocol."""
        return self.root / "summary.json"

    def other_scores(self, protocol: str) -> Path:
        """As ``scores``, under a protocol that is not the run's own."""
        return self.root / f"scores.{protocol}.jsonl"

    def other_summary(self, protocol: str) -> Path:
        """As ``summary``, under a protocol that is not the run's own."""
        return self.root / f"summary.{protocol}.json"

    @property
    def report(self) -> Path:
        """The self-contained page."""
        return self.root / "report.html"

    @property
    def log(self) -> Path:
        """What a model in a foreign environment printed."""
        return self.root / "model.log"

    @property
    def lock(self) -> Path:
        """Held while a process writes here."""
        return self.root / ".lock"

    def require(self) -> RunFiles:
        """Raise ``UsageError`` where this is not a run directory; else return self."""
        if not self.manifest.is_file():
            hint = "a run directory is <out>/<suite>/<split>/<model>-<digest>: it holds manifest.json"
            raise UsageError(f"{self.root} is not a run directory", hint)
        return self


def find_runs(root: Path) -> list[RunFiles]:
    """Every run directory at or below ``root``, sorted by path; shards, merged or not, are runs of their own.

    Other programs write a ``manifest.json`` too: one that can be read and names no suite is not ours.
    """
    return [RunFiles(path.parent) for path in sorted(root.rglob("manifest.json")) if _may_be_ours(path)]


def _may_be_ours(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        return "suite" in read_json(path)
    except DataError:
        return True  # damaged: the reader of the run names it


# ---------------------------------------------------------------------------------------------- whole files


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Write an indented JSON file atomically. NaN and infinities are refused: they are not JSON."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_file(path: Path, hint: str = "") -> bytes:
    """The bytes of a file of a run. Raises ``DataError`` where it is missing or cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        hint = hint or "was the run finished? run the same command again"
        raise DataError(f"no {path.name} in {path.parent}", hint) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", hint) from None


def read_json(path: Path) -> JsonObject:
    """Read a JSON object. Raises ``DataError`` where it is missing or malformed."""
    return parse_object(read_file(path), str(path))


def parse_object(raw: bytes, what: str, hint: str = "") -> JsonObject:
    """Parse a JSON object. NaN and infinities are refused, as ``write_json`` refuses them.

    Raises:
        DataError: ``what`` is not JSON, is nested too deeply, or is not an object.
    """
    try:
        content = parse_json(raw.decode("utf-8"), nan=False)
    except ValueError as error:
        raise DataError(f"{what} is not valid JSON: {error}", hint) from None
    if not isinstance(content, dict):
        raise DataError(f"{what} is not a JSON object", hint)
    return content


def first_problem(error: ValidationError) -> str:
    """The first field that does not fit, and why."""
    first = error.errors()[0]
    return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg'].removeprefix('Value error, ')}"


def write_scores(path: Path, scores: Iterable[Score]) -> str:
    """Write ``scores.jsonl`` atomically, in the given order; returns the SHA-256 (hex) of the file."""
    text = "".join(f"{_score_line(score_to_json(s))}\n" for s in scores)
    write_text(path, text)
    return hashlib.sha256(text.encode()).hexdigest()


def read_scores(path: Path, sha256: str) -> list[Score]:
    """Read ``scores.jsonl``.

    Args:
        path: The file.
        sha256: What the summary says that the file has.

    Raises:
        DataError: The file is missing, is not the one that the summary was made of, or holds what is no score.
    """
    raw = read_file(path)
    if hashlib.sha256(raw).hexdigest() != sha256:
        raise DataError(f"{path} is not the file that its summary was made of (SHA-256 differs)")
    scores = []
    for number, line in enumerate(raw.splitlines(), start=1):
        try:
            scores.append(score_from_json(parse_object(line, "the score")))
        except DataError as error:
            raise DataError(f"{path}, line {number}: {error.message}", error.hint) from None
    return scores


def read_lines(path: Path, hint: str = "") -> Iterator[tuple[int, JsonObject]]:
    """The JSON objects of a JSONL file with their line numbers.

    Raises:
        DataError: A line is malformed; the message names it, the hint is the given one.
    """
    try:
        stream = path.open("rb")
    except FileNotFoundError:
        raise DataError(f"no {path.name} in {path.parent}") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    with stream:
        for number, line in enumerate(stream, start=1):
            yield number, parse_object(line, f"{path}, line {number}", hint)


# ---------------------------------------------------------------------------------------------- predictions


def prediction_to_line(prediction: Prediction) -> bytes:
    """One line of ``predictions.jsonl``, newline included: what ``json`` writes, most of it without asking it."""
    mask, tokens = prediction.mask, prediction.tokens
    counts = "null" if mask is None else _quoted(mask.counts.decode("ascii"))
    values = {
        "box": list(prediction.box) if prediction.box else None,
        "score": prediction.score,
        "text": prediction.text,
        "tokens": {"prompt": tokens.prompt, "completion": tokens.completion} if tokens else None,
        "stages_ms": {k: round(v, 3) for k, v in prediction.stages_ms.items()},
        "error": prediction.error,
    }
    rest = _NO_MORE if values == _NOTHING else _prediction_line(values)[1:]
    shown = "null" if mask is None else f'{{"size":[{mask.size[0]:d},{mask.size[1]:d}],"counts":{counts}}}'
    head = f'{{"sample_id":{_quoted(prediction.sample_id)},"status":{_quoted(prediction.status)},"mask":{shown},'
    return (head + rest).encode() + b"\n"


def prediction_from_json(content: JsonObject, what: str) -> Prediction:
    """Read one line of ``predictions.jsonl``. Raises ``DataError`` naming ``what`` where a field is not as written."""
    mask, box, tokens, stages = (content.get(k) for k in ("mask", "box", "tokens", "stages_ms"))
    whole = isinstance(content.get("sample_id"), str) and isinstance(stages or {}, dict)
    if not whole or not isinstance(box or [], list) or (tokens and set(_dict(tokens)) != {"prompt", "completion"}):
        raise DataError(f"{what} is not a prediction")
    rle = rle_from_json(mask, f"the mask of {what}") if mask else None
    raw = Prediction(
        sample_id=cast("str", content["sample_id"]),
        status=cast("Status", content.get("status")),
        mask=rle,
        box=cast("Box", tuple(cast("list[float]", box))) if box else None,
        score=cast("float | None", content.get("score")),
        text=cast("str | None", content.get("text")),
        tokens=Tokens(**cast("dict[str, int]", tokens)) if tokens else None,
        stages_ms=cast("dict[str, float]", stages or {}),
        error=cast("str | None", content.get("error")),
    )
    try:
        return plain(raw, rle.size if rle else (0, 0))
    except RunError as error:
        raise DataError(f"{what}: {error.message}") from None


def _dict(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}

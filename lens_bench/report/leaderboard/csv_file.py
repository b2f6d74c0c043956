"""``results/leaderboard.csv``: every field of every row, values as fractions."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from lens_bench.atomic import write_text
from lens_bench.outgoing import csv_cell
from lens_bench.report.leaderboard.averages import FAMILY, MEAN8
from lens_bench.report.leaderboard.rows import Average, Leaderboard, Row

COLUMNS = (
    "kind",
    "suite",
    "split",
    "subset",
    "metric",
    "rank",
    "ranked",
    "model",
    "variant",
    "value",
    "low",
    "high",
    "pooled_ciou",
    "printed",
    "protocol",
    "complete",
    "oracle",
    "verified",
    "disputed",
    "n_samples",
    "suite_hash",
    "weight_digest",
    "digest",
    "date",
    "images_per_s",
    "expressions_per_s",
    "p50_ms",
    "p99_ms",
    "peak_memory_mb",
    "memory_of",
    "requests_per_s",
    "latency_bound",
    "speed_from",
    "speed_comparable",
    "hardware",
    "training",
    "source",
    "notes",
    "path",
)


def write_csv(board: Leaderboard, path: Path) -> None:
    """Write the file. Averages are rows of ``refcoco-family`` whose interval is that of the pooled cIoU."""
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(_fields(row) for row in board.rows)
    writer.writerows(_average_fields(row) for row in board.averages)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, stream.getvalue())


def _fields(row: Row) -> dict[str, str]:
    speed = row.speed
    fields: dict[str, object] = {
        "kind": row.kind,
        "suite": row.suite,
        "split": row.split,
        "subset": row.subset,
        "metric": row.metric,
        "rank": row.rank,
        "ranked": row.ranked,
        "model": row.model,
        "variant": row.distinct,
        "value": row.value,
        "low": row.low,
        "high": row.high,
        "printed": row.printed,
        "protocol": row.protocol,
        "complete": row.complete,
        "oracle": row.oracle,
        "verified": row.verified,
        "disputed": row.disputed,
        "n_samples": row.n_samples,
        "suite_hash": row.suite_hash,
        "weight_digest": row.weight_digest,
        "digest": row.digest,
        "date": row.date,
        "training": row.training,
        "source": row.source,
        "notes": "; ".join(row.notes),
        "path": row.path,
    }
    if speed is not None:
        fields |= {
            "images_per_s": speed.images_per_s,
            "expressions_per_s": speed.expressions_per_s,
            "p50_ms": speed.p50_ms,
            "p99_ms": speed.p99_ms,
            "peak_memory_mb": speed.peak_memory_mb,
            "memory_of": speed.memory_of,
            "requests_per_s": speed.requests_per_s,
            "latency_bound": speed.bound,
            "speed_from": "profile" if speed.profiled else "run",
            "speed_comparable": speed.comparable,
            "hardware": speed.hardware,
        }
        fields["notes"] = "; ".join((*row.notes, *(f"speed not comparable: {r}" for r in speed.reasons)))
    return {key: csv_cell(value) for key, value in fields.items()}


def _average_fields(row: Average) -> dict[str, str]:
    fields: dict[str, object] = {
        "kind": row.kind,
        "suite": FAMILY,
        "split": "all",
        "metric": row.metric + MEAN8,
        "rank": row.rank,
        "ranked": row.ranked,
        "model": row.model,
        "variant": row.distinct,
        "value": row.mean8,
        "low": row.low,
        "high": row.high,
        "pooled_ciou": row.pooled,
        "printed": row.printed,
        "protocol": row.protocol,
        "complete": True,
        "oracle": row.oracle,
        "verified": row.verified,
        "disputed": row.disputed,
        "suite_hash": " ".join(row.suite_hashes),
        "weight_digest": " ".join(row.weight_digests),
        "source": row.source,
        "notes": "; ".join(row.notes),
    }
    return {key: csv_cell(value) for key, value in fields.items()}

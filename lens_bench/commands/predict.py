"""What `predict` does: ask a model about one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from lens_bench import masks
from lens_bench.console import columns, out, print_json, prints_to_stderr
from lens_bench.errors import RunError, UsageError
from lens_bench.parsing import parse_json
from lens_bench.picture import OpenModel, overlay, read_picture, write_picture
from lens_bench.progress import waiting
from lens_bench.records import Prediction
from lens_bench.run.files import prediction_to_line
from lens_bench.run.plan import Request


def predict(
    model: str, image: Path, expressions: Sequence[str], request: Request, output: Path | None, *, as_json: bool
) -> None:
    """Show the answers to all expressions; with ``output`` draw the answer to the first, or to each by number."""
    pixels = read_picture(image)
    with (
        prints_to_stderr(),
        waiting(f"loading {model}"),
        OpenModel(
            model,
            request.args,
            device=request.device,
            dtype=request.dtype,
            engine=request.engine,
            seed=request.seed,
        ) as opened,
    ):
        answers = opened.ask(pixels, expressions)
    for number, answer in enumerate(answers):
        if output is not None and answer.status == "ok":
            write_picture(output if len(answers) == 1 else _numbered(output, number), overlay(pixels, answer))
    if as_json:
        for answer in answers:
            print_json(parse_json(prediction_to_line(answer)))
    else:
        out.print(_table(expressions, answers, pixels.shape[0] * pixels.shape[1]))
    failed = [a for a in answers if a.status == "error"]
    if failed:
        raise RunError(f"{len(failed)} of {len(answers)} expressions failed: {failed[0].error}")


def one_text(values: Sequence[str]) -> Sequence[str]:
    """Refuse an empty question. Raises ``UsageError``."""
    if not values or not all(v.strip() for v in values):
        raise UsageError("--text is empty", 'for example --text "the second person from the left"')
    return values


def _table(expressions: Sequence[str], answers: Sequence[Prediction], area: int) -> Table:
    table = columns("expression", "status", "share of the picture", "box", "text")
    for expression, answer in zip(expressions, answers, strict=True):
        share = f"{100 * masks.area(answer.mask) / area:.2f} %" if answer.mask else ""
        box = ", ".join(f"{v:.0f}" for v in answer.box) if answer.box else ""
        table.add_row(Text(expression), answer.status, share, box, Text(answer.text or answer.error or ""))
    return table


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.stem}-{number + 1}{path.suffix}")

"""A verdict for the terminal, for a CI's summary page (Markdown) and for its test view (JUnit XML)."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

from rich.console import Group as Stack
from rich.console import RenderableType
from rich.text import Text

from lens_bench.outgoing import clean, code_markdown, escape_markdown
from lens_bench.report.compare_text import (
    cells,
    markdown_samples,
    markdown_table,
    rich_table,
    tag_rows,
)
from lens_bench.report.figures import NOTHING, percent, title
from lens_bench.report.gate import Verdict, describe_speed
from lens_bench.report.gate_speed import SpeedCheck

_HEADS = ("Metric", "Reference", "Run", "Difference", "95 % interval", "p")
_SPEED_HEADS = ("Speed", "Reference", "Run", "Run / reference", "Limit", "Answer")
_STYLE = {"pass": "bold green", "inconclusive": "bold yellow", "regression": "bold red"}
# XML 1.0, production 2 (Char).
_NOT_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def verdict_renderable(verdict: Verdict) -> RenderableType:
    """The verdict for ``rich``; the answer comes first."""
    parts: list[RenderableType] = [
        Text.assemble(
            (headline(verdict), _STYLE[verdict.answer]), f"  {verdict.run} on {verdict.suite} {verdict.split}"
        ),
        *(Text(line) for line in _sentences(verdict)),
        rich_table(_HEADS, [(title(verdict.quality.change.metric), *cells(verdict.quality.change))]),
    ]
    if verdict.speed:
        parts.append(rich_table(_SPEED_HEADS, [_speed_row(c) for c in verdict.speed]))
        parts += [Text(describe_speed(c)) for c in verdict.speed if c.ratio is None]
    return Stack(*parts)


def verdict_markdown(verdict: Verdict) -> str:
    """The verdict as Markdown, with tags and the most changed samples, for a summary page."""
    metric = verdict.quality.change.metric
    lines = [f"## Gate: {headline(verdict)}", ""]
    lines += [f"{code_markdown(verdict.run)} on {escape_markdown(f'{verdict.suite} {verdict.split}')}", ""]
    lines += [f"- {escape_markdown(line)}" for line in _sentences(verdict)]
    lines += ["", *markdown_table(_HEADS, [(title(metric), *cells(verdict.quality.change))])]
    if verdict.speed:
        lines += markdown_table(_SPEED_HEADS, [_speed_row(c) for c in verdict.speed])
        lines += [f"- {escape_markdown(describe_speed(c))}" for c in verdict.speed if c.ratio is None]
        lines.append("")
    if verdict.by_tag:
        heads = ("Tag", "n", *_HEADS[1:])
        lines += [f"### {title(metric)} by tag (not judged)", ""]
        lines += markdown_table(heads, tag_rows(verdict.by_tag, metric))
    return "\n".join(lines + markdown_samples(verdict.samples)) + "\n"


def verdict_junit(verdict: Verdict, *, strict: bool = False) -> str:
    """The verdict as JUnit XML: one test case for accuracy and one for each speed figure.

    A regression is a failure; what could not be judged is skipped with its reason, or a failure where ``strict``.
    """
    name = _xml(f"lens-bench gate {verdict.suite} {verdict.split}")
    suite = ET.Element("testsuite", name=name)
    quality = verdict.quality
    _case(suite, verdict, quality.change.metric, quality.answer, " ".join(_sentences(verdict)), strict)
    for check in verdict.speed:
        _case(suite, verdict, check.name, check.answer, describe_speed(check), strict)
    for attribute, tag in (("failures", "failure"), ("skipped", "skipped")):
        suite.set(attribute, str(len(suite.findall(f"testcase/{tag}"))))
    suite.set("tests", str(len(suite)))
    suite.set("errors", "0")
    root = ET.Element("testsuites", name=name)
    root.append(suite)
    ET.indent(root)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def headline(verdict: Verdict) -> str:
    """The answer in a few words; what could not be judged is part of it."""
    if verdict.answer == "inconclusive" or not verdict.undecided:
        return verdict.answer
    return f"{verdict.answer} (not judged: {', '.join(verdict.undecided)})"


def _sentences(verdict: Verdict) -> list[str]:
    quality = verdict.quality
    name = title(quality.change.metric)
    lines = [f"{quality.reason}."]
    if quality.mde is None:
        lines.append(f"Minimum detectable effect: {NOTHING} (cannot be estimated from these two runs).")
    else:
        lines.append(f"Minimum detectable effect: {percent(quality.mde)} points of {name} (80 % power, 5 % level).")
    if quality.weak and quality.mde is not None and quality.answer != "regression":
        lines.append("This gate is weak: it would often overlook a loss as large as its margin; use more images.")
    lines.append(
        f"{quality.n_samples} expressions of {quality.n_images} images, margin {percent(quality.margin)} points, "
        f"protocol {verdict.protocol}, reference {verdict.reference} ({verdict.reference_path})."
    )
    return lines


def _case(suite: ET.Element, verdict: Verdict, name: str, answer: str, message: str, strict: bool) -> None:
    where = _xml(f"{verdict.suite}.{verdict.split}")
    case = ET.SubElement(suite, "testcase", classname=where, name=_xml(name))
    if answer == "regression" or (strict and answer != "pass"):
        ET.SubElement(case, "failure", message=_xml(message), type=answer.replace(" ", "-"))
    elif answer != "pass":
        ET.SubElement(case, "skipped", message=_xml(f"{answer}: {message}"))
    else:
        ET.SubElement(case, "system-out").text = _xml(message)


def _xml(text: str) -> str:
    """Text without control characters and without those that XML 1.0 cannot hold."""
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", clean(text))


def _speed_row(check: SpeedCheck) -> tuple[str, ...]:
    return (
        check.name,
        NOTHING if check.reference is None else f"{check.reference:g}",
        NOTHING if check.value is None else f"{check.value:g}",
        NOTHING if check.ratio is None else f"{check.ratio:.3f}",
        f"{check.tolerance:g}",
        check.answer,
    )

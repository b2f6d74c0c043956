"""The head of a checkpoint's README: YAML that the Hugging Face Hub reads, with measured results as ``model-index``.

Fields as in https://huggingface.co/docs/hub/model-cards. Nothing is written that is not known: no licence where the
training names none, no base where its place on the Hub cannot be told, no results where nothing was measured.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from lens_bench.parsing import parse_yaml

_LIBRARY, _TASK = "lens-bench", "image-segmentation"
_TAGS = ("lens", "referring-segmentation", "reasoning-segmentation")
_NAMES = {"ciou": "cIoU (%)", "giou": "gIoU (%)"}
# Identifiers that the Hub knows, in lower case; any other licence is ``other`` with its name.
_LICENCES = frozenset(
    f"{kind}-{version}"
    for kind, version in (
        ("apache", "2.0"), ("cc0", "1.0"), ("cc-by", "4.0"), ("cc-by-sa", "4.0"), ("cc-by-nc", "4.0"),
        ("cc-by-nc-sa", "4.0"), ("bsd", "3-clause"), ("gpl", "3.0"), ("agpl", "3.0"),
    )
) | {"mit"}  # fmt: skip
_HEAD = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)
# Folder of a repository in the Hub's cache, and names of bases as people keep them elsewhere.
_CACHED = re.compile(r"models--([\w.-]+?)--([\w.-]+)")
_OWNERS = {
    "Qwen": re.compile(r"Qwen2-VL-2B(-Instruct)?|Qwen2\.5-VL-(3|7|32)B-Instruct"),
    "facebook": re.compile(r"sam2(\.1)?-hiera-(tiny|small|base-plus|large)"),
}


@dataclass(frozen=True, slots=True)
class Result:
    """What was measured on expressions of a split.

    Attributes:
        suite: By its name.
        split: Of the suite.
        count: How many expressions, from the front of the split.
        values: Metrics by name, fractions.
        how: In what circumstances, in words that end a sentence.
    """

    suite: str
    split: str
    count: int
    values: Mapping[str, float]
    how: str

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics that a card shows, in percent."""
        return {name: round(100 * self.values[name], 2) for name in _NAMES if name in self.values}


def head(name: str, licence: str = "", bases: Sequence[str] = (), results: Sequence[Result] = ()) -> str:
    """The YAML head of a README, fences included."""
    fields: dict[str, object] = {"library_name": _LIBRARY, "pipeline_tag": _TASK, "tags": list(_TAGS)}
    if licence:
        known = licence.lower() in _LICENCES
        fields |= {"license": licence.lower()} if known else {"license": "other", "license_name": licence}
    if bases:
        fields["base_model"] = list(bases) if len(bases) > 1 else bases[0]
    if shown := [result for result in results if result.metrics]:
        fields["model-index"] = [{"name": name, "results": [_entry(result) for result in shown]}]
    return f"---\n{yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)}---\n"


def _entry(result: Result) -> dict[str, object]:
    return {
        "task": {"type": _TASK, "name": "Text-prompted image segmentation"},
        "dataset": {
            "type": result.suite,
            "name": f"{result.suite} {result.split}, {result.count:,} expressions",
            "split": result.split,
            "args": {"expressions": result.count},
        },
        "metrics": [{"type": key, "value": value, "name": _NAMES[key]} for key, value in result.metrics.items()],
    }


def evaluation(results: Sequence[Result]) -> list[str]:
    """The section of a README about results; no line where there are none."""
    shown = [result for result in results if result.metrics]
    if not shown:
        return []
    lines = ["", "## Evaluation", ""]
    for result in shown:
        values = ", ".join(f"{_NAMES[key].removesuffix(' (%)')} {value:.2f} %" for key, value in result.metrics.items())
        lines.append(f"- {result.suite} {result.split}, the first {result.count:,} expressions: {values}, {result.how}")
    return lines


def read_head(folder: Path) -> dict[str, object]:
    """The YAML head of a folder's README; empty where there is none that can be read."""
    try:
        found = _HEAD.match((folder / "README.md").read_text(encoding="utf-8"))
        fields = parse_yaml(found[1]) if found else None
    except (OSError, ValueError):
        return {}
    return fields if isinstance(fields, dict) else {}


def on_hub(path: str) -> str:
    """The repository of a model on the Hub, ``owner/name``, by the place where it lies; empty where that says nothing.

    A place in the Hub's cache names it; so does a folder that is called as a Qwen-VL or SAM 2 is.
    """
    parts = Path(path).expanduser().parts
    for part in reversed(parts):
        if cached := _CACHED.fullmatch(part):
            return f"{cached[1]}/{cached[2]}"
    last = parts[-1] if parts else ""
    return next((f"{owner}/{last}" for owner, names in _OWNERS.items() if names.fullmatch(last)), "")

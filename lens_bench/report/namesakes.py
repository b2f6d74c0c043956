"""What sets runs of one model name apart: arguments, settings, seed, weights."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import TypeAlias

from lens_bench.run.manifest import Manifest

System: TypeAlias = tuple[str, str, str]  # model, weights, everything else that can change an answer
_SHOWN = 8  # hexadecimal digits
FILE = "sha256:"  # how a manifest represents an argument that is a file


def system_of(manifest: Manifest) -> System:
    """What answered, whatever the split: two runs of one system are the same model."""
    content = {**asdict(manifest.settings), "seed": manifest.seed}
    return (manifest.model, manifest.weight_digest, json.dumps(content, sort_keys=True))


def distinctions(manifests: Iterable[Manifest]) -> dict[System, str]:
    """For every system that shares its name with another, what it differs in: ``threshold=0.5, weights 1a2b3c4d``.

    Only what differs among the namesakes is named. A system may have an empty text where the others are told apart by a
    setting that it does not have.
    """
    by_name: dict[str, dict[System, dict[str, object]]] = defaultdict(dict)
    for manifest in manifests:
        system = system_of(manifest)
        by_name[manifest.model].setdefault(system, _facts(manifest))
    texts: dict[System, str] = {}
    for systems in by_name.values():
        if len(systems) == 1:
            continue
        names = dict.fromkeys(name for facts in systems.values() for name in facts)
        differing = [n for n in names if len({repr(facts.get(n)) for facts in systems.values()}) > 1]
        # A file among the arguments is mostly the weights, or comes with them.
        if not {"weights", "file"}.isdisjoint(differing):
            files = {n for n in differing if any(str(f.get(n)).startswith(FILE) for f in systems.values())}
            differing = [n for n in differing if n not in files]
        for system, facts in systems.items():
            texts[system] = ", ".join(_text(n, facts[n]) for n in differing if facts.get(n) is not None)
    return texts


def _facts(manifest: Manifest) -> dict[str, object]:
    settings = asdict(manifest.settings)
    args: Mapping[str, object] = settings.pop("args")
    prompt: Mapping[str, object] = settings.pop("prompt")
    named = {**args, **{f"prompt.{k}": v for k, v in prompt.items()}, **settings, "seed": manifest.seed}
    return {**named, "weights" if manifest.timed else "file": manifest.weight_digest}  # of predictions


def _text(name: str, value: object) -> str:
    if name in ("weights", "file"):
        return f"{name} {str(value)[:_SHOWN]}"
    return f"{name}={str(value).removeprefix(FILE)[:_SHOWN] if str(value).startswith(FILE) else value}"

"""What `list`, `show` and `env` print: cards, protocols, recipes, runs, the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lens_bench.commands.recipes import is_recipe, recipe_json, recipe_rows, show_recipe
from lens_bench.console import columns, facts, note, out, print_json, refuse_damaged
from lens_bench.errors import DataError, UsageError
from lens_bench.heads import marks
from lens_bench.registry import catalogue, find_model, find_suite, split_reference, suggest
from lens_bench.scoring.protocols import PROTOCOLS, Protocol
from lens_bench.train.recipe_files import recipe_names

if TYPE_CHECKING:
    from lens_bench.cards import Expected, ModelCard, SuiteCard
    from lens_bench.run.files import RunFiles
    from lens_bench.run.results import Results

KINDS = ("models", "suites", "protocols", "recipes")


def show_list(kind: str, *, everything: bool = False, as_json: bool = False) -> None:
    """List one kind, or all of them."""
    if kind and kind not in KINDS:
        raise UsageError(f"there is no list of {kind!r}", suggest(kind, KINDS) or f"there are: {', '.join(KINDS)}")
    found = catalogue()
    models = [c for c in found.models if everything or not c.for_tests]
    rows: dict[str, list[dict[str, object]]] = {
        "models": [{"name": c.name, "title": c.title, "summary": c.summary, "marks": list(c.marks)} for c in models],
        "suites": [{"name": c.name, "splits": list(c.splits), "summary": c.summary} for c in found.suites],
        "protocols": [{"name": p.name, "summary": p.summary} for p in PROTOCOLS.values()],
        "recipes": recipe_rows() if kind in ("", "recipes") else [],
    }
    wanted = [kind] if kind else list(KINDS)
    for problem in found.problems:
        note(f"{problem.message}", "warning")
    if as_json:
        print_json(rows[kind] if kind else rows, indent=2)
        return
    for name in wanted:
        _table(name, rows[name])


def _table(title: str, rows: Sequence[Mapping[str, object]]) -> None:
    names = [n for n in (rows[0] if rows else {}) if n != "title"]
    table = columns(title, *names[1:])
    table.columns[0].no_wrap = True
    for row in rows:
        table.add_row(*(", ".join(v) if isinstance(v := row[n], list) else str(v) for n in names))
    out.print(table)
    out.print()


# ---------------------------------------------------------------------------------------------- show


def show(name: str, data_root: Path | None = None, *, as_json: bool = False) -> None:
    """Show what a name stands for; a protocol wins over a suite, a suite over a model.

    A name that is a recipe's as well is shown as both.
    """
    path = Path(name)
    if (path / "manifest.json").is_file():
        from lens_bench.run.files import RunFiles

        _show_run(RunFiles(path), as_json=as_json)
    elif name in PROTOCOLS:
        _show_protocol(PROTOCOLS[name], as_json=as_json)
    elif is_recipe(name):
        _show_recipe(name, data_root, as_json=as_json)
    elif path.suffix in (".yaml", ".yml") or any(name in (c.name, *c.aliases) for c in catalogue().suites):
        _show_suite(find_suite(name), as_json=as_json)
    else:
        if not any(name in (c.name, *c.aliases) for c in catalogue().models):
            _refuse_path(name, path)
        _show_model(_model(name), name, as_json=as_json)


def _show_recipe(name: str, data_root: Path | None, *, as_json: bool) -> None:
    """A recipe, and in front of it the model of the same name: the released one that the recipe is about."""
    model = find_model(name) if any(name in (c.name, *c.aliases) for c in catalogue().models) else None
    if as_json:
        print_json({**(model.model_dump(mode="json") if model else {}), "recipe": recipe_json(name)}, indent=2)
        return
    if model is not None:
        _show_model(model, name, as_json=False)
        out.print()
    from lens_bench.commands.data import data_root as root_of

    show_recipe(name, root_of(data_root))


def _refuse_path(name: str, path: Path) -> None:
    """Say of a path that names nothing to show what is there: nothing, or a folder with runs. Names pass."""
    if os.sep in name and not path.exists() and not split_reference(name)[1]:
        raise UsageError(f"there is nothing at {path}", "a run is named by its directory, a model by its folder")
    if path.is_dir() and not (path / "model.yaml").is_file():
        # No deeper than <results>/<runs>/<suite>/<split>/<run>: the folder may be somebody's home.
        found = (file for deep in range(1, 5) for file in path.glob("*/" * deep + "manifest.json"))
        if run := next(found, None):
            raise UsageError(f"{path} is not a run directory, but holds some", f"name one: {run.parent}")


def _model(name: str) -> ModelCard:
    try:
        return find_model(name)
    except UsageError as error:
        if not error.message.startswith("there is no model"):
            raise
        found = catalogue()
        known = [*(c.name for c in found.models), *(c.name for c in found.suites), *PROTOCOLS, *recipe_names()]
        hint = suggest(name, known) or "`lens-bench list` shows what there is; a run is named by its directory"
        raise UsageError(f"there is no model, suite, protocol, recipe or run {name!r}", hint) from None


def _show_model(card: ModelCard, reference: str, *, as_json: bool) -> None:
    if as_json:
        print_json(card.model_dump(mode="json"), indent=2)
        return
    weights = card.weights
    out.print(
        facts(
            [
                ("model", card.name),
                ("title", card.title),
                ("", card.summary),
                ("marks", ", ".join(marks(card.sees_ground_truth, card.python is not None, card.for_tests))),
                ("also called", ", ".join(card.aliases)),
                ("source", card.source),
                ("licence", card.licence),
                ("weights", weights and " ".join(v for v in (weights.hub, weights.licence, weights.notes) if v)),
                ("reads images", "yes" if card.reads_images else "no"),
                ("devices", ", ".join(card.devices)),
                ("dtypes", ", ".join(card.dtypes)),
                ("engines", ", ".join(card.engines)),
                ("interpreter", card.python),
                ("prompt", "\n".join(f"{k}: {v}" for k, v in card.prompt.items())),
                ("compared with", ", ".join(p.model for p in card.published)),
                ("folder", card.folder),
                ("run it", card.suites and f"lens-bench run --suite {','.join(card.suites)} --model {reference}"),
            ]
        )
    )
    if card.args:
        table = columns("--model-arg", "default", "meaning")
        for key, spec in card.args.items():
            choices = f" One of: {', '.join(str(c) for c in spec.choices)}." if spec.choices else ""
            table.add_row(key, str(spec.default), spec.help + choices)
        out.print()
        out.print(table)


def _show_suite(card: SuiteCard, *, as_json: bool) -> None:
    if as_json:
        print_json(card.model_dump(mode="json"), indent=2)
        return
    obtain = card.obtain
    out.print(
        facts(
            [
                ("suite", card.name),
                ("title", card.title),
                ("", card.summary),
                ("reader", card.reader),
                ("protocol", card.protocol),
                ("default splits", ", ".join(card.default_splits)),
                ("licence", card.licence),
                ("files", card.files and ", ".join((*card.files.required.values(), *card.files.optional.values()))),
                ("looked for under", card.files and "\n".join(f"<data root>/{r}" for r in card.files.roots)),
                ("images under", card.images and "\n".join(f"<data root>/{r}" for r in card.images.roots)),
                ("EXIF", card.images and f"{card.images.exif}. {card.images.note}".strip()),
                ("how to get it", obtain and f"{obtain.text} {obtain.url}".strip()),
                ("tags", "\n".join(f"{k}: {v}" for k, v in card.tags.items())),
                ("compared with", ", ".join(p.model for p in card.published)),
            ]
        )
    )
    table = columns("split", "images", "refs", "expressions", "")
    for name, split in card.splits.items():
        e = split.expected
        table.add_row(name, *(_count(v, e) for v in (e.images, e.refs, e.expressions)), split.warning)
    out.print()
    out.print(table)


def _count(value: int | None, expected: Expected) -> str:
    return "–" if value is None else f"{value:,}" + ("" if expected.verified else " (not verified)")


def _show_protocol(protocol: Protocol, *, as_json: bool) -> None:
    from lens_bench.scoring.explain import choices, explain

    if as_json:
        print_json(
            {"name": protocol.name, "summary": protocol.summary, "source": protocol.source, **choices(protocol)},
            indent=2,
        )
        return
    out.print(facts([("protocol", protocol.name), ("", protocol.summary), ("source", protocol.source)]))
    out.print()
    differences = explain(protocol)
    if differences:
        table = columns("differs in", "strict", protocol.name, "what that does to the number")
        for d in differences:
            table.add_row(d.field, _plain(d.strict), _plain(d.value), d.why)
    else:
        table = columns("choice", "value")
        for field, value in choices(protocol).items():
            table.add_row(field, _plain(value))
    out.print(table)


def _plain(value: object) -> str:
    return ", ".join(str(v) for v in value) if isinstance(value, tuple) else str(value)


def _show_run(files: RunFiles, *, as_json: bool) -> None:
    from lens_bench.console import summary_table
    from lens_bench.run.manifest import commit, read_manifest
    from lens_bench.run.results import other_protocols, read_results

    manifest = read_manifest(files)
    own = read_results(files, manifest)
    others: list[Results] = []
    damaged: list[DataError] = []
    for name in other_protocols(files, manifest):
        try:
            others.append(read_results(files, manifest, name))
        except DataError as error:
            damaged.append(error)
    if as_json:
        print_json(
            {**own.summary, "other_protocols": {found.protocol.name: found.summary for found in others}}, indent=2
        )
        refuse_damaged(damaged)
        return
    settings, about = manifest.settings, manifest.environment
    out.print(
        facts(
            [
                ("run", files.root),
                ("model", manifest.model + (" (sees the ground truth)" if manifest.sees_ground_truth else "")),
                ("arguments", ", ".join(f"{k}={v}" for k, v in settings.args.items())),
                ("suite", f"{manifest.suite} {manifest.split}, content {manifest.suite_hash[:12]}"),
                ("covers", own.summary["coverage"]),
                ("source", manifest.model_card.get("source")),
                ("weights", manifest.weight_digest[:12]),
                ("device", f"{manifest.device}, {settings.dtype}"),
                ("limit", settings.limit),
                ("started", manifest.created),
                ("lens-bench", f"{about.get('lens_bench')} {commit(about)}".strip()),
            ]
        )
    )
    out.print()
    out.print(summary_table(found.summary for found in (own, *others)))
    for found in (own, *others):
        _explain_score(found, oracle=manifest.sees_ground_truth)
    refuse_damaged(damaged)


def _explain_score(found: Results, *, oracle: bool) -> None:
    """Say in which ways the protocol makes numbers differ from ``strict`` and, of an oracle, by how many pixels."""
    from lens_bench.scoring.explain import explain

    protocol, name = found.protocol, found.protocol.name
    differences = explain(protocol)
    if not differences:
        return
    out.print()
    out.print(f"Under {name} these numbers are not those of strict:", highlight=False)
    for d in differences:
        out.print(f"  {d.field} = {_plain(d.value)}: {d.why}", markup=False, highlight=False, soft_wrap=True)
    if not oracle:
        return
    beyond = [s for s in found.scores if s.counted and s.pred_area > s.gt_area == s.intersection]
    if beyond:
        pixels = sum(s.pred_area - s.gt_area for s in beyond)
        text = f"{len(beyond):,} answers cover more than the target that {name} leaves, by {pixels:,} pixels in all: "
        out.print(f"{text}those it takes out of the annotation.", highlight=False, soft_wrap=True)


# ---------------------------------------------------------------------------------------------- environment


def show_environment(*, as_json: bool = False) -> None:
    """Print versions, processor, memory, devices."""
    from lens_bench.perf.hardware import environment

    content = environment()
    if as_json:
        print_json(content, indent=2)
        return
    rows: list[tuple[str, object]] = []
    for key, value in content.items():
        if isinstance(value, dict):
            rows += [(f"{key} {name}", entry) for name, entry in value.items()]
        else:
            rows.append((key, ", ".join(value) if isinstance(value, list) else value))
    out.print(facts(rows))

"""What `data make`, `data verify` and `data audit` do, and generating a suite that a run needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.text import Text

from lens_bench import console
from lens_bench.atomic import naming_full_disk
from lens_bench.cards import SuiteCard
from lens_bench.console import note, out, print_json
from lens_bench.data.split import known_root, open_split, require_root, split_card
from lens_bench.errors import DataError, UsageError
from lens_bench.outgoing import one_line
from lens_bench.progress import counting
from lens_bench.registry import find_suite, split_reference


def data_root(given: Path | None) -> Path:
    """The data root: as given, else the default, which need not exist yet. Raises as ``given_root``."""
    return known_root(given_root(given))


def given_root(given: Path | None) -> Path | None:
    """What ``--data-root`` says, if anything. Raises ``DataError`` where it names no folder."""
    if given is None:
        return None
    root = given.expanduser()
    require_root(root)
    return root


def ensure_made(suite: SuiteCard, split: str, root: Path) -> None:
    """Generate a split of a generated suite where it is not there yet; other suites are left alone."""
    if suite.generated and not is_made(suite, split, root):
        _make(suite, split, root, workers=2)


def make(name: str, splits: Sequence[str], root: Path, workers: int) -> None:
    """Generate the named splits of a generated suite, or all of them."""
    suite = find_suite(name)
    if not suite.generated:
        hint = suite.obtain.text if suite.obtain else ""
        raise UsageError(f"{suite.name} is not generated: its files come from its authors", hint)
    for split in splits or suite.splits:
        split_card(suite, split)
        if is_made(suite, split, root):
            note(f"{suite.name} {split} is there already")
        else:
            out.print(Text(str(_make(suite, split, root, workers))), soft_wrap=True)


def verify(name: str, splits: Sequence[str], root: Path, *, decode: bool, as_json: bool) -> None:
    """Check splits completely; raises ``DataError`` after the tables where something is wrong."""
    from lens_bench.data.verify import verify_split

    suite = find_suite(name)
    wrong: list[str] = []
    for split_name in splits or suite.default_splits:
        split = open_split(suite, split_name, root, allow_partial=True)
        with counting(f"verifying {suite.name} {split_name}") as progress:
            report = verify_split(split, decode=decode, progress=progress)
        if suite.generated and decode:
            _verify_pixels(suite, split_name, root)
        if as_json:
            print_json(asdict(report) | {"ok": report.ok})
        else:
            out.print(console.facts([("suite", f"{suite.name} {split_name}"), *report.rows()]))
            for finding in report.findings[:_SHOWN]:
                line = one_line(f"{finding.kind}: {finding.sample_id}: {finding.detail}")
                out.print(Text(f"  {line}", style="red"), soft_wrap=True)
            if len(report.findings) > _SHOWN:
                out.print(f"  and {len(report.findings) - _SHOWN:,} more (--json lists all)")
            out.print()
        wrong += [] if report.ok else [split_name]
    if wrong:
        raise DataError(f"{suite.name} {', '.join(wrong)}: not what the card promises", "see the table above")


def audit(names: Sequence[str], root: Path, output: Path | None, *, as_json: bool) -> None:
    """Count shared images between all named splits (``suite`` or ``suite:split``)."""
    from lens_bench.data.audit import audit as compare

    splits = []
    for name in names:
        suite_name, split_name = split_reference(name)
        suite = find_suite(suite_name)
        for chosen in [split_name] if split_name else suite.splits:
            ensure_made(suite, chosen, root)
            try:
                splits.append(open_split(suite, chosen, root, allow_partial=True))
            except DataError as error:
                if split_name or chosen in suite.default_splits:
                    raise
                note(f"left out: {error.message}")
    report = compare(splits)
    if output is not None:
        report.write(output)
    if as_json:
        print_json(report.to_json())
        return
    table = console.columns("split", "images", "to drop from it", "shares images with")
    for name, images in report.images.items():
        shared = [f"{o.second} {o.images:,}" for o in report.overlaps if o.first == name and o.images]
        drop = f"{len(report.drop[name]):,}" if name in report.drop else ""
        table.add_row(name, f"{images:,}", drop, ", ".join(shared) or "none")
    out.print(table)
    if output is not None:
        out.print(Text(f"written to {output}", style="dim"), soft_wrap=True)


_SHOWN = 20


def is_made(suite: SuiteCard, split: str, root: Path) -> bool:
    """Whether a split of a generated suite is there."""
    from lens_bench.data import shapes

    return shapes.is_made(suite.name, split, root)


def _make(suite: SuiteCard, split: str, root: Path, workers: int) -> Path:
    from lens_bench.data import shapes

    with naming_full_disk(root / suite.name), counting(f"generating {suite.name} {split}") as progress:
        return shapes.make(suite.name, split, root, workers=workers, progress=progress)


def _verify_pixels(suite: SuiteCard, split: str, root: Path) -> None:
    from lens_bench.data import shapes

    shapes.verify(suite.name, split, root)

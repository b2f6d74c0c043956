"""A process that dies before any one of its writes: what is left is believed only where it belongs together."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lens_bench.errors import DataError
from lens_bench.records import Score
from lens_bench.run.evaluate import run_splits
from lens_bench.run.files import RunFiles, find_runs
from lens_bench.run.journal import Journal
from lens_bench.run.manifest import read_manifest
from lens_bench.run.merge import find_shards, merge
from lens_bench.run.plan import make_model
from lens_bench.run.rescore import rescore
from lens_bench.run.results import read_results

ARGS = {"shift": "6", "drop": "0.2"}
PROTOCOLS = ("strict", "lisa")
Scored = dict[str, tuple[Score, ...]]


class Killed(BaseException):
    """What a process that is killed does not survive."""


class Deadline:
    """Lets some changes of files happen and none after them, not even those of somebody who cleans up."""

    def __init__(self, patch: pytest.MonkeyPatch, allowed: int | None = None) -> None:
        self.allowed = allowed
        self.changes = 0
        for owner, name in ((Path, "replace"), (Path, "unlink"), (Journal, "append")):
            patch.setattr(owner, name, self._counted(getattr(owner, name)))

    def _counted(self, change: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            if self.changes == self.allowed:
                raise Killed
            self.changes += 1
            return change(*args, **kwargs)

        return counted


def run(tiny: Any, out: Path, **wishes: Any) -> RunFiles:
    plan = tiny.plan("noisy-oracle", out, args=ARGS, **wishes)
    _, segmenter = make_model(plan.card, plan.request)
    (outcome,) = run_splits([plan], segmenter)
    return outcome.files


def score_again(tiny: Any, files: RunFiles, *protocols: str) -> None:
    rescore(files, protocols, tiny.data_root, suite=str(tiny.card_path))


def cut(files: RunFiles) -> None:
    """Forget the last twenty answers, as after a power failure that the file system did not survive whole."""
    files.predictions.write_bytes(b"".join(files.predictions.read_bytes().splitlines(keepends=True)[:-20]))


def finished(tiny: Any, out: Path) -> None:
    run(tiny, out, also=("lisa",))


def unfinished(tiny: Any, out: Path) -> None:
    cut(run(tiny, out, also=("lisa",)))


def sharded(tiny: Any, out: Path) -> None:
    """A run that was merged under one protocol, and whose shards have been scored under a second one since."""
    shards = [run(tiny, out, shard=(i, 2)) for i in (1, 2)]
    merge(find_shards([out])[0])
    for files in shards:
        score_again(tiny, files, "lisa")


def whole(out: Path) -> RunFiles:
    return next(files for files in find_runs(out) if files.root.parent.name != "shards")


ACTIONS: dict[str, tuple[Callable[[Any, Path], None], Callable[[Any, Path], object]]] = {
    "score again": (unfinished, lambda tiny, out: score_again(tiny, whole(out))),
    "score under one more": (finished, lambda tiny, out: score_again(tiny, whole(out), "lisa", "gres")),
    "run on": (unfinished, lambda tiny, out: run(tiny, out)),
    "run under another": (unfinished, lambda tiny, out: run(tiny, out, protocol="lisa")),
    "start again": (finished, lambda tiny, out: run(tiny, out, also=("lisa",), fresh=True)),
    "merge": (sharded, lambda _, out: merge(find_shards([out])[0])),
}


def believed(files: RunFiles) -> Scored:
    """What a reader takes for the scores of the run; everything else must be an error that says what to do."""
    found: Scored = {}
    if not files.manifest.exists():
        return found
    for name in PROTOCOLS:
        try:
            results = read_results(files, read_manifest(files), name)
        except DataError as error:
            assert f"`lens-bench score {files.root} --protocol {name}`" in error.hint
            continue
        assert results.summary["protocol"] == results.protocol.name == name
        assert results.summary["n_answered"] == len(results.scores)
        found[name] = results.scores
    return found


@pytest.mark.parametrize(("prepare", "act"), ACTIONS.values(), ids=ACTIONS)
def test_a_process_that_dies_before_a_write_leaves_nothing_that_is_believed_wrongly(
    tiny: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    prepare: Callable[[Any, Path], None],
    act: Callable[[Any, Path], object],
) -> None:
    start = tmp_path / "start"
    prepare(tiny, start)
    before = believed(whole(start))
    shutil.copytree(start, tmp_path / "end")
    with monkeypatch.context() as patch:
        unharmed = Deadline(patch)
        act(tiny, tmp_path / "end")
    after = believed(whole(tmp_path / "end"))
    assert unharmed.changes >= 4
    assert set(after) == set(PROTOCOLS)
    for allowed in range(unharmed.changes):
        out = tmp_path / f"killed {allowed}"
        shutil.copytree(start, out)
        with monkeypatch.context() as patch, pytest.raises(Killed):
            Deadline(patch, allowed)
            act(tiny, out)
        for runs in find_runs(out):
            for name, scores in believed(runs).items():
                if runs.root.parent.name != "shards":
                    assert scores in (before.get(name), after[name]), f"after {allowed} changes under {name}"
        act(tiny, out)
        assert believed(whole(out)) == after, f"the same again after {allowed} changes"
        assert not list(out.rglob("*.tmp"))

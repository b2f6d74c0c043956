"""Models in an environment of their own: a second real virtual environment without lens_bench and torch."""

from __future__ import annotations

import ast
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import pytest

from lens_bench.cards import read_model_cards
from lens_bench.errors import CheckpointError, OutOfMemoryError, RunError, UsageError
from lens_bench.masks import area, decode
from lens_bench.records import ImageTask, ModelOptions, Prediction, Query
from lens_bench.registry import make_segmenter, resolve_args
from lens_bench.run import foreign_server
from lens_bench.run.answer import BatchSize, answer
from lens_bench.run.foreign import ForeignSegmenter
from lens_bench.segmenter import Segmenter, SupportsDigest, SupportsExpect

CARD = """
name: stranger
title: Stranger
summary: Runs elsewhere.
adapter: {adapter}
{python}
args:
  mode: {{default: "", help: How to misbehave.}}
  scratch: {{default: "", help: A folder for marks.}}
"""

STRANGER = Path(__file__).parent / "stranger"


@pytest.fixture(scope="module")
def interpreter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with numpy, pillow and pycocotools, linked from this one, and nothing else."""
    root = tmp_path_factory.mktemp("environment") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(root)], check=True, capture_output=True)
    python = root / "bin" / "python"
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.run([python, "-c", ask], check=True, capture_output=True, text=True).stdout.strip())
    for name in ("numpy", "pillow", "pycocotools"):
        files = distribution(name).files or []
        for top in sorted({f.parts[0] for f in files} - {"..", "__pycache__"}):
            (site / top).symlink_to(Path(str(distribution(name).locate_file(top))))
    return python


@pytest.fixture
def folder(tmp_path: Path, interpreter: Path) -> Path:
    """A model's folder; its card names the interpreter relatively, through a link as environments are shared."""
    (tmp_path / "envs").mkdir()
    (tmp_path / "envs" / "x").symlink_to(interpreter.parent.parent)
    folder = tmp_path / "stranger"
    shutil.copytree(STRANGER, folder, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


class Opener:
    """Opens foreign segmenters of a folder and closes them when the test is over."""

    def __init__(self, folder: Path, log: Path) -> None:
        self.folder, self.log = folder, log
        self.opened: list[ForeignSegmenter] = []

    def __call__(
        self,
        mode: str = "",
        name: str = "Stranger",
        python: str = "python: ../envs/x/bin/python",
        scratch: Path | None = None,
        timeout: float = 180.0,
    ) -> ForeignSegmenter:
        card = self.card(name, python)
        args = resolve_args(card, {"mode": mode, "scratch": str(scratch or "")})
        options = ModelOptions(card.name, str(card.folder), args, seed=5)
        self.opened.append(ForeignSegmenter(card, options, timeout=timeout, load_timeout=180.0, log=self.log))
        return self.opened[-1]

    def card(self, name: str = "Stranger", python: str = ""):
        (self.folder / "model.yaml").write_text(CARD.format(adapter=f"adapter.py:{name}", python=python))
        return read_model_cards(self.folder / "model.yaml")[0]


@pytest.fixture
def stranger(folder: Path, tmp_path: Path) -> Iterator[Opener]:
    opener = Opener(folder, tmp_path / "stranger.log")
    yield opener
    for segmenter in opener.opened:
        segmenter.close()


def task(name: str, *expressions: str, size: tuple[int, int] = (20, 31)) -> ImageTask:
    rng = np.random.default_rng(len(name) + size[0])
    pixels = rng.integers(0, 256, size=(*size, 3), dtype=np.uint8)
    queries = tuple(Query(f"{name}/{i}", e, e, i % 2 == 0, str(i)) for i, e in enumerate(expressions))
    return ImageTask(name, size, queries, pixels)


def without_times(predictions: list[Prediction]) -> list[tuple[object, ...]]:
    return [(p.sample_id, p.status, p.mask, p.box, p.score, p.text, p.error) for p in predictions]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not (stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z")


def gone(pid: int) -> bool:
    """Whether a process ends within a minute; one that init has yet to collect counts as ended."""
    deadline = time.monotonic() + 60
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not alive(pid)


def hanging(marks: Path) -> list[int]:
    """The child and the grandchild of a model that hangs; empty until both are on record."""
    found = re.search(r"^pid (\d+) (\d+)\n", marks.read_text() if marks.exists() else "", re.MULTILINE)
    return [int(pid) for pid in found.groups()] if found else []


# ---------------------------------------------------------------------------------------------- the good case


def test_gives_what_the_same_adapter_gives_in_our_own_process(stranger: Opener) -> None:
    tasks = [
        task("a", "the red one", "nothing at all"),
        task("ümläut", "die größte Tür 🚪", "\ud83d left", size=(7, 200)),
    ]
    card = stranger.card()
    here = make_segmenter(card, ModelOptions(card.name, str(card.folder), resolve_args(card, {}), seed=5))
    report = here.load()
    there = stranger()
    foreign = there.load()
    assert isinstance(there, Segmenter)
    assert foreign.parameters == report.parameters == 7
    assert foreign.notes[:-1] == report.notes == ("heard of 5",)
    assert f"numpy {np.__version__}" in foreign.notes[-1]
    assert without_times(there.segment(tasks)) == without_times(here.segment(tasks))
    assert there.segment(tasks)[0].stages_ms.keys() == {"forward", "transport"}
    assert there.segment([]) == []


def test_the_child_has_neither_lens_bench_nor_torch(
    stranger: Opener, interpreter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(foreign_server.__file__).parents[2]
    monkeypatch.setenv("PYTHONPATH", str(root))
    segmenter = stranger(name="Alone")
    prefix, found, _ = segmenter.load().notes
    assert Path(prefix).resolve() == interpreter.parent.parent.resolve()
    assert found == "found: "


def test_the_digest_is_passed_on_where_the_adapter_has_one(stranger: Opener) -> None:
    with_digest, without = stranger(), stranger(name="Alone")
    assert isinstance(with_digest, SupportsDigest)
    assert len(with_digest.weight_digest()) == 64
    assert not isinstance(without, SupportsDigest)


def test_expect_is_passed_on_where_the_adapter_has_it(stranger: Opener) -> None:
    segmenter = stranger(name="Expecting")
    assert isinstance(segmenter, SupportsExpect)
    assert not isinstance(stranger(), SupportsExpect)
    segmenter.expect([task("a", "x", "y"), task("b", "z")])
    assert segmenter.load().notes[0] == "expects a/0 a/1 b/0"


def test_a_big_image_arrives_whole(stranger: Opener) -> None:
    segmenter = stranger()
    segmenter.load()
    big = task("big", "all of it", size=(3000, 4000))
    (prediction,) = segmenter.segment([big])
    assert np.array_equal(decode(prediction.mask), big.rgb[..., 0] > 100 + len("all of it"))


def test_answers_come_in_many_forms(stranger: Opener) -> None:
    segmenter = stranger(name="Odd")
    segmenter.load()
    asked = task("t", "none", "dict", "uncompressed", "numpy")
    none, array, uncompressed, numpy = segmenter.segment([asked])
    assert (none.status, none.mask, none.box) == ("no_mask", None, None)
    assert np.array_equal(decode(array.mask), asked.rgb[..., 0] > 103)
    assert area(uncompressed.mask) == 3
    assert numpy.status == "ok"
    assert (numpy.box, numpy.score, numpy.mask) == ((0.0, 1.0, 2.0, 3.0), 0.5, None)
    assert (numpy.tokens.prompt, numpy.tokens.completion) == (3, 4)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("float", "a mask must be bool or integer, not float32"),
        ("small", r"a mask has shape \(2, 2\), its image \(20, 31\)"),
        ("nan", "not JSON compliant"),
        ("misnamed", "not in order"),
    ],
)
def test_an_answer_that_is_none_is_refused(stranger: Opener, kind: str, message: str) -> None:
    segmenter = stranger(name="Odd")
    segmenter.load()
    with pytest.raises(RunError, match=message):
        segmenter.segment([task("t", kind)])
    assert segmenter.segment([task("t", "none")])[0].status == "no_mask"


def test_a_missing_answer_is_refused(stranger: Opener) -> None:
    segmenter = stranger(name="Few")
    segmenter.load()
    with pytest.raises(RunError, match="1 predictions for 2 expressions"):
        segmenter.segment([task("t", "x", "y")])


# ---------------------------------------------------------------------------------------------- output


def test_what_the_adapter_prints_goes_to_the_log(stranger: Opener, tmp_path: Path) -> None:
    segmenter = stranger("chatty")
    segmenter.load()
    (prediction,) = segmenter.segment([task("t", "poison")])
    assert prediction.status == "ok"
    text = stranger.log.read_text()
    assert all(
        line in text for line in ("printed by python", "written to descriptor 1", "echoed by a child", "x" * 1000)
    )

    moved = tmp_path / "run" / "model.log"
    segmenter.log_to(moved)
    assert "echoed by a child" in moved.read_text()
    segmenter.segment([task("t", "poison")])
    assert moved.read_text().count("echoed by a child") == 2
    assert stranger.log.read_text().count("echoed by a child") == 1


def test_output_before_the_server_runs_does_no_harm(stranger: Opener, tmp_path: Path, interpreter: Path) -> None:
    wrapper = tmp_path / "wrapper.sh"
    wrapper.write_text(f'#!/bin/sh\necho "LB environment activated"\nexec "{interpreter}" "$@"\n')
    wrapper.chmod(0o755)
    segmenter = stranger(python="python: ../wrapper.sh")
    segmenter.load()
    assert segmenter.segment([task("t", "x")])[0].status == "ok"
    assert "environment activated" in stranger.log.read_text()


def test_garbage_in_the_protocol_costs_the_guilty_sample_only(stranger: Opener) -> None:
    segmenter = stranger("corrupt")
    segmenter.load()
    with pytest.raises(RunError, match="something else than an answer"):
        segmenter.segment([task("t", "poison")])
    predictions = answer(segmenter, [task("a", "x", "poison"), task("b", "y")], BatchSize(8))
    assert [p.status for p in predictions] == ["ok", "error", "ok"]


# ---------------------------------------------------------------------------------------------- failures


@pytest.mark.parametrize(
    ("mode", "message", "loads"),
    [
        (
            "segfault",
            r"died while segmenting: it ended with signal 11 .*about to fall \| Fatal Python error.*adapter.py",
            2,
        ),
        ("exit", "it ended with exit status 9", 2),
        ("raise", "failed while segmenting: ValueError: cannot parse poison", 1),
        ("sys.exit", r"SystemExit: usage: stranger \[-h\]", 1),
    ],
)
def test_a_failure_is_an_error_and_the_next_call_works(
    stranger: Opener, tmp_path: Path, mode: str, message: str, loads: int
) -> None:
    segmenter = stranger(mode, scratch=tmp_path)
    segmenter.load()
    with pytest.raises(RunError, match=message) as caught:
        segmenter.segment([task("t", "poison")])
    assert "\n" not in caught.value.message
    assert str(stranger.log) in caught.value.hint
    assert segmenter.segment([task("t", "fine")])[0].status == "ok"
    assert (tmp_path / "marks").read_text().split().count("load") == loads


def test_the_loop_finds_the_expression_that_kills_the_child(stranger: Opener) -> None:
    segmenter = stranger("exit")
    segmenter.load()
    tasks = [task("a", "x"), task("b", "y", "poison", "z"), task("c", "w")]
    predictions = answer(segmenter, tasks, BatchSize(8))
    assert [p.status for p in predictions] == ["ok", "ok", "error", "ok", "ok"]
    assert "exit status 9" in predictions[2].error


def test_a_child_that_hangs_costs_its_call_and_is_ended_with_its_children(stranger: Opener, tmp_path: Path) -> None:
    segmenter = stranger("hang", scratch=tmp_path, timeout=8.0)
    segmenter.load()
    predictions = segmenter.segment([task("t", "poison", "neighbour")])
    assert [p.status for p in predictions] == ["error", "error"]
    assert predictions[0].error == "the process of stranger was ended: no answer within 8 s: waiting for a lock"
    pid, grandchild = hanging(tmp_path / "marks")
    assert gone(pid)
    assert gone(grandchild)
    assert segmenter.segment([task("t", "fine")])[0].status == "ok"


def test_a_child_that_does_not_come_up_again_is_given_up(stranger: Opener, tmp_path: Path) -> None:
    segmenter = stranger("never again", scratch=tmp_path)
    segmenter.load()
    with pytest.raises(RunError, match="exit status 9"):
        segmenter.segment([task("t", "poison")])
    for _ in range(2):
        with pytest.raises(RunError, match="failed while loading: RuntimeError: still busy"):
            segmenter.segment([task("t", "fine")])
    with pytest.raises(RunError, match="did not come up again"):
        segmenter.segment([task("t", "fine")])
    assert (tmp_path / "marks").read_text().split().count("load") == 3


@pytest.mark.parametrize("mode", ["limit", "old torch", "cpu", "wrapped"])
def test_out_of_memory_is_passed_on(stranger: Opener, mode: str) -> None:
    segmenter = stranger(mode)
    segmenter.load()
    with pytest.raises(OutOfMemoryError):
        segmenter.segment([task("a", "x"), task("b", "y")])


def test_the_loop_halves_the_batch_when_the_child_runs_out_of_memory(stranger: Opener) -> None:
    segmenter = stranger("limit")
    segmenter.load()
    size = BatchSize(4)
    predictions = answer(segmenter, [task(n, "x") for n in "abcd"], size)
    assert [p.status for p in predictions] == ["ok"] * 4
    assert size.images == 1
    assert size.halvings > 0


@pytest.mark.parametrize(
    ("mode", "kind", "message"),
    [
        ("die loading", RunError, "died while loading: it ended with exit status 3: no GPU in sight"),
        ("raise loading", RunError, "failed while loading: OSError: model-00002.safetensors is truncated"),
        ("checkpoint", CheckpointError, "tensor lm_head.weight is missing"),
    ],
)
def test_a_failure_to_load_is_told_with_its_last_words(
    stranger: Opener, mode: str, kind: type[Exception], message: str
) -> None:
    segmenter = stranger(mode)
    with pytest.raises(kind, match=message):
        segmenter.load()


def test_a_child_that_dies_constructing(stranger: Opener) -> None:
    with pytest.raises(RunError, match="died while starting: it ended with exit status 5"):
        stranger("die constructing")


@pytest.mark.parametrize(
    ("name", "python", "message"),
    [
        ("Stranger", "python: ../envs/none/bin/python", "needs the Python interpreter .*envs/none/bin/python"),
        ("Stranger", "python: adapter.py", "cannot be started: Permission denied"),
        ("Nobody", "python: ../envs/x/bin/python", "has no class 'Nobody'"),
        ("Stranger", "python: ../envs/x/bin/python\nsees_ground_truth: true", "is never sent"),
    ],
)
def test_a_card_that_does_not_fit(stranger: Opener, name: str, python: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        stranger(name=name, python=python)


def test_an_adapter_that_needs_what_is_not_there(stranger: Opener) -> None:
    (stranger.folder / "neighbour.py").write_text("import torch\n")
    with pytest.raises(UsageError, match=r"adapter.py:Stranger cannot be imported: No module named 'torch'"):
        stranger()


def test_an_environment_without_numpy(stranger: Opener, tmp_path: Path) -> None:
    root = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(root)], check=True, capture_output=True)
    with pytest.raises(RunError, match=r"died while starting.*No module named 'numpy'"):
        stranger(python=f"python: {root / 'bin' / 'python'}")


# ---------------------------------------------------------------------------------------------- the end


def test_closing_ends_the_child_politely_and_leaves_no_zombie(stranger: Opener, tmp_path: Path) -> None:
    segmenter = stranger(scratch=tmp_path)
    segmenter.load()
    pid = segmenter._child.pid
    segmenter.close()
    segmenter.close()
    assert (tmp_path / "marks").read_text().split()[-1] == "close"
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_an_interruption_ends_a_busy_child(stranger: Opener, tmp_path: Path) -> None:
    segmenter = stranger("hang", scratch=tmp_path)
    segmenter.load()
    pid = segmenter._child.pid

    def interrupt(*_: object) -> None:
        if hanging(tmp_path / "marks"):
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
        with pytest.raises(KeyboardInterrupt):
            segmenter.segment([task("t", "poison")])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    _, grandchild = hanging(tmp_path / "marks")
    segmenter.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert gone(grandchild)


def test_a_busy_child_ends_when_its_parent_is_killed(stranger: Opener, tmp_path: Path) -> None:
    stranger.card(python="python: ../envs/x/bin/python")
    script = f"""
        from pathlib import Path
        import sys
        sys.path.insert(0, {str(Path(foreign_server.__file__).parents[2])!r})
        import numpy as np
        from lens_bench.cards import read_model_cards
        from lens_bench.records import ImageTask, ModelOptions, Query
        from lens_bench.run.foreign import ForeignSegmenter
        card = read_model_cards(Path({str(stranger.folder)!r}) / "model.yaml")[0]
        args = {{"mode": "hang", "scratch": {str(tmp_path)!r}}}
        options = ModelOptions(card.name, str(card.folder), args)
        segmenter = ForeignSegmenter(card, options, log=Path({str(stranger.log)!r}))
        segmenter.load()
        segmenter.segment([ImageTask("t", (4, 4), (Query("t/0", "poison"),), np.zeros((4, 4, 3), np.uint8))])
    """
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)])
    deadline = time.monotonic() + 180
    try:
        while not (pids := hanging(tmp_path / "marks")):
            assert parent.poll() is None, f"the parent ended early: exit status {parent.returncode}"
            assert time.monotonic() < deadline, "three minutes went by, and the model does not hang"
            time.sleep(0.05)
    finally:
        parent.kill()
        parent.wait()
    assert all(gone(pid) for pid in pids)


def test_the_server_is_one_file_for_old_pythons() -> None:
    source = Path(foreign_server.__file__).read_text(encoding="utf-8")
    tree = ast.parse(source, feature_version=(3, 8))
    roots = {a.name.partition(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    roots |= {(n.module or "").partition(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert roots - sys.stdlib_module_names == {"numpy", "pycocotools"}

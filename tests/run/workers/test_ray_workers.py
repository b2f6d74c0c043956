"""Real workers on a real Ray: the result is that of one process, whoever is killed."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lens_bench.errors import CheckpointError, DataError
from lens_bench.run.evaluate import run_splits
from lens_bench.run.files import JsonObject
from lens_bench.run.plan import Plan, make_model
from lens_bench.run.watch import Quiet
from lens_bench.run.workers import dispatch, foreman
from lens_bench.run.workers.options import Workers

from .worker_models import BROKEN, LOOKING, WAITING, model_of

ray = pytest.importorskip("ray")
cluster_utils = pytest.importorskip("ray.cluster_utils")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Ray in this process, with room for two workers on the first node."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    started = cluster_utils.Cluster(
        initialize_head=True, head_node_args={"num_cpus": 2, "object_store_memory": 100 * 2**20}
    )
    ray.init(started.address, log_to_driver=False, logging_level="ERROR")
    try:
        yield started
    finally:
        ray.shutdown()
        started.shutdown()


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """No worker is left out or overtaken because the machine is slow; what becomes of those who are, others test."""
    monkeypatch.setattr(foreman, "_GRACE_S", 120.0)
    monkeypatch.setattr(dispatch, "PATIENCE_S", 120.0)


class Watching(Quiet):
    """Does something once so many expressions were answered, and keeps what it is told."""

    def __init__(self, after: int = 10**9, act: Callable[[], None] = lambda: None) -> None:
        self.after, self.act = after, act
        self.answered = 0
        self.notes: list[str] = []
        self.counts: list[tuple[int, int]] = []

    def advance(self, answered: int, errors: int) -> None:
        before = self.answered
        self.answered += answered
        if before < self.after <= self.answered:
            self.act()

    def workers(self, ready: int, wanted: int) -> None:
        self.counts.append((ready, wanted))

    def note(self, message: str) -> None:
        self.notes.append(message)


def run(plan: Plan, workers: Workers | None = None, watcher: Watching | None = None) -> JsonObject:
    """Run in this process, or with workers. ``watcher.crew`` is the session, for tests that look inside."""
    _, model = make_model(plan.card, plan.request)
    session = None
    if workers:
        from lens_bench.run.workers.start import make_crew

        session = make_crew([plan], model, workers)
        if watcher:
            watcher.crew = session  # type: ignore[attr-defined]
    (outcome,) = run_splits([plan], model, watcher, session)
    return outcome.summary


def canonical(plan: Plan) -> list[str]:
    """The predictions in the order of the suite, without the times that they took."""
    place = {s.id: n for n, s in enumerate(plan.samples)}
    rows = [json.loads(line) for line in plan.files.predictions.read_text().splitlines()]
    return [json.dumps({**r, "stages_ms": {}}) for r in sorted(rows, key=lambda r: place[r["sample_id"]])]


def result(plan: Plan, summary: JsonObject) -> tuple[bytes, list[str], dict[str, object]]:
    """Everything about a run that must not depend on who computed it."""
    rest = {k: v for k, v in summary.items() if k not in ("perf", "created")}
    return plan.files.scores.read_bytes(), canonical(plan), rest


def wait_until(happened: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 180
    while not happened():
        assert time.monotonic() < deadline, f"three minutes went by before {what}"
        time.sleep(0.05)


def _alive(pid: int) -> bool:
    """Whether a process runs; one that its parent has yet to collect does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def slow(tiny: Any, out: Path, **wishes: Any) -> Plan:
    plan: Plan = tiny.plan("slow", out, **{"args": {"ms": "20"}, "batch_size": 1, **wishes})
    return plan


@pytest.fixture(scope="module")
def one_process(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, list[str], dict[str, object]]:
    """What one process makes of the suite."""
    plan = slow(tiny, tmp_path_factory.mktemp("one"))
    return result(plan, run(plan))


def of_workers(summary: JsonObject) -> list[str]:
    """What is said of workers among the reasons why the speed compares with no other."""
    perf: Any = summary["perf"]
    return [reason for reason in perf["reasons"] if "worker" in reason]


def pids(watcher: Watching) -> list[int]:
    members = watcher.crew._foreman.members  # type: ignore[attr-defined]
    return [m.identity.pid for m in members.values() if m.identity]


def test_two_workers_give_what_one_process_gives(cluster: Any, tiny: Any, tmp_path: Path, one_process: Any) -> None:
    plan, watcher = slow(tiny, tmp_path), Watching()
    summary = run(plan, Workers(2), watcher)
    assert result(plan, summary) == one_process
    perf: Any = summary["perf"]
    assert of_workers(summary) == []
    assert perf["hardware"].startswith("2 workers: 2 on ")
    assert [w["expressions"] > 0 for w in perf["workers"]] == [True, True]
    assert sum(w["expressions"] for w in perf["workers"]) == perf["expressions"] == 72
    assert perf["peak_rss_mb"] == max(w["peak_rss_mb"] for w in perf["workers"]) > 1
    assert (2, 2) in watcher.counts


def test_a_killed_workers_images_go_to_another(cluster: Any, tiny: Any, tmp_path: Path, one_process: Any) -> None:
    plan = slow(tiny, tmp_path)
    watcher = Watching(after=12, act=lambda: os.kill(pids(watcher)[0], signal.SIGKILL))
    summary = run(plan, Workers(2), watcher)
    assert result(plan, summary) == one_process
    assert len(plan.files.predictions.read_bytes().splitlines()) == 72
    perf: Any = summary["perf"]
    assert not perf["comparable"]
    assert "workers lost: 1" in perf["reasons"]
    assert any("was lost" in note for note in watcher.notes)


def test_all_workers_killed_at_once_are_replaced(cluster: Any, tiny: Any, tmp_path: Path, one_process: Any) -> None:
    plan = slow(tiny, tmp_path)
    watcher = Watching(after=24, act=lambda: [os.kill(pid, signal.SIGKILL) for pid in pids(watcher)] and None)
    assert result(plan, run(plan, Workers(2), watcher)) == one_process


@pytest.mark.slow
def test_an_image_that_kills_workers_is_a_failure_and_its_neighbours_are_not(
    cluster: Any, tiny: Any, tmp_path: Path
) -> None:
    peaceful = tiny.plan("crashing", tmp_path / "peaceful", batch_size=4)
    run(peaceful)
    victim = peaceful.samples[20]
    plan = tiny.plan("crashing", tmp_path, args={"exit": "true", "sample_id": victim.id}, batch_size=4, max_errors=6)
    summary = run(plan, Workers(2), Watching())
    rows = [json.loads(line) for line in canonical(plan)]
    assert [r["sample_id"] for r in rows] == [s.id for s in plan.samples]
    failed = {r["sample_id"] for r in rows if r["status"] == "error"}
    assert failed == {s.id for s in plan.samples if s.image_id == victim.image_id}
    assert all("every worker that was asked about this image died" in r["error"] for r in rows if r["error"])
    kept = [line for line, r in zip(canonical(plan), rows, strict=True) if r["status"] != "error"]
    assert set(kept) < set(canonical(peaceful))
    metrics: Any = summary["metrics"]
    assert metrics["error_rate"] == pytest.approx(6 / 72)


def test_a_model_that_does_not_load_is_the_error_of_one_process(cluster: Any, tiny: Any, tmp_path: Path) -> None:
    folder = model_of(tmp_path / "broken", BROKEN, "Broken")
    said = []
    for workers in (None, Workers(2)):
        with pytest.raises(CheckpointError) as raised:
            run(tiny.plan(folder, tmp_path), workers)
        said.append((type(raised.value), raised.value.message, raised.value.hint))
    assert said[0] == said[1]


@pytest.mark.slow
def test_a_node_that_joins_takes_its_share_of_a_running_job(cluster: Any, tiny: Any, tmp_path: Path) -> None:
    """The first two workers wait in their second call until there is a third."""
    folder = model_of(tmp_path / "waiting", WAITING, "Waiting")
    marker = tmp_path / "go"
    plan, nodes = tiny.plan(folder, tmp_path, batch_size=1), []

    class Opening(Watching):
        def workers(self, ready: int, wanted: int) -> None:
            super().workers(ready, wanted)
            if ready == 3:
                marker.touch()

    watcher = Opening(after=6, act=lambda: nodes.append(cluster.add_node(num_cpus=1, wait=False)))
    try:
        summary = run(plan, Workers(None, "auto"), watcher)
    finally:
        for node in nodes:
            cluster.remove_node(node)
    perf: Any = summary["perf"]
    assert [w["expressions"] > 0 for w in perf["workers"]] == [True] * 3
    assert of_workers(summary) == ["workers joined while the clock ran: 1"]
    alone = tiny.plan(folder, tmp_path / "alone", batch_size=1)
    assert result(plan, summary)[:2] == result(alone, run(alone))[:2]


@pytest.mark.slow
def test_a_node_that_goes_takes_nothing_with_it(cluster: Any, tiny: Any, tmp_path: Path, one_process: Any) -> None:
    node = cluster.add_node(num_cpus=1, wait=False)
    cluster.wait_for_nodes(timeout=180)
    plan = slow(tiny, tmp_path, args={"ms": "60"})

    def remove() -> None:
        """Return only when its worker is gone too, which may outlive its node by some calls."""
        before = pids(watcher)
        cluster.remove_node(node, allow_graceful=False)
        wait_until(lambda: not all(_alive(pid) for pid in before), "the worker of the node that went ends")

    watcher = Watching(after=18, act=remove)
    summary = run(plan, Workers(3), watcher)
    assert result(plan, summary)[:2] == one_process[:2]
    assert "workers lost: 1" in of_workers(summary)


def test_broken_images_are_errors_as_in_one_process(cluster: Any, own_tiny: Any, tmp_path: Path) -> None:
    folder = model_of(tmp_path / "looking", LOOKING, "Looking")
    plans = [own_tiny.plan(folder, tmp_path / name, batch_size=3, max_errors=1.0) for name in ("one", "two")]
    source = plans[0].samples[30].image
    Path(source.name).write_bytes(b"no image")
    one, two = (result(plan, run(plan, workers)) for plan, workers in zip(plans, (None, Workers(2)), strict=True))
    assert one == two
    assert sum('"error": "' in line for line in two[1]) == 6


def test_a_worker_that_cannot_read_what_others_can_is_let_go(cluster: Any, tiny: Any, tmp_path: Path) -> None:
    """The workers are told of images at a place that they do not have."""
    plan = tiny.plan("slow", tmp_path, args={"ms": "0"})
    card = plan.card.model_copy(update={"reads_images": True})
    here = os.getpid()

    @dataclasses.dataclass(frozen=True)
    class Elsewhere:
        name: str

        def exists(self) -> bool:
            return True

        def read(self) -> Any:
            if os.getpid() != here:
                raise DataError(f"no image {self.name}")
            return np.zeros((48, 64, 3), dtype=np.uint8)

    samples = tuple(dataclasses.replace(s, image=Elsewhere(s.image_id)) for s in plan.samples)
    with pytest.raises(DataError, match="a worker cannot read what can be read here: no image"):
        run(dataclasses.replace(plan, card=card, samples=samples), Workers(2))


# ---------------------------------------------------------------------------------------------- the command


def start(arguments: list[object]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "lens_bench.cli", *(str(a) for a in arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait_for_lines(path: Path, count: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and process.poll() is None:
        if path.exists() and path.read_bytes().count(b"\n") >= count:
            return
        time.sleep(0.05)
    process.kill()
    raise AssertionError(f"{path} did not get {count} lines: {process.communicate()}")


def left_over(marker: str) -> list[str]:
    """Processes with this in their environment that do not end within ten minutes; Ray's agents take their time."""
    deadline = time.monotonic() + 600
    while True:
        left = [p for p in Path("/proc").iterdir() if marker in _environment(p)]
        if not left or time.monotonic() > deadline:
            return [_command(p) for p in left]
        time.sleep(0.2)


def _command(process: Path) -> str:
    try:
        return (process / "cmdline").read_text(errors="replace").replace("\0", " ")
    except OSError:
        return ""


def _environment(process: Path) -> str:
    try:
        return (process / "environ").read_text(errors="replace") if process.name.isdecimal() else ""
    except OSError:
        return ""


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_driver_leaves_no_process_and_is_continued(
    tiny: Any, tmp_path: Path, one_process: Any, how: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LENS_BENCH_TEST_MARK", mark := f"mark-{os.getpid()}-{how}")
    plan = slow(tiny, tmp_path, args={"ms": "150"})
    command = tiny.run("slow", tmp_path, "--model-arg", "ms=150", "--batch-size", 1, "--workers", 2)
    process = start(command)
    wait_for_lines(plan.files.predictions, 12, process)
    if how == signal.SIGINT:
        os.killpg(process.pid, how)  # as a terminal does
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 130, errors
        assert "the same command continues" in errors
        assert "Traceback" not in errors
        assert json.loads(plan.files.summary.read_text())["complete"] is False
    else:
        process.kill()
        process.communicate()
    assert left_over(mark) == []
    kept = plan.files.predictions.read_bytes()
    kept = kept[: kept.rindex(b"\n") + 1]
    assert 12 <= kept.count(b"\n") < 72
    monkeypatch.delenv("LENS_BENCH_TEST_MARK")
    done = start(command)
    _, errors = done.communicate(timeout=600)
    assert done.returncode == 0, errors
    assert plan.files.predictions.read_bytes().startswith(kept)
    assert result(plan, json.loads(plan.files.summary.read_text()))[:2] == one_process[:2]


@pytest.mark.slow
def test_the_command_ends_as_one_process_does_where_the_model_does_not_load(
    tiny: Any, tmp_path: Path, cli: Any
) -> None:
    folder = model_of(tmp_path / "broken", BROKEN, "Broken")
    command = tiny.run(folder, tmp_path)
    one, two = cli(*command), cli(*command, "--workers", 2, timeout=600)
    assert one.returncode == two.returncode == 5
    last = [text.strip().splitlines()[-2:] for text in (one.stderr, two.stderr)]
    assert last[0] == last[1] == ["error: the decoder is missing", "hint: download it"]


@pytest.mark.slow
def test_json_on_standard_output_is_nothing_but_json(tiny: Any, tmp_path: Path, cli: Any) -> None:
    done = cli(*tiny.run("oracle", tmp_path), "--workers", 2, "--json", timeout=600)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["metrics"]["ciou"] == 1.0


def test_without_ray_the_extra_is_named(tiny: Any, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['ray'] = None; from lens_bench.cli import main; "
        f"sys.argv = ['lens-bench', *{[str(a) for a in tiny.run('oracle', tmp_path)]!r}, '--workers', '2']; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert "error: this needs the package ray" in done.stderr
    assert 'pip install "lens-bench[ray]"' in done.stderr
    assert not list(tmp_path.rglob("manifest.json"))


@pytest.mark.slow
def test_an_address_where_nobody_is_is_named(tiny: Any, tmp_path: Path, cli: Any) -> None:
    done = cli(*tiny.run("oracle", tmp_path), "--engine-address", "127.0.0.1:1", timeout=600)
    assert done.returncode == 2
    assert "error: there is no Ray cluster at 127.0.0.1:1" in done.stderr

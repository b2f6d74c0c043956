"""Nodes with a network each: a head and a second node in namespaces of their own, and a cable that is cut."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .worker_models import WAITING, model_of

pytest.importorskip("ray")

HEAD, OTHER = "10.77.0.1", "10.77.0.2"
PORT = 6391
CLIENTS = 10001  # where the head waits for drivers that are no node


def ip(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=30)


# Imported by every Python of the head: as many of the servers that it forks, one for each client, die as they start.
STILLBORN = """
import os, pathlib, subprocess

class Popen(subprocess.Popen):
    def __init__(self, args, *more, **named):
        deaths = pathlib.Path(os.environ["TEST_DEATHS"])
        if "specific-server" in " ".join(args) and deaths.stat().st_size:
            os.truncate(deaths, deaths.stat().st_size - 1)
            args = ["false"]
        super().__init__(args, *more, **named)

subprocess.Popen = Popen
"""


def environment() -> dict[str, str]:
    """Without proxies, which know nothing of these networks."""
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return {**kept, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "NO_COLOR": "1", "COLUMNS": "160"}


def inside(network: str, *command: object, timeout: float = 600, **variables: str) -> subprocess.CompletedProcess[str]:
    full = ["ip", "netns", "exec", network, *(str(c) for c in command)]
    return subprocess.run(full, capture_output=True, text=True, timeout=timeout, env=environment() | variables)


def ray_start(network: str, *arguments: object, **variables: str) -> None:
    ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--num-cpus", 1, "--object-store-memory", 10**8]
    started = inside(network, *ray, *arguments, **variables)
    assert started.returncode == 0, started.stderr + started.stdout


# `ray start --head` returns before the server for clients listens.
KNOCK = f"""
import socket, time
deadline = time.monotonic() + 180
while True:
    try:
        socket.create_connection(("{HEAD}", {CLIENTS}), timeout=5).close()
        break
    except OSError as error:
        assert time.monotonic() < deadline, f"the head serves no clients after three minutes: {{error}}"
        time.sleep(0.2)
"""


def wait_for_clients_server(network: str) -> None:
    knocked = inside(network, sys.executable, "-c", KNOCK)
    assert knocked.returncode == 0, knocked.stderr


@pytest.fixture
def networks(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Two namespaces with a cable between them."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("network namespaces need root and the program ip")
    names = f"lb-head-{os.getpid()}", f"lb-other-{os.getpid()}"
    made = [ip("netns", "add", name) for name in names]
    try:
        if any(m.returncode for m in made):
            pytest.skip(f"network namespaces are not allowed here: {made[0].stderr.strip()}")
        cable = ip("link", "add", "lb0", "netns", names[0], "type", "veth", "peer", "name", "lb1", "netns", names[1])
        if cable.returncode:
            pytest.skip(f"virtual cables are not allowed here: {cable.stderr.strip()}")
        for name, end, address in ((names[0], "lb0", HEAD), (names[1], "lb1", OTHER)):
            for step in (("addr", "add", f"{address}/24", "dev", end), ("link", "set", end, "up")):
                assert ip("-n", name, *step).returncode == 0
            assert ip("-n", name, "link", "set", "lo", "up").returncode == 0
        yield names
    finally:
        for name in names:
            for pid in ip("netns", "pids", name).stdout.split():
                subprocess.run(["kill", "-9", pid], check=False)
            ip("netns", "del", name)


@pytest.mark.slow
def test_a_node_whose_cable_is_cut_costs_nothing_but_time(
    networks: tuple[str, str], tiny: Any, tmp_path: Path, cli: Any
) -> None:
    head, other = networks
    ray_start(head, "--head", "--node-ip-address", HEAD, "--port", PORT, "--include-dashboard", "false")
    ray_start(other, "--address", f"{HEAD}:{PORT}", "--node-ip-address", OTHER)
    folder = model_of(tmp_path / "waiting", WAITING, "Waiting")
    command = tiny.run(folder, tmp_path, "--batch-size", 1)
    python = ["ip", "netns", "exec", head, sys.executable, "-m", "lens_bench.cli"]
    full = [*python, *(str(c) for c in command), "--engine-address", f"{HEAD}:{PORT}", "--workers", "2", "--json"]
    run = subprocess.Popen(full, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
    try:
        wait_for_answers_of(2, tmp_path, run)
        assert ip("-n", other, "link", "set", "lb1", "down").returncode == 0
        (tmp_path / "go").touch()
        out, errors = run.communicate(timeout=600)
    finally:
        run.kill()
        run.communicate()
    assert run.returncode == 0, errors
    summary = json.loads(out)
    one = cli(*tiny.run(folder, tmp_path / "one", "--json"))  # last: nobody waits any more
    expected = Path(json.loads(one.stdout)["run"]) / "scores.jsonl"
    assert (Path(summary["run"]) / "scores.jsonl").read_bytes() == expected.read_bytes()
    assert summary["complete"]
    figures = summary["perf"]["workers"]
    assert len(figures) >= 2  # and those who took the place of one that was lost
    reasons = summary["perf"]["reasons"]
    assert [r for r in reasons if r.startswith(("workers lost: ", "calls repeated by another worker: "))], reasons
    assert not summary["perf"]["comparable"]


def wait_for_answers_of(networks: int, beside: Path, run: subprocess.Popen[str]) -> None:
    """Until the driver has an answer from a worker on each of so many networks; then all of these wait."""
    deadline = time.monotonic() + 300
    while len(found := sorted(path.name for path in beside.glob("waits-*"))) < networks:
        assert run.poll() is None, f"the run ended early, with {found}: {run.communicate()}"
        assert time.monotonic() < deadline, f"five minutes went by, and only these answered: {found}"
        time.sleep(0.05)


@pytest.mark.slow
def test_a_driver_on_another_network_is_a_client(
    networks: tuple[str, str], tiny: Any, tmp_path: Path, cli: Any
) -> None:
    """The driver's machine is no node; the first server that the head starts for it dies, later a worker does."""
    head, other = networks
    deaths = tmp_path / "stillborn" / "left"
    deaths.parent.mkdir()
    deaths.write_bytes(b"x")
    (deaths.parent / "sitecustomize.py").write_text(STILLBORN)
    on_head = {"PYTHONPATH": str(deaths.parent), "TEST_DEATHS": str(deaths)}
    ray_start(head, "--head", "--node-ip-address", HEAD, "--port", PORT, "--include-dashboard", "false", **on_head)
    wait_for_clients_server(other)
    one = cli(*tiny.run("crashing", tmp_path / "one", "--json"))
    expected = Path(json.loads(one.stdout)["run"]) / "scores.jsonl"
    dies = ("share=0.1", "exit=true", f"marker={tmp_path / 'died'}")
    more = [part for arg in dies for part in ("--model-arg", arg)]
    command = tiny.run("crashing", tmp_path, *more, "--batch-size", 2, "--engine-address", f"ray://{HEAD}:{CLIENTS}")
    found = inside(other, sys.executable, "-m", "lens_bench.cli", *command, "--json")
    assert found.returncode == 0, found.stderr
    assert not deaths.stat().st_size
    summary = json.loads(found.stdout)
    assert (Path(summary["run"]) / "scores.jsonl").read_bytes() == expected.read_bytes()
    assert "workers lost: 1" in summary["perf"]["reasons"]

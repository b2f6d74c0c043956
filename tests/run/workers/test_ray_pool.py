"""Joining a cluster: what is tried again, and what is said in the end. No Ray is started."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from lens_bench.errors import UsageError
from lens_bench.run.workers.options import Workers

ray_pool = pytest.importorskip("lens_bench.run.workers.ray_pool")

LATE = ConnectionError("ray client connection timeout")
STILLBORN = ConnectionAbortedError("Initialization failure from server:\nit died")
NOBODY = ConnectionError("Could not find any running Ray instance")


@pytest.fixture
def listener() -> Iterator[str]:
    """An address at which somebody listens and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


class Joining:
    """Stands for ``ray.init``: fails as it is told to, then connects."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fails: list[Exception] = []
        self.tried = 0
        monkeypatch.setattr(ray_pool.ray, "init", self)
        monkeypatch.setattr(ray_pool.time, "sleep", lambda seconds: None)

    def __call__(self, *_: Any, **__: Any) -> None:
        self.tried += 1
        if self.tried <= len(self.fails):
            raise self.fails[self.tried - 1]

    def connect(self, address: str, *fails: Exception) -> None:
        self.fails = list(fails)
        ray_pool._connect(Workers(2, address), ray_pool.Share(1, 0))


@pytest.fixture
def joining(monkeypatch: pytest.MonkeyPatch) -> Joining:
    return Joining(monkeypatch)


@pytest.mark.parametrize("fails", [(LATE,), (STILLBORN,), (STILLBORN, LATE, STILLBORN), (STILLBORN,) * 3])
def test_a_client_that_is_not_let_in_tries_again(joining: Joining, listener: str, fails: tuple[Exception, ...]) -> None:
    joining.connect(f"ray://{listener}", *fails)
    assert joining.tried == len(fails) + 1


@pytest.mark.parametrize(
    ("scheme", "fails", "tries", "message"),
    [
        ("ray://", (LATE,) * 2, 2, "nobody answers as a Ray cluster in time at .*: ray client connection timeout"),
        ("ray://", (STILLBORN,) * 4, 4, "starts no server for this command: it died"),
        ("ray://", (*(STILLBORN,) * 3, LATE), 4, "nobody answers as a Ray cluster in time"),
        ("", (NOBODY,), 1, "there is no Ray cluster at .*: Could not find any running Ray instance"),
    ],
)
def test_what_is_said_in_the_end(
    joining: Joining, listener: str, scheme: str, fails: tuple[Exception, ...], tries: int, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        joining.connect(scheme + listener, *fails)
    assert joining.tried == tries


def test_where_nobody_listens_nothing_is_tried(joining: Joining) -> None:
    with socket.socket() as bound:  # bound and not listening: the port is nobody else's
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(UsageError, match="there is no Ray cluster at ray://127"):
            joining.connect(f"ray://127.0.0.1:{bound.getsockname()[1]}")
    assert not joining.tried

"""A live server of vLLM with a tiny checkpoint answers like the local model. Needs the vllm environment."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from lens_bench.errors import UsageError
from lens_bench.vlm.chat import Conversation, Picture, Turn, question
from lens_bench.vlm.endpoint import Endpoint, EndpointSettings
from lens_bench.vlm.local import LocalSettings, LocalVlm
from lens_bench.vlm.tiny import save_tiny_vlm

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed here; run tox -e vllm"),
]
SERVE = Path(__file__).with_name("serve_vllm.py")
START = 240.0  # seconds within which the server has to be up
TOKENS = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_vlm(tmp_path_factory.mktemp("vlm"), repetition_penalty=1.1)


@pytest.fixture(scope="module")
def url(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server in a process of its own, ended with the module."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("log") / "vllm.txt"
    options = ["--host", "127.0.0.1", "--port", str(port), "--served-model-name", "tiny", "--dtype", "float32"]
    options += [
        "--max-model-len",
        "1024",
        "--max-num-seqs",
        "4",
        "--enforce-eager",
        "--limit-mm-per-prompt",
        '{"image": 2}',
    ]
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1"}
    environment |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    with log.open("w") as stream:
        server = subprocess.Popen(
            [sys.executable, str(SERVE), "--model", str(folder), *options],
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=environment,
        )
    try:
        _wait(f"http://127.0.0.1:{port}/health", server, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        try:
            server.wait(60)
        except subprocess.TimeoutExpired:
            server.kill()


def _wait(health: str, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(health, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    pytest.fail(f"vllm serve did not come up: {log.read_text()[-2000:]}")


def conversations() -> list[Conversation]:
    rng = np.random.default_rng(1)
    one, two = (Picture(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)) for h, w in ((56, 84), (84, 56)))
    return [
        question(one, "the red one"),
        question(two, "x"),
        (Turn("system", ("Say little.",)), Turn("user", (one, "the second thing from the left"))),
        (Turn("user", (one, "a")), Turn("assistant", ("b",)), Turn("user", (two, "and then?"))),
    ]


def test_a_served_model_answers_like_the_local_one(url: str, folder: Path) -> None:
    torch.set_num_threads(1)
    served = Endpoint(EndpointSettings(url, "tiny", max_tokens=TOKENS, concurrency=4, timeout=60.0))
    assert served.check() == ()
    local = LocalVlm.load(folder, "cpu", torch.float32, LocalSettings(TOKENS))
    expected, found = local.ask(conversations()), served.ask(conversations())
    assert [r.error for r in found] == [None] * len(found)
    # vLLM holds back the bytes of a character that never came to its end; transformers writes the sign for it.
    assert [r.text.rstrip("\ufffd") for r in found] == [r.text.rstrip("\ufffd") for r in expected]
    assert [r.cut for r in found] == [r.cut for r in expected]
    assert [r.tokens for r in found] == [r.tokens for r in expected]


def test_forced_lengths(url: str) -> None:
    served = Endpoint(EndpointSettings(url, "tiny", max_tokens=70, forced=True, concurrency=4, timeout=120.0))
    assert served.check() == ()
    replies = served.ask(conversations())
    assert [(r.error, r.tokens.completion if r.tokens else 0, r.cut) for r in replies] == [(None, 70, True)] * 4


def test_what_it_refuses_is_an_error_of_that_question(url: str) -> None:
    served = Endpoint(EndpointSettings(url, "tiny", max_tokens=4, retries=1, backoff=0.01, timeout=60.0))
    (picture,) = conversations()[0][0].parts[:1]
    fine, long = served.ask([question(picture, "x"), question(picture, "word " * 2000)])  # type: ignore[arg-type]
    assert fine.error is None and long.error is not None and "status 400" in long.error
    with pytest.raises(UsageError, match="does not serve"):
        Endpoint(EndpointSettings(url, "large")).check()

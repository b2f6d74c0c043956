"""Real HTTP servers on 127.0.0.1 that speak OpenAI's protocol, well or badly. Every wait in them is bounded."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from PIL import Image

Answer = Callable[[dict[str, Any]], str]
LONGEST_WAIT = 20.0


def text_of(request: dict[str, Any]) -> str:
    """Everything that is said in the last turn."""
    content = request["messages"][-1]["content"]
    return content if isinstance(content, str) else "".join(p["text"] for p in content if p["type"] == "text")


def pictures_of(message: dict[str, Any]) -> list[np.ndarray[Any, Any]]:
    """The pictures of a message, decoded."""
    content = message["content"]
    urls = [p["image_url"]["url"] for p in content if p["type"] == "image_url"] if isinstance(content, list) else []
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))) for url in urls]


@dataclass
class FakeServer:
    """What a test sees of a server.

    Attributes:
        answer: What the model says to a request.
        faults: Per text that a request's last turn holds: what goes wrong at its first, second, ... attempt; the last
            entry holds for all further attempts. No entry: nothing goes wrong.
        served: Names of the models it lists; None where it does not list them.
        delay: Seconds before an answer, by request.
        requests: Bodies of all completions asked for.
        headers: Headers of all requests.
        busiest: Most requests under way at once.
        told: What it says of each model that it lists, beside the name.
    """

    answer: Answer
    faults: dict[str, list[str]] = field(default_factory=dict)
    served: list[str] | None = field(default_factory=lambda: ["tiny"])
    delay: Callable[[dict[str, Any]], float] = lambda request: 0.0
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    attempts: Counter[str] = field(default_factory=Counter)
    busiest: int = 0
    told: dict[str, object] = field(default_factory=dict)
    url: str = ""
    redirect: str = ""
    _busy: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _over: threading.Event = field(default_factory=threading.Event)

    def fault(self, request: dict[str, Any]) -> str:
        text = text_of(request)
        for key, kinds in self.faults.items():
            if key in text:
                with self._lock:
                    number = self.attempts[key]
                    self.attempts[key] += 1
                return kinds[min(number, len(kinds) - 1)]
        return "ok"

    @contextmanager
    def busy(self) -> Iterator[None]:
        with self._lock:
            self._busy += 1
            self.busiest = max(self.busiest, self._busy)
        try:
            yield
        finally:
            with self._lock:
                self._busy -= 1


def completion(text: str | None, request: dict[str, Any]) -> bytes:
    usage = {"prompt_tokens": len(text_of(request)), "completion_tokens": len(text or "")}
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return json.dumps({"object": "chat.completion", "choices": [choice], "usage": usage}).encode()


def _handler(fake: FakeServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            fake.headers.append(dict(self.headers))
            if self.path != "/v1/models" or fake.served is None:
                return self.reply(404, b"not found")
            if fake.fault({"messages": [{"content": "GET"}]}) == "401":
                return self.reply(401, b"who are you")
            self.reply(200, json.dumps({"data": [{"id": name, **fake.told} for name in fake.served]}).encode())

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            fake.headers.append(dict(self.headers))
            fake.requests.append(request)
            try:
                self.misbehave(fake.fault(request), request)
            except (BrokenPipeError, ConnectionResetError):
                pass

        def misbehave(self, kind: str, request: dict[str, Any]) -> None:
            if kind == "ok":
                with fake.busy():  # over before the reply: a client that has it may already ask again
                    time.sleep(fake.delay(request))
                    body = completion(fake.answer(request), request)
                self.reply(200, body)
            elif kind == "hang":
                fake._over.wait(LONGEST_WAIT)
            elif kind == "drip":
                self.send_response(200)
                self.end_headers()
                for _ in range(int(LONGEST_WAIT / 0.05)):
                    self.wfile.write(b" ")
                    self.wfile.flush()
                    if fake._over.wait(0.05):
                        return
            elif kind == "cut":
                self.reply(200, completion(fake.answer(request), request), claimed=10_000)
            elif kind == "drop":
                self.connection.close()
            elif kind == "garbage":
                self.reply(200, b"\x00\xff<html>it works!</html>")
            elif kind == "deep":
                self.reply(200, b"[" * 100_000)
            elif kind == "wrong":
                self.reply(200, b'{"choices": [{"message": "hello"}]}')
            elif kind == "busy":
                self.reply(429, b"slow down", **{"Retry-After": "7"})
            elif kind == "redirect":
                self.reply(307, b"", Location=fake.redirect)
            elif kind == "echo":
                self.reply(400, f"bad key {self.headers['Authorization']} ".encode() * 20)
            else:
                self.reply(int(kind), f"status {kind}".encode())

        def reply(self, status: int, body: bytes, claimed: int | None = None, **headers: str) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(claimed or len(body)))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

    return Handler


@contextmanager
def serve(fake: FakeServer) -> Iterator[FakeServer]:
    """Run a server in threads of this process until the end of the block."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(fake))
    server.daemon_threads = True
    fake.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        fake._over.set()
        server.shutdown()
        server.server_close()
        thread.join(LONGEST_WAIT)

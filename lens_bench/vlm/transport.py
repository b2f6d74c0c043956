"""One HTTP exchange with a hard limit in time and size, on the standard library.

``http.client`` limits single reads, so a server that sends a byte now and then keeps it waiting for ever; here a
watchdog shuts the socket when the time of the whole exchange is over. Redirects are never followed: the key goes to the
named host and to no other.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from urllib.parse import urlsplit

from lens_bench.errors import UsageError

MAX_BODY = 16 * 2**20


class TransportError(Exception):
    """There was no complete answer; the message says why."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is, as ``base_url`` names it."""

    secure: bool
    host: str
    port: int | None
    path: str

    @property
    def name(self) -> str:
        """For messages."""
        port = f":{self.port}" if self.port else ""
        return f"{'https' if self.secure else 'http'}://{self.host}{port}{self.path}"

    def connect(self, timeout: float) -> HTTPConnection:
        """A connection, not opened yet."""
        kind = HTTPSConnection if self.secure else HTTPConnection
        return kind(self.host, self.port, timeout=timeout)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered."""

    status: int
    body: bytes
    retry_after: str | None


def parse_address(base_url: str) -> Address:
    """Read a base URL such as ``http://127.0.0.1:8000/v1``.

    Raises:
        UsageError: It is not one, or holds a user, a password or a query: arguments are written into the manifest.
    """
    shown = base_url.rpartition("@")[2]
    try:
        parts = urlsplit(base_url.strip())
        port, host = parts.port, parts.hostname
    except ValueError:
        raise UsageError(f"base_url {shown!r} is not a URL") from None
    if parts.scheme not in ("http", "https") or not host:
        raise UsageError(f"base_url {shown!r} is not a URL", "expected e.g. http://127.0.0.1:8000/v1")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise UsageError(
            f"base_url of {host} holds more than scheme, host, port and path",
            "a key belongs into the environment: see the argument key_variable",
        )
    return Address(parts.scheme == "https", host, port, parts.path.rstrip("/"))


def exchange(
    address: Address, method: str, path: str, headers: Mapping[str, str], body: bytes | None, timeout: float
) -> Answer:
    """Send one request and read the whole answer.

    Args:
        address: The server; ``path`` is appended to its own.
        method: ``GET`` or ``POST``.
        path: Below the base URL.
        headers: Of the request.
        body: Of the request.
        timeout: Seconds for everything together.

    Raises:
        TransportError: No connection, no complete answer in time, or one of more than 16 MiB.
    """
    begin = time.monotonic()
    connection = address.connect(timeout)
    expired = threading.Event()
    watchdog: threading.Timer | None = None
    try:
        connection.connect()
        watchdog = _watchdog(connection.sock, timeout - (time.monotonic() - begin), expired)
        connection.request(method, address.path + path, body=body, headers=dict(headers))
        with connection.getresponse() as response:
            answer = Answer(response.status, _read(response), response.getheader("Retry-After"))
    except (TransportError, OSError, HTTPException) as error:
        if expired.is_set() or isinstance(error, TimeoutError):
            raise TransportError(f"no complete answer within {timeout:g} s") from None
        if isinstance(error, TransportError):
            raise
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise TransportError(f"the connection failed ({reason})") from None
    finally:
        if watchdog is not None:
            watchdog.cancel()
        connection.close()
    if expired.is_set():  # an answer without a length ends where the watchdog cut it
        raise TransportError(f"no complete answer within {timeout:g} s")
    return answer


def _watchdog(sock: socket.socket, seconds: float, expired: threading.Event) -> threading.Timer:
    def expire() -> None:
        expired.set()
        try:
            sock.shutdown(socket.SHUT_RDWR)
        except OSError:  # it is closed already
            return

    timer = threading.Timer(max(0.0, seconds), expire)
    timer.daemon = True
    timer.start()
    return timer


def _read(response: HTTPResponse) -> bytes:
    declared = response.length
    body = response.read(MAX_BODY + 1)
    if len(body) > MAX_BODY:
        raise TransportError(f"the answer has more than {MAX_BODY // 2**20} MiB")
    if declared is not None and len(body) < declared:
        raise TransportError(f"the answer was cut off after {len(body)} of {declared} bytes")
    return body

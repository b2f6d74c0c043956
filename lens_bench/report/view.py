"""The reports of a results folder, served to this machine's own browser and to nobody else.

Only report pages (``*.html`` below the folder) and an index of them are given out. The server listens on the loopback
address and answers only requests that name it so, which keeps pages of other sites from reading results by a name that
they point at this machine (DNS rebinding).
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import cast
from urllib.parse import quote, unquote, urlsplit

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lens_bench.errors import DataError, UsageError
from lens_bench.report.figures import percent
from lens_bench.run.files import RunFiles
from lens_bench.run.manifest import read_manifest
from lens_bench.run.results import other_protocols, read_results
from lens_bench.scoring.protocols import get_protocol

HOST = "127.0.0.1"
DEFAULT_PORT = 8765
_STYLE = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; font-variant-numeric: tabular-nums; }
body { max-width: 70rem; margin: 2rem auto; padding: 0 1.5rem; background: light-dark(#fcfcfb, #16181b);
  color: light-dark(#1b1d20, #e7e8ea); }
h1 { font-size: 1.5rem; font-weight: 620; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: 0.35rem 0.8rem 0.35rem 0; border-bottom: 1px solid light-dark(#dedfdc, #33373d); }
th { font-weight: 400; color: light-dark(#5c6167, #a2a8b0); }
td:nth-child(n + 2) { white-space: nowrap; } td:first-child { overflow-wrap: anywhere; }
a { color: light-dark(#0b5f73, #6cc3d5); }
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """One report of the index. ``where`` and ``score`` are empty for a page that lies in no run directory.

    Where the run cannot be read, or is not scored under the protocol that was asked for, ``score`` says so.
    """

    href: str
    name: str
    where: str
    score: str
    written: str


def open_server(folder: Path, port: int = DEFAULT_PORT, protocol: str | None = None) -> ThreadingHTTPServer:
    """A server that is ready for ``serve_forever``; ``url_of`` says where.

    Args:
        folder: Holds the pages, at any depth.
        port: 0 takes a free one.
        protocol: Of the scores in the index; by default each run's own.

    Raises:
        UsageError: The folder does not exist, the port is taken, or there is no such protocol.
    """
    chosen = get_protocol(protocol).name if protocol else None
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}", "name the folder that reports were written to")
    root = folder.resolve()

    class Handler(_Handler):
        pass

    Handler.root = root
    Handler.protocol = chosen
    try:
        return ThreadingHTTPServer((HOST, port), Handler)
    except OSError as error:
        raise UsageError(f"port {port} cannot be used: {error.strerror}", "--port 0 takes a free one") from None


def url_of(server: ThreadingHTTPServer) -> str:
    """Where the index is."""
    return f"http://{HOST}:{server.server_port}/"


def serve(server: ThreadingHTTPServer) -> None:
    """Answer requests until interrupted (KeyboardInterrupt is raised again), then close."""
    with server:
        server.serve_forever()


def reports(root: Path, protocol: str | None = None) -> list[Entry]:
    """Every report page below a folder, sorted by path. Pages that lead out of it by a link are left out.

    Args:
        root: The folder.
        protocol: Of the scores; by default each run's own.
    """
    pages = [p for p in sorted(root.rglob("[!.]*.html")) if p.is_file() and p.resolve().is_relative_to(root.resolve())]
    return [_entry(root, page, protocol) for page in pages]


def _entry(root: Path, page: Path, protocol: str | None) -> Entry:
    files = RunFiles(page.parent)
    where, score = "", ""
    if files.summary.is_file() and files.manifest.is_file():
        read = [files.manifest, files.summary, files.scores]
        read += [files.other_summary(protocol), files.other_scores(protocol)] if protocol else []
        where, score = _run(files, protocol, tuple(_stamp(p) for p in read))
    name = page.relative_to(root).as_posix()
    written = datetime.fromtimestamp(page.stat().st_mtime, UTC).strftime("%Y-%m-%d %H:%M UTC")
    return Entry("/" + quote(name), name, where, score, written)


def _stamp(path: Path) -> tuple[int, int]:
    """Changes when a file does."""
    try:
        found = path.stat()
    except OSError:
        return (0, 0)
    return (found.st_mtime_ns, found.st_size)


@lru_cache(maxsize=4096)
def _run(files: RunFiles, protocol: str | None, stamps: tuple[tuple[int, int], ...]) -> tuple[str, str]:
    """Split and score of a run. Checking its scores takes a while, so that is done once for each state of its files."""
    try:
        manifest = read_manifest(files)
        where = f"{manifest.suite} {manifest.split}"
    except DataError:
        return "", "damaged: manifest.json cannot be read"
    if protocol not in (None, manifest.protocol, *other_protocols(files, manifest)):
        return where, f"not scored under {protocol}"
    try:
        summary = read_results(files, manifest, protocol).summary
    except DataError as error:
        return where, f"damaged: {error.message.replace(str(files.root), files.root.name)}"
    if coverage := str(summary["coverage"]):
        where += f" ({coverage})"
    score = _score(cast("Mapping[str, object]", summary["metrics"]))
    return where, score and f"{score} ({summary['protocol']})"


def _score(metrics: Mapping[str, object]) -> str:
    for key, name in (("ciou", "cIoU"), ("box_acc_0.5", "box acc.")):
        value = metrics.get(key)
        if isinstance(value, float | int):
            return f"{name} {percent(float(value))}"
    return ""


class _Handler(BaseHTTPRequestHandler):
    root: Path
    protocol: str | None
    server_version = "lens-bench"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer with the index, a report, or an error without details."""
        page = self._page()
        if page is None:
            return
        body, policy = page
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Content-Security-Policy", policy)
        self.end_headers()
        self.wfile.write(body)

    def _page(self) -> tuple[bytes, str] | None:
        """Body and policy of what was asked for; None after an error was sent."""
        if self._host() not in (HOST, "localhost"):
            self.send_error(HTTPStatus.FORBIDDEN, "only for this machine")
            return None
        path = unquote(urlsplit(self.path).path)
        if path == "/":
            style = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode("ascii")
            policy = f"default-src 'none'; base-uri 'none'; form-action 'none'; style-src 'sha256-{style}'"
            return _index(self.root, self.protocol).encode(), f"{policy}; frame-ancestors 'none'"
        found = _inside(self.root, path)
        if found is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return None
        return found.read_bytes(), "frame-ancestors 'none'"  # a report brings its own policy

    def _host(self) -> str:
        return (self.headers.get("Host") or "").rpartition(":")[0] or (self.headers.get("Host") or "")

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet: whoever views pages sees them."""


def _inside(root: Path, path: str) -> Path | None:
    """The report page that a URL path names; None where there is none, or it is not below ``root``."""
    if "\0" in path:
        return None
    found = (root / path.lstrip("/")).resolve()
    return found if found.suffix == ".html" and found.is_relative_to(root) and found.is_file() else None


def _index(root: Path, protocol: str | None) -> str:
    environment = Environment(
        loader=PackageLoader("lens_bench.report.page", "assets"), autoescape=True, undefined=StrictUndefined
    )
    template = environment.get_template("index.html.j2")
    return template.render(folder=root.name, entries=reports(root, protocol), style=Markup(_STYLE))  # noqa: S704 - our own text

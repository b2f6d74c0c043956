from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from lens_bench.errors import UsageError
from lens_bench.report.view import open_server, reports, url_of
from lens_bench.run.files import read_json, write_json

from .made_runs import score, write_run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "results"
    files = write_run(root, [score(i, 0.5) for i in range(4)])
    files.report.write_text("<p>report</p>")
    (root / 'a "b" <i>&.html').write_text("odd")
    (tmp_path / "secret.html").write_text("secret")
    (root / "out.html").symlink_to(tmp_path / "secret.html")
    (root / "up").symlink_to(tmp_path)
    return root


@pytest.fixture
def server(folder: Path) -> Iterator[ThreadingHTTPServer]:
    opened = open_server(folder, 0)
    thread = threading.Thread(target=opened.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield opened
    opened.shutdown()
    thread.join()
    opened.server_close()


def get(server: ThreadingHTTPServer, path: str, host: str | None = None) -> tuple[int, str, str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    connection.putrequest("GET", path, skip_host=True)
    connection.putheader("Host", host or f"127.0.0.1:{server.server_port}")
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, body, answer.getheader("Content-Security-Policy") or ""


def test_the_index_lists_reports_with_split_and_score(server: ThreadingHTTPServer) -> None:
    status, body, policy = get(server, "/")
    assert status == 200
    assert "toy val" in body
    assert "cIoU 50.00 (strict)" in body
    assert "default-src 'none'" in policy
    assert "a &#34;b&#34; &lt;i&gt;&amp;.html" in body
    assert "out.html" not in body


def test_the_index_shows_scores_under_another_protocol(folder: Path) -> None:
    several = write_run(folder, [score(i, 0.5 if i else 0.0) for i in range(8)], model="several", also=["gres"])
    several.report.write_text("<p>several</p>")
    write_run(folder, [score(0, 0.5)], model="no page", also=["gres"])

    def scores(protocol: str | None) -> list[str]:
        return sorted(e.score for e in reports(folder, protocol) if e.where)

    own = scores(None)
    assert own[0].endswith("(strict)")
    assert own[1] == "cIoU 50.00 (strict)"
    assert scores("gres") == [own[0].replace("strict", "gres"), "not scored under gres"]
    assert scores("strict") == own
    write_json(several.other_summary("gres"), read_json(several.other_summary("gres")) | {"n_samples": 3})
    assert any(s.startswith("damaged: ") for s in scores("gres"))
    assert scores(None) == own
    with pytest.raises(UsageError, match="lisaa"):
        open_server(folder, 0, "lisaa")


def test_every_page_of_the_index_is_served(server: ThreadingHTTPServer, folder: Path) -> None:
    entries = reports(folder)
    assert len(entries) == 2
    assert {get(server, e.href)[:2] for e in entries} == {(200, "<p>report</p>"), (200, "odd")}


def test_a_damaged_run_does_not_take_the_index_down(server: ThreadingHTTPServer, folder: Path) -> None:
    odd = write_run(folder, [score(i, 0.5) for i in range(4)], model="odd")
    odd.report.write_text("<p>odd</p>")
    for path, text in (
        (odd.summary, "{"),
        (odd.summary, '{"schema_version": 1, "metrics": 7}'),
        (odd.summary, "[" * 100_000),
        (odd.scores, "{}"),
        (odd.manifest, '{"suite": 3}'),
    ):
        before = path.read_bytes()
        path.write_text(text)
        status, body, _ = get(server, "/")
        assert status == 200
        assert "cIoU 50.00" in body
        assert "damaged: " in body
        path.write_bytes(before)
    assert "damaged: " not in get(server, "/")[1]


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.html",
        "/%2e%2e/secret.html",
        "/..%2fsecret.html",
        "//secret.html",
        "/up/secret.html",
        "/out.html",
        "/nothing.html",
        "/toy",
        "/a%00.html",
    ],
)
def test_nothing_outside_the_folder_is_served(server: ThreadingHTTPServer, path: str) -> None:
    status, body, _ = get(server, path)
    assert status == 404
    assert "secret" not in body.replace("secret.html", "")


def test_only_report_pages_are_served(server: ThreadingHTTPServer, folder: Path) -> None:
    manifest = next(folder.rglob("manifest.json")).relative_to(folder)
    assert get(server, f"/{manifest}")[0] == 404


def test_another_host_name_is_refused(server: ThreadingHTTPServer) -> None:
    assert get(server, "/", host="evil.example:80")[0] == 403
    assert get(server, "/", host=f"localhost:{server.server_port}")[0] == 200


def test_it_listens_on_loopback_only(server: ThreadingHTTPServer) -> None:
    assert server.server_address[0] == "127.0.0.1"
    assert url_of(server) == f"http://127.0.0.1:{server.server_port}/"


def test_a_missing_folder_and_a_taken_port_are_usage_errors(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no folder"):
        open_server(tmp_path / "none")
    with pytest.raises(UsageError, match="cannot be used"):
        open_server(tmp_path, server.server_port)

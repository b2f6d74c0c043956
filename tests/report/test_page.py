from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from lens_bench.answers import UNREAD
from lens_bench.console import summary_table
from lens_bench.errors import DataError, UsageError
from lens_bench.masks import encode
from lens_bench.records import Prediction
from lens_bench.report.page.build import PageOptions, report
from lens_bench.report.page.choose import choose
from lens_bench.report.page.pictures import _runs
from lens_bench.report.page.render import embedded_json
from lens_bench.run.files import read_json, write_json

from .made_runs import perf, score, write_run
from .made_suite import Suite, run_suite, shifted, write_suite

TEXTS = [f"expression {i}" for i in range(12)]


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    return write_suite(tmp_path, TEXTS)


def options(suite: Suite, **changes: object) -> PageOptions:
    wanted = {"plots": False, **changes}
    return PageOptions(data_root=suite.data_root, suite=str(suite.card), **wanted)  # type: ignore[arg-type]


def data_of(page: Path) -> dict[str, object]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found is not None
    return dict(json.loads(found[1]))


# ---------------------------------------------------------------------------------------------- the whole page


def test_a_page_has_a_row_for_every_protocol(tmp_path: Path) -> None:
    scores = [score(i, 0.5) for i in range(8)]
    single = write_run(tmp_path / "a", scores)
    several = write_run(tmp_path / "b", scores, also=["lisa", "gres"], model="b")
    (page,) = report([single.root], options=PageOptions(plots=False))
    assert 'id="protocols"' not in page.path.read_text()
    (page,) = report([several.root], options=PageOptions(plots=False))
    text = page.path.read_text()
    table = re.search(r'<section id="protocols".*?</section>', text, re.DOTALL)
    assert table is not None
    assert re.findall(r'<th scope="row" title="[^"]*">([\w-]+)', table[0]) == ["strict", "lisa", "gres"]
    assert table[0].count("of the run") == 1
    assert table[0].count("50.00") >= 6
    several.other_scores("lisa").unlink()
    left_out: list[DataError] = []
    (page,) = report([single.root, several.root], options=PageOptions(plots=False), left_out=left_out)
    text = page.path.read_text()
    assert ["under lisa: no scores.lisa.jsonl" in error.message for error in left_out] == [True]
    assert "left out: b-" in text
    assert re.findall(r'<th scope="row" title="[^"]*">([\w-]+)', text) == ["strict", "strict", "gres"]


def test_a_damaged_run_costs_its_own_page_only(tmp_path: Path) -> None:
    made = [write_run(tmp_path, [score(i, 0.5) for i in range(4)], model=m) for m in ("a", "b", "c")]
    made[1].summary.write_text("{}")
    made[2].manifest.write_text("{")
    left_out: list[DataError] = []
    (page,) = report([tmp_path], options=PageOptions(plots=False), left_out=left_out)
    assert page.path == made[0].report
    assert len(left_out) == 2
    with pytest.raises(DataError, match=r"manifest\.json"):
        report([tmp_path], options=PageOptions(plots=False))


def test_a_page_holds_samples_pictures_masks_and_facts(tmp_path: Path, suite: Suite) -> None:
    run = run_suite(suite, tmp_path / "runs", lambda n, s: shifted(n, s, n, f"thought {n}"), speed=perf())
    (info,) = report([run.root], options=options(suite))
    assert info.path == run.report
    assert (info.samples, info.drawn, info.pictures, info.notes) == (12, 12, 6, ())
    page, data = run.report.read_text(), data_of(run.report)
    for fact in ("model-a", "toy val", "test processor, 2 cores", "w" * 64, "decode 20.0 ms"):
        assert fact in page
    samples = data["samples"]
    assert samples["expression"] == TEXTS  # type: ignore[index]
    assert samples["runs"][0]["text"]["3"] == "thought 3"  # type: ignore[index]
    assert str(tmp_path) not in page, "paths of this machine are nobody's business"


def test_plots_are_inside_as_pictures_with_a_description(tmp_path: Path, suite: Suite) -> None:
    run = run_suite(suite, tmp_path / "runs", lambda n, s: shifted(n, s, n))
    report([run.root], options=options(suite, plots=True))
    plots = re.findall(r'<img src="data:image/svg\+xml;base64,[^"]+" alt="([^"]+)"', run.report.read_text())
    assert f"Histogram of the IoU of expressions: {run.root.name}" in plots
    assert len(plots) >= 3


def test_the_same_run_gives_the_same_bytes(tmp_path: Path, suite: Suite) -> None:
    run = run_suite(suite, tmp_path / "runs", lambda n, s: shifted(n, s, n))
    for name in ("1.html", "2.html"):
        report([run.root], tmp_path / name, options(suite))
    assert (tmp_path / "1.html").read_bytes() == (tmp_path / "2.html").read_bytes()


def test_nothing_is_requested_and_only_our_script_and_style_may_run(tmp_path: Path, suite: Suite) -> None:
    run = run_suite(suite, tmp_path / "runs", lambda n, s: shifted(n, s, n))
    report([run.root], options=options(suite))
    page = run.report.read_text()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    assert policy[1].replace("&#39;", "'").startswith("default-src 'none'")
    assert "unsafe" not in policy[1]
    for tag in ("style", "script"):
        found = re.search(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        assert found is not None
        digest = base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode()
        assert f"sha256-{digest}" in policy[1]
    addresses = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert addresses
    assert all(a.startswith(("#", "data:")) for a in addresses)
    assert not re.search(r'\s(?:on\w+|style)="', page)


def test_an_incomplete_run_says_so(tmp_path: Path, suite: Suite) -> None:
    run = run_suite(suite, tmp_path / "runs", lambda n, s: shifted(n, s, n), n_samples=50)
    report([run.root], options=options(suite))
    assert "not complete" in run.report.read_text()
    assert "12 of 50" in run.report.read_text()


def test_one_sample_one_failure_and_no_answer_at_all_make_a_page(tmp_path: Path) -> None:
    suite = write_suite(tmp_path, ["the only one"])
    wanted = options(suite, plots=True)
    one = run_suite(suite, tmp_path / "one", lambda n, s: shifted(n, s, 3))
    failed = run_suite(suite, tmp_path / "failed", lambda n, s: Prediction(s.id, "error", error="it broke"))
    none = write_run(tmp_path / "none", [], n_samples=1, suite_hash=suite.split.content_hash)
    infos = [report([run.root], options=wanted)[0] for run in (one, failed, none)]
    assert [(i.samples, i.drawn) for i in infos] == [(1, 1), (1, 1), (0, 0)]
    assert "it broke" in failed.report.read_text()
    assert "not complete" in none.report.read_text()
    (twice,) = report([one.root, one.root], tmp_path / "twice.html", wanted)
    assert twice.samples == 1


def test_answers_that_no_box_was_read_of_are_a_fact_of_the_page_and_the_terminal(tmp_path: Path, suite: Suite) -> None:
    said = run_suite(
        suite, tmp_path / "said", lambda n, s: replace(shifted(n, s, n), box=None, error=None if n % 4 else UNREAD)
    )
    report([said.root], options=options(suite))
    assert "Numbers but no box" in said.report.read_text() and UNREAD in said.report.read_text()
    summary = json.loads(said.summary.read_text())
    assert summary["metrics"]["unread_rate"] == 0.25
    assert {"no box read", "25.00"} <= set(words(summary))
    plain = run_suite(suite, tmp_path / "plain", lambda n, s: shifted(n, s, n))
    report([plain.root], options=options(suite))
    assert "Numbers but no box" not in plain.report.read_text()
    assert "no box read" not in words(json.loads(plain.summary.read_text()))


def words(summary: dict[str, object]) -> list[str]:
    """Headers and cells of the table that ``run`` and ``show`` print."""
    columns = summary_table([summary]).columns
    return [str(text) for column in columns for text in (column.header, *column.cells)]


# ---------------------------------------------------------------------------------------------- what is left out


def test_without_the_data_the_page_says_what_is_left_out(tmp_path: Path) -> None:
    run = write_run(tmp_path, [score(i, i / 10) for i in range(10)])
    (info,) = report([run.root], options=PageOptions(data_root=tmp_path, plots=False))
    assert (info.samples, info.drawn) == (10, 0)
    assert len(info.notes) == 1
    assert "Pictures, ground truth and expressions are left out" in info.notes[0]
    assert "there is no suite" in run.report.read_text()
    assert data_of(run.report)["samples"]["expression"] == [None] * 10  # type: ignore[index]


def test_data_of_another_content_is_not_used(tmp_path: Path, suite: Suite) -> None:
    run = run_suite(suite, tmp_path / "runs", lambda n, s: shifted(n, s, n), suite_hash="f" * 64)
    (info,) = report([run.root], options=options(suite))
    assert info.drawn == 0
    assert "is not what the run was made on" in info.notes[0]


def test_missing_pictures_leave_masks_on_a_plain_ground(tmp_path: Path) -> None:
    suite = write_suite(tmp_path, TEXTS, pictures=False)
    run = run_suite(suite, tmp_path / "runs", lambda n, s: shifted(n, s, n))
    (info,) = report([run.root], options=options(suite))
    assert (info.drawn, info.pictures) == (12, 0)
    assert info.notes[0].startswith("6 pictures cannot be read (the first: images/p0")


def test_limits_keep_the_file_small_and_are_counted(tmp_path: Path, suite: Suite) -> None:
    run = run_suite(suite, tmp_path / "runs", lambda n, s: shifted(n, s, n, "x" * 1000))
    (full,) = report([run.root], tmp_path / "full.html", options(suite))
    small = options(suite, max_picture_bytes=2500, max_text_bytes=3500)
    (info,) = report([run.root], tmp_path / "small.html", small)
    assert 0 < info.drawn < full.drawn
    assert f"{12 - info.drawn} samples of the gallery are left out" in info.notes[0]
    assert info.notes[1].startswith("9 texts of models are left out")
    assert info.path.stat().st_size < full.path.stat().st_size


# ---------------------------------------------------------------------------------------------- two runs


def test_two_runs_stand_side_by_side(tmp_path: Path, suite: Suite) -> None:
    a = run_suite(suite, tmp_path / "a", lambda n, s: shifted(n, s, 0))
    b = run_suite(suite, tmp_path / "b", lambda n, s: shifted(n, s, 20 if n == 5 else n % 3), "model-b")
    (info,) = report([a.root, b.root], options=options(suite))
    assert info.path == b.root / f"report-against-{a.root.name}.html"
    data, page = data_of(info.path), info.path.read_text()
    assert [r["letter"] for r in data["runs"]] == ["A", "B"]  # type: ignore[attr-defined]
    changed = data["lists"][0]  # type: ignore[index]
    assert changed["name"] == "changed"
    assert changed["rows"][0] == 5
    assert "model-b against model-a" in page
    assert "model: name" in page, "what differs between the runs is listed"


def test_runs_of_different_data_or_split_are_refused(tmp_path: Path, suite: Suite) -> None:
    a = run_suite(suite, tmp_path / "a", lambda n, s: shifted(n, s, 0))
    b = run_suite(suite, tmp_path / "b", lambda n, s: shifted(n, s, 0), suite_hash="f" * 64)
    with pytest.raises(DataError, match="different ground truth"):
        report([a.root, b.root], options=options(suite))
    c = run_suite(suite, tmp_path / "c", lambda n, s: shifted(n, s, 0), split="testA")
    with pytest.raises(UsageError, match="is on toy val"):
        report([a.root, c.root], options=options(suite))


def test_a_folder_gives_a_page_for_every_run(tmp_path: Path, suite: Suite) -> None:
    runs = [run_suite(suite, tmp_path / "runs", lambda n, s: shifted(n, s, n), m) for m in ("a", "b")]
    infos = report([tmp_path / "runs"], options=options(suite))
    assert [i.path for i in infos] == [r.report for r in runs]
    with pytest.raises(UsageError, match="is one file, 2 pages were asked for"):
        report([tmp_path / "runs"], tmp_path / "x.html", options(suite))
    paths = {i.path for i in report([tmp_path / "runs"], tmp_path / "pages", options(suite))}
    assert paths == {tmp_path / "pages" / f"toy-val-{r.root.name}-report.html" for r in runs}
    with pytest.raises(UsageError, match="3 were given"):
        report([tmp_path] * 3)


# ---------------------------------------------------------------------------------------------- parts


def test_lists_are_ordered_and_ties_do_not_follow_the_suite() -> None:
    values = [[0.5] * 40, [0.0] * 30 + [0.9, 0.8, None] + [0.5] * 7]
    ids = [f"s{i}" for i in range(40)]
    lists = {c.name: c.rows for c in choose(ids, values, 5, seed=0)}
    assert list(lists) == ["changed", "worst", "best", "random"]
    assert lists["best"][:2] == (30, 31)
    assert set(lists["worst"]) < set(range(30))
    assert lists["worst"] != (0, 1, 2, 3, 4)
    assert lists == {c.name: c.rows for c in choose(ids, values, 5, seed=0)}
    assert lists["random"] != {c.name: c.rows for c in choose(ids, values, 5, seed=1)}["random"]
    assert 32 not in lists["changed"]


MASKS = arrays.arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12)))


@given(MASKS)
def test_run_lengths_give_back_a_mask_of_the_same_size(mask: np.ndarray) -> None:  # type: ignore[type-arg]
    if not mask.any():
        return
    runs = _runs(encode(mask), (mask.shape[0], mask.shape[1]))
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    assert (flat.reshape(mask.shape) == mask).all()


def test_a_mask_that_is_smaller_than_a_pixel_does_not_vanish() -> None:
    mask = np.zeros((1000, 1000), dtype=np.bool_)
    mask[500, 500] = True
    runs = _runs(encode(mask), (100, 100))
    assert len(runs) == 3
    assert runs[1] == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), JSON, max_size=3))
def test_embedded_json_reads_back_and_cannot_end_its_element(content: dict[str, object]) -> None:
    text = embedded_json(content)
    assert not set("<>&") & set(text)
    assert json.loads(text) == content


def test_a_lone_surrogate_in_an_answer_does_not_stop_the_page(tmp_path: Path, suite: Suite) -> None:
    run = run_suite(suite, tmp_path / "runs", lambda n, s: shifted(n, s, 0))
    line = json.dumps({"sample_id": "toy/0", "status": "no_mask", "text": "cut off \ud83d"})
    run.predictions.write_text(line + "\n")
    write_json(run.summary, {**read_json(run.summary), "predictions": None})  # as a summary without their digest
    report([run.root], options=options(suite))
    assert data_of(run.report)["samples"]["runs"][0]["text"]["0"] == "cut off ?"  # type: ignore[index]

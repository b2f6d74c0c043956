"""Scores and summaries of a run: side by side under several protocols, and believed only where they agree."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lens_bench.errors import DataError
from lens_bench.run.evaluate import Outcome, run_splits
from lens_bench.run.files import RunFiles, read_json, write_json
from lens_bench.run.journal import read
from lens_bench.run.manifest import read_manifest
from lens_bench.run.plan import Plan, make_model
from lens_bench.run.rescore import rescore
from lens_bench.run.results import other_protocols, read_results
from lens_bench.scoring.counts import Scorer
from lens_bench.scoring.protocols import PROTOCOLS
from lens_bench.scoring.stats import intervals

from ..report.made_runs import perf, score, write_run

ARGS = {"shift": "6", "drop": "0.2"}


def noisy(tiny: Any, out: Path, **wishes: object) -> Plan:
    plan: Plan = tiny.plan("noisy-oracle", out, args=ARGS, **wishes)
    return plan


def finish(plan: Plan) -> Outcome:
    _, segmenter = make_model(plan.card, plan.request)
    (outcome,) = run_splits([plan], segmenter)
    return outcome


def result_files(files: RunFiles) -> list[str]:
    return sorted(p.name for p in files.root.iterdir() if p.name.startswith(("scores", "summary")))


# ---------------------------------------------------------------------------------------------- several protocols


def test_one_run_is_scored_under_every_protocol_that_is_named(tiny: Any, tmp_path: Path) -> None:
    several = finish(noisy(tiny, tmp_path / "a", protocol="strict", also=("lisa", "lavt")))
    assert [s["protocol"] for s in (several.summary, *several.others)] == ["strict", "lisa", "lavt"]
    for name in ("strict", "lisa", "lavt"):
        alone = finish(noisy(tiny, tmp_path / name, protocol=name))
        assert alone.others == ()
        found = several.files.scores if name == "strict" else several.files.other_scores(name)
        assert found.read_bytes() == alone.files.scores.read_bytes()
        manifest = read_manifest(several.files)
        summary = read_results(several.files, manifest, None if name == "strict" else name).summary
        assert {k: v for k, v in summary.items() if k not in ("perf", "created")} == {
            k: v for k, v in alone.summary.items() if k not in ("perf", "created")
        }


def test_all_protocols_at_once(tiny: Any, tmp_path: Path) -> None:
    outcome = finish(noisy(tiny, tmp_path, also=tuple(PROTOCOLS)))
    manifest = read_manifest(outcome.files)
    assert (manifest.protocol, *other_protocols(outcome.files, manifest)) == tuple(PROTOCOLS)
    samples = noisy(tiny, tmp_path).samples
    answers = {p.sample_id: p for p in read(outcome.files.predictions)}
    for name, protocol in PROTOCOLS.items():
        found = read_results(outcome.files, manifest, name)
        assert found.protocol.name == name
        alone = Scorer(protocol, samples)
        assert list(found.scores) == [alone.score(s, answers[s.id]) for s in samples]


def test_scoring_again_keeps_the_runs_own_figures(tiny: Any, tmp_path: Path) -> None:
    files = finish(noisy(tiny, tmp_path)).files
    before = files.summary.read_bytes(), files.scores.read_bytes()
    (lisa,) = rescore(files, ["lisa"], tiny.data_root, suite=str(tiny.card_path))
    assert lisa["protocol"] == "lisa"
    assert (files.summary.read_bytes(), files.scores.read_bytes()) == before
    assert result_files(files) == ["scores.jsonl", "scores.lisa.jsonl", "summary.json", "summary.lisa.json"]
    files.summary.unlink()
    again = rescore(files, [], tiny.data_root, suite=str(tiny.card_path))
    assert [s["protocol"] for s in again] == ["strict", "lisa"]
    assert files.scores.read_bytes() == before[1]


def test_a_resumed_run_brings_the_other_protocols_along(tiny: Any, tmp_path: Path) -> None:
    files = finish(noisy(tiny, tmp_path, also=("lisa",))).files
    expected = {name: (files.root / name).read_bytes() for name in ("scores.jsonl", "scores.lisa.jsonl")}
    lines = files.predictions.read_bytes().splitlines(keepends=True)
    files.predictions.write_bytes(b"".join(lines[:-20]))
    rescore(files, [], tiny.data_root, suite=str(tiny.card_path))
    assert read_json(files.other_summary("lisa"))["n_answered"] == 52
    finish(noisy(tiny, tmp_path))  # asks for no protocol
    for name, content in expected.items():
        assert (files.root / name).read_bytes() == content
    assert read_json(files.other_summary("lisa"))["complete"] is True


def test_another_protocol_of_a_finished_run_is_written_beside_its_own(tiny: Any, tmp_path: Path) -> None:
    files = finish(noisy(tiny, tmp_path)).files
    outcome = finish(noisy(tiny, tmp_path, protocol="gres", also=("lisa",)))
    assert [s["protocol"] for s in (outcome.summary, *outcome.others)] == ["strict", "gres", "lisa"]
    assert read_manifest(files).protocol == "strict"


def test_a_fresh_run_forgets_the_scores_of_every_protocol(tiny: Any, tmp_path: Path) -> None:
    files = finish(noisy(tiny, tmp_path, also=("lisa",))).files
    finish(noisy(tiny, tmp_path, fresh=True))
    assert result_files(files) == ["scores.jsonl", "summary.json"]


# ---------------------------------------------------------------------------------------------- what is believed

N = 20


@pytest.fixture
def run(tmp_path: Path) -> RunFiles:
    return write_run(tmp_path, [score(i, 0.5) for i in range(N)], also=["lisa"], speed=perf())


def read_again(files: RunFiles, protocol: str | None = None) -> None:
    read_results(files, read_manifest(files), protocol)


def change_rows(files: RunFiles, change: Callable[[dict[str, Any]], object], *, own_digest: bool) -> None:
    rows = [json.loads(line) for line in files.scores.read_text().splitlines()]
    change(rows[3])
    files.scores.write_text("".join(json.dumps(row) + "\n" for row in rows))
    if own_digest:
        digest = hashlib.sha256(files.scores.read_bytes()).hexdigest()
        write_json(files.summary, read_json(files.summary) | {"scores_sha256": digest})


ROWS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "intersection above union": (lambda r: r.update(intersection=2000, iou=1.0), "intersection 2000 of areas"),
    "iou against its integers": (lambda r: r.update(iou=0.9), "IoU 0.9 of intersection 500 and union 1000"),
    "not counted": (lambda r: r.update(counted=False, iou=None), "counted is False"),
    "consistent, but not the summary's": (lambda r: r.update(boundary_iou=0.9), "metrics.boundary_iou is not that of"),
    "another tag": (lambda r: r.update(tags=["new"]), "the list of tags is not that of"),
    "another expression twice": (lambda r: r.update(sample_id="toy/val/00000"), "scored twice"),
    "another image": (lambda r: r.update(image_id="elsewhere"), "is of 11 images, the manifest of 10"),
}


@pytest.mark.parametrize(("change", "said"), ROWS.values(), ids=ROWS)
def test_altered_scores_are_not_believed(run: RunFiles, change: Callable[[dict[str, Any]], object], said: str) -> None:
    read_again(run)
    change_rows(run, change, own_digest=False)
    with pytest.raises(DataError, match=r"scores\.jsonl is not the file") as caught:
        read_again(run)
    assert caught.value.hint == f"`lens-bench score {run.root} --protocol strict` writes scores and summary anew"
    change_rows(run, lambda _: None, own_digest=True)  # somebody who adapts the digest as well
    with pytest.raises(DataError, match=said):
        read_again(run)
    read_again(run, "lisa")  # whose files are its own


SUMMARIES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "cIoU of 17": (lambda s: s["metrics"].update(ciou=17.0), "metrics.ciou"),
    "cIoU as text": (lambda s: s["metrics"].update(ciou="0.5"), "metrics.ciou"),
    "another cIoU": (lambda s: s["metrics"].update(ciou=0.51), "metrics.ciou"),
    "no cIoU": (lambda s: s["metrics"].pop("ciou"), "metrics.ciou"),
    "precision": (lambda s: s["metrics"]["precision"].update({"0.9": 1.0}), "metrics.precision"),
    "no precision": (lambda s: s["metrics"].update(precision=None), "metrics.precision"),
    "a metric that is none": (lambda s: s["metrics"].update(best=1.0), "metrics.best is not that of"),
    "another threshold": (lambda s: s["metrics"]["precision"].update({"0.3": 1.0}), "metrics.precision"),
    "metrics are a list": (lambda s: s.update(metrics=[]), "metrics"),
    "tag": (lambda s: s["by_tag"]["odd"].update(giou=0.9), "by_tag.odd"),
    "a metric of a tag that is none": (lambda s: s["by_tag"]["odd"].update(best=1.0), "by_tag.odd is not that of"),
    "tag is a number": (lambda s: s["by_tag"].update(odd=3), "by_tag.odd"),
    "another interval": (lambda s: s["ci95"].update(ciou=[0.49, 0.51]), r"summary\.json: ci95\.ciou is not that of"),
    "interval of another metric": (lambda s: s["ci95"].update({"precision_0.5": [0.4, 0.5]}), "ci95.precision_0.5"),
    "no interval": (lambda s: s["ci95"].update(giou=None), "ci95.giou is not that of"),
    "interval of a tag": (lambda s: s["by_tag"]["odd"]["ci95"].update(giou=[0.4, 0.5]), "by_tag.odd.ci95.giou"),
    "interval out of range": (lambda s: s["ci95"].update(ciou=[0.4, 1.7]), "ci95.ciou"),
    "interval turned round": (lambda s: s["ci95"].update(ciou=[0.6, 0.4]), "interval"),
    "interval of one": (lambda s: s["ci95"].update(ciou=[0.6]), "ci95.ciou"),
    "n_samples": (lambda s: s.update(n_samples=400), "n_samples"),
    "n_answered": (lambda s: s.update(n_answered=400), "n_answered|20 of 20"),
    "n_expected": (lambda s: s.update(n_expected=400), "n_expected"),
    "incomplete": (lambda s: s.update(complete=False), "complete"),
    "all of the split": (lambda s: s.update(coverage="7 of 9 expressions"), "covers 7 of 9 expressions"),
    "complete as text": (lambda s: s.update(complete="yes"), "complete"),
    "another protocol": (lambda s: s.update(protocol="lisa"), "protocol 'lisa', its manifest 'strict'"),
    "another model": (lambda s: s.update(model="better"), "model"),
    "no oracle": (lambda s: s.update(sees_ground_truth=True), "sees_ground_truth"),
    "no digest": (lambda s: s.pop("scores_sha256"), "scores_sha256"),
    "speed as a list": (lambda s: s.update(perf=[1]), "perf"),
    "latency as a number": (lambda s: s["perf"].update(latency_ms=3.0), "perf.latency_ms"),
    "hardware as a number": (lambda s: s["perf"].update(hardware=3), "perf.hardware"),
    "rate below zero": (lambda s: s["perf"].update(images_per_s=-3.0), "perf.images_per_s"),
    "batch of 400 digits": (lambda s: s["perf"].update(load_s=10**400), "perf.load_s"),
    "another version": (lambda s: s.update(schema_version=[7]), "schema version"),
}


@pytest.mark.parametrize(("change", "said"), SUMMARIES.values(), ids=SUMMARIES)
def test_altered_summaries_are_not_believed(
    run: RunFiles, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    content = read_json(run.summary)
    change(content)
    write_json(run.summary, content)
    with pytest.raises(DataError, match=said) as caught:
        read_again(run)
    assert "--protocol strict" in caught.value.hint
    assert len(caught.value.message) < 500


def test_an_interval_may_be_of_other_draws_but_not_narrower(tmp_path: Path) -> None:
    files = write_run(tmp_path, [score(i, (i % 10) / 10) for i in range(60)])
    content: dict[str, Any] = read_json(files.summary)
    low, high = content["ci95"]["ciou"]
    table = read_results(files, read_manifest(files)).table
    other = intervals(table, PROTOCOLS["strict"], seed=12345)["ciou"]
    assert other is not None and other != (low, high)
    width = high - low
    for ends, believed in ((list(other), True), ([low + 0.2 * width, high], False), ([low, high - 0.2 * width], False)):
        content["ci95"]["ciou"] = ends
        write_json(files.summary, content)
        if believed:
            read_again(files)
            continue
        with pytest.raises(DataError, match=r"ci95\.ciou is not that of"):
            read_again(files)


MANIFESTS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "limit removed": (lambda m: m["settings"].update(limit=None), "the digest is"),
    "limit as text": (lambda m: m["settings"].update(limit="20"), "settings.limit"),
    "more expressions than the limit": (lambda m: m.update(n_samples=30), "30 expressions .* limit 20"),
    "n_samples": (lambda m: m.update(n_samples=19), "n_expected 20, its manifest 19"),
    "n_images": (lambda m: m.update(n_images=9), "of 10 images, the manifest of 9"),
    "suite is a path": (lambda m: m.update(suite="../evil.yaml"), "'../evil.yaml' is not the name of a suite"),
    "split is a path": (lambda m: m.update(split="../../val"), "is not the name of a split"),
    "settings are a list": (lambda m: m.update(settings=[]), "settings"),
    "argument is an object": (lambda m: m["settings"].update(args={"a": {}}), "settings.args.a"),
    "seed as text": (lambda m: m.update(seed="0"), "seed"),
    "created as a number": (lambda m: m.update(created=3), "created"),
    "sessions are an object": (lambda m: m.update(sessions={}), "sessions"),
    "session is a number": (lambda m: m.update(sessions=[3]), "sessions.0"),
    "model card": (lambda m: m.update(model_card=None), "model_card"),
    "load report": (lambda m: m.update(load_report=[1]), "load_report"),
    "unknown protocol": (lambda m: m.update(protocol="../x"), "no protocol '../x'"),
    "weights as a number": (lambda m: m.update(weight_digest=5), "weight_digest"),
}


@pytest.mark.parametrize(("change", "said"), MANIFESTS.values(), ids=MANIFESTS)
def test_altered_manifests_are_not_believed(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    from lens_bench.run.manifest import Settings

    limited = Settings(args={"a": 1}, prompt={}, dtype="float32", engine=None, limit=N)
    files = write_run(tmp_path, [score(i, 0.5) for i in range(N)], settings=limited)
    read_again(files)
    content = read_json(files.manifest)
    change(content)
    write_json(files.manifest, content)
    with pytest.raises(DataError, match=said):
        read_again(files)


def test_predictions_that_were_changed_after_they_were_scored_are_noticed(tiny: Any, tmp_path: Path) -> None:
    """Under every protocol; times and the order of the answers are not scored, and later answers not yet."""
    plan = noisy(tiny, tmp_path, also=("lisa",))
    files = finish(plan).files
    lines = files.predictions.read_bytes().splitlines(keepends=True)
    answer = next(line for line in lines if b'"counts"' in line)
    slower = answer.replace(b'"stages_ms":{', b'"stages_ms":{"x":1.5,').replace(b",}", b"}")
    others: list[list[bytes]] = [lines[::-1], [slower if line == answer else line for line in lines], [*lines, answer]]
    damaged = [
        [answer.replace(b'"ok"', b'"no_mask"') if line == answer else line for line in lines],
        [answer.replace(b'"size":[', b'"size": [') if line == answer else line for line in lines],
        lines[1:],
        [*lines[1:], lines[1]],
        [],
    ]
    for content in others:
        files.predictions.write_bytes(b"".join(content))
        read_again(files)
        read_again(files, "lisa")
    for content in damaged:
        assert content != lines
        files.predictions.write_bytes(b"".join(content))
        for protocol in (None, "lisa"):
            with pytest.raises(DataError, match="is not what was scored") as caught:
                read_again(files, protocol)
            assert f"`lens-bench score {files.root}" in caught.value.hint
    files.predictions.write_bytes(b"".join(lines[1:]))
    rescore(files, [], tiny.data_root, suite=str(tiny.card_path))
    read_again(files)
    read_again(files, "lisa")
    assert read_json(files.summary)["n_answered"] == len(lines) - 1
    files.predictions.unlink()  # handed on without
    read_again(files)


def test_scores_of_a_protocol_that_were_never_made_name_the_command(run: RunFiles) -> None:
    with pytest.raises(DataError, match="is not scored under gres") as caught:
        read_again(run, "gres")
    assert f"`lens-bench score {run.root} --protocol gres`" in caught.value.hint

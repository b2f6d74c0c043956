"""What a dry run says: everything that is in the way, and what a run would take."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from lens_bench.errors import CheckpointError, DataError, RunError
from lens_bench.registry import find_model
from lens_bench.run.evaluate import run_splits
from lens_bench.run.files import read_json, write_json
from lens_bench.run.plan import Plan, Request, make_model
from lens_bench.run.preview import Preview, earlier_run, forecast, preview

ADAPTER = """
from lens_bench.errors import CheckpointError
from lens_bench.records import Prediction


class Absent:
    def __init__(self, options):
        pass

    def weight_digest(self):
        raise CheckpointError("no weights of absent", "get them")

    def load(self):
        pass

    def close(self):
        pass

    def segment(self, tasks):
        return [Prediction(q.sample_id, "no_mask") for t in tasks for q in t.queries]
"""


@pytest.fixture
def absent(tmp_path: Path) -> str:
    """A model that reads images and whose weights are not there."""
    folder = tmp_path / "absent"
    folder.mkdir()
    (folder / "model.yaml").write_text(
        "name: absent\ntitle: Absent\nsummary: Has no weights.\nadapter: adapter.py:Absent\ndevices: [cpu]\n"
    )
    (folder / "adapter.py").write_text(ADAPTER)
    return str(folder)


def look(tiny: Any, model: str, out: Path, **wishes: Any) -> Preview:
    request = Request(data_root=tiny.data_root, out=out, **wishes)
    return preview(tiny.card, "val", find_model(model), request, elsewhere=False, to_make=False)


def finish(plan: Plan) -> None:
    _, segmenter = make_model(plan.card, plan.request)
    list(run_splits([plan], segmenter))


def test_everything_in_the_way_is_found_at_once(own_tiny: Any, tmp_path: Path, absent: str) -> None:
    own_tiny.card_path.write_text(own_tiny.card_path.read_text().replace("expressions: 72", "expressions: 144"))
    (own_tiny.data_root / "tiny/images/000003.png").unlink()
    found = look(own_tiny, absent, tmp_path / "out")
    assert found.plan is None
    kinds = [type(error) for error in found.obstacles]
    assert kinds == [CheckpointError, DataError, DataError]
    weights, counts, image = found.obstacles
    assert (weights.message, weights.hint) == ("no weights of absent", "get them")
    assert "144 expressions expected, 72 found" in counts.message
    assert "000003.png" in image.message
    assert all(error.hint for error in found.obstacles)


def test_a_device_that_is_not_there_hides_no_missing_data(own_tiny: Any, tmp_path: Path, absent: str) -> None:
    shutil.rmtree(own_tiny.data_root)
    found = look(own_tiny, absent, tmp_path / "out", dtype="float8")
    assert ["--dtype float8" in found.obstacles[0].message, "was not found" in found.obstacles[1].message] == [True] * 2


def test_a_full_disk_is_in_the_way(tiny: Any, tmp_path: Path, monkeypatch: Any) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    found = look(tiny, "full", tmp_path / "out")
    (obstacle,) = found.obstacles
    assert isinstance(obstacle, RunError)
    assert "has room for" in obstacle.message


def test_time_is_unknown_without_an_earlier_run_and_follows_it_with_one(tiny: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    plan = tiny.plan("full", out)
    told = dict(forecast(plan))
    assert told["time"].startswith("unknown: ") and told["memory"] == "unknown"
    other = tiny.plan("full", out, limit=20)
    finish(other)
    summary = read_json(other.files.summary)
    summary["perf"] = {**summary["perf"], "expressions_per_s": 0.5, "peak_rss_mb": 1234.0}  # type: ignore[dict-item]
    write_json(other.files.summary, summary)
    told = dict(forecast(tiny.plan("full", out)))
    assert told["time"] == f"about 2 min for 72 expressions at 0.5/s, as in {other.files.root}"
    assert told["memory"] == "1,234 MiB of the process"
    assert "free" in told["disk"]
    summary["perf"]["hardware"] = "another machine"  # type: ignore[index]
    write_json(other.files.summary, summary)
    assert earlier_run(tiny.plan("full", out)) is None


def test_the_command_lists_obstacles_with_what_to_do(cli: Any, own_tiny: Any, tmp_path: Path, absent: str) -> None:
    (own_tiny.data_root / "tiny/images/000003.png").unlink()
    result = cli(*own_tiny.run(absent, tmp_path / "out", "--dry-run"))
    assert result.returncode == 5
    assert result.stdout.count("in the way") == 2
    assert result.stderr.count("error: ") == result.stderr.count("hint: ") == 2
    content = json.loads(cli(*own_tiny.run(absent, tmp_path / "out", "--dry-run", "--json")).stdout)
    assert [o["exit_code"] for o in content["obstacles"]] == [5, 4]
    assert not (tmp_path / "out").exists()


def test_a_generated_suite_is_no_obstacle_and_a_mistyped_root_is(cli: Any, tmp_path: Path) -> None:
    where = ["run", "--suite", "shapes", "--split", "val", "--model", "full", "--out", tmp_path / "out", "--dry-run"]
    there = cli(*where, "--data-root", tmp_path)
    assert there.returncode == 0
    assert "`run` will generate it" in there.stdout
    mistyped = cli(*where, "--data-root", tmp_path / "typo")
    assert mistyped.returncode == 4
    assert "typo does not exist" in mistyped.stderr


def test_the_end_of_a_run_names_the_next_command(cli: Any, tiny: Any, tmp_path: Path) -> None:
    out = tmp_path / "some runs"
    result = cli(*tiny.run("full", out))
    (folder,) = (out / "tiny/val").iterdir()
    assert f"next: `lens-bench report '{folder}'`" in result.stderr
    assert "lens-bench merge" in cli(*tiny.run("full", out, "--shard", "1/2")).stderr
    failing = cli(*tiny.run("crashing", out, "--model-arg", "share=0.2", "--max-errors", "100%"))
    assert "--retry-errors" in failing.stderr
    assert "next:" not in cli(*tiny.run("full", out, "--json")).stderr

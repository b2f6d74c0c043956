"""When training gives up, and what it says."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from lens_bench.errors import RunError
from lens_bench.train.config import Stop
from lens_bench.train.log import TrainLog, read_log
from lens_bench.train.watch import Watch

STOP = Stop(window=3, floor=0.5, flat=4)


def steps(rewards: list[float], flat: float = 0.0) -> list[dict[str, object]]:
    return [{"step": n + 1, "reward/total": r, "rate/flat_groups": flat} for n, r in enumerate(rewards)]


def look(watch: Watch, lines: list[dict[str, object]]) -> None:
    for line in lines:
        watch.look(int(str(line["step"])), {k: float(str(v)) for k, v in line.items() if k != "step"}, "CHECKPOINT")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number(value: float) -> None:
    with pytest.raises(RunError, match=r"kl is .* at step 4") as caught:
        Watch(STOP).look(4, {"loss": 1.0, "kl": value}, "CHECKPOINT")
    assert "CHECKPOINT" in caught.value.hint


def test_a_collapsed_reward() -> None:
    rising = [0.5, 0.8, 1.0, 1.0, 1.0, 0.4, 0.6]
    look(Watch(STOP), steps(rising))
    with pytest.raises(RunError, match="collapsed"):
        look(Watch(STOP), steps([*rising, 0.4]))


def test_a_reward_below_zero_that_rises_is_none() -> None:
    look(Watch(STOP), steps([-5.0, -4.0, -3.0, -2.0, -1.0]))
    with pytest.raises(RunError, match="collapsed"):
        look(Watch(STOP), steps([-1.0, 1.0, 3.0, -3.0, -3.0]))


def test_groups_without_any_difference() -> None:
    look(Watch(STOP), [*steps([1.0] * 3, 1.0), *steps([1.0], 0.9), *steps([1.0] * 3, 1.0)])
    with pytest.raises(RunError, match="nothing to learn from"):
        look(Watch(STOP), steps([1.0] * 4, 1.0))


def test_steps_in_which_nothing_was_scored_are_flat_and_have_no_reward() -> None:
    watch = Watch(STOP)
    look(watch, steps([1.0, 1.0]))
    for step in range(3):
        watch.look(step, {"loss": 1.0, "rate/flat_groups": 1.0}, "")
    with pytest.raises(RunError, match="nothing to learn from"):
        watch.look(4, {"loss": 1.0, "rate/flat_groups": 1.0}, "")


def test_a_replayed_log_knows_what_the_run_knew() -> None:
    watch = Watch(STOP)
    watch.replay(steps([1.0, 1.0, 1.0, 0.1]))
    with pytest.raises(RunError, match="collapsed"):
        watch.look(5, {"reward/total": 0.1}, "")


def test_stages_without_rewards_are_left_alone() -> None:
    for step in range(20):
        Watch(STOP).look(step, {"loss": 1.0}, "")


def test_a_resumed_log_has_every_step_once(tmp_path: Path) -> None:
    log = TrainLog(tmp_path, 0)
    for step in range(1, 6):
        log.write(step, {"loss": 1 / step})
    log.close()
    with log.path.open("a", encoding="utf-8") as torn:
        torn.write('{"step": 6, "lo')
    again = TrainLog(tmp_path, 3)
    assert [line["step"] for line in again.lines] == [1, 2, 3]
    again.write(4, {"loss": 9.0})
    again.close()
    lines = [json.loads(line) for line in log.path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4] and lines[-1]["loss"] == 9.0
    assert read_log(tmp_path / "none.jsonl") == []


def test_a_line_holds_no_value_that_json_has_no_word_for(tmp_path: Path) -> None:
    log = TrainLog(tmp_path, 0)
    log.write(1, {"loss": math.nan, "kl": 0.5})
    assert log.path.read_text() == '{"step": 1, "loss": null, "kl": 0.5}\n', "written before the log is closed"
    log.close()
    Watch(STOP).replay(read_log(log.path))

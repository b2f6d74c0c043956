"""Rewards are total: any string, any box, any mask gives a number in [0, 1]."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lens_bench.errors import RunError, UsageError
from lens_bench.train.config import RewardConfig
from lens_bench.train.rewards import FORMATS, Judged, Rewards, answer_box, box_reward, format_reward, mask_reward

ANY = st.floats(allow_nan=True, allow_infinity=True)
BOXES = st.none() | st.tuples(ANY, ANY, ANY, ANY)
SIZES = st.tuples(st.integers(1, 2000), st.integers(1, 2000))
WORDS = "<think> </think> <answer> </answer> [ ] ( ) , 1 -3.5 1e400 nan é {".split()
PIECES = st.sampled_from([*WORDS, " ", '"bbox_2d": '])
TEXTS = st.text() | st.lists(PIECES, max_size=40).map("".join)
GOOD = "<think>the red one</think><answer>[1, 2, 30, 40]</answer>"


@given(TEXTS, st.sampled_from(FORMATS))
def test_format_is_total(text: str, kind: str) -> None:
    assert format_reward(text, kind) in (0.0, 1.0)


@given(TEXTS, SIZES, SIZES, st.sampled_from(["pixels", "thousandths"]))
def test_reading_a_box_is_total(text: str, seen: tuple[int, int], original: tuple[int, int], frame: str) -> None:
    box = answer_box(text, seen, original, frame)
    if box is not None:
        assert 0 <= box[0] < box[2] <= original[1] and 0 <= box[1] < box[3] <= original[0]


@given(BOXES, BOXES, st.floats(0.1, 5), st.none() | st.floats(0, 1))
def test_box_reward_is_total(
    box: tuple[float, ...] | None, truth: tuple[float, ...] | None, power: float, threshold: float | None
) -> None:
    assert 0 <= box_reward(box, truth, power, threshold) <= 1  # type: ignore[arg-type]


@given(ANY, st.floats(0.1, 5), st.none() | st.floats(0, 1))
def test_mask_reward_is_total(iou: float, power: float, threshold: float | None) -> None:
    assert 0 <= mask_reward(iou, power, threshold) <= 1


@pytest.mark.parametrize(
    ("box", "truth", "wanted"),
    [
        ((0, 0, 10, 10), (0, 0, 10, 10), 1.0),
        ((0, 0, 10, 10), (5, 0, 15, 10), (1 / 3) ** 2),
        ((0, 0, 10, 10), (20, 20, 30, 30), 0.0),
        ((5, 5, 5, 5), (5, 5, 5, 5), 0.0),
        ((10, 10, 0, 0), (0, 0, 10, 10), 0.0),
        (None, (0, 0, 10, 10), 0.0),
        ((0, 0, 10, 10), None, 0.0),
        (None, None, 1.0),
    ],
)
def test_box_reward_by_hand(
    box: tuple[float, float, float, float] | None, truth: tuple[float, float, float, float] | None, wanted: float
) -> None:
    assert box_reward(box, truth) == pytest.approx(wanted)
    assert box_reward(truth, box) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("text", "kind", "wanted"),
    [
        (GOOD, "think-answer", 1),
        (f"  {GOOD}\n", "think-answer", 1),
        (GOOD + " and more", "think-answer", 0),
        (GOOD.replace("</answer>", ""), "think-answer", 0),
        (GOOD + GOOD, "think-answer", 0),
        ("<think></think><answer>[1,2,3,4]</answer>", "think-answer", 0),
        ("<think>x</think><answer>no box</answer>", "think-answer", 0),
        ("<anything", "think-answer", 0),
        ("[1, 2, 30, 40]", "think-answer", 0),
        ("<think>[1, 2, 30, 40]</think><answer>nothing</answer>", "think-answer", 0),
        ("[1, 2, 30, 40]", "any-box", 1),
        ("(1,2),(30,40)", "any-box", 1),
        ('```json\n[{"bbox_2d": [1, 2, 3, 4]}]\n```', "any-box", 1),
        ("[1, 2, 3]", "any-box", 0),
        ("", "any-box", 0),
        ("it is the red one [ 12, 30, 58, 76, ]", "reason-box", 1),
        ("it is the red one [12, 30, 58, 76] yes", "reason-box", 0),
        ("[12, 30, 58, 76,]", "reason-box", 0),
        ("no [1] it is [12, 30, 58, 76]", "reason-box", 0),
        ("[12, 30, 58, 76,]", "box-only", 1),
        ("red [12, 30, 58, 76,]", "box-only", 0),
    ],
)
def test_formats_by_hand(text: str, kind: str, wanted: int) -> None:
    assert format_reward(text, kind) == wanted


def test_the_answers_box_wins_over_one_in_the_reasoning() -> None:
    text = "<think>not [1, 2, 3, 4]</think><answer>[10, 20, 30, 40]</answer>"
    assert answer_box(text, (100, 100), (100, 100)) == (10, 20, 30, 40)


# ---------------------------------------------------------------------------------------------- rewards of one's own


def shorter(
    prompts: list[str], completions: list[str], completion_ids: list[list[int]], **columns: list[object]
) -> Sequence[float | None]:
    assert len(prompts) == len(completion_ids) == len(columns["expression"])
    return [None if not text else 1 / len(text) for text in completions]


def infinite(completions: list[str], **more: object) -> Sequence[float]:
    return [math.inf for _ in completions]


def narrow(completions: list[str]) -> Sequence[float]:
    return [0.0 for _ in completions]


def judged(text: str) -> Judged:
    return Judged("prompt", text, (1, 2), (0, 0, 10, 10), (0, 0, 10, 5), 0.5, {"expression": "x"})


def named(monkeypatch: pytest.MonkeyPatch, *functions: object) -> None:
    import sys
    from types import ModuleType

    module = ModuleType("my_rewards")
    for function in functions:
        setattr(module, function.__name__, function)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_rewards", module)


def test_weighted_sum_with_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    named(monkeypatch, shorter)
    rewards = Rewards(
        [
            RewardConfig(name="my_rewards.shorter", weight=2),
            RewardConfig(name="box", power=1),
            RewardConfig(name="mask", power=2, weight=0.5),
            RewardConfig(name="box", threshold=0.4),
            RewardConfig(name="format", weight=0),
        ]
    )
    values = rewards([judged("abcd"), judged("")])
    assert rewards.names == ("my_rewards.shorter", "box", "mask", "box>0.4")
    assert math.isnan(values["my_rewards.shorter"][1])
    assert rewards.total(values) == pytest.approx([2 / 4 + 0.5 + 0.5 * 0.25 + 1, 0.5 + 0.5 * 0.25 + 1])
    assert rewards.largest == pytest.approx(4.5)


def test_two_of_a_name_both_count() -> None:
    rewards = Rewards([RewardConfig(name="box", power=1), RewardConfig(name="box", power=4, weight=2)])
    values = rewards([judged("abcd")])
    assert values == {"box": [0.5], "box#2": [0.5**4]}
    assert rewards.total(values) == [0.5 + 2 * 0.5**4]


def test_one_that_could_not_be_called_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    named(monkeypatch, narrow)
    for path in ("my_rewards.narrow", "os.path.join"):
        with pytest.raises(UsageError, match=f"{path} does not take what rewards are told") as caught:
            Rewards([RewardConfig(name=path)])
        assert "**kwargs" in caught.value.hint


def test_ones_own_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    for path in ("no_such_module.f", "math.no_such_function", "math.pi"):
        with pytest.raises(UsageError, match=path):
            Rewards([RewardConfig(name=path)])
    named(monkeypatch, infinite)
    with pytest.raises(RunError, match=r"reward my_rewards\.infinite returned inf for completion 0"):
        Rewards([RewardConfig(name="my_rewards.infinite")])([judged("a")])


def broken() -> Sequence[float]:
    raise KeyError("answer\nof two lines")


async def later() -> list[float]:
    return [0.0, 0.0]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("give", "what"),
    [
        (lambda: None, "returned None"),
        (lambda: 0.5, r"returned 0\.5 \(float\)"),
        (lambda: np.float32(0.5), "returned"),
        (lambda: torch.tensor(0.5), "returned tensor"),
        (lambda: (x for x in (0.0, 1.0)), "returned a generator"),
        (later, "returned a coroutine"),
        (lambda: "ab", r"returned 'ab' \(str\)"),
        (lambda: {0: 1.0, 1: 1.0}, "returned .*dict"),
        (lambda: [0.0], "returned 1 values for 2 completions"),
        (lambda: [0.0, math.nan], "returned nan for completion 1"),
        (lambda: torch.tensor([math.nan, 0.0]), "returned nan for completion 0"),
        (lambda: [0.0, -math.inf], "returned -inf for completion 1"),
        (lambda: [0.0, "high"], r"returned 'high' \(str\) for completion 1"),
        (lambda: [[0.0], [1.0]], r"returned \[0\.0\] \(list\) for completion 0"),
        (lambda: torch.zeros(2, 2), "returned tensor.* for completion 0"),
        (lambda: [10**400, 0], "returned 1000.* for completion 0"),
        (broken, "raised KeyError: 'answer.*of two lines'"),
    ],
)
def test_what_is_no_list_of_numbers_is_one_line_that_names_the_reward(
    give: Callable[[], object], what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def own(**_: object) -> object:
        return give()

    named(monkeypatch, own)
    with pytest.raises(RunError, match=rf"^reward my_rewards\.own {what}") as caught:
        Rewards([RewardConfig(name="my_rewards.own")])([judged("a"), judged("b")])
    assert "\n" not in caught.value.message and caught.value.hint


@pytest.mark.parametrize("give", [lambda: (1, True), lambda: np.ones(2), lambda: torch.ones(2)])
def test_tuples_arrays_and_tensors_are_lists(give: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    def own(**_: object) -> object:
        return give()

    named(monkeypatch, own)
    values = Rewards([RewardConfig(name="my_rewards.own")])([judged("a"), judged("b")])
    assert values == {"my_rewards.own": [1.0, 1.0]}


def test_what_no_reward_scored_has_no_total(monkeypatch: pytest.MonkeyPatch) -> None:
    named(monkeypatch, shorter)
    rewards = Rewards([RewardConfig(name="my_rewards.shorter", weight=2)])
    assert rewards.may_abstain and not Rewards([RewardConfig(name="box")]).may_abstain
    assert rewards.total(rewards([judged(""), judged("ab")])) == pytest.approx([math.nan, 1.0], nan_ok=True)


def test_only_a_reward_that_says_so_does_without_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    named(monkeypatch, shorter, infinite)
    monkeypatch.setattr(infinite, "reads_masks", False, raising=False)
    blind = [RewardConfig(name=name) for name in ("format", "box", "my_rewards.infinite")]
    assert not Rewards(blind).reads_masks
    for name in ("mask", "my_rewards.shorter"):
        assert Rewards([*blind, RewardConfig(name=name)]).reads_masks
        assert not Rewards([*blind, RewardConfig(name=name, weight=0)]).reads_masks

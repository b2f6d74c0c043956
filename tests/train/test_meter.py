"""Means over micro batches are those of everything at once, whatever the parts."""

from __future__ import annotations

import pytest
import torch
from accelerate import Accelerator
from hypothesis import given
from hypothesis import strategies as st

from lens_bench.train.meter import Meter, summed

VALUES = st.lists(st.lists(st.floats(-100, 100), min_size=1, max_size=5), min_size=1, max_size=6)


@given(VALUES)
def test_parts_of_any_size_give_the_mean_of_everything(parts: list[list[float]]) -> None:
    meter, everything = Meter(), [value for part in parts for value in part]
    for part in parts:
        meter.add("a", torch.tensor(part, dtype=torch.float64).sum(), len(part))
    found = meter.means(Accelerator(cpu=True))
    assert found["a"] == pytest.approx(sum(everything) / len(everything), abs=1e-9)


def test_nothing_has_no_mean_and_every_step_begins_anew() -> None:
    meter, accelerator = Meter(), Accelerator(cpu=True)
    meter.add("nothing", 0.0, 0)
    meter.add("b", 3.0, 2)
    assert meter.means(accelerator) == {"b": 1.5}
    assert not meter.means(accelerator)
    assert summed(accelerator, 7) == 7

"""Numbers that are none (NaN, infinity): looked for in whatever is read anyway, and told in one way.

A model whose weights are damaged, or whose activations overflow in float16, gives masks and tokens like any other; its
answers are errors, not wrong answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def finite_rows(values: Tensor) -> Tensor:
    """Whether all numbers of each row of ``values`` [N, ...] are finite: bool [N] on the same device."""
    return values.isfinite().flatten(1).all(dim=1)


def non_finite(where: str) -> str:
    """The error of an answer."""
    return f"non-finite values in {where}; try --dtype bfloat16 or float32"


MASK_SCORES = non_finite("the mask scores")
TOKEN_SCORES = non_finite("the language model's scores")

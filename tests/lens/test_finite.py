"""Numbers that are none, in every part of LENS: an error of the answer that holds them, and of no other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import pytest
import torch

from lens_bench.finite import MASK_SCORES, TOKEN_SCORES, finite_rows
from lens_bench.lens.config import LensConfig, Positions
from lens_bench.lens.engine import Engine
from lens_bench.lens.prompts import Prompter
from lens_bench.lens.segmenter import prediction
from lens_bench.lens.tiny import tiny_config, tiny_model
from lens_bench.lens.writer import HfWriter, make_decoder
from lens_bench.records import Pixels

PrompterOf = Callable[[LensConfig], Prompter]
ASKS = [(0, "left"), (1, "the ~ one"), (0, "a dog"), (1, "x")]


def test_rows() -> None:
    values = torch.zeros(4, 2, 3)
    values[1, 0, 2], values[2, 1, 1], values[3, 0, 0] = float("nan"), float("inf"), -float("inf")
    assert finite_rows(values).tolist() == [True, False, False, False]


@pytest.mark.parametrize("positions", ["lens-1d", "mrope"])
@pytest.mark.parametrize("decode", ["eager", "static"])
def test_one_expression_costs_no_other(
    positions: Positions, decode: Literal["eager", "static"], images: list[Pixels], prompter_of: PrompterOf
) -> None:
    model = tiny_model(tiny_config(positions))
    prompter = prompter_of(model.config)
    (number,) = prompter._tokenizer.encode("~")

    def engine() -> Engine:
        decoder = make_decoder(model, decode)
        return Engine(
            model, prompter, HfWriter(model, prompter.ends, prompter.padding, positions == "mrope", decoder=decoder)
        )

    before = engine().answer(images, ASKS)
    assert all(answer.error is None and number not in answer.ids for answer in before)

    def hook(module: torch.nn.Module, args: tuple[torch.Tensor, ...], out: torch.Tensor) -> torch.Tensor:
        return out.masked_fill((args[0] == number).unsqueeze(-1), float("nan"))

    model.qwen.get_input_embeddings().register_forward_hook(hook)
    answers = engine().answer(images, ASKS)
    assert answers[1].error == TOKEN_SCORES and answers[1].mask is None and len(answers[1].ids) == 1
    assert prediction("s", answers[1], {}).status == "error"
    assert [answers[n] for n in (0, 2, 3)] == [before[n] for n in (0, 2, 3)]


@pytest.mark.parametrize("part", ["sam", "head", "lm_head"])
def test_broken_weights_of_a_part(part: str, images: list[Pixels], prompter_of: PrompterOf) -> None:
    model = tiny_model(tiny_config("mrope"))
    owner = {"sam": model.sam, "head": model.head, "lm_head": model.qwen.lm_head}[part]
    with torch.no_grad():
        next(p for p in owner.parameters() if p.ndim > 1).fill_(float("nan"))
    answers = Engine(model, prompter_of(model.config)).answer(images, ASKS)
    why = TOKEN_SCORES if part == "lm_head" else MASK_SCORES
    assert {answer.error for answer in answers} == {why} and all(answer.mask is None for answer in answers)


def test_a_special_token_in_an_expression(images: list[Pixels], prompter_of: PrompterOf) -> None:
    model = tiny_model(tiny_config("mrope"))
    engine = Engine(model, prompter_of(model.config))
    asks = [(0, "left"), (0, "<|image_pad|> dog"), (1, "x <|im_end|>"), (1, "x")]
    answers = engine.answer(images, asks)
    assert [answer.error is None for answer in answers] == [True, False, False, True]
    assert "'<|image_pad|>'" in str(answers[1].error) and "'<|im_end|>'" in str(answers[2].error)

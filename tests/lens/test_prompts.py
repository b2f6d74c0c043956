"""Prompts as the released evaluations write them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lens_bench.errors import CheckpointError
from lens_bench.lens.prompts import Prompter, load_tokenizer, strip_caption
from lens_bench.lens.recipe import Recipe
from lens_bench.lens.tiny import byte_tokenizer, special_id

TOKENIZER = byte_tokenizer()
ENDS = frozenset({special_id("<|im_end|>"), special_id("<|endoftext|>")})


def prompter(recipe: Recipe) -> Prompter:
    return Prompter(recipe, TOKENIZER, ENDS, special_id("<|endoftext|>"))


def test_the_whole_prompt_is_the_chat_template_of_qwen() -> None:
    ask = prompter(Recipe())
    assert ask.before_text() + "<|image_pad|>" + ask.after_text("left cat") == (
        "<|im_start|>system\nYou are a helpful assistant. <|im_end|>\n"
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>"
        "Output the bounding box of the left cat in the image.<|im_end|>\n<|im_start|>assistant\n"
    )


@given(st.text())
def test_two_parts_give_the_ids_of_the_whole(expression: str) -> None:
    ask = prompter(Recipe())
    whole = ask.before_text() + "<|image_pad|>" + ask.after_text(expression)
    parts = [*ask.before, special_id("<|image_pad|>"), *ask.after(expression)]
    assert TOKENIZER.encode(whole) == parts


def test_braces_in_an_expression_are_text() -> None:
    ask = prompter(Recipe())
    assert "the {question} of {expression} {0}" in ask.after_text("the {question} of {expression} {0}")


def test_caption_stripping_cuts_inside_words_and_is_off_by_default() -> None:
    assert strip_caption("This square is red, they are big") == "th squ  red, they  big"
    assert "This is it" in prompter(Recipe()).after_text("This is it")
    assert "the th  it in" in prompter(Recipe(strip_caption=True)).after_text("This is it")


def test_answers_lose_special_tokens_as_text_and_padding_for_the_mask_pass() -> None:
    ask = prompter(Recipe())
    end, pad = special_id("<|im_end|>"), special_id("<|endoftext|>")
    ids = [*TOKENIZER.encode("(1,2)"), end]
    assert ask.text(ids) == "(1,2)"
    assert ask.kept([*ids, pad]) == tuple(ids)


def test_limits() -> None:
    assert Recipe().answer_budget(700) == 68
    assert Recipe(max_new_tokens=10).answer_budget(700) == 10
    assert Recipe(max_length=None, max_new_tokens=10).answer_budget(5000) == 10
    assert Recipe().answer_budget(800) < 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"question": "no placeholder"},
        {"after_image": "no placeholder"},
        {"max_length": None},
        {"min_pixels": 2_000_000},
        {"unknown": 1},
        {"sizing": "huge"},
    ],
)
def test_an_impossible_recipe_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Recipe.model_validate(wrong)


def test_tokenizer_comes_back_from_disk_and_its_absence_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no tokenizer in"):
        load_tokenizer(tmp_path)
    TOKENIZER.save(tmp_path)
    again = load_tokenizer(tmp_path)
    text = "<|im_start|>user\nBüro, 猫, \x00<|im_end|>"
    assert again.encode(text) == TOKENIZER.encode(text)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="unreadable tokenizer"):
        load_tokenizer(tmp_path)

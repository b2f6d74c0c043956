"""What both trainers are given: a vision-language model of a few million random weights, pictures, questions, a reward.

Answers have a fixed length: the token that would end one lies outside the vocabulary, so neither side can sample it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lens_bench.lens.checkpoint import fresh
from lens_bench.lens.config import HeadConfig, LensConfig
from lens_bench.lens.modeling import LensModel
from lens_bench.lens.recipe import Recipe
from lens_bench.lens.tiny import SPECIAL, lively, special_id, tiny_sam
from lens_bench.records import Pixels

WORDS = "left right red blue tall small man woman dog cat chair table with near behind the front hat ball".split()
PADDING = special_id(SPECIAL[0])


@dataclass(frozen=True)
class Shape:
    """Sizes of the model; ``vocabulary`` is at the same time the token that ends an answer and never comes."""

    width: int
    layers: int
    heads: int
    hidden: int
    vision_width: int
    vision_layers: int
    vision_hidden: int
    vocabulary: int


SHAPES = {
    "toy": Shape(64, 2, 2, 128, 32, 2, 64, 272),
    "small": Shape(256, 6, 8, 768, 192, 6, 512, 4096),
}


@dataclass(frozen=True)
class Task:
    """One setting of the comparison.

    Attributes:
        name: Of the row of the table.
        groups: Prompts of a step.
        members: Answers to each.
        tokens: Length of an answer.
        side: Pictures are ``side`` pixels high and a third wider, in whole visual tokens of 28 pixels.
        beta: Weight of the KL divergence; 0: no reference model.
        vision: Whether the vision tower trains.
        steps: Updates, the warm-up included.
    """

    name: str
    groups: int
    members: int
    tokens: int
    side: int
    beta: float
    vision: bool
    steps: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the pictures."""
        return self.side, 28 * round(self.side * 4 / 3 / 28)

    @property
    def samples(self) -> int:
        """Answers of a step."""
        return self.groups * self.members


def model_of(shape: Shape, seed: int = 0) -> LensModel:
    """The model with everything that LENS has; without masks only its vision-language part is ever run."""
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": _sections(shape.width // shape.heads)}
    tokens = {"image_token_id": "image_pad", "video_token_id": "video_pad"}
    tokens |= {"vision_start_token_id": "vision_start", "vision_end_token_id": "vision_end"}
    config = LensConfig(
        family="qwen2_5_vl",
        qwen={
            "text_config": {
                "vocab_size": shape.vocabulary,
                "hidden_size": shape.width,
                "intermediate_size": shape.hidden,
                "num_hidden_layers": shape.layers,
                "num_attention_heads": shape.heads,
                "num_key_value_heads": max(1, shape.heads // 4),
                "max_position_embeddings": 8192,
                "rope_parameters": rope,
                "pad_token_id": PADDING,
                "bos_token_id": PADDING,
                "eos_token_id": PADDING,
            },
            "vision_config": {
                "depth": shape.vision_layers,
                "hidden_size": shape.vision_width,
                "intermediate_size": shape.vision_hidden,
                "num_heads": max(2, shape.vision_width // 48),
                "out_hidden_size": shape.width,
                "fullatt_block_indexes": [shape.vision_layers // 2 - 1, shape.vision_layers - 1],
            },
            **{name: special_id(f"<|{word}|>") for name, word in tokens.items()},
            "tie_word_embeddings": True,
        },
        sam=tiny_sam(),
        head=HeadConfig(queries=8, width=48, depth=1, heads=4, prompt_width=32),
        ends=(PADDING,),
        padding=PADDING,
        positions="mrope",
        recipe=Recipe(max_length=None, max_new_tokens=4096),
    )
    return lively(fresh(config, seed), seed)


def pictures(task: Task, seed: int = 0) -> list[Pixels]:
    """One picture of coarse noise per group and step."""
    rng = np.random.default_rng(seed)
    height, width = task.size
    found = []
    for _ in range(task.groups * task.steps):
        coarse = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        tall = np.repeat(coarse, -(-height // 12), axis=0)[:height]
        found.append(np.ascontiguousarray(np.repeat(tall, -(-width // 16), axis=1)[:, :width]))
    return found


def expressions(task: Task, seed: int = 0) -> list[str]:
    """One expression of three to nine words per group and step."""
    rng = np.random.default_rng([seed, 1])
    return [" ".join(rng.choice(WORDS, size=rng.integers(3, 10))) for _ in range(task.groups * task.steps)]


def variety(
    prompts: Sequence[object], completions: Sequence[object], completion_ids: Sequence[Sequence[int]], **_: object
) -> list[float]:
    """The reward: share of tokens that an answer does not repeat. TRL's signature, which ours is as well."""
    return [len(set(ids)) / len(ids) for ids in completion_ids]


variety.reads_masks = False  # type: ignore[attr-defined]


def _sections(head: int) -> list[int]:
    """Rotary channels of time, height and width: half of a head's width in all."""
    time = max(1, head // 8)
    return [time, (head // 2 - time + 1) // 2, (head // 2 - time) // 2]

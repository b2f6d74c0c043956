"""What the engine of LENS is measured on: models of three sizes with random weights, pictures, expressions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lens_bench.lens.checkpoint import fresh
from lens_bench.lens.config import HeadConfig, LensConfig, Positions, sam_preset
from lens_bench.lens.modeling import LensModel
from lens_bench.lens.placing import Precision, place
from lens_bench.lens.random_weights import random_lens
from lens_bench.lens.recipe import Recipe
from lens_bench.lens.sizes import lens_3b
from lens_bench.lens.tiny import lively, special_id, tiny_config, tiny_sam
from lens_bench.records import Pixels

_TOKENS = {
    "image_token_id": "image_pad",
    "video_token_id": "video_pad",
    "vision_start_token_id": "vision_start",
    "vision_end_token_id": "vision_end",
}


def small_config(positions: Positions, tokens: int, sam_size: int) -> LensConfig:
    """About 50 M parameters: SAM 2 Hiera-T with a language model and tower of a few million."""
    return _config(
        positions,
        tokens,
        text={"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 6, "num_attention_heads": 8},
        heads=2,
        vision={
            "depth": 6,
            "hidden_size": 192,
            "intermediate_size": 512,
            "num_heads": 4,
            "fullatt_block_indexes": [2, 5],
        },
        sections=[4, 6, 6],
        head=HeadConfig(queries=64, width=256, depth=4, heads=16),
        sam=sam_preset("sam2_hiera_t", sam_size),
    )


def full_config(positions: Positions, tokens: int, sam_size: int) -> LensConfig:
    """LENS-3B; only the tokenizer is ours, so ids and ends are those of the byte tokenizer."""
    recipe = Recipe(max_length=None, max_new_tokens=tokens)
    ids = {name: special_id(f"<|{word}|>") for name, word in _TOKENS.items()}
    padding = special_id("<|endoftext|>")
    config = lens_3b(positions, recipe)
    changes = {
        "qwen": {**config.qwen, **ids},
        "ends": (special_id("<|im_end|>"), padding),
        "padding": padding,
        "sam": sam_preset("sam2_hiera_l", sam_size),
    }
    return config.model_copy(update=changes)


def make_model(
    size: str, positions: Positions, tokens: int, sam_size: int, device: str, precision: Precision
) -> LensModel:
    """A model with random weights on its device; the full one is made there, 15 GB of float32 take their time."""
    if size == "3b":
        return random_lens(full_config(positions, tokens, sam_size or 1024), 0, device, precision)
    if size == "tiny":
        recipe = Recipe(max_pixels=112 * 112, max_length=None, max_new_tokens=tokens)
        config = tiny_config(positions, recipe=recipe).model_copy(update={"sam": tiny_sam(sam_size or 128)})
    else:
        config = small_config(positions, tokens, sam_size or 512)
    return place(lively(fresh(config, 0), 0), device, precision)


def _config(
    positions: Positions,
    tokens: int,
    text: dict[str, object],
    heads: int,
    vision: dict[str, object],
    sections: list[int],
    head: HeadConfig,
    sam: dict[str, object],
) -> LensConfig:
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": sections}
    width = text["hidden_size"]
    qwen: dict[str, object] = {
        "text_config": {"vocab_size": 2048, **text, "num_key_value_heads": heads, "rope_parameters": rope},
        "vision_config": {**vision, "out_hidden_size": width},
        **{name: special_id(f"<|{word}|>") for name, word in _TOKENS.items()},
        "tie_word_embeddings": True,
    }
    padding = special_id("<|endoftext|>")
    return LensConfig(
        family="qwen2_5_vl",
        qwen=qwen,
        sam=sam,
        head=head,
        ends=(special_id("<|im_end|>"), padding),
        padding=padding,
        positions=positions,
        recipe=Recipe(max_length=None, max_new_tokens=tokens),
    )


@dataclass(frozen=True)
class Work:
    """Images, their referents, and each referent's expressions."""

    images: list[Pixels]
    referents: list[tuple[int, list[str]]]

    @property
    def asks(self) -> list[tuple[int, str]]:
        return [(image, text) for image, texts in self.referents for text in texts]


def make_work(images: int, expressions: int, seed: int = 0) -> Work:
    """COCO-sized noise pictures with made-up expressions of three to nine words."""
    rng = np.random.default_rng(seed)
    sizes = [(480, 640), (640, 480), (427, 640), (480, 640), (375, 500), (640, 425), (480, 640), (500, 333)]
    words = "left right red blue tall small man woman dog cat chair table with near behind the front hat ball".split()
    pictures, referents = [], []
    for n in range(images):
        height, width = sizes[n % len(sizes)]
        coarse = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
        tall = np.repeat(coarse, -(-height // 12), axis=0)[:height]
        pictures.append(np.ascontiguousarray(np.repeat(tall, -(-width // 12), axis=1)[:, :width]))
        texts = [" ".join(rng.choice(words, size=rng.integers(3, 10))) for _ in range(expressions)]
        at = 0
        while at < expressions:
            step = 3 if (expressions - at) % 2 else 2
            referents.append((n, texts[at : at + step]))
            at += step
    return Work(pictures, referents)

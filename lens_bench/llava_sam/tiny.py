"""Tiny random checkpoints in the released layout, for tests and for trying a set-up out.

What is written is read back by the same code as a released checkpoint: shards of pickles with an index, a sentencepiece
vocabulary, added tokens, and a vision tower in a folder of its own.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from lens_bench.lens.layouts import Slot, own_shapes
from lens_bench.llava_sam.config import LISA, Family, released_config
from lens_bench.llava_sam.layout import CLIP, released
from lens_bench.llava_sam.modeling import LlavaSam

# Kinds of sentencepiece's ModelProto.
NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6
Piece = tuple[str, float, int]

_CLIP_CONFIG: Mapping[str, object] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "patch_size": 56,
}
_SAM_CONFIG: Mapping[str, object] = {
    "encoder_embed_dim": 16,
    "depth": 1,
    "num_heads": 1,
    "global_attn_indexes": [],
}


def sentencepiece_model(pieces: Iterable[Piece]) -> bytes:
    """A ``tokenizer.model`` with the settings of LLaMA's: BPE with bytes as fallback, a space in front, no cleaning.

    Args:
        pieces: Text, score and kind of each piece, in the order of their ids; an adjacent pair of pieces is merged
            where the joint piece exists, the one with the highest score first.
    """
    rows = b"".join(
        _field(1, _field(1, text.encode()) + b"\x15" + struct.pack("<f", score) + b"\x18" + _varint(kind))
        for text, score, kind in pieces
    )
    trainer = b"\x18" + _varint(2) + _varint(35 << 3) + _varint(1)
    normalizer = _field(1, b"identity") + b"\x18\x01" + b"\x20\x00" + b"\x28\x01"
    return rows + _field(2, trainer) + _field(3, normalizer)


def tiny_pieces() -> list[Piece]:
    """Beginning, end, unknown, every byte, and the printable ASCII characters."""
    special: list[Piece] = [("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL)]
    letters = ["▁", *(chr(code) for code in range(33, 127))]
    return [
        *special,
        *((f"<0x{byte:02X}>", 0.0, BYTE) for byte in range(256)),
        *((letter, -float(rank), NORMAL) for rank, letter in enumerate(letters)),
    ]


def write_tiny(folder: Path, family: Family = LISA, seed: int = 0) -> tuple[Path, Path]:
    """Write a tiny checkpoint and its vision tower.

    Args:
        folder: Where the folders ``model`` and ``clip`` are made.
        family: LISA or GLaMM.
        seed: Of the weights; each is a function of the seed and its name.

    Returns:
        The two folders.
    """
    model_folder, tower = folder / "model", folder / "clip"
    model_folder.mkdir(parents=True)
    tower.mkdir()
    pieces = tiny_pieces()
    names = ["[SEG]", "<im_start>", "<im_end>"] if family is LISA else ["<im_start>", "<im_end>", "<bbox>", "[SEG]"]
    added = {name: len(pieces) + place for place, name in enumerate(names)}
    config = _model_config(family, len(pieces) + len(added))
    clip = {**_CLIP_CONFIG, "image_size": family.side}
    (model_folder / "tokenizer.model").write_bytes(sentencepiece_model(pieces))
    _write_json(model_folder / "added_tokens.json", added)
    _write_json(model_folder / "config.json", config)
    _write_json(tower / "config.json", {"model_type": "clip", "vision_config": clip})
    with torch.device("meta"):
        model = LlavaSam(released_config(family, config, clip))
    own, seen = tiny_tensors(model, seed)
    write_shards(model_folder, own)
    torch.save(seen, tower / "pytorch_model.bin")
    return model_folder, tower


def tiny_tensors(model: LlavaSam, seed: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Random tensors under their released names: those of the checkpoint, and those of the vision tower."""
    layout = released(model.config.family)
    own: dict[str, Tensor] = {}
    seen: dict[str, Tensor] = {}
    for name, shape in own_shapes(model).items():
        key = (CLIP if name.startswith("clip.") else layout).to_theirs(Slot(name))
        if key is None:
            raise AssertionError(f"no released name for {name}")
        (seen if name.startswith("clip.") else own)[key] = _noise(key, shape, seed)
    return own, seen


def write_shards(folder: Path, tensors: Mapping[str, Tensor], count: int = 2) -> None:
    """Write ``pytorch_model-*.bin`` and their index, as transformers 4.31 did."""
    names = list(tensors)
    where: dict[str, str] = {}
    for number in range(count):
        part = names[number::count]
        file = f"pytorch_model-{number + 1:05d}-of-{count:05d}.bin"
        torch.save({name: tensors[name] for name in part}, folder / file)
        where.update(dict.fromkeys(part, file))
    _write_json(folder / "pytorch_model.bin.index.json", {"metadata": {}, "weight_map": where})


def _model_config(family: Family, vocabulary: int) -> dict[str, object]:
    return {
        "architectures": [f"{family.name}ForCausalLM"],
        "model_type": "llava",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": vocabulary,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "train_mask_decoder": True,
        "out_dim": 256,
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "sam": dict(_SAM_CONFIG),
    }


def _noise(name: str, shape: Sequence[int], seed: int) -> Tensor:
    """Noise that keeps signals at their size: matrices by their fan-in, vectors near 1 or 0."""
    digest = hashlib.sha256(f"{seed}\x00{name}".encode()).digest()
    noise = torch.randn(tuple(shape), generator=torch.Generator().manual_seed(int.from_bytes(digest[:7], "little")))
    if len(shape) < 2:
        return float(name.endswith(".weight")) + 0.05 * noise
    return noise / math.sqrt(math.prod(shape[1:]))


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")


def _field(number: int, content: bytes) -> bytes:
    """A length-delimited field of a protocol buffer."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])

"""The card `lisa-7b` on a model of some 70 M parameters: its adapter, engine and SAM, in about its proportions."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from lens_bench.llava_sam.config import LISA
from lens_bench.llava_sam.segmenter import LlavaSegmenter
from lens_bench.llava_sam.tiny import sentencepiece_model, tiny_pieces
from lens_bench.records import Cost, ImageTask, LoadReport, ModelOptions, Prediction
from lens_bench.registry import find_model, make_segmenter, resolve_args

# Parameters in millions: words 32, blocks 25, CLIP 11, SAM's encoder 11 and decoder 4.
WORDS = 32_000
LLAMA = {
    "hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 8, "num_attention_heads": 8,
    "max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "vocab_size": WORDS, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
CLIP = {
    "hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 6, "num_attention_heads": 6, "patch_size": 14,
}  # fmt: skip
SAM = {"encoder_embed_dim": 384, "depth": 6, "num_heads": 6, "global_attn_indexes": [2, 5]}


class SmallLisa:
    """Weights from the seed instead of a checkpoint; all else is the baseline's."""

    def __init__(self, options: ModelOptions) -> None:
        card = find_model("lisa-7b")
        self._seed, self._folder = options.seed, tempfile.TemporaryDirectory()
        folder = Path(self._folder.name)
        pieces = tiny_pieces()
        added = {name: len(pieces) + place for place, name in enumerate(["[SEG]", "<im_start>", "<im_end>"])}
        (folder / "tokenizer.model").write_bytes(sentencepiece_model(pieces))
        (folder / "added_tokens.json").write_text(json.dumps(added))
        (folder / "config.json").write_text(json.dumps({**LLAMA, "sam": SAM}))
        (folder / "clip").mkdir()
        (folder / "clip" / "config.json").write_text(json.dumps({**CLIP, "image_size": LISA.side}))
        wishes = {"checkpoint": str(folder), "clip": str(folder / "clip"), "mode": str(options.args["mode"])}
        inner = make_segmenter(
            card,
            ModelOptions(
                card.name, str(card.folder), resolve_args(card, wishes), device=options.device, dtype=options.dtype
            ),
        )
        assert isinstance(inner, LlavaSegmenter)
        self._inner = inner

    def weight_digest(self) -> str:
        """Of the seed."""
        return f"{self._seed:064x}"

    def load(self) -> LoadReport:
        """Draw the weights and build the engine."""
        return self._inner.load_random(self._seed)

    def force_length(self, tokens: int) -> None:
        """As the baseline."""
        self._inner.force_length(tokens)

    def costs(self, tasks: Sequence[ImageTask], predictions: Sequence[Prediction]) -> Mapping[str, Cost]:
        """As the baseline."""
        return self._inner.costs(tasks, predictions)

    def segment(self, tasks: Sequence[ImageTask]) -> list[Prediction]:
        """As the baseline."""
        return self._inner.segment(tasks)

    def close(self) -> None:
        """Free the model."""
        self._inner.close()
        self._folder.cleanup()

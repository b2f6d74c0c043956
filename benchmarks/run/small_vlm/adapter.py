"""The card `qwen2.5-vl-3b+sam2` on a model of some 80 M parameters: its adapter, engine and SAM 2 Hiera-T."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from transformers import GenerationConfig, Qwen2_5_VLConfig

from lens_bench.lens.config import sam_preset
from lens_bench.lens.hf import Sam2Config
from lens_bench.lens.random_weights import draw
from lens_bench.lens.sam import SamPart
from lens_bench.lens.tiny import SPECIAL, byte_tokenizer, special_id
from lens_bench.records import Cost, ImageTask, LoadReport, ModelOptions, Prediction
from lens_bench.registry import find_model, make_segmenter, resolve_args
from lens_bench.sam2.model import Sam2
from lens_bench.vlm.adapter import LoadedTalker, VlmAdapter, dtype_of
from lens_bench.vlm.local import LocalSettings
from lens_bench.vlm.random_weights import _finish, random_vlm
from lens_bench.vlm.tiny import processor_of

# Letters are tokens here, so the question is short.
QUESTION = 'Box of "{expression}" as JSON.'
TEXT = {
    "hidden_size": 512, "intermediate_size": 2752, "num_hidden_layers": 8, "num_attention_heads": 8,
    "num_key_value_heads": 2, "max_position_embeddings": 4096, "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [8, 12, 12]},
}  # fmt: skip
VISION = {
    "depth": 8, "hidden_size": 320, "intermediate_size": 856, "num_heads": 4, "fullatt_block_indexes": [3, 7],
    "out_hidden_size": 512,
}  # fmt: skip


class SmallVlm:
    """Weights from the seed instead of checkpoints; all else is the baseline's. Every answer names one box."""

    def __init__(self, options: ModelOptions) -> None:
        card = find_model("qwen2.5-vl-3b+sam2")
        self._options, self._folder = options, tempfile.TemporaryDirectory()
        self._tokens = int(options.args["tokens"] or 1)
        _write(Path(self._folder.name))
        args = resolve_args(card, {"checkpoint": self._folder.name, "question": QUESTION})
        inner = make_segmenter(
            card, ModelOptions(card.name, str(card.folder), args, device=options.device, dtype=options.dtype)
        )
        assert isinstance(inner, VlmAdapter)
        inner.force_length(self._tokens)
        self._inner = inner

    def weight_digest(self) -> str:
        """Of the seed; the sizes are arguments."""
        return f"{self._options.seed:064x}"

    def load(self) -> LoadReport:
        """Draw the weights and build the engine."""
        seed, device, dtype = self._options.seed, self._options.device, dtype_of(self._options)
        settings = LocalSettings(self._tokens, forced=True)
        model = random_vlm("", Path(self._folder.name), seed, [device], dtype, settings)
        preset = sam_preset("sam2_hiera_t", int(self._options.args["sam_size"] or 512))
        with torch.device("meta"):
            part = SamPart(Sam2Config(**json.loads(json.dumps(preset))))
        draw(part, seed, device, lambda _: dtype)
        _finish(part, device)
        return self._inner._start(LoadedTalker(model, model.parameters, model.notes), Sam2(part, device, dtype))

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


def _write(folder: Path) -> None:
    """Configuration, processor and generation settings, as a checkpoint's folder has them."""
    tokenizer = byte_tokenizer().inner
    ids = {name: special_id(name) for name in SPECIAL}
    tokens = {
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
    }
    end, rest = ids["<|im_end|>"], ids["<|endoftext|>"]
    ends = {"eos_token_id": end, "bos_token_id": rest, "pad_token_id": rest}
    text = {**TEXT, **ends, "vocab_size": len(tokenizer)}
    Qwen2_5_VLConfig.from_dict({"text_config": text, "vision_config": VISION, **tokens}).save_pretrained(folder)
    processor_of("qwen2_5_vl", tokenizer).save_pretrained(folder)
    settings = GenerationConfig(  # type: ignore[no-untyped-call]
        eos_token_id=[end, rest], pad_token_id=rest, repetition_penalty=1.05
    )
    settings.save_pretrained(folder)

"""The LENS engine with the model of ``benchmarks/lens/speed.py``."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import torch

from lens_bench.lens.checkpoint import Precision
from lens_bench.lens.engine import Engine
from lens_bench.lens.prompts import Prompter
from lens_bench.lens.segmenter import LensSegmenter
from lens_bench.lens.tiny import byte_tokenizer
from lens_bench.records import LoadReport, ModelOptions

_SPEED = Path(__file__).parents[2] / "lens" / "speed.py"


class SmallLens(LensSegmenter):
    """Weights from the seed instead of a checkpoint; all else is the baseline's."""

    def __init__(self, options: ModelOptions) -> None:
        super().__init__(options)
        self._chosen = options

    def weight_digest(self) -> str:
        """Of the seed and the sizes, which the arguments hold."""
        return f"{self._chosen.seed:064x}"

    def load(self) -> LoadReport:
        """Draw the weights and build the engine."""
        spec = importlib.util.spec_from_file_location("lens_speed", _SPEED)
        assert spec is not None and spec.loader is not None
        speed = importlib.util.module_from_spec(spec)
        sys.modules["lens_speed"] = speed
        spec.loader.exec_module(speed)
        args, device, single = self._chosen.args, self._chosen.device, torch.float32
        model = speed.make_model(
            "small", "lens-1d", int(args["tokens"] or 1), int(args["sam_size"] or 512), device,
            Precision(single, single, single),
        )  # fmt: skip
        config = model.config
        prompter = Prompter(config.recipe, byte_tokenizer(), frozenset(config.ends), config.padding)
        self._engine = Engine(model, prompter)
        return LoadReport(sum(p.numel() for p in model.parameters()))

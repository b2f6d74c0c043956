"""The LENS engine with the model that ``benchmarks/lens/speed.py`` measures."""

from __future__ import annotations

from pathlib import Path

import torch

from lens_bench.lens.engine import Engine
from lens_bench.lens.placing import Precision
from lens_bench.lens.prompts import Prompter
from lens_bench.lens.segmenter import LensSegmenter
from lens_bench.lens.tiny import byte_tokenizer
from lens_bench.records import LoadReport, ModelOptions
from lens_bench.registry import import_file

_WORKLOAD = Path(__file__).parents[2] / "lens" / "workload.py"


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
        args, device, single = self._chosen.args, self._chosen.device, torch.float32
        model = import_file(_WORKLOAD).make_model(
            "small", "lens-1d", int(args["tokens"] or 1), int(args["sam_size"] or 512), device,
            Precision(single, single, single),
        )  # fmt: skip
        config = model.config
        prompter = Prompter(config.recipe, byte_tokenizer(), frozenset(config.ends), config.padding)
        self._engine = Engine(model, prompter)
        return LoadReport(sum(p.numel() for p in model.parameters()))

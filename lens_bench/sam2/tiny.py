"""A SAM 2 small enough for tests, saved as transformers saves one."""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch

from lens_bench.lens.hf import Sam2Config, Sam2Model
from lens_bench.lens.tiny import tiny_sam


def save_tiny_sam2(folder: Path, seed: int = 0, image_size: int = 128) -> Path:
    """Write a random ``Sam2Model`` whose masks differ from prompt to prompt; returns the folder."""
    model = Sam2Model(Sam2Config(**json.loads(json.dumps(tiny_sam(image_size)))))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim < 2:
                parameter.copy_(float(name.endswith("weight")) + 0.05 * noise)
            else:
                parameter.copy_(noise / math.sqrt(math.prod(parameter.shape[1:])))
    model.save_pretrained(folder)
    return folder

"""Make ``import torchvision`` work beside a torch that its compiled operators do not fit.

The torchvision wheel on PyPI is built for CUDA. Beside a CPU-only torch its extension is not loaded, and the import
then fails with "operator torchvision::nms does not exist", because the package registers shape functions for two
operators that were never defined. Defining their schemas beforehand is enough: nothing here calls the operators, and a
call of them still fails loudly. Where the compiled operators load, nothing is done.

Call ``guard_torchvision`` before the first import of torchvision, segment-anything, or transformers' fast image
processors. It is cheap and may be called any number of times. Also the entry point of vLLM's plugin group
``vllm.general_plugins``, which vLLM calls in every process it starts.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import torch

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}

# A fragment of a library lives as long as the object that defined it.
_fragments: list[torch.library.Library] = []


def guard_torchvision() -> bool:
    """Define torchvision's missing operator schemas where they are missing; returns whether anything was defined."""
    if _fragments or "torchvision" in sys.modules or not _installed() or _operators_load():
        return False
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for name, schema in _SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, name):
            library.define(schema)  # type: ignore[no-untyped-call]
    _fragments.append(library)
    return True


def _installed() -> bool:
    return importlib.util.find_spec("torchvision") is not None


def _operators_load() -> bool:
    """Whether torchvision's compiled extension loads beside this torch (it needs the libraries it was built for)."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return False
    for extension in sorted(Path(spec.origin).parent.glob("_C*.so")):
        try:
            torch.ops.load_library(str(extension))  # type: ignore[no-untyped-call]
        except OSError:
            continue
        return hasattr(torch.ops.torchvision, "nms")
    return False

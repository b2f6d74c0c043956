"""lens-bench: evaluation harness and reference trainer for text-prompted image segmentation.

``load_model`` opens a model to ask about single pictures:

    with lens_bench.load_model("lens-3b") as model:
        (answer,) = model.ask("street.jpg", ["the second person from the left"])

Importing the package imports neither torch nor transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lens_bench.picture import OpenModel

try:
    __version__ = version("lens-bench")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

__all__ = ["__version__", "load_model"]


def load_model(
    reference: str,
    args: Mapping[str, str] | None = None,
    *,
    device: str | None = None,
    dtype: str | None = None,
    engine: str | None = None,
    seed: int = 0,
) -> OpenModel:
    """Load a model by name or path, to ask it about single pictures. Arguments and errors: ``picture.OpenModel``."""
    from lens_bench.picture import OpenModel

    return OpenModel(reference, args, device=device, dtype=dtype, engine=engine, seed=seed)

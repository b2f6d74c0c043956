"""lens-bench: evaluation harness and reference trainer for text-prompted image segmentation.

``load_model`` opens a model to ask about single pictures:

    with lens_bench.load_model("lens-3b") as model:
        (answer,) = model.ask("street.jpg", ["the second person from the left"])

Importing the package imports neither torch nor transformers.
"""

from __future__ import annotations

from collections.abc import Mapping

TYPE_CHECKING = False  # without importing `typing`
if TYPE_CHECKING:
    from lens_bench.picture import OpenModel

__version__: str

__all__ = ["__version__", "load_model"]


def __getattr__(name: str) -> str:
    """``__version__``, looked up when it is asked for: importing the package stays fast."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("lens-bench")
    except PackageNotFoundError:  # a source tree that was never installed
        return "0+unknown"


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

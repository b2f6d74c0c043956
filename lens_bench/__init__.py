"""lens-bench: evaluation harness and reference trainer for text-prompted image segmentation.

Importing the package imports neither torch nor transformers.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("lens-bench")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

__all__ = ["__version__"]

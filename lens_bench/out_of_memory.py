"""What counts as running out of memory, freeing what torch keeps, and counting the batches that were halved.

Everything that tries again with less uses these functions. torch is only looked at where somebody else has imported it.
"""

from __future__ import annotations

import gc
import sys
from collections import Counter
from collections.abc import Iterable, Iterator

# Exception classes whose name says it all: Python's, ours, and torch's.
_NAMES = {"MemoryError", "OutOfMemoryError"}
# Classes whose messages are read. torch raises a bare RuntimeError for its CPU allocator and for CUDA's libraries, and
# AcceleratorError, a subclass, for what the CUDA runtime reports; OpenCV's only class is ``cv2.error``.
_READ = {"RuntimeError", "OSError", "error"}
# Parts of messages, in lower case.
_WORDS = (
    "out of memory",  # CUDA, HIP, XPU, MPS
    "can't allocate memory",  # torch's CPU allocator on Linux
    "not enough memory",  # and on Windows
    "cannot allocate memory",  # ENOMEM
    "insufficient memory",  # OpenCV
    "nvml_success == ",  # the assertion with which torch's report of it fails where NVML cannot be asked
    "invalid buffer size",  # MPS, for a buffer larger than the device takes
    "error_out_of_memory",  # CUDA's driver: CUDA_ERROR_OUT_OF_MEMORY
    "erroroutofmemory",  # HIP: hipErrorOutOfMemory
    "errormemoryallocation",  # CUDA's runtime: cudaErrorMemoryAllocation
    "alloc_failed",  # cuBLAS, cuSPARSE, cuSOLVER, cuFFT, hipBLAS, cuDNN before version 9
    "allocation_failed",  # cuDNN from version 9 on: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED
    "rocblas_status_memory_error",
    "miopenstatusallocfailed",
)

_halved: Counter[str] = Counter()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception, or one that it was raised from, means that memory ran out, on a device or in the host."""
    return any(reads_as_out_of_memory([k.__name__ for k in type(e).__mro__], str(e)) for e in _causes(error))


def reads_as_out_of_memory(classes: Iterable[str], message: str) -> bool:
    """The same for an exception of another process.

    Args:
        classes: Names of its class and of that class's bases.
        message: Its text.
    """
    found = set(classes)
    if found & _NAMES:
        return True
    text = message.lower()
    return bool(found & _READ) and any(words in text for words in _WORDS)


def free_cached_memory() -> None:
    """Give the memory that torch keeps for later back to the device.

    To be called outside the ``except`` block: inside it, the exception's traceback still refers to the tensors.
    """
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return
    gc.collect()  # an exception that refers to itself lives until then
    torch.cuda.empty_cache()


def count_halving(what: str) -> None:
    """Remember that memory ran out and that there will be fewer ``what`` (e.g. masks) at once from here on."""
    _halved[what] += 1


class Halvings:
    """What was halved inside the models of this process since this was made."""

    def __init__(self) -> None:
        self._before = Counter(_halved)

    @property
    def count(self) -> int:
        """How often."""
        return sum(self._now().values())

    @property
    def reason(self) -> str | None:
        """Why a speed compares with no other; None where nothing was halved."""
        found = self._now()
        return f"out of memory: fewer {', '.join(found)} at once inside the model" if found else None

    def _now(self) -> Counter[str]:
        return _halved - self._before


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The exception and what it was explicitly raised from."""
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__

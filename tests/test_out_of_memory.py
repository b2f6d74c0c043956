"""What counts as running out of memory, by the messages that libraries really give."""

from __future__ import annotations

import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch

from lens_bench.errors import DataError, OutOfMemoryError, RunError
from lens_bench.out_of_memory import Halvings, count_halving, is_out_of_memory, reads_as_out_of_memory

FULL = [
    MemoryError(),
    OutOfMemoryError("our own"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
    torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported", 2),
    torch.AcceleratorError("HIP error: out of memory", 2),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
        "allocate 4503599627370496 bytes. Error code 12 (Cannot allocate memory)"
    ),
    RuntimeError("[enforce fail at alloc_cpu.cpp:80] data. DefaultCPUAllocator: not enough memory: you tried to ..."),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("CUDA driver error: CUDA_ERROR_OUT_OF_MEMORY"),
    RuntimeError("MPS backend out of memory (MPS allocated: 17.87 GB, max allowed: 18.13 GB)."),
    RuntimeError("Invalid buffer size: 24.00 GiB"),
    RuntimeError('NVML_SUCCESS == r INTERNAL ASSERT FAILED at "../c10/cuda/CUDACachingAllocator.cpp":838'),
    OSError(12, "Cannot allocate memory"),
]
OTHER = [
    RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"),
    torch.AcceleratorError("CUDA error: an illegal memory access was encountered", 700),
    RuntimeError("the memory format of a tensor"),
    ValueError("the model answered: out of memory"),
    OSError(28, "No space left on device"),
    DataError("out of memory.png cannot be read"),
    KeyboardInterrupt(),
]


@pytest.mark.parametrize("error", FULL, ids=str)
def test_memory_that_ran_out_is_recognised(error: BaseException) -> None:
    assert is_out_of_memory(error)
    assert reads_as_out_of_memory([kind.__name__ for kind in type(error).__mro__], str(error))


@pytest.mark.parametrize("error", OTHER, ids=str)
def test_other_failures_are_not(error: BaseException) -> None:
    assert not is_out_of_memory(error)


def test_what_libraries_raise_here_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 50)
    assert is_out_of_memory(caught.value)
    with pytest.raises(MemoryError) as numpys:
        np.empty(1 << 50)
    assert is_out_of_memory(numpys.value)
    with pytest.raises(cv2.error) as cv:
        cv2.resize(np.zeros((10, 10, 3), np.uint8), (2**20, 2**20))
    assert is_out_of_memory(cv.value)


def test_what_was_raised_from_it_counts_and_what_was_raised_beside_it_does_not() -> None:
    full = torch.OutOfMemoryError("full")
    wrapped = RunError("the model failed")
    wrapped.__cause__ = full
    assert is_out_of_memory(wrapped)
    beside = ValueError("a mistake of the code that handles it")
    beside.__context__ = full
    assert not is_out_of_memory(beside)


def test_halvings_are_those_since() -> None:
    count_halving("masks")
    since = Halvings()
    assert since.count == 0 and since.reason is None
    count_halving("masks")
    count_halving("expressions")
    assert since.count == 2 and since.reason == "out of memory: fewer masks, expressions at once inside the model"


def test_asking_imports_no_torch() -> None:
    code = (
        "import sys; from lens_bench.out_of_memory import *; free_cached_memory();"
        "assert is_out_of_memory(MemoryError()) and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

"""Memory of a measurement: of the process, and of the device where torch keeps an account of it."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from lens_bench.perf.hardware import peak_rss_mb

_STATM = Path("/proc/self/statm")


@dataclass(frozen=True, slots=True)
class Memory:
    """In MiB.

    Attributes:
        rss_mb: Resident memory of this process at the end of the measurement; None where the system does not say.
        peak_rss_mb: The most since the process began.
        peak_allocated_mb: The most that torch's tensors held on the device during the measurement; None on a CPU.
        peak_reserved_mb: The most that torch held reserved on the device, cached blocks included; None on a CPU.
    """

    rss_mb: float | None
    peak_rss_mb: float
    peak_allocated_mb: float | None = None
    peak_reserved_mb: float | None = None


def forget_peak(device: str) -> None:
    """Begin a new account of the device's peak."""
    torch = sys.modules.get("torch")
    if torch is not None and device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)


def memory_now(device: str) -> Memory:
    """What is held now, and the peaks since ``forget_peak``."""
    torch = sys.modules.get("torch")
    if torch is None or not device.startswith("cuda"):
        return Memory(rss_mb(), peak_rss_mb())
    allocated = float(torch.cuda.max_memory_allocated(device)) / 2**20
    reserved = float(torch.cuda.max_memory_reserved(device)) / 2**20
    return Memory(rss_mb(), peak_rss_mb(), round(allocated, 1), round(reserved, 1))


def rss_mb() -> float | None:
    """Resident memory of this process now, in MiB; None where the system does not say."""
    if not _STATM.exists():
        return None
    pages = int(_STATM.read_text(encoding="ascii").split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)

"""What NVIDIA's driver says about a device: energy used, why its clocks are low, who else uses it.

Needs the package ``nvidia-ml-py`` (extra ``nvml``). Without it, or without a driver, there is no ``Nvml``, and nothing
is claimed about the device.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Protocol

# Reasons for low clocks that are no fault of the workload (idle and application clocks are none either); NVML API
# reference, nvmlClocksThrottleReasons. The software power cap is left out: large models run at it by design.
_SLOWED: Mapping[int, str] = {
    0x8: "hardware slowdown",
    0x20: "heat (software)",
    0x40: "heat (hardware)",
    0x80: "power brake",
}


class Device(Protocol):
    """What is asked of an accelerator's driver."""

    def energy_j(self) -> float | None:
        """Joules used since the driver was loaded; None where the device has no counter."""
        ...

    def slowed_by(self) -> tuple[str, ...]:
        """Why the clocks are held down now; empty where they are not."""
        ...

    def other_processes(self) -> int:
        """How many other processes compute on the device."""
        ...


class Nvml:
    """One CUDA device, as torch numbers it."""

    def __init__(self, handle: object) -> None:
        self._handle = handle

    @staticmethod
    def open(device: str) -> Nvml | None:
        """The driver's view of ``cuda`` or ``cuda:N``; None where it has none."""
        if not device.startswith("cuda"):
            return None
        try:
            import pynvml
        except ImportError:
            return None
        torch = sys.modules.get("torch")
        if torch is None or not torch.cuda.is_available():
            return None
        try:
            pynvml.nvmlInit()
            uuid = str(torch.cuda.get_device_properties(device).uuid)
            name = uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"
            return Nvml(pynvml.nvmlDeviceGetHandleByUUID(name.encode()))
        except (pynvml.NVMLError, AttributeError):
            return None

    def energy_j(self) -> float | None:
        """Joules used since the driver was loaded (Volta and later); None where the device has no counter."""
        import pynvml

        try:
            return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1e3
        except pynvml.NVMLError:
            return None

    def slowed_by(self) -> tuple[str, ...]:
        """Why the clocks are held down now."""
        import pynvml

        try:
            mask = int(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(self._handle))
        except pynvml.NVMLError:
            return ()
        return tuple(word for bit, word in _SLOWED.items() if mask & bit)

    def other_processes(self) -> int:
        """Computing processes beside this one.

        In a container the driver's process numbers are not ours, so one process of an unknown number is taken for this
        one.
        """
        import pynvml

        try:
            found = [int(p.pid) for p in pynvml.nvmlDeviceGetComputeRunningProcesses(self._handle)]
        except pynvml.NVMLError:
            return 0
        return others_among(found, os.getpid())


def others_among(pids: list[int], own: int) -> int:
    """How many of the processes on a device are not this one, which computes there itself."""
    return max(0, len(pids) - 1) if own not in pids else len(set(pids) - {own})

"""What a figure was measured on: the hardware fingerprint and the software environment. Imports nothing heavy.

Two runs are compared in speed only where their ``fingerprint`` is the same.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from lens_bench import __version__

_PACKAGES = ("torch", "torchvision", "transformers", "numpy", "pycocotools", "opencv-python-headless", "pillow", "vllm")


@cache
def environment() -> dict[str, object]:
    """Package and its git commit, Python, library versions, machine, devices: for ``manifest.json`` and ``env``."""
    return {
        "lens_bench": __version__,
        "git": git_state(Path(__file__).resolve().parents[2]),
        "python": platform.python_version(),
        "packages": {name: v for name in _PACKAGES if (v := _version(name))},
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": memory_gb(),
        "devices": list(nvidia_devices()),
    }


def fingerprint(device: str) -> str:
    """Names the hardware that a run's speed depends on: CPU model and cores, or the accelerator and its driver."""
    if device.startswith("cuda"):
        index = int(device.partition(":")[2] or 0)
        devices = nvidia_devices()
        return devices[index] if index < len(devices) else "unknown accelerator"
    return f"{cpu_model()}, {environment()['cores']} cores"


def git_state(folder: Path) -> dict[str, object] | None:
    """Commit of a checkout and whether it has uncommitted changes; None where the folder is not the top of one.

    An installed wheel may lie inside somebody else's checkout, which says nothing about it.
    """
    if not (folder / ".git").exists():
        return None
    commit = _run("git", "-C", str(folder), "rev-parse", "HEAD")
    if not commit:
        return None
    changes = _run("git", "-C", str(folder), "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": bool(changes)}


@cache
def nvidia_devices() -> tuple[str, ...]:
    """Name, memory and driver of each NVIDIA device, by index; empty where there is none."""
    listing = _run("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
    return tuple(line.strip() for line in listing.splitlines() if line.strip())


@cache
def cpu_model() -> str:
    """The processor's name as the system gives it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def memory_gb() -> float | None:
    """Physical memory in GiB, where the system says."""
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError, AttributeError):
        return None


def peak_rss_mb() -> float:
    """Peak resident memory of this process so far, in MiB.

    On Linux from the kernel's own account of this program: ``getrusage`` starts at what the parent process had when it
    started this one.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return round(int(line.split()[1]) / 2**10, 1)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _run(*command: str) -> str:
    """Output of a query command; empty where the program is absent or says no."""
    program = shutil.which(command[0])
    if program is None:
        return ""
    try:
        result = subprocess.run([program, *command[1:]], capture_output=True, text=True, timeout=10, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout.strip() if result.returncode == 0 else ""

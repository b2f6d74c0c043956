"""What a user may say about workers. Imports nothing of Ray, so that saying nothing costs nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass

from lens_bench.errors import UsageError

_ADDRESS = re.compile(r"auto|(ray://)?[\w.-]+:\d{1,5}|ray://\[[\da-fA-F:]+\]:\d{1,5}")
_LAST_PORT = 65535


@dataclass(frozen=True, slots=True)
class Workers:
    """Several workers.

    Attributes:
        count: How many; None for as many as there is room for, now and later.
        address: Of a Ray cluster: ``auto``, ``host:port`` or ``ray://host:port``; None for Ray on this machine only.
        gpus: GPUs for each, a fraction or a whole number; None for the model card's.
    """

    count: int | None
    address: str | None = None
    gpus: float | None = None


def read_workers(count: str | None, address: str | None, gpus: float | None) -> Workers | None:
    """What was typed; None where one process does it all.

    Args:
        count: A number or ``auto``. With an address ``auto`` is the default, and one worker is one somewhere else.
        address: Of a Ray cluster.
        gpus: For each worker.

    Raises:
        UsageError: Names the option that is wrong.
    """
    if count is not None and count != "auto" and not (count.isascii() and count.isdecimal() and int(count) > 0):
        raise UsageError(f"--workers {count} is neither a positive number nor auto")
    if address is not None and not _is_address(address):
        raise UsageError(
            f"--engine-address {address} is not the address of a Ray cluster",
            "auto for the cluster of this machine, ray://HOST:10001 for one elsewhere",
        )
    if gpus is not None and not (0 < gpus <= 1 or (gpus > 1 and float(gpus).is_integer())):
        raise UsageError(f"--gpus-per-worker {gpus:g} is neither a part of a GPU nor a whole number of them")
    if address is None and count in (None, "1"):
        if gpus is not None:
            raise UsageError("--gpus-per-worker says what each of several workers takes", "add --workers N")
        return None
    return Workers(None if count in (None, "auto") else int(count), address, gpus)


def _is_address(text: str) -> bool:
    port = text.rpartition(":")[2]
    return bool(_ADDRESS.fullmatch(text)) and (text == "auto" or int(port) <= _LAST_PORT)

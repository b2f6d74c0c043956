"""One rank of a training; ``launching`` runs it in a process of its own, with ``JOB`` set."""

from __future__ import annotations

import json
import os
import traceback
from pathlib import Path
from types import SimpleNamespace

JOB: dict[str, object] = globals()["JOB"]


def quiet(kill_at: int) -> SimpleNamespace:
    """Watches nothing; ends the process at a step, as a kill would."""
    seen: list[object] = []

    def step(values: object) -> None:
        seen.append(values)
        if len(seen) == kill_at:
            os._exit(9)

    def nothing(*_: object) -> None:
        pass

    return SimpleNamespace(start=nothing, step=step, note=nothing, stop=nothing)


def run() -> None:
    import torch

    from lens_bench.errors import LensBenchError
    from lens_bench.train.config import TrainRecipe
    from lens_bench.train.loop import Where, train

    torch.set_num_threads(1)
    out, data_root, kill_at = Path(str(JOB["out"])), Path(str(JOB["data_root"])), int(str(JOB["kill_at"]))
    for name, fields in json.loads(str(JOB["recipes"])).items():
        try:
            train(TrainRecipe.model_validate(fields), Where(out / name, data_root), quiet(kill_at))
        except LensBenchError as error:
            # Told and waited for, so that no rank loses the others before it has heard.
            print(f"{type(error).__name__}: {error.message} ({error.hint})", flush=True)
            break
    torch.distributed.destroy_process_group()


log = os.open(str(JOB["log"]), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
os.dup2(log, 1)
os.dup2(log, 2)
os.environ.update(JOB["environment"])  # type: ignore[call-overload]
try:
    run()
except BaseException:
    traceback.print_exc()
    os._exit(1)

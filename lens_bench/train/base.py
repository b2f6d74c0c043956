"""Whether what a training starts from is there, and how to get it where it is not."""

from __future__ import annotations

from pathlib import Path

from lens_bench.errors import CheckpointError, UsageError
from lens_bench.lens.model_card import on_hub
from lens_bench.train.config import TrainRecipe
from lens_bench.trained import open_trained, result_of

_RELEASED = "OuyBin/LENS"


def require_base(recipe: TrainRecipe) -> None:
    """Refuse a training whose start is not there, before data are checked for it.

    Raises:
        UsageError: The recipe names no start.
        CheckpointError: What it names is not there; the hint says how to fetch it, where that is known.
    """
    model = recipe.model
    if model.fresh is not None:
        return
    if model.checkpoint:
        _require_checkpoint(Path(model.checkpoint).expanduser())
    elif model.qwen:
        _require_folder(Path(model.qwen).expanduser(), "model.qwen")
        _require_sam(Path(model.sam).expanduser())
    else:
        # A recipe that knows the sizes of its start is a stage of a chain.
        fetch = "" if model.like is not None else f"; released weights: hf download {_RELEASED} --local-dir FOLDER"
        raise UsageError(
            f"recipe {recipe.name} starts from a checkpoint, and none is named",
            f"--set model.checkpoint=FOLDER, or train the chain that the recipe belongs to{fetch}",
        )


def _require_checkpoint(folder: Path) -> None:
    _require_folder(folder, "model.checkpoint")
    if not any(folder.glob("*.safetensors")) and (trained := open_trained(folder)) is not None:
        raise CheckpointError(
            f"{folder} is the folder of a training, not a checkpoint", f"--set model.checkpoint={result_of(trained)}"
        )


def _require_folder(folder: Path, setting: str) -> None:
    if folder.is_dir():
        return
    repository = _RELEASED if folder.name == "LENS" else on_hub(str(folder))
    raise CheckpointError(f"there is no checkpoint folder {folder}", _fetch(repository, str(folder), setting))


def _require_sam(path: Path) -> None:
    if path.exists():
        return
    # Meta's file sam2_hiera_large.pt lies in facebook/sam2-hiera-large.
    repository = on_hub(path.stem.replace("_", "-") if path.suffix == ".pt" else str(path))
    what = f"{repository} {path.name}" if path.suffix == ".pt" and repository else repository
    place = path.parent if path.suffix == ".pt" else path
    raise CheckpointError(f"there is no SAM 2 checkpoint {path}", _fetch(what, str(place), "model.sam"))


def _fetch(what: str, place: str, setting: str) -> str:
    other = f"name another place with --set {setting}=..."
    return f"hf download {what} --local-dir {place}; or {other}" if what else other

"""What a power cut, a bad disk and a full one do to a training: the damage is named, and nothing is used silently."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file

from lens_bench.errors import CheckpointError, RunError
from lens_bench.train import durable
from lens_bench.train.log import TrainLog, read_log
from lens_bench.trained import checkpoints

from .commands import command, write_recipe
from .conftest import RATES, Run, tiny_recipe
from .test_training import numbers, same

OVER = {"optimiser": {"steps": 4}, "saving": {"every": 1, "keep": 3}}


def zeroed(folder: Path) -> None:
    """A tensor of zeros behind an intact header."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    name = max(tensors, key=lambda n: tensors[n].numel())
    save_file({**tensors, name: torch.zeros_like(tensors[name])}, path, metadata={"format": "pt"})


def flipped(folder: Path) -> None:
    """A bit of the optimizer's state."""
    content = bytearray((folder / "trainer_state.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "trainer_state.pt").write_bytes(content)


def lost(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def unreadable(folder: Path) -> None:
    """Space on the disk that was promised to a file, and never written."""
    path = folder / "digests.json"
    path.write_bytes(bytes(path.stat().st_size))


def unsealed(folder: Path) -> None:
    """Without digests nothing could be checked."""
    (folder / "digests.json").unlink()


@pytest.mark.parametrize("harm", [zeroed, flipped, lost, unreadable, unsealed])
def test_a_damaged_checkpoint_is_named_and_the_next_older_one_is_used(harm: Callable[[Path], None], run: Run) -> None:
    recipe = tiny_recipe("supervised", OVER)
    whole, _ = run(recipe, "whole")
    folder, _ = run(recipe, "parts", kill_at=4)
    assert [path.name[-1] for path in checkpoints(folder)] == ["1", "2", "3"]
    harm(folder / "checkpoint-00000003")
    parts, seen = run(recipe, "parts")
    assert seen.begun == 2 and same(whole, parts)
    (note,) = [note for note in seen.notes if "damaged" in note]
    assert "checkpoint-00000003 is damaged (" in note and "checkpoint-00000002 is used" in note
    assert "put aside as .checkpoint-00000003.damaged" in note and (folder / ".checkpoint-00000003.damaged").is_dir()
    assert [path.name[-1] for path in checkpoints(folder)] == ["1", "2", "3"]


def test_what_was_put_aside_does_not_pile_up(run: Run) -> None:
    recipe = tiny_recipe("supervised", {"optimiser": {"steps": 6}, "saving": {"every": 1, "keep": 9}})
    folder, _ = run(recipe, kill_at=5)
    for name in ("checkpoint-00000003", "checkpoint-00000004"):
        zeroed(folder / name)
    run(recipe, kill_at=4)
    names = [f".checkpoint-0000000{step}.damaged" for step in (3, 4)]
    assert sorted(path.name for path in folder.glob(".*.damaged")) == names
    zeroed(checkpoints(folder)[-1])
    run(recipe, kill_at=6)
    assert [path.name for path in folder.glob(".*.damaged")] == names[:1]


def test_a_damaged_one_does_not_take_the_place_of_a_good_one(run: Run) -> None:
    steps = {"optimiser": {"steps": 7}}
    folder, _ = run(tiny_recipe("supervised", {**steps, "saving": {"every": 2}}), kill_at=5)
    assert [path.name[-1] for path in checkpoints(folder)] == ["2", "4"]
    zeroed(folder / "checkpoint-00000004")
    _, seen = run(tiny_recipe("supervised", {**steps, "saving": {"every": 3, "keep": 1}}), kill_at=4)
    assert seen.begun == 2 and [path.name[-1] for path in checkpoints(folder)] == ["3"]


def test_without_a_good_checkpoint_nothing_begins_silently(run: Run) -> None:
    recipe = tiny_recipe("supervised", OVER)
    folder, _ = run(recipe, kill_at=3)
    zeroed(folder / "checkpoint-00000001")
    flipped(folder / "checkpoint-00000002")
    for _ in range(2):
        with pytest.raises(CheckpointError, match=r"checkpoint-00000002 is damaged: .* and so is every older one"):
            run(recipe)
    assert len(checkpoints(folder)) == 2


def test_a_damaged_result_is_made_anew_and_nothing_starts_from_one(run: Run) -> None:
    recipe = tiny_recipe("supervised", OVER)
    result, _ = run(recipe, "first")
    kept = (result / "model.safetensors").read_bytes()
    zeroed(result)
    second = tiny_recipe("supervised", {"model": {"fresh": None, "checkpoint": str(result)}})
    with pytest.raises(CheckpointError, match=r"final is damaged: model\.safetensors is not what was written"):
        run(second, "second")
    _, seen = run(recipe, "first")
    assert seen.begun == 3 and "is damaged" in " ".join(seen.notes)
    assert (result / "model.safetensors").read_bytes() == kept


def test_what_killed_writes_left_is_removed(run: Run) -> None:
    recipe = tiny_recipe("supervised", OVER)
    folder, _ = run(recipe, kill_at=2)
    (folder / ".checkpoint-00000009.part").mkdir()
    run(recipe)
    assert not list(folder.glob(".*.part"))


def test_a_start_from_elsewhere_has_no_digests(run: Run) -> None:
    result, _ = run(tiny_recipe("supervised", OVER), "first")
    (result / "digests.json").unlink()
    run(tiny_recipe("supervised", {"model": {"fresh": None, "checkpoint": str(result)}}), "second")


def test_files_reach_the_disk_before_their_folder_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[Path] = []
    real_sync, real_rename = os.fsync, Path.rename

    def sync(handle: int) -> None:
        flushed.append(Path(f"/proc/self/fd/{handle}").readlink())
        real_sync(handle)

    def rename(path: Path, target: Path) -> Path:
        assert {path / "a", path / "in" / "b", path / "in"} <= set(flushed)
        assert any(name.name.startswith("digests.json") for name in flushed)
        assert tmp_path not in flushed
        return real_rename(path, target)

    monkeypatch.setattr(durable.os, "fsync", sync)
    monkeypatch.setattr(Path, "rename", rename)
    (tmp_path / "part" / "in").mkdir(parents=True)
    (tmp_path / "part" / "a").write_text("a")
    (tmp_path / "part" / "in" / "b").write_text("b")
    durable.seal(tmp_path / "part", 3)
    durable.put_in_place(tmp_path / "part", tmp_path / "done")
    assert tmp_path in flushed and durable.steps_done(tmp_path / "done") == 3
    assert not durable.damage(tmp_path / "done")


# ---------------------------------------------------------------------------------------------- full disks, bad logs


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """A disk that takes no file of more than so many bytes, as far as this process can tell."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("file_name", ["model.safetensors", "trainer_state.pt"])
def test_a_disk_that_is_full_is_one_line(
    file_name: str, run: Run, data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rates = {**RATES["supervised"], "vision": 1e-3, "sam_image": 1e-3}
    recipe = tiny_recipe("supervised", {**OVER, "optimiser": {"steps": 2, "rates": rates}})
    whole, _ = run(recipe, "whole")
    file = write_recipe(recipe, tmp_path / "recipe.yaml")
    saved = checkpoints(whole.parent)[0]
    sizes = {name: (saved / name).stat().st_size for name in ("model.safetensors", "trainer_state.pt")}
    assert sizes["model.safetensors"] < 0.9 * sizes["trainer_state.pt"]
    with largest_file(int(0.95 * sizes[file_name])):
        assert command(file, tmp_path / "parts", data_root) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "checkpoint-00000001: File too large" in said and "saving.keep" in said and "Traceback" not in said
    assert not checkpoints(tmp_path / "parts") and not list((tmp_path / "parts").glob(".checkpoint-*"))
    # saving.keep, which the message advises, may change.
    assert command(file, tmp_path / "parts", data_root, "saving.keep=1") == 0
    assert same(whole, tmp_path / "parts" / "final")


def test_a_disk_that_is_full_for_deepspeed_is_one_line(
    data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """DeepSpeed saves to paths, and torch's writer then does not say what the system said."""

    def save_state(_: Accelerator, folder: str) -> None:
        Path(folder).mkdir()
        with largest_file(4096):
            torch.save({"moments": torch.ones(4096)}, Path(folder) / "zero_pp_rank_0.pt")

    monkeypatch.setattr("lens_bench.train.checkpoint.layout", lambda: "deepspeed")
    monkeypatch.setattr(Accelerator, "save_state", save_state)
    file = write_recipe(tiny_recipe("supervised", OVER), tmp_path / "recipe.yaml")
    assert command(file, tmp_path / "out", data_root) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "cannot write" in said and "checkpoint-00000001: a file could not be written in full" in said
    assert "saving.keep" in said and "Traceback" not in said and not checkpoints(tmp_path / "out")


def test_a_log_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    log = TrainLog(tmp_path, 0)
    log.write(1, {"loss": 1.0})
    with largest_file(log.path.stat().st_size), pytest.raises(RunError, match=r"train_log\.jsonl: File too large"):
        log.write(2, {"loss": 1.0})
    log.close()


def test_a_log_with_broken_bytes_is_one_line(
    data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_recipe(tiny_recipe("supervised", OVER), tmp_path / "recipe.yaml")
    assert command(file, tmp_path / "out", data_root) == 0
    log = tmp_path / "out" / "train_log.jsonl"
    good = log.read_bytes()
    log.write_bytes(good.replace(b"{", b"\xff\xfe{", 2))
    (tmp_path / "out" / "final").rename(tmp_path / "elsewhere")
    capsys.readouterr()
    assert command(file, tmp_path / "out", data_root) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "train_log.jsonl, line 1 is damaged" in said and "Traceback" not in said
    # The last line alone may be torn: a kill does that.
    log.write_bytes(good + b'{"step": 5, "lo\xff')
    assert command(file, tmp_path / "out", data_root) == 0
    assert numbers(read_log(log))[:3] == numbers([*read_log(log)])[:3] and len(read_log(log)) == 4

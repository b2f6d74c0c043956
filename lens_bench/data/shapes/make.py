"""Making generated suites on disk: whole splits, in parallel, all or nothing.

A split is drawn into a temporary folder beside its place and renamed when it is complete, so that an interrupted
command leaves nothing that looks finished. What a picture shows depends on seed, suite, split and number only.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import signal
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import cv2

from lens_bench.atomic import held, sweep
from lens_bench.data.shapes import multi, reason
from lens_bench.data.shapes.image_file import file_digest
from lens_bench.data.shapes.picture import Key, Picture, make_picture
from lens_bench.data.shapes.reason import write_reason
from lens_bench.data.shapes.recipes import RECIPES, SEED, VERSION, Recipe
from lens_bench.data.shapes.refer_writer import write_grefer, write_refer
from lens_bench.errors import DataError, RunError, UsageError
from lens_bench.parsing import parse_json

Progress = Callable[[int, int], None]

_CHUNK: Final = 40


@dataclass(frozen=True, slots=True)
class Maker:
    """How the pictures of a suite are made and written down.

    Attributes:
        picture: Draws one picture into a folder.
        write: Writes the annotation of a split; returns its content for the checksum.
        images: Folder of the images below the split's.
    """

    picture: Callable[[Key, Recipe, Path], Picture]
    write: Callable[[Path, str, Recipe, Sequence[Picture]], dict[str, bytes]]
    images: str


def splits(suite: str) -> tuple[str, ...]:
    """The splits of a generated suite. Raises ``UsageError`` where the suite is not a generated one."""
    if suite not in RECIPES:
        raise UsageError(f"{suite!r} is not a generated suite", f"generated suites: {', '.join(RECIPES)}")
    return tuple(RECIPES[suite])


def folder_of(suite: str, split: str, data_root: Path) -> Path:
    """Where a split is kept: ``<data root>/<suite>/<split>``. Raises ``UsageError`` for an unknown split."""
    if split not in splits(suite):
        raise UsageError(f"suite {suite} has no split {split!r}", f"it has: {', '.join(splits(suite))}")
    return data_root / suite / split


def is_made(suite: str, split: str, data_root: Path) -> bool:
    """Whether the split is there, complete, and from this version of the generator."""
    folder = folder_of(suite, split, data_root)
    made = _read_made(folder)
    recipe = RECIPES[suite][split]
    wanted = {"version": VERSION, "seed": SEED, "images": recipe.images}
    return folder.is_dir() and all(made.get(k) == v for k, v in wanted.items())


def make(
    suite: str,
    split: str,
    data_root: Path,
    *,
    workers: int = 2,
    progress: Progress | None = None,
    seed: int = SEED,
    images: int | None = None,
) -> Path:
    """Make a split and return its folder; one that is there is replaced.

    Args:
        suite: ``shapes``, ``shapes-reason`` or ``shapes-multi``.
        split: A split of it.
        data_root: Folder that holds the suites.
        workers: Processes. The result does not depend on it.
        progress: Called with the number of finished images and of all.
        seed: Another one makes another suite, which the card's content hash will not accept.
        images: Fewer (or more) images than the split has: the first ones of it.

    Raises:
        UsageError: There is no such suite or split.
    """
    target = folder_of(suite, split, data_root)
    recipe = RECIPES[suite][split]
    recipe = recipe if images is None else replace(recipe, images=images)
    target.parent.mkdir(parents=True, exist_ok=True)
    sweep(target.parent, f".{split}-*")
    with tempfile.TemporaryDirectory(prefix=f".{split}-", dir=target.parent) as name, held(Path(name)):
        folder = Path(name) / split
        maker = _maker(suite)
        drawn = folder / maker.images
        drawn.mkdir(parents=True, exist_ok=True)
        pictures: list[Picture] = []
        for chunk in _draw_all((seed, suite, split), recipe, drawn, workers):
            pictures.extend(chunk)
            if progress is not None:
                progress(len(pictures), recipe.images)
        content = maker.write(folder, split, recipe, pictures)
        made = _made(suite, split, seed, recipe, pictures, content)
        _made_path(target).unlink(missing_ok=True)
        if target.exists():
            target.rename(Path(name) / "replaced")
        folder.rename(target)
        record = Path(name) / "made.json"
        record.write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
        record.rename(_made_path(target))
    return target


def verify(suite: str, split: str, data_root: Path) -> int:
    """Decode every image of a made split and compare all pixels with those that were drawn; returns how many images.

    Raises:
        DataError: The split is not there, an image is missing or broken, or a pixel differs.
    """
    folder = folder_of(suite, split, data_root)
    made = _read_made(folder)
    hint = f"`lens-bench data make {suite} --split {split}` makes it again"
    if not made:
        raise DataError(f"{suite} {split} is not made in {data_root}", hint)
    paths = sorted(p for p in (folder / _maker(suite).images).iterdir() if p.suffix in (".png", ".jpg"))
    digests = [file_digest(path) for path in paths]
    if _pixels_hash(digests) != made.get("pixels_sha256"):
        raise DataError(f"{suite} {split}: the images are not those that were made ({folder})", hint)
    return len(paths)


def _maker(suite: str) -> Maker:
    return _MAKERS[suite]


def _draw_all(what: tuple[int, str, str], recipe: Recipe, folder: Path, workers: int) -> Iterator[list[Picture]]:
    """Chunks of pictures in order."""
    starts = range(0, recipe.images, _CHUNK)
    if workers < 2 or len(starts) < 3:
        for start in starts:
            yield _draw_chunk(what, recipe, folder, start)
        return
    context = multiprocessing.get_context("spawn")
    with _uninterrupted():  # this starts the process in which multiprocessing keeps track of resources
        executor = ProcessPoolExecutor(workers, mp_context=context, initializer=_quiet)
    with executor as pool:
        with _uninterrupted():  # the first submission starts the workers
            waiting: list[Future[list[Picture]]] = [pool.submit(_draw_chunk, what, recipe, folder, s) for s in starts]
        try:
            for future in waiting:
                yield future.result()
        except BrokenProcessPool:
            raise RunError(
                "a process that draws images was ended, by a signal or for lack of memory", "run the same command again"
            ) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Put Ctrl-C off until the block ends. Processes that start in it inherit that SIGINT is blocked for them.

    So is SIGUSR1, by which SLURM asks all processes of a training to stop: the training itself stops them.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed: list[int] = []
    # Blocking the signal is not enough here: another thread of this process may receive it.
    handler = signal.signal(signal.SIGINT, lambda number, frame: pressed.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGUSR1})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, handler)
    if pressed:
        raise KeyboardInterrupt


def _quiet() -> None:
    """In a worker: leave the other cores to the other workers."""
    cv2.setNumThreads(1)


def _draw_chunk(what: tuple[int, str, str], recipe: Recipe, folder: Path, start: int) -> list[Picture]:
    seed, suite, split = what
    picture = _maker(suite).picture
    stop = min(start + _CHUNK, recipe.images)
    return [picture(Key(seed, suite, split, index), recipe, folder) for index in range(start, stop)]


def _made(
    suite: str, split: str, seed: int, recipe: Recipe, pictures: Sequence[Picture], content: dict[str, bytes]
) -> dict[str, object]:
    return {
        "suite": suite,
        "split": split,
        "version": VERSION,
        "seed": seed,
        "images": recipe.images,
        "refs": sum(len(p.refs) for p in pictures),
        "expressions": sum(len(r.sentences) for p in pictures for r in p.refs),
        "annotation_sha256": {name: hashlib.sha256(data).hexdigest() for name, data in content.items()},
        "pixels_sha256": _pixels_hash(p.pixels_sha256 for p in pictures),
    }


def _made_path(folder: Path) -> Path:
    """Beside the split's folder: inside ReasonSeg's layout every JSON file is an annotation."""
    return folder.with_name(f"{folder.name}.made.json")


def _read_made(folder: Path) -> dict[str, object]:
    try:
        made = parse_json(_made_path(folder).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return made if isinstance(made, dict) else {}


def _pixels_hash(digests: Iterable[bytes]) -> str:
    return hashlib.sha256(b"".join(digests)).hexdigest()


_MAKERS: Final[dict[str, Maker]] = {
    "shapes": Maker(make_picture, write_refer, "images"),
    "shapes-reason": Maker(reason.make_picture, write_reason, "."),
    "shapes-multi": Maker(multi.make_picture, write_grefer, "images"),
}

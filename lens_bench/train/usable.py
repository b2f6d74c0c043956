"""Which expressions of a split cannot be used: found before the first step, and remembered.

One unreadable image would otherwise end a training hours after it began, and end it again after every resume.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from accelerate import Accelerator
from pydantic import TypeAdapter

from lens_bench.data.images import ImageFile
from lens_bench.data.split import Split
from lens_bench.data.verify import Checked, Finding, verify_split
from lens_bench.errors import DataError, Preempted
from lens_bench.lens.images import MAX_ASPECT
from lens_bench.parsing import parse_json
from lens_bench.progress import counting
from lens_bench.run.files import read_json, write_json
from lens_bench.run.truth_store import cache_folder
from lens_bench.train.data import Problems
from lens_bench.train.devices import from_first
from lens_bench.train.progress import Progress
from lens_bench.trained import LEFT_OUT

# Findings about an image cost all its expressions.
_OF_IMAGES = frozenset({"missing image", "broken image"})
_ELONGATED = "elongated image"


class DataCheck:
    """Checks splits once per training; a resumed training leaves out what it left out before.

    Images are decoded and annotations rasterised by the first process. What it finds is kept beside the truth cache
    (``$LENS_BENCH_CACHE``) under the split's content hash and the sizes and times of its image files, so that the next
    training on the same data starts at once.

    Args:
        accelerator: Of the training.
        folder: Of the stage; ``left_out.json`` in it says what was left out, and why.
        fresh: Do not look at what an earlier training in the folder left out.
        progress: Is told how much is left out.
        asked_to_stop: Whether to stop; asked behind every image.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        folder: Path,
        progress: Progress,
        *,
        fresh: bool,
        asked_to_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._accelerator = accelerator
        self._path = folder / LEFT_OUT
        self._progress = progress
        self._asked_to_stop = asked_to_stop
        self._found: dict[str, Problems] = {}
        if not fresh and self._path.is_file():
            self._found = read_left_out(self._path)

    def __call__(self, name: str, split: Split) -> Problems:
        """Reasons, by sample id, against using expressions of the split ``name`` (``suite/split``).

        Raises:
            Preempted: The first process was asked to stop. The next training goes on behind the last image.
        """
        if name not in self._found:
            found = from_first(self._accelerator, lambda: find_problems(name, split, self._asked_to_stop))
            self._found[name] = found
            for line in in_words(name, found):
                self._progress.note(line)
        return self._found[name]

    def write(self) -> None:
        """Remember what was found. Only the first process writes."""
        if self._accelerator.is_main_process and self._found:
            write_json(self._path, self._found)


def read_left_out(path: Path) -> dict[str, Problems]:
    """Reasons by split and sample id, as ``left_out.json`` has them.

    Raises:
        DataError: The file cannot be read or is not what a training wrote.
    """
    try:
        return {name: _problems(found) for name, found in read_json(path).items()}
    except ValueError as error:
        raise DataError(f"{path}: {error}", "train anew with --fresh") from None


def _problems(found: object) -> Problems:
    if not isinstance(found, dict) or not all(isinstance(reason, str) for reason in found.values()):
        raise ValueError("the reasons of a split are not texts by sample id")
    return dict(found)


def in_words(name: str, problems: Problems) -> list[str]:
    """A line for each kind of problem: how many expressions it costs, and the first case."""
    kinds = Counter(reason.partition(":")[0] for reason in problems.values())
    first = {kind: next(r for r in problems.values() if r.partition(":")[0] == kind) for kind in kinds}
    return [
        f"{name}: {count} expression{'s are' if count > 1 else ' is'} left out ({first[kind]})"
        for kind, count in sorted(kinds.items())
    ]


def find_problems(name: str, split: Split, asked_to_stop: Callable[[], bool] = lambda: False) -> Problems:
    """Decode every image and rasterise every annotation of a split, or recall what that gave.

    Raises:
        Preempted: It was asked to stop. What was checked is remembered.
    """
    folder = cache_folder()
    path = None if folder is None else folder / f"{split.content_hash[:24]}-problems.json"
    state = _state(split)
    if path is not None:
        with suppress(OSError, ValueError):
            known = parse_json(path.read_bytes())
            if isinstance(known, dict) and known.get("state") == state:
                return _problems(known.get("problems"))
    begun = None if path is None else path.with_name(path.name.replace("-problems", "-checked"))
    findings = _check(name, split, state, begun, asked_to_stop)
    problems = _by_sample(split, findings)
    if path is not None and begun is not None:
        _remember(path, {"state": state, "problems": problems})
        with suppress(OSError):
            begun.unlink(missing_ok=True)
    return problems


def _check(
    name: str, split: Split, state: str, begun: Path | None, asked_to_stop: Callable[[], bool]
) -> tuple[Finding, ...]:
    """Check every image that was not checked before; ``begun`` remembers those where it is interrupted."""
    known = {} if begun is None else _recall(begun, split, state)
    before = len(known)

    def report(done: int, total: int) -> None:
        shown(done, total)
        if done < total and asked_to_stop():
            raise Preempted(
                f"a signal stopped the check of {name} after image {done} of {total}",
                "the same command continues" + (" after it" if begun is not None else " from the first image"),
            )

    try:
        with counting(f"checking images of {name}") as shown:
            return verify_split(split, workers=os.cpu_count() or 1, progress=report, known=known).findings
    except BaseException:  # also Ctrl-C
        if begun is not None and len(known) > before:
            images = {image_id: asdict(checked) for image_id, checked in known.items()}
            _remember(begun, {"state": state, "images": images})
        raise


def _remember(path: Path, content: dict[str, object]) -> None:
    with suppress(OSError):  # a folder that cannot be written costs only the time
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, content)


def _recall(path: Path, split: Split, state: str) -> dict[str, Checked]:
    """What an interrupted check of the same images gave, by image; nothing where there was none."""
    with suppress(OSError, ValueError):
        content = parse_json(path.read_bytes())
        if isinstance(content, dict) and content.get("state") == state:
            found = TypeAdapter(dict[str, Checked]).validate_python(content.get("images"))
            ids = {sample.id for sample in split.samples}
            told = [f.sample_id for checked in found.values() for f in (*checked.findings, *checked.empty)]
            return found if ids.issuperset(told) else {}
    return {}


def _by_sample(split: Split, findings: tuple[Finding, ...]) -> dict[str, str]:
    """What is wrong with an image is wrong with all its expressions; the same for an annotation."""
    named = {sample.id: sample for sample in split.samples}
    images: dict[str, str] = {}
    truths: dict[int, str] = {}
    for finding in findings:
        costly = named[finding.sample_id]
        if finding.kind in _OF_IMAGES:
            images[costly.image_id] = f"{finding.kind}: {finding.detail}"
        else:
            truths[id(costly.truth)] = f"{finding.kind}: {finding.detail}"
    found: dict[str, str] = {}
    for sample in split.samples:
        reason: str | None = images.get(sample.image_id) or truths.get(id(sample.truth))
        height, width = sample.truth.size
        if reason is None and max(height, width) > MAX_ASPECT * min(height, width):
            reason = f"{_ELONGATED}: {sample.image.name} is {width}x{height}, the model reads at most 1:{MAX_ASPECT}"
        if reason is not None:
            found[sample.id] = reason
    return found


def _state(split: Split) -> str:
    """Digest of the names, sizes and times of a split's image files; other images are part of its content hash."""
    files = {s.image_id: s.image for s in split.samples if isinstance(s.image, ImageFile)}
    digest = hashlib.sha256()
    for image_id, image in sorted(files.items()):
        size = changed = -1
        with suppress(OSError):
            found = image.path.stat()
            size, changed = found.st_size, found.st_mtime_ns
        digest.update(f"{image_id}\0{image.path}\0{size}\0{changed}\n".encode())
    return digest.hexdigest()

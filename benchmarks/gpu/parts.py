"""What is measured on a GPU: commands of this repository, each with the time it may take and what its file must say."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).resolve().parents[2]
LENS, TRAIN = ROOT / "benchmarks" / "lens", ROOT / "benchmarks" / "train"
# The largest share of a measured ceiling that can be: clocks vary a little between the two measurements.
MOST = 1.1

Json = Mapping[str, Any]
Size = Literal["full", "tiny"]


@dataclass(frozen=True)
class Where:
    """Places and device of a run.

    Attributes:
        device: ``cpu`` or ``cuda``.
        data: Data root with the pictures.
        scratch: For everything that is thrown away, tiny checkpoints among it.
    """

    device: str
    data: Path
    scratch: Path


@dataclass(frozen=True)
class Part:
    """One command.

    Attributes:
        name: Of its file and of the row in the table.
        command: Without the interpreter.
        folder: In which it leaves its result, somewhere below, under the name ``file``.
        seconds: It is stopped after so long on a GPU.
        check: What is wrong with a result; nothing where it stands.
        rows: What the table says of it: figure and value.
        judges: Its exit status also says whether a target was met, so only the file counts.
    """

    name: str
    command: tuple[str, ...]
    folder: Path
    file: str
    seconds: float
    check: Callable[[Json], list[str]]
    rows: Callable[[Json], list[tuple[str, str]]]
    judges: bool = False

    @property
    def line(self) -> list[str]:
        """The command line."""
        return [sys.executable, *self.command]

    def found(self) -> Path | None:
        """The result; None where there is none yet."""
        return next(iter(sorted(self.folder.rglob(self.file))), None)


def parts(size: Size, where: Where) -> Iterator[Part]:
    """Everything, the most valuable first, so that a machine that is slower than expected loses the least."""
    full = size == "full"
    first, *others = (_profile(name, size, where) for name in MODELS)
    yield _lens("agreement", where, ["--size", "small" if full else "tiny", "--dtype", "float32"], 60)
    yield first
    if full:
        yield _lens("engine", where, ["--size", "3b", "--dtype", "bfloat16"], 130)
    yield _stage2(size, where)
    yield from others


# ---------------------------------------------------------------------------------------------- lens-bench profile

# What is said to each model beside the work. LISA and GLaMM write an answer instead of being given it, so that all do
# equal work.
MODELS: Mapping[str, tuple[str, ...]] = {
    "lens-3b": (),
    "lisa-7b": ("--model-arg=mode=generated",),
    "glamm-refseg": ("--model-arg=mode=generated",),
    "qwen2.5-vl-3b+sam2": (),
}


def _profile(name: str, size: Size, where: Where) -> Part:
    full = size == "full"
    options = ["--images", "16" if full else "2", "--duration", "6" if full else "0.3", "--image-size"]
    options += ["640x480" if full else "96x72", "--batch-sizes", "1,4,16" if full else "1,2"]
    options += ["--dtype", "bfloat16" if where.device == "cuda" else "float32"]
    options += ["--new-tokens", "32" if full else "4"]
    weights = ["--random-weights"] if full else [f"--model-arg={arg}" for arg in tiny_arguments(name, where.scratch)]
    command = ["-m", "lens_bench.cli", "profile", "--suite", "shapes", "--split", "val", "--allow-partial"]
    command += ["--model", name, "--scenario", "single-stream,offline", "--device", where.device]
    folder = where.scratch / f"profile-{name}"
    command += ["--data-root", str(where.data), "--out", str(folder), "--no-plots"]
    line = (*command, *options, *MODELS[name], *weights)
    return Part(folder.name, line, folder, "profile.json", 100, check_profile, profile_rows)


def tiny_arguments(name: str, scratch: Path) -> list[str]:
    """Arguments that lead a card to the tiny checkpoint that ``make_tiny`` wrote."""
    folder = scratch / "tiny" / name
    if name.startswith("lens"):
        return [f"checkpoint={folder}"]
    if name.startswith("qwen"):
        return [f"checkpoint={folder / 'model'}", f"sam={folder / 'sam'}"]
    return [f"checkpoint={folder / 'model'}", f"clip={folder / 'clip'}"]


def check_profile(found: Json) -> list[str]:
    """What is wrong with a profile."""
    wrong = []
    single, offline = found.get("single_stream"), found.get("offline")
    if not single or not single["complete"]:
        wrong.append("single-stream was not measured to its end")
    if not offline or not offline["complete"] or not _fitting(found):
        wrong.append("offline was not measured to its end")
    # Other work on a CPU may have slowed the ceiling's measurement and not the model's; a GPU is ours alone.
    shares = [mfu for _, mfu in _shares(found) if mfu is not None and found["device"] != "cpu"]
    wrong += [f"a share of {mfu:.2f} of the matmul ceiling" for mfu in shares if not 0 <= mfu <= MOST]
    return wrong


def profile_rows(found: Json) -> list[tuple[str, str]]:
    """The table's rows of a profile, its stages included."""
    single, best = found["single_stream"], max(_fitting(found), key=lambda p: p["images_per_s"]["value"])
    rows = [
        ("single-stream p50", f"{single['latency_ms']['p50']['value']:.4g} ms"),
        ("single-stream p99", f"{single['latency_ms']['p99']['value']:.4g} ms"),
        ("offline", f"{best['expressions_per_s']['value']:.4g} expressions/s ({best['batch_images']} images a call)"),
    ]
    rows += [(f"MFU {name}", f"{100 * mfu:.3g} %") for name, mfu in _shares(found) if mfu is not None]
    memory = best["circumstances"]["memory"].get("peak_allocated_mb")
    rows += [("offline peak memory", f"{memory / 1024:.3g} GiB")] if memory else []
    for title, measured in (("single-stream", single), ("offline", best)):
        for stage in measured["stages"]:
            rows.append((f"{title}: {stage['name']}", f"{stage['mean_ms']:.4g} ms, {100 * stage['share']:.3g} %"))
    return rows


def _fitting(found: Json) -> list[Json]:
    return [p for p in (found.get("offline") or {}).get("points", ()) if p["images_per_s"]]


def _shares(found: Json) -> Iterator[tuple[str, float | None]]:
    """Name and share of the ceiling of both scenarios."""
    single = found.get("single_stream")
    yield "single-stream", (single["roof"] or {}).get("mfu") if single else None
    for point in _fitting(found):
        yield f"offline, {point['batch_images']} a call", (point["roof"] or {}).get("mfu")


# ---------------------------------------------------------------------------------------------- engine and training


def _lens(name: str, where: Where, options: list[str], seconds: float) -> Part:
    few, folder = name == "agreement", where.scratch / name
    work = ["--images", "1" if few else "4", "--expressions", "4" if few else "7", "--rounds", "1" if few else "2"]
    # The peers meet the first way of decoding; the second runs beside it on the same work and has to say the same.
    ways = "graphs,eager" if where.device == "cuda" else "eager,static"
    command = [str(LENS / "speed.py"), "--device", where.device, *options, *work, "--decode", ways]
    command += ["--json", str(folder / "speed.json")]
    if where.device == "cpu":
        command += ["--threads", "1"]
    check = check_agreement if few else check_speeds
    return Part(name, tuple(command), folder, "speed.json", seconds, check, lens_rows, judges=True)


def _modes(found: Json) -> Iterator[tuple[str, Json]]:
    yield from ((name, found[name]) for name in ("lens-1d", "mrope") if name in found)


def check_agreement(found: Json) -> list[str]:
    """In float32 the engine, the authors' loop and ``generate`` have to say and draw the same."""
    wrong = check_speeds(found)
    for name, mode in _modes(found):
        if mode["texts_that_differ"] or mode["largest_share_of_flipped_pixels"] > 1e-3:
            wrong.append(f"{name}: the engine and its peers do not agree")
    return wrong


def check_speeds(found: Json) -> list[str]:
    """What is wrong with speeds."""
    keys = ("engine_per_second", "loop_per_second", "generate_per_second")
    modes = list(_modes(found))
    found_speeds = [(name, k, m[k]) for name, m in modes for k in keys]
    found_speeds += [(name, f"decoding {w['way']}", w["per_second"]) for name, m in modes for w in m["decoding"]]
    wrong = [f"{name}: {what} is {speed}" for name, what, speed in found_speeds if not 0 < speed < math.inf]
    return wrong if modes else ["nothing was measured"]


def lens_rows(found: Json) -> list[tuple[str, str]]:
    """The table's rows of the engine beside its peers."""
    rows = []
    for name, mode in _modes(found):
        rows.append((f"{name}: engine", f"{mode['engine_per_second']:.4g} expressions/s"))
        rows.append((f"{name}: against the authors' loop", f"{mode['ratio']:.3g}x (target {mode['target']:g}x)"))
        rows.append((f"{name}: against one generate each", f"{mode['generate_ratio']:.3g}x"))
        for way in mode["decoding"]:
            speed, answers = way["per_second"], 1e3 * way["answer_seconds"] / mode["expressions"]
            rows.append((f"{name}: decoding {way['way']}", f"{speed:.4g} expressions/s, answers {answers:.4g} ms each"))
        rows.append((f"{name}: texts that differ", str(mode["texts_that_differ"])))
    return rows


def _stage2(size: Size, where: Where) -> Part:
    folder = where.scratch / "stage2"
    size_of = "3b" if size == "full" else "tiny"
    command = (str(TRAIN / "stage2_step.py"), "--size", size_of, "--json", str(folder / "step.json"))
    return Part("stage2", command, folder, "step.json", 170, lambda found: list(found["complaints"]), stage2_rows)


def stage2_rows(found: Json) -> list[tuple[str, str]]:
    """The table's rows of a training step."""
    rows = [
        ("samples per second", f"{found['samples_per_second']:.3g}"),
        ("MFU", f"{100 * found['mfu']:.3g} %"),
        ("share of sampling", f"{100 * found['sampling_share']:.3g} %"),
        ("answers of", f"{found['answer_tokens']:.4g} tokens, {found['samples']} a step"),
    ]
    memory = found["peak_allocated_gb"] or found["peak_rss_gb"]
    return [*rows, ("peak memory", f"{memory:.3g} GB")]


# ---------------------------------------------------------------------------------------------- what a CPU can run


def make_tiny(scratch: Path) -> None:
    """Checkpoints of a few hundred thousand random weights for the cards that are profiled."""
    from lens_bench.lens.save import Story, save
    from lens_bench.lens.tiny import byte_tokenizer, tiny_model
    from lens_bench.llava_sam.config import GLAMM, LISA
    from lens_bench.llava_sam.tiny import write_tiny
    from lens_bench.sam2.tiny import save_tiny_sam2
    from lens_bench.vlm.tiny import save_tiny_vlm

    story = Story("tiny", "Random weights.", {}, {})
    save(tiny_model(), scratch / "tiny" / "lens-3b", byte_tokenizer(), story)
    for name, family in (("lisa-7b", LISA), ("glamm-refseg", GLAMM)):
        write_tiny(scratch / "tiny" / name, family)
    folder = scratch / "tiny" / "qwen2.5-vl-3b+sam2"
    save_tiny_vlm(folder / "model")
    save_tiny_sam2(folder / "sam")


def read(path: Path) -> Json:
    """A part's result."""
    found: Json = json.loads(path.read_text(encoding="utf-8"))
    return found

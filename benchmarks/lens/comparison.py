"""The engine, the authors' loop and one ``generate`` per expression, in turn on the same work."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Protocol

import authors_loop
import generate_loop
import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode
from workload import Work

from lens_bench import masks
from lens_bench.lens.engine import Engine
from lens_bench.lens.modeling import LensModel
from lens_bench.lens.prompts import Prompter
from lens_bench.lens.steps import Decode, resolve
from lens_bench.lens.tiny import byte_tokenizer
from lens_bench.lens.writer import HfWriter, make_decoder
from lens_bench.records import BoolMask, Rle


class Said(Protocol):
    """What any side says of an expression: the engine's masks are encoded, those of its peers are not."""

    @property
    def ids(self) -> tuple[int, ...]: ...

    @property
    def mask(self) -> Rle | BoolMask | None: ...


@dataclass(frozen=True)
class Way:
    """One way of decoding; seconds of the last call, those for compiling or recording of all."""

    way: Decode
    per_second: float
    answer_seconds: float
    compile_seconds: float


@dataclass(frozen=True)
class Comparison:
    """Speeds by side in their best round, and how many times the engine's time each other side took, by round."""

    expressions: int
    answer_tokens_mean: float
    per_second: Mapping[str, float]
    ratios: Mapping[str, Sequence[float]]
    texts_that_differ: int
    largest_share_of_flipped_pixels: float
    stage_seconds: Mapping[str, float]
    decoding: Sequence[Way]
    flops_per_expression: float

    def ratio(self, side: str) -> float:
        return statistics.median(self.ratios[side])

    def to_json(self) -> dict[str, object]:
        found = asdict(self)
        del found["per_second"], found["ratios"]
        return {
            **found,
            **{f"{side}_per_second": speed for side, speed in self.per_second.items()},
            "ratios": self.ratios["loop"],
            "ratio": self.ratio("loop"),
            "generate_ratios": self.ratios["generate"],
            "generate_ratio": self.ratio("generate"),
        }


@dataclass
class EngineSide:
    """Our engine with one way of decoding. ``stages`` are of the last call, ``prepared_s`` of all."""

    engine: Engine
    way: Decode
    stages: dict[str, float] = field(default_factory=dict)
    prepared_s: float = 0.0

    @staticmethod
    def of(model: LensModel, prompter: Prompter, decode: str) -> EngineSide:
        way = resolve(decode, model.device)
        decoder = make_decoder(model, way)
        mrope = model.config.positions == "mrope"
        writer = HfWriter(model, prompter.ends, prompter.padding, mrope, decoder=decoder)
        return EngineSide(Engine(model, prompter, writer), way)

    def __call__(self, work: Work) -> Sequence[Said]:
        found = self.engine.answer(work.images, work.asks)
        self.stages = dict(self.engine.seconds)
        self.prepared_s += self.stages.get("compile", 0.0)
        return found

    def flops(self, work: Work) -> float:
        """Operations that it executes for one expression: matrix products and attention, by torch's counter."""
        few = work.asks[: 2 * len(work.asks) // max(1, len(work.images))]
        with FlopCounterMode(display=False) as counter:
            self.engine.answer(work.images, few)
        return float(counter.get_total_flops()) / len(few)

    def figures(self, per_second: float) -> Way:
        return Way(self.way, per_second, self.stages["answer"], self.prepared_s)


def compare(
    model: LensModel, work: Work, rounds: int, clock: str = "wall", decodes: Sequence[str] = ("auto",)
) -> Comparison:
    """Run all in turn; check that they agree; give speeds and the ratios of every round.

    The first way of decoding is the engine that the peers are compared with; others run beside it.
    """
    prompter = Prompter(model.config.recipe, byte_tokenizer(), frozenset(model.config.ends), model.config.padding)
    names = ["engine", *(f"engine {decode}" for decode in decodes[1:])]
    engines = {name: EngineSide.of(model, prompter, decode) for name, decode in zip(names, decodes, strict=True)}
    sides: dict[str, Callable[[Work], Sequence[Said]]] = {**engines, **peers(model, prompter)}
    warm_up(sides, work)
    answers, seconds = alternate(sides, work, rounds, model.device, clock)
    ours, count = answers.pop("engine"), len(work.asks)
    per_second = {name: count / min(times) for name, times in seconds.items()}
    pairs = [(a, b) for theirs in answers.values() for a, b in zip(ours, theirs, strict=True)]
    return Comparison(
        expressions=count,
        answer_tokens_mean=statistics.mean(len(a.ids) for a in ours),
        per_second=per_second,
        ratios={n: [b / a for a, b in zip(seconds["engine"], seconds[n], strict=True)] for n in answers},
        texts_that_differ=sum(a.ids != b.ids for a, b in pairs),
        largest_share_of_flipped_pixels=max(flipped(a.mask, b.mask) for a, b in pairs),
        stage_seconds=engines["engine"].stages,
        decoding=[side.figures(per_second[name]) for name, side in engines.items()],
        flops_per_expression=engines["engine"].flops(work),
    )


def peers(model: LensModel, prompter: Prompter) -> dict[str, Callable[[Work], Sequence[Said]]]:
    """The two loops."""

    def loop(work: Work) -> Sequence[Said]:
        pairs = [(work.images[n], texts) for n, texts in work.referents]
        return [r for image, texts in pairs for r in authors_loop.segment_referent(model, prompter, image, texts)]

    def generate(work: Work) -> Sequence[Said]:
        return [generate_loop.segment(model, prompter, work.images[n], text) for n, text in work.asks]

    return {"loop": loop, "generate": generate}


def warm_up(sides: Mapping[str, Callable[[Work], object]], work: Work) -> None:
    """One referent for all; steps of the sizes that come are compiled or recorded here."""
    few = Work(work.images[:1], [r for r in work.referents if r[0] == 0][:1])
    for run in sides.values():
        run(few)
    for run in sides.values():
        if isinstance(run, EngineSide) and run.way != "eager":
            run(work)


def alternate(
    sides: Mapping[str, Callable[[Work], Sequence[Said]]], work: Work, rounds: int, device: torch.device, clock: str
) -> tuple[dict[str, Sequence[Said]], dict[str, list[float]]]:
    """Every side once a round, forwards and backwards in turn: last answers and all times."""
    answers: dict[str, Sequence[Said]] = {}
    seconds: dict[str, list[float]] = {name: [] for name in sides}

    def turn(name: str) -> None:
        answers[name] = sides[name](work)

    for number in range(rounds):
        for name in list(sides) if number % 2 == 0 else list(sides)[::-1]:
            seconds[name].append(timed(partial(turn, name), device, clock))
    return {name: answers[name] for name in sides}, seconds


def timed(work: Callable[[], object], device: torch.device, clock: str) -> float:
    read = time.process_time if clock == "cpu" else time.perf_counter
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    begin = read()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return read() - begin


def flipped(ours: Rle | BoolMask | None, theirs: Rle | BoolMask | None) -> float:
    """Share of the pixels in which two masks differ; all of them where only one side has a mask."""
    if ours is None or theirs is None:
        return float((ours is None) != (theirs is None))
    a, b = (masks.decode(m) if isinstance(m, Rle) else m for m in (ours, theirs))
    return float(np.mean(a != b))

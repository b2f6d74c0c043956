"""Every way to decode gives what growing keys and values give, and fixed buffers are kept in order."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lens_bench import masks
from lens_bench.errors import UsageError
from lens_bench.lens.cache import Cache
from lens_bench.lens.config import LensConfig
from lens_bench.lens.decode import Buckets, Decoder, StaticDecoder
from lens_bench.lens.engine import Answer, Batches, Engine
from lens_bench.lens.modeling import LensModel
from lens_bench.lens.prompts import Prompter
from lens_bench.lens.steps import (
    Board,
    CompiledRunner,
    PlainRunner,
    ReadToken,
    RecordedRunner,
    Runner,
    Step,
    resolve,
)
from lens_bench.lens.writer import HfWriter, greedy, make_decoder
from lens_bench.records import Pixels

from .recorder import TapeRecorder

Asks = list[tuple[int, str]]
PrompterOf = Callable[[LensConfig], Prompter]
# Small enough that a handful of rows passes through several buckets of either kind.
SMALL = Buckets(least=2, step=8)


def reader(model: LensModel) -> ReadToken:
    def read(ids: Tensor, positions: Tensor, mask: Tensor, cache: Cache) -> Tensor:
        return model.read(model.embed(ids, []), positions.view(1, -1, 1).expand(3, -1, -1), mask, cache)[:, 0]

    return read


def plain(model: LensModel) -> Runner:
    return PlainRunner(Step(reader(model)))


def recorded(model: LensModel) -> Runner:
    return RecordedRunner(Step(reader(model)), TapeRecorder())


def compiled(model: LensModel, backend: str = "aot_eager") -> Runner:
    return CompiledRunner(Step(reader(model)), backend)


def inductor(model: LensModel) -> Runner:
    return compiled(model, "inductor")


RUNNERS = [
    plain,
    recorded,
    compiled,
    pytest.param(
        inductor,
        marks=[
            pytest.mark.slow,
            pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU"),
        ],
    ),
]


class Spy:
    """Chooses greedily and keeps every row's scores, step by step."""

    def __init__(self) -> None:
        self.scores: dict[int, list[Tensor]] = {}

    def __call__(self, scores: Tensor, rows: Sequence[int]) -> Tensor:
        for row, own in zip(rows, scores, strict=True):
            self.scores.setdefault(row, []).append(own.clone())
        return greedy(scores, rows)


def engine_with(
    model: LensModel, prompter: Prompter, decoder: Decoder | None, spy: Spy | None = None, rows: int | None = None
) -> Engine:
    mrope = model.config.positions == "mrope"
    writer = HfWriter(model, prompter.ends, prompter.padding, mrope, spy or greedy, decoder)
    return Engine(model, prompter, writer, Batches(rows=rows))


def check_same(ours: Sequence[Answer], theirs: Sequence[Answer]) -> None:
    assert [a.ids for a in ours] == [b.ids for b in theirs]
    for a, b in zip(ours, theirs, strict=True):
        assert a.mask is not None and b.mask is not None
        assert np.mean(masks.decode(a.mask) != masks.decode(b.mask)) <= 1e-4


@pytest.mark.parametrize("make", RUNNERS)
def test_texts_scores_and_masks_are_those_of_growing_buffers(
    make: Callable[[LensModel], Runner], model: LensModel, prompter_of: PrompterOf, images: list[Pixels], asks: Asks
) -> None:
    prompter = prompter_of(model.config)
    grown, fixed = Spy(), Spy()
    expected = engine_with(model, prompter, None, grown).answer(images, asks)
    found = engine_with(model, prompter, StaticDecoder(make(model), SMALL), fixed).answer(images, asks)
    check_same(found, expected)
    assert len({len(a.ids) for a in expected}) > 2
    for row, steps in grown.scores.items():
        written = len(expected[row].ids)
        for before, after in zip(steps[:written], fixed.scores[row][:written], strict=True):
            assert torch.allclose(before, after, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", [plain, recorded, compiled])
def test_batches_after_one_another_share_the_slab(
    make: Callable[[LensModel], Runner], model: LensModel, prompter_of: PrompterOf, images: list[Pixels], asks: Asks
) -> None:
    """Three batches through the same buffers, the last shorter; what an earlier one left there does not matter."""
    prompter = prompter_of(model.config)
    expected = engine_with(model, prompter, None).answer(images, asks)
    decoder = StaticDecoder(make(model), SMALL)
    engine = engine_with(model, prompter, decoder, rows=3)
    check_same(engine.answer(images, asks), expected)
    assert decoder._slab is not None
    with torch.inference_mode():
        for keys, values in decoder._slab.layers:
            keys.fill_(torch.inf)
            values.fill_(torch.nan)
    check_same(engine.answer(images, asks), expected)


def test_a_bucket_is_recorded_once_and_again_when_the_slab_grows(
    model: LensModel, prompter_of: PrompterOf, images: list[Pixels], asks: Asks
) -> None:
    prompter = prompter_of(model.config)
    recorder = TapeRecorder()
    runner = RecordedRunner(Step(reader(model)), recorder)
    seen: list[tuple[int, ...]] = []
    steps = 0

    def watched(board: Board) -> Tensor:
        nonlocal steps
        steps += 1
        seen.append(tuple(board.mask.shape))
        return runner(board)

    class Watched:
        forget, preparation = runner.forget, runner.preparation

        def __call__(self, board: Board) -> Tensor:
            return watched(board)

    engine = engine_with(model, prompter, StaticDecoder(Watched(), SMALL))
    few = engine.answer(images[:1], [ask for ask in asks if ask[0] == 0])
    assert recorder.forgotten == 1 and len(recorder.recordings) == len(set(seen))
    assert recorder.warmed == 3 * len(recorder.recordings) and recorder.replayed == steps
    before = len(recorder.recordings)
    assert [a.ids for a in engine.answer(images[:1], [ask for ask in asks if ask[0] == 0])] == [a.ids for a in few]
    assert recorder.forgotten == 1 and len(recorder.recordings) == before
    seen.clear()
    check_same(engine.answer(images, asks), engine_with(model, prompter, None).answer(images, asks))
    assert recorder.forgotten == 2 and len(recorder.recordings) == len(set(seen))
    assert len({rows for rows, *_ in seen}) > 1  # rows moved up on the way
    assert len({columns for *_, columns in seen}) > 1


def test_preparing_is_told_apart(model: LensModel, prompter_of: PrompterOf, images: list[Pixels], asks: Asks) -> None:
    engine = engine_with(model, prompter_of(model.config), StaticDecoder(recorded(model), SMALL))
    engine.answer(images, asks)
    assert engine.seconds["compile"] > 0 and engine.seconds["answer"] > 0
    engine.answer(images, asks)
    assert "compile" not in engine.seconds
    engine = engine_with(model, prompter_of(model.config), None)
    engine.answer(images, asks)
    assert "compile" not in engine.seconds


def test_one_compilation_serves_all_buckets(
    model: LensModel, prompter_of: PrompterOf, images: list[Pixels], asks: Asks
) -> None:
    from torch._dynamo.testing import CompileCounter

    counter = CompileCounter()
    runner = CompiledRunner(Step(reader(model)), counter)
    engine_with(model, prompter_of(model.config), StaticDecoder(runner, SMALL)).answer(images, asks)
    assert len(runner._seen) > 2 and counter.frame_count == 1


def test_what_cannot_be_compiled_is_a_usage_error(
    model: LensModel, prompter_of: PrompterOf, images: list[Pixels]
) -> None:
    def broken(ids: Tensor, positions: Tensor, mask: Tensor, cache: Cache) -> Tensor:
        torch._dynamo.graph_break()
        return ids

    decoder = StaticDecoder(CompiledRunner(Step(broken), "aot_eager"), SMALL)
    with pytest.raises(UsageError, match="decode=compiled: the step cannot be compiled here"):
        engine_with(model, prompter_of(model.config), decoder).answer(images[:1], [(0, "x")])


def test_a_step_that_looks_at_its_tensors_cannot_be_recorded(
    model: LensModel, prompter_of: PrompterOf, images: list[Pixels]
) -> None:
    """The recorder can fail: a number that Python reads would be frozen in a recording."""
    read = reader(model)

    def looking(ids: Tensor, positions: Tensor, mask: Tensor, cache: Cache) -> Tensor:
        return read(ids, positions + int(positions[0]) - positions[0], mask, cache)

    decoder = StaticDecoder(RecordedRunner(Step(looking), TapeRecorder()), SMALL)
    with pytest.raises(RuntimeError, match="reads a tensor while recording"):
        engine_with(model, prompter_of(model.config), decoder).answer(images[:1], [(0, "x")])


def test_running_out_of_memory_gives_the_slab_back(
    model: LensModel, prompter_of: PrompterOf, images: list[Pixels], asks: Asks
) -> None:
    prompter = prompter_of(model.config)
    inner = plain(model)
    held: list[bool] = []

    class Tight:
        preparation = inner.preparation

        def __call__(self, board: Board) -> Tensor:
            if len(board.ids) > 4:
                raise torch.OutOfMemoryError("out of memory")
            return inner(board)

        def forget(self) -> None:
            held.append(decoder._slab is not None)

    decoder = StaticDecoder(Tight(), SMALL)
    engine = engine_with(model, prompter, decoder)
    check_same(engine.answer(images, asks), engine_with(model, prompter, None).answer(images, asks))
    assert True in held
    engine.writer.close()
    assert decoder._slab is None


@given(st.integers(1, 600), st.integers(1, 32), st.integers(1, 300))
def test_buckets_hold_what_they_are_for_and_little_more(count: int, least: int, step: int) -> None:
    buckets = Buckets(least, step)
    rows, columns = buckets.rows(count), buckets.columns(count)
    assert rows >= max(count, least) and columns >= count and columns - count < step and columns % step == 0
    assert rows <= 3 * max(count, least) // 2 + 1
    assert buckets.rows(count + 1) >= rows and buckets.rows(rows) == rows
    assert len({Buckets().rows(n) for n in range(1, 513)}) <= 13


def test_ways_and_devices() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert resolve("auto", cpu) == "eager" and resolve("auto", cuda) == "graphs"
    assert resolve("compiled", cpu) == "compiled" and resolve("static", cuda) == "static"
    with pytest.raises(UsageError, match="needs a CUDA device"):
        resolve("graphs", cpu)
    with pytest.raises(UsageError, match="no way of decoding 'magic'"):
        resolve("magic", cpu)


def test_the_default_is_growing(model: LensModel) -> None:
    decoder = make_decoder(model, "eager")
    assert not isinstance(decoder, StaticDecoder) and isinstance(make_decoder(model, "static"), StaticDecoder)
    decoder.release()
    assert decoder.preparation() == 0.0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("decode", ["static", "compiled", "graphs"])
def test_on_a_gpu(
    decode: str, model: LensModel, prompter_of: PrompterOf, images: list[Pixels], asks: Asks
) -> None:  # pragma: no cover - needs a GPU
    import copy

    from lens_bench.lens.placing import Precision, place

    prompter = prompter_of(model.config)
    there = place(copy.deepcopy(model), "cuda", Precision())
    expected = engine_with(there, prompter, None).answer(images, asks)
    decoder = make_decoder(there, resolve(decode, there.device))
    check_same(engine_with(there, prompter, decoder).answer(images, asks), expected)

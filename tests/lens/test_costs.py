"""Work of LENS by stage against what torch counts while it is done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lens_bench.costs.language import Language
from lens_bench.costs.qwen_tower import tower_flops
from lens_bench.costs.sam2 import SamCosts, decoder_flops, encoder_flops
from lens_bench.costs.weights import weight_bytes
from lens_bench.lens.config import LensConfig, sam_preset
from lens_bench.lens.costs import lens_costs, seen_grid
from lens_bench.lens.engine import Engine
from lens_bench.lens.images import Patching, resize_for_language
from lens_bench.lens.modeling import LensModel
from lens_bench.lens.prompts import Prompter
from lens_bench.lens.recipe import Recipe
from lens_bench.lens.sizes import lens_2b, lens_3b
from lens_bench.lens.tiny import byte_tokenizer, tiny_config, tiny_model
from lens_bench.perf.clock import StageClock
from lens_bench.records import ImageTask, Pixels, Prediction, Query, Tokens

WITHIN = 0.03


@contextmanager
def counted(into: dict[str, float], stage: str) -> Iterator[None]:
    """Adds what torch counts inside to a stage. Its counter knows no fused attention of the CPU, so there is none."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        yield
    into[stage] = into.get(stage, 0.0) + counter.get_total_flops()


def picture(height: int, width: int) -> Pixels:
    return np.random.default_rng([height, width]).integers(0, 255, (height, width, 3), dtype=np.uint8)


def answered(engine: Engine, tasks: list[ImageTask]) -> list[Prediction]:
    asks = [(n, q.expression) for n, task in enumerate(tasks) for q in task.queries]
    names = [q.sample_id for task in tasks for q in task.queries]
    answers = engine.answer([t.rgb for t in tasks], asks)
    return [
        Prediction(name, "ok", tokens=Tokens(a.prompt_tokens, len(a.ids)))
        for name, a in zip(names, answers, strict=True)
    ]


def forced(config: LensConfig, tokens: int) -> Engine:
    recipe = config.recipe.model_copy(update={"max_new_tokens": tokens, "max_length": None})
    return Engine(tiny_model(config), Prompter(recipe, byte_tokenizer(), frozenset(), config.padding))


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen2_vl"])
@pytest.mark.parametrize("positions", ["mrope", "lens-1d"])
def test_every_stage_is_what_torch_counts(family: str, positions: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = forced(tiny_config(positions, family), tokens=12)  # type: ignore[arg-type]
    found: dict[str, float] = {}
    monkeypatch.setattr(StageClock, "stage", lambda _, name: counted(found, name))
    tasks = [ImageTask("i", (120, 200), (Query("a", "the left one"), Query("b", "the left one")), picture(120, 200))]
    costs = lens_costs(engine, tasks, answered(engine, tasks))
    assert costs.keys() == {stage for stage, flops in found.items() if flops}
    for stage, cost in costs.items():
        assert cost.flops == pytest.approx(found[stage], rel=WITHIN), stage
        assert cost.moved > 0
    assert sum(c.flops for c in costs.values()) == pytest.approx(sum(found.values()), rel=WITHIN)


def test_work_adds_up_over_images_and_grows_with_the_answer() -> None:
    engine = forced(tiny_config(), tokens=4)
    one = ImageTask("i", (90, 130), (Query("a", "x"),), None)
    two = ImageTask("j", (140, 70), (Query("b", "y"), Query("c", "z")), None)

    def of(tasks: list[ImageTask], written: int) -> dict[str, float]:
        rows = [Prediction(q.sample_id, "ok", tokens=Tokens(100, written)) for t in tasks for q in t.queries]
        return {stage: c.flops for stage, c in lens_costs(engine, tasks, rows).items()}

    both, alone = of([one, two], 4), [of([t], 4) for t in (one, two)]
    for stage, flops in both.items():
        assert flops == pytest.approx(sum(part[stage] for part in alone))
    assert of([one], 9)["answer"] > of([one], 4)["answer"]
    assert of([one], 9)["vision tower"] == of([one], 4)["vision tower"]


def test_a_failed_expression_is_no_work_of_the_language_model() -> None:
    engine = forced(tiny_config(), tokens=4)
    task = ImageTask("i", (90, 130), (Query("a", "x"),), None)
    costs = lens_costs(engine, [task], [Prediction("a", "error", error="no room")])
    assert costs["answer"].flops == 0 and costs["vision tower"].flops > 0


@pytest.mark.parametrize("sizing", ["smart", "longest-side", "square"])
@pytest.mark.parametrize("size", [(48, 64), (480, 640), (777, 333), (30, 500)])
def test_the_grid_is_that_of_the_resized_image(sizing: str, size: tuple[int, int]) -> None:
    patching = Patching()
    side = 560 if sizing == "square" else 640
    recipe = Recipe(sizing=sizing, longest_side=side, max_pixels=200_000)  # type: ignore[arg-type]
    seen = resize_for_language(picture(*size), recipe, patching)
    assert seen_grid(size, recipe, patching) == (1, seen.shape[0] // 14, seen.shape[1] // 14)


@pytest.mark.parametrize("size", ["sam2_hiera_t", "sam2_hiera_b+"])
def test_windows_that_do_not_divide_the_grid_are_padded(size: str) -> None:
    config = tiny_config().model_copy(update={"sam": sam_preset(size, 256)})
    with torch.device("meta"):
        part = LensModel(config).sam.eval()
    found: dict[str, float] = {}
    with torch.device("meta"), counted(found, "all"):
        features = part.features(torch.zeros(1, 3, 256, 256))
    assert encoder_flops(part.sam2.config) == pytest.approx(found["all"], rel=WITHIN)
    with torch.device("meta"), counted(found, "masks"):
        part.train().masks(features, torch.zeros(1, 2, 256))
    assert decoder_flops(part.sam2.config, 2) == pytest.approx(found["masks"], rel=WITHIN)


@pytest.mark.parametrize("config", [lens_3b(), lens_2b()], ids=["3b", "2b"])
def test_the_full_size_on_the_meta_device(config: LensConfig) -> None:
    with torch.device("meta"):
        model = LensModel(config).eval()
    found: dict[str, float] = {}
    vision = model.qwen.config.vision_config
    with torch.device("meta"), counted(found, "SAM 2"):
        model.sam.features(torch.zeros(1, 3, 1024, 1024))
    assert SamCosts.of(model.sam).image_flops == pytest.approx(found["SAM 2"], rel=WITHIN)
    language = Language.of(model.qwen.config.text_config, model.qwen.model.language_model.layers, model.qwen.lm_head, 2)
    positions = torch.zeros(3, 1, 50, dtype=torch.long, device="meta")
    with counted(found, "language"):
        model.read(torch.zeros(1, 50, model.width, device="meta"), positions)
    assert language.read([(50, 50)]).flops == pytest.approx(found["language"], rel=WITHIN)
    # 2 x parameters x tokens is what everybody knows by heart; attention comes on top.
    parameters = weight_bytes(model.qwen.model.language_model.layers) / 4
    assert language.read([(50, 50)]).flops == pytest.approx(2 * parameters * 50, rel=0.02)
    grid = (1, 32, 44)
    weights = weight_bytes(model.qwen.model.visual.blocks) / 4
    assert tower_flops(vision, grid) > 2 * weights * 32 * 44

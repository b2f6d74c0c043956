"""Work of box-writing models by stage against what torch counts while it is done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForImageTextToText

from lens_bench.costs.language import Language
from lens_bench.costs.weights import weight_bytes
from lens_bench.perf.clock import StageClock
from lens_bench.records import UNKNOWN_COST, Cost, ImageTask, ModelOptions, Query, Tokens
from lens_bench.registry import find_model, make_segmenter, resolve_args
from lens_bench.sam2.model import Sam2
from lens_bench.sam2.prompts import SamPrompt
from lens_bench.sam2.tiny import save_tiny_sam2
from lens_bench.segmenter import SupportsCosts
from lens_bench.vlm.adapter import VlmAdapter
from lens_bench.vlm.chat import Picture, Reply, Turn, question
from lens_bench.vlm.costs import VlmCosts
from lens_bench.vlm.local import LocalSettings, LocalVlm
from lens_bench.vlm.random_weights import named_shape

WITHIN = 0.03
WRITTEN = 12
# Windows of Qwen2.5-VL's tower are 112 pixels: inside one, several, cut at the edges.
SIZES = [(60, 90), (200, 120), (170, 310)]
WORK = {"vision tower", "prefill", "decode", "SAM features", "masks"}


@contextmanager
def counted(into: dict[str, float], stage: str) -> Iterator[None]:
    """Adds what torch counts inside to a stage. Its counter knows no fused attention of the CPU, so there is none."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        yield
    into[stage] = into.get(stage, 0.0) + counter.get_total_flops()


def task(size: tuple[int, int], expressions: int) -> ImageTask:
    pixels = np.random.default_rng(size).integers(0, 255, (*size, 3), dtype=np.uint8)
    return ImageTask(str(size), size, tuple(Query(f"{size}{n}", "the left one") for n in range(expressions)), pixels)


@pytest.fixture(scope="module")
def sam_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_sam2(tmp_path_factory.mktemp("sam"))


@pytest.fixture(scope="module")
def model(vlm_folder: Path, family: str, sam_folder: Path) -> VlmAdapter:
    """A card's own adapter on a tiny checkpoint; every answer has the same length and one box."""
    card = find_model("qwen2.5-vl-3b+sam2" if family == "qwen2_5_vl" else "qwen3-vl-8b+sam2")
    args = {"checkpoint": str(vlm_folder), "sam": str(sam_folder), "min_pixels": "2000", "max_pixels": "60000"}
    made = make_segmenter(card, ModelOptions(card.name, str(card.folder), resolve_args(card, args)))
    assert isinstance(made, VlmAdapter) and isinstance(made, SupportsCosts)
    made.force_length(WRITTEN)
    made.load()
    return made


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("expressions", [1, 3])
def test_every_stage_is_what_torch_counts(
    model: VlmAdapter, size: tuple[int, int], expressions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One expression reads its prompt in one go; several share the beginning."""
    asked = [task(size, expressions)]
    model.segment(asked)  # what is computed once is not part of a call
    found: dict[str, float] = {}
    monkeypatch.setattr(StageClock, "stage", lambda _, name: counted(found, name))
    predictions = model.segment(asked)
    assert [p.tokens.completion for p in predictions if p.tokens] == [WRITTEN] * expressions
    costs = model.costs(asked, predictions)
    assert costs.keys() == {stage for stage, flops in found.items() if flops} == WORK
    for stage, cost in costs.items():
        assert cost.flops == pytest.approx(found[stage], rel=WITHIN), stage
        assert cost.known and cost.moved > 0
    assert sum(c.flops for c in costs.values()) == pytest.approx(sum(found.values()), rel=WITHIN)


def test_what_pictures_share_is_counted_once(model: VlmAdapter) -> None:
    def work(tasks: list[ImageTask]) -> dict[str, Cost]:
        return dict(model.costs(tasks, model.segment(tasks)))

    one, other = task(SIZES[0], 2), task(SIZES[1], 3)
    both, alone = work([one, other]), [work([one]), work([other])]
    for stage, cost in both.items():
        assert cost.flops == pytest.approx(sum(part[stage].flops for part in alone)), stage
        assert cost.moved < sum(part[stage].moved for part in alone)
    longer = work([task(SIZES[1], 6)])
    assert longer["vision tower"] == alone[1]["vision tower"]
    assert longer["prefill"].flops < 2 * alone[1]["prefill"].flops and longer["masks"].flops > alone[1]["masks"].flops


def test_answers_that_were_none_and_prompts_without_pictures(vlm_folder: Path) -> None:
    talker = LocalVlm.load(vlm_folder, "cpu", torch.float32, LocalSettings(4))
    picture = Picture(np.zeros((112, 112, 3), dtype=np.uint8))
    shown, bare = question(picture, "x"), (Turn("user", ("no picture",)),)
    nothing = talker.costs([shown], [Reply(error="no")])
    assert all(cost == Cost() for cost in nothing.values())
    costs = talker.costs([bare, bare], [Reply("", Tokens(40, 1)), Reply("", Tokens(50, 3))])
    assert costs["vision tower"] == Cost() and costs["prefill"].flops > 0 and costs["decode"].flops > 0
    one = talker.costs([bare], [Reply("", Tokens(40, 1))])
    assert one["decode"] == Cost()  # the only token comes out of reading


def test_work_of_another_family_is_not_known(vlm_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    talker = LocalVlm.load(vlm_folder, "cpu", torch.float32, LocalSettings(4))
    assert not any("not known" in note for note in talker.notes)
    monkeypatch.setattr(talker._model.config, "model_type", "other")
    other = LocalVlm(talker._model, talker._processor, LocalSettings(4))
    assert set(other.costs([], []).values()) == {UNKNOWN_COST}
    assert any("not known" in note for note in other.notes)


@pytest.mark.parametrize(
    "prompt", [SamPrompt((1, 2, 30, 40)), SamPrompt(points=((3, 4), (5, 6))), SamPrompt((1, 2, 30, 40), ((3, 4),))]
)
def test_tokens_of_a_prompt(sam_folder: Path, prompt: SamPrompt) -> None:
    sam = Sam2.load(sam_folder)
    (encoded,) = sam.encode([np.zeros((60, 90, 3), dtype=np.uint8)])
    tokens = sam._tokens([(encoded, prompt)]).shape[2]
    one = sam.mask_cost([SamPrompt((1, 2, 3, 4))]).flops
    per_token = sam.mask_cost([SamPrompt((1, 2, 3, 4), ((1, 1),))]).flops - one
    assert sam.mask_cost([prompt]).flops == pytest.approx(one + (tokens - 3) * per_token)


@pytest.mark.parametrize("hub", ["Qwen/Qwen2.5-VL-7B-Instruct", "Qwen/Qwen3-VL-8B-Instruct"])
def test_reading_is_two_operations_a_parameter_and_token(hub: str) -> None:
    """At full size, on the meta device; what everybody knows by heart, attention on top."""
    config = named_shape(hub)
    assert config is not None
    with torch.device("meta"):
        whole = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    blocks = whole.get_decoder().layers
    language = Language.of(config.get_text_config(), blocks, whole.get_output_embeddings(), 2)
    assert language.read([(64, 64)]).flops == pytest.approx(weight_bytes(blocks) * 64, rel=0.02)
    assert language.read([(1, 64)]).moved > weight_bytes(blocks)
    assert VlmCosts.of(whole, _NoProcessor()) is not None  # type: ignore[arg-type]


class _NoProcessor:
    image_token = "<image>"

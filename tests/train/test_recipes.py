"""Recipes: those that ship are valid, an unknown key is an error, overrides and chains do what they say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import yaml

from lens_bench.answers import SaidBox, first_box
from lens_bench.errors import UsageError
from lens_bench.lens.images import Patching, Prepared
from lens_bench.lens.room import shortage
from lens_bench.lens.sizes import lens_3b
from lens_bench.records import GroundTruth, Sample
from lens_bench.registry import find_model
from lens_bench.train.command import plan_jobs
from lens_bench.train.config import Answer, ChainRecipe, TrainRecipe
from lens_bench.train.data import Item
from lens_bench.train.plan import human_range, in_human_time, make_plan
from lens_bench.train.recipe_files import RECIPES, load_recipe, recipe_names, validated
from lens_bench.train.schedule import rate_share
from lens_bench.train.start import as_trained, random_start
from lens_bench.train.supervised import answer_text

from .conftest import tiny_recipe
from .own_set import write_own_set


def single(name: str, *settings: str) -> TrainRecipe:
    found = load_recipe(name, settings)
    assert isinstance(found, TrainRecipe)
    return found


@pytest.mark.parametrize("name", recipe_names())
def test_shipped_recipes_are_valid(name: str) -> None:
    found = load_recipe(name)
    assert found.name == name
    assert validated(found.model_dump(mode="json"), name) == found
    if isinstance(found, ChainRecipe):
        assert len(plan_jobs(name, [], None)) == len(found.chain)


def test_the_promised_recipes_are_there() -> None:
    wanted = {"lens-3b-stage1", "lens-3b-stage2", "lens-3b-reasonseg", "lens-3b-reasonseg-cot", "sft-3b", "nano"}
    wanted |= {"nano-sam", "nano-vlm", "nano-sft", "nano-stage1", "nano-stage2", "nano-smoke"}
    assert wanted <= set(recipe_names())


def test_papers_numbers() -> None:
    first, second = single("lens-3b-stage1"), single("lens-3b-stage2")
    assert first.optimiser.rates == {"head": 3e-5} and first.batch.units == 1024 and first.text.weight == 0
    assert second.grpo is not None and second.batch.units * second.grpo.num_generations == 512
    assert {r.name: r.power for r in second.grpo.rewards} == {"format": 2, "box": 2, "mask": 2}
    assert "sam_image" not in second.optimiser.rates and "sam_decoder" in second.optimiser.rates
    control = single("sft-3b")
    assert control.grpo is None and control.optimiser == second.optimiser and control.data == second.data
    lora = single("lens-3b-stage2-lora")
    assert lora.lora is not None and set(lora.optimiser.rates) == {"language", "head", "sam_prompt", "sam_decoder"}
    assert single("lens-3b-stage2-beta0").grpo.beta == 0  # type: ignore[union-attr]


def test_unknown_keys_are_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"optimiser\.stps: there is no such key") as caught:
        load_recipe("nano-sft", ["optimiser.stps=3"])
    assert caught.value.hint == "did you mean steps?"
    with pytest.raises(UsageError, match=r"grpo\.rewards\.0\.wieght") as caught:
        load_recipe("nano-stage2", ["grpo.rewards=[{name: box, wieght: 2}]"])
    assert caught.value.hint == "did you mean weight?"
    with pytest.raises(UsageError, match=r"saving\.zzz") as caught:
        load_recipe("nano-sft", ["saving.zzz=3"])
    assert caught.value.hint == "keys here: every, keep, dtype, best"
    path = tmp_path / "mine.yaml"
    path.write_text("base: nano-sft\nname: mine\nbatchsize: 3\n")
    with pytest.raises(UsageError, match="batchsize"):
        load_recipe(str(path))
    with pytest.raises(UsageError, match="no training recipe") as caught:
        load_recipe("nano-stf")
    assert "nano-sft" in caught.value.hint
    with pytest.raises(UsageError, match=r"there is no file .*absent\.yaml"):
        load_recipe(str(tmp_path / "absent.yaml"))


def test_rewards_without_weight_teach_nothing() -> None:
    with pytest.raises(UsageError, match=r"grpo\.rewards: no reward has a weight"):
        load_recipe("nano-stage2", ["grpo.rewards=[{name: box, weight: 0}, {name: mask, weight: 0}]"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["stage=grpo"], "the section grpo belongs to stage grpo"),
        (["model.qwen=x"], "model: name one start"),
        (["batch.micro=3"], "batch: units must be a multiple of micro"),
        (["optimiser.steps=0"], r"optimiser\.steps: .*greater than or equal to 1"),
        (["data.unit=nothing"], r"data\.unit: Input should be 'expression'"),
        (["text.weight=0"], "text and mask loss both have weight 0"),
        (["optimiser.rates.everything=1"], r"optimiser\.rates\.everything\."),
        (["data.curriculum.measure=3"], "a curriculum needs rewards"),
        (["optimiser.rates={head: 1}", "optimiser.muon=[]", "lora.rank=4"], "lora trains the language model"),
        (["nonsense"], "nonsense: expected key=value"),
        (["name.x=1"], "name is not a section"),
        (["optimiser.muon=[vision]"], "group vision has no learning rate"),
        (["data.recolour=0.5"], r"data\.recolour belongs to stage vision"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(settings: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_recipe("nano-sft", settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["model.fresh={width: 161}"], r"model\.fresh: width must be a multiple of twice heads"),
        (["model.fresh={width: 155}"], r"model\.fresh: width must be"),  # five heads of 31 channels
        (["model.fresh={heads: 3}"], r"model\.fresh: width must be"),
        (["model.fresh={vision_width: 130}"], r"model\.fresh: vision_width must be a multiple of four times"),
        (["model.fresh={side: 100}"], r"model\.fresh\.side: .*multiple of 14"),
        (["model.fresh={side: 0}"], r"model\.fresh\.side: "),
        (["model.fresh={sam_side: 100}"], r"model\.fresh\.sam_side: .*multiple of 32"),
        (["model.fresh={sam_width: 20}"], r"model\.fresh\.sam_width: .*multiple of 8"),
        (["model.fresh={sam_trunk: [8, 16, 32, 66]}"], r"model\.fresh: sam_trunk: .*multiple of 4"),
        (["model.fresh={sam_trunk: [8, 8, 16, 32]}"], r"model\.fresh: sam_trunk: neighbouring widths must differ"),
        (["model.fresh={head_width: 34}"], r"model\.fresh\.head_width: .*multiple of 4"),
        (["model.fresh={theta: 0}"], r"model\.fresh\.theta: "),
        (["model.fresh={layers: 0}"], r"model\.fresh\.layers: "),
        (["model.fresh={step: 0}"], r"model\.fresh\.step: "),
        (["model.fresh={queries: 0}"], r"model\.fresh\.queries: "),
        (["model.fresh={answer_tokens: 0}"], r"model\.fresh\.answer_tokens: "),
        (["model.like={side: 100}"], r"model\.like\.side: "),
        (["model.queries=0"], r"model\.queries: "),
        (["optimiser.betas=[2, 3]"], r"optimiser\.betas\.0: .*less than 1"),
        (["optimiser.betas=[0.9, -1]"], r"optimiser\.betas\.1: "),
        (["optimiser.epsilon=-1"], r"optimiser\.epsilon: .*greater than 0"),
        (["optimiser.rates={}"], r"optimiser\.rates: .*at least 1"),
        (['answer.text="{expresion} {box}"'], r"answer: text .*: '\{expresion\} \{box\}' may name \{expression\}"),
        (['answer.text="{rationale[0]}"'], "answer: text cannot be filled in"),
        (['answer.text="{"'], "answer: text cannot be filled in"),
        (['answer.text="{} {box}"'], "answer: text cannot be filled in"),
        (['answer.box="{x9}"'], r"answer: box cannot be filled in: .*\{x1\}, \{y1\}, \{x2\}, \{y2\}; a brace"),
        (["model.prompt.question=the {expresion}"], r"model\.prompt: question needs the placeholder \{expression\}"),
        (["name=My Recipe"], "name: 'My Recipe' is not a name: lower-case letters"),
        (["model_name=a/b"], "model_name: 'a/b' is not a name"),
        (["model.prompt.qestion=x"], r"model\.prompt: there is no such key 'qestion'"),
        (["answer.box='{\"bbox_2d\": [{x1}, {y1}, {x2}, {y2}]}'"], "a brace that is meant as one is doubled"),
    ],
)  # fmt: skip
def test_what_would_break_later_is_refused(settings: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_recipe("nano-sft", settings)


def test_settings_and_base(tmp_path: Path) -> None:
    found = single(
        "nano-sft", "optimiser.rates.language=1e-4", "seed=7", "data.held_out=[]",
        "runtime.report_to=[tensorboard, wandb]", "runtime.precision=no",
    )  # fmt: skip
    assert found.optimiser.rates["language"] == 1e-4 and found.optimiser.rates["embeddings"] == 1.2e-3
    assert found.seed == 7 and found.data.held_out == () and found.runtime.report_to == ("tensorboard", "wandb")
    assert found.runtime.precision == "no"
    path = tmp_path / "mine.yaml"
    path.write_text("base: nano-stage2\nname: mine\ndata: {curriculum: null}\ngrpo: {loss_type: dr_grpo}\n")
    mine = single(str(path))
    assert mine.data.curriculum is None and mine.grpo is not None and mine.grpo.loss_type == "dr_grpo"
    assert mine.grpo.num_generations == 8
    loop = tmp_path / "loop.yaml"
    loop.write_text(f"base: {loop}\n")
    with pytest.raises(UsageError, match="based on itself"):
        load_recipe(str(loop))


def test_paths_in_a_file_are_relative_to_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sub" / "stages").mkdir(parents=True)
    (tmp_path / "sub" / "base.yaml").write_text("base: nano-sft\nseed: 7\n")
    (tmp_path / "sub" / "stages" / "mine.yaml").write_text("base: ../base.yaml\nname: mine\n")
    (tmp_path / "sub" / "chain.yaml").write_text(
        "name: both\nchain: [{recipe: nano-vlm}, {recipe: stages/mine.yaml}]\n"
    )
    (tmp_path / "other.yaml").write_text("base: sub/chain.yaml\nname: other\n")
    for place in (tmp_path, tmp_path / "sub" / "stages"):
        monkeypatch.chdir(place)
        assert single(str(tmp_path / "sub" / "stages" / "mine.yaml")).seed == 7
    assert single("mine.yaml").seed == 7
    monkeypatch.chdir(tmp_path)
    for name in ("sub/chain.yaml", "other.yaml"):
        for stage in ("stages/mine.yaml", "sub/stages/mine.yaml"):
            jobs = plan_jobs(name, [f"{stage}:optimiser.steps=3"], None)
            assert [(j.recipe.name, j.recipe.optimiser.steps == 3) for j in jobs] == [
                ("nano-vlm", False),
                ("mine", True),
            ]
    (tmp_path / "sub" / "stages" / "lost.yaml").write_text("base: base.yaml\n")
    with pytest.raises(UsageError, match=r"there is no file sub/stages/base\.yaml"):
        load_recipe("sub/stages/lost.yaml")
    (tmp_path / "sub" / "stages" / "loop.yaml").write_text("base: ../stages/loop.yaml\n")
    with pytest.raises(UsageError, match="based on itself"):
        load_recipe("sub/stages/loop.yaml")


def test_null_freezes_a_group(tmp_path: Path) -> None:
    frozen = single("nano-sft", "optimiser.rates.language=null", "optimiser.muon=[]")
    assert frozen.optimiser.rates == {"embeddings": 1.2e-3}
    # Also in a section of one's own, which replaces none of a base.
    alone = single("nano-sft", "optimiser={rates: {head: 1, vision: null}, steps: 3}", "data.images=null")
    assert alone.optimiser.rates == {"head": 1} and alone.data.images is None
    # Elsewhere it is a value.
    other = single("nano-sft", "evaluation=null", "model.prompt.max_length=null")
    assert other.evaluation is None and other.model.prompt == {"max_length": None}
    with pytest.raises(UsageError, match=r"optimiser\.rates\.haed"):
        load_recipe("nano-sft", ["optimiser.rates.haed=null"])
    with pytest.raises(UsageError, match=r"optimiser\.rates: .*at least 1"):
        load_recipe("lens-3b-stage1", ["optimiser.rates.head=null"])


def test_chain_settings_reach_all_or_one(tmp_path: Path) -> None:
    jobs = plan_jobs("nano", ["seed=5", "nano-sft:optimiser.steps=11"], tmp_path, paper_data=True)
    assert [j.recipe.seed for j in jobs] == [5] * 6
    assert {j.recipe.name: j.recipe.optimiser.steps for j in jobs}["nano-sft"] == 11
    assert [j.follows for j in jobs] == [None, *(j.folder for j in jobs[:-1])]
    assert all(j.recipe.data.paper_data for j in jobs)
    with pytest.raises(UsageError, match="no stage"):
        plan_jobs("nano", ["nano-stf:seed=1"], tmp_path)


def test_every_shipped_file_is_a_recipe() -> None:
    assert {p.name for p in RECIPES.iterdir() if p.suffix == ".yaml"} == {f"{n}.yaml" for n in recipe_names()}


def test_schedules() -> None:
    config = tiny_recipe("supervised", {"optimiser": {"steps": 100, "warmup": 10, "floor": 0.1}}).optimiser
    assert [rate_share(config, s) for s in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0])
    assert rate_share(config, 10) == 1.0 and rate_share(config, 55) == pytest.approx(0.1 + 0.9 * 0.5)
    cosine = config.model_copy(update={"schedule": "cosine"})
    assert rate_share(cosine, 55) == pytest.approx(0.55) and rate_share(cosine, 100) == pytest.approx(0.1)
    assert rate_share(config.model_copy(update={"schedule": "constant"}), 99) == 1.0


def test_dry_run_counts_what_trains(data_root: Path) -> None:
    plan = make_plan(tiny_recipe("grpo"), data_root)
    assert set(plan.trainable) == {"embeddings", "language", "head", "sam_prompt", "sam_decoder"}
    assert plan.trainable["embeddings"] == 152 * 48 and plan.trainable["sam_prompt"] == 32
    assert plan.units is not None and plan.units > 24 and plan.seconds > 0 and not plan.notes
    absent = make_plan(tiny_recipe("grpo", {"data": {"held_out": ["shapes/testA"]}}), data_root)
    assert absent.units is None and "testA" in absent.notes[0]
    heavier = make_plan(tiny_recipe("grpo", {"grpo": {"share_prefix": False}}), data_root)
    assert heavier.tokens > plan.tokens and heavier.flops > plan.flops
    without = make_plan(tiny_recipe("grpo", {"grpo": {"beta": 0}}), data_root)
    assert without.memory[0].peak < plan.memory[0].peak and "reference" not in without.memory[0].parts


def test_dry_run_of_the_full_size_needs_no_weights(data_root: Path) -> None:
    plan = make_plan(single("lens-3b-stage1"), data_root)
    # The authors' head: queries, four blocks, pooling, projection (474.9 M).
    assert plan.trainable == {"head": 474_853_632}
    assert "Qwen2.5-VL-3B" in plan.notes[0]


@pytest.mark.parametrize(
    ("base", "language_model"),
    # Parameters of the released checkpoints, tower included, from the metadata of their safetensors files.
    [("Qwen/Qwen2.5-VL-3B-Instruct", 3_754_622_976), ("Qwen/Qwen2.5-VL-7B-Instruct", 8_292_166_656)],
)
def test_dry_run_knows_other_bases(base: str, language_model: int, data_root: Path) -> None:
    recipe = single("lens-3b-stage1", f"model.qwen={base}")
    with torch.device("meta"):
        lens = random_start(recipe)
    assert sum(p.numel() for p in lens.qwen.parameters()) == language_model
    assert base in make_plan(recipe, data_root).notes[0]


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("model.qwen=Qwen/Qwen3-VL-4B-Instruct", "LENS is built on Qwen2-VL and Qwen2.5-VL"),
        ("model.qwen=somebody/else", "somebody/else is not at hand, and its sizes are not known"),
    ],
)
def test_dry_run_of_an_unknown_base_is_refused(setting: str, reason: str, data_root: Path) -> None:
    with pytest.raises(UsageError, match=reason) as caught:
        make_plan(single("lens-3b-stage1", setting), data_root)
    assert "qwen2.5-vl-7b" in caught.value.hint
    with pytest.raises(UsageError, match="no checkpoint in results/nowhere"):
        make_plan(single("lens-3b-stage2", "model.checkpoint=results/nowhere"), data_root)


def test_dry_run_says_what_fits_where(data_root: Path) -> None:
    plan = make_plan(single("lens-3b-stage2"), data_root, gpus=8)
    plain, divided, adapters = plan.memory
    assert [m.layout for m in plan.memory] == ["plain", "FSDP", "LoRA"]
    trained = sum(plan.trainable.values())
    assert plain.parts["moments"] == 8 * trained and divided.parts["moments"] == trained
    # 16 bytes a trained parameter, and the reference beside them: no card of 80 GB holds it whole.
    assert plain.peak > 16 * trained and plain.cards == (141,)
    assert divided.parts["gathered copy"] == 4 * plan.parameters and 24 not in divided.cards and 48 in divided.cards
    assert 24 in adapters.cards and adapters.peak < divided.peak
    alone = make_plan(single("lens-3b-stage2"), data_root, gpus=1)
    assert [m.layout for m in alone.memory] == ["plain", "LoRA"]
    assert alone.h100_seconds[0] == pytest.approx(8 * plan.h100_seconds[0])
    engine = make_plan(single("lens-3b-stage2", "grpo.rollouts=vllm", "grpo.vllm_share=0.5"), data_root, gpus=8)
    assert engine.memory[1].vllm == 0.5 and len(engine.memory[1].cards) < len(divided.cards)
    sleeping = ("grpo.rollouts=vllm", "grpo.vllm_share=0.5", "grpo.vllm_sleep=true")
    resting = make_plan(single("lens-3b-stage2", *sleeping), data_root, gpus=8).memory[1]
    # Both parts of a step have to fit, the sampling one alone beside vLLM.
    assert set(engine.memory[1].cards) <= set(resting.cards) and resting.training == engine.memory[1].training
    for size in (24, 48, 80, 141):
        fits = resting.training <= 0.92e9 * size and resting.sampling <= 0.42e9 * size
        assert (size in resting.cards) is fits


def test_dry_run_takes_the_sizes_of_the_data(tmp_path: Path) -> None:
    write_own_set(tmp_path, "train", 6)
    recipe = tiny_recipe("supervised", {"data": {"splits": ["coco-json/train"], "held_out": [], "unit": "expression"}})
    wide = recipe.model_copy(update={"model": recipe.model.model_copy(update={"prompt": {"sizing": "smart"}})})
    # 64x48 pixels are fewer tokens than the 640x480 that are assumed without data.
    assert make_plan(wide, tmp_path).tokens < make_plan(wide, tmp_path / "nothing").tokens


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.2, "less than a second"),
        (40, "40 seconds"),
        (3600, "60 minutes"),
        (7 * 3600, "7 hours"),
        (5 * 86400, "5 days"),
        (150 * 31557600, "150 years"),
    ],
)
def test_durations_have_human_units(seconds: float, shown: str) -> None:
    assert in_human_time(seconds) == shown


@pytest.mark.parametrize(
    ("low", "high", "shown"),
    [
        (0.1, 0.5, "less than a second"),
        (4 * 86400, 6 * 86400, "4 to 6 days"),
        (1.0, 2.0, "1 to 2 seconds"),
        (3000.0, 7200.0, "50 minutes to 2 hours"),
    ],
)
def test_a_range_of_times_names_a_unit_once(low: float, high: float, shown: str) -> None:
    assert human_range(low, high) == shown


@pytest.mark.parametrize("name", ["lens-3b-reasonseg", "lens-3b-reasonseg-cot"])
def test_reasonseg_recipes_have_room_for_their_answers(name: str) -> None:
    recipe = single(name)
    asked = as_trained(lens_3b(), recipe.model).recipe
    # evaluate_reasonseg.py: longest side to 640, OpenCV for SAM 2.
    assert (asked.sizing, asked.longest_side, asked.sam_resize) == ("longest-side", 640, "opencv")
    assert recipe.grpo is not None
    text = len(asked.question) // 3 + 80  # more tokens than any question of ReasonSeg needs
    sizes = [(683, 1024), (1024, 1024), (3000, 4000), (300, 200), (640, 640)]
    assert shortage(sizes, asked, Patching(), text, recipe.grpo.max_completion_length) is None


@pytest.mark.parametrize(
    ("recipe", "card"),
    [
        ("lens-3b-stage1", "lens-3b"),
        ("lens-3b-stage2", "lens-3b"),
        ("sft-3b", "lens-3b"),
        ("lens-3b-reasonseg", "lens-3b-reasonseg"),
        ("lens-3b-reasonseg-cot", "lens-3b-reasonseg-cot"),
    ],
)
def test_recipes_ask_what_the_card_of_their_model_asks(recipe: str, card: str) -> None:
    asked = as_trained(lens_3b(), single(recipe).model).recipe
    for name in ("question", "sizing", "max_pixels", "longest_side", "sam_resize", "coordinates", "strip_caption"):
        assert getattr(asked, name) == find_model(card).args[name].default, name


def test_a_recipe_may_ask_as_a_card_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "asker").mkdir()
    (tmp_path / "asker" / "model.yaml").write_text(
        "name: asker\ntitle: A\nsummary: S\nadapter: a.py:A\nargs:\n"
        "  question: {default: 'Where is {expression}?', help: h}\n  rows: {default: 3, help: h}\n"
    )
    found = single("lens-3b-reasonseg", f"model.prompt.card={tmp_path}/asker")
    # Overrides of the recipe stand behind what the card says; arguments that are no prompt are left out.
    assert found.model.prompt == {"question": "Where is {expression}?", "max_length": 1024}
    assert single("lens-3b-reasonseg", "model.prompt.card=null").model.prompt == {"max_length": 1024}
    with pytest.raises(UsageError, match=r"model\.prompt\.card: there is no model 'lens-3b-reasonsg'") as caught:
        load_recipe("lens-3b-reasonseg", ["model.prompt.card=lens-3b-reasonsg"])
    assert "did you mean lens-3b-reasonseg" in caught.value.hint
    with pytest.raises(UsageError, match="sam3-text does not say how a LENS is asked"):
        load_recipe("lens-3b-reasonseg", ["model.prompt.card=sam3-text"])


def test_the_released_forced_answer_can_be_written() -> None:
    # The example of docs/training.md, and what trainer_stage1.py writes for a box in the pixels of the resized image.
    docs = (RECIPES.parents[2] / "docs" / "training.md").read_text()
    example = yaml.safe_load(re.findall(r"```yaml\n(base: lens-3b-stage1\n.*?)```", docs, re.DOTALL)[0])
    answer = Answer(**example["answer"])
    sample = Sample("s", "i", Path("i.jpg"), "the {red} bird", GroundTruth((100, 200)))
    nothing = torch.zeros(0)
    prepared = Prepared(nothing, (1, 1, 1), seen=(200, 400), original=(100, 200), square=nothing)
    text = answer_text(answer, Item(sample, "i"), (10.0, 20.0, 50.0, 60.0), prepared, "pixels")
    assert text == "<|object_ref_start|>the {red} bird.<|object_ref_end|><|box_start|>(20,40),(100,120)<|box_end|>"
    assert first_box(text) == SaidBox((20, 40, 100, 120), "pixels")


@pytest.mark.parametrize(
    ("recipe", "settings", "message"),
    [
        ("nano-stage2", ["text.weight=5"], "text belongs to stage supervised"),
        ("nano-sam", ["text.smoothing=3"], "text belongs to stage supervised"),
        ("nano-sft", ["mask.correctness=box"], r"mask\.correctness belongs to stage grpo"),
        ("nano-sam", ["mask.weight=7"], r"stage sam has one loss: mask\.weight"),
        ("nano-vlm", ["mask.weight=0"], r"stage vision has one loss: mask\.weight"),
        ("lens-3b-stage2-lora", ["optimiser.rates.embeddings=1e-6"], r"lora with grpo\.beta: embeddings cannot train"),
        ("lens-3b-stage2", ["lora={rank: 4}"], r"lora with grpo\.beta: "),
        ("nano-stage2", ["grpo.epsilon=0.1"], r"epsilon changes nothing where every ratio is 1"),
        ("nano-stage2", ["grpo.loss_type=cispo"], "loss_type: cispo changes nothing where every ratio is 1"),
        (
            "nano-stage2",
            ["grpo={ratio_to: sampler, loss_type: cispo, importance_sampling_level: sequence}"],
            "each token",
        ),
    ],
)
def test_what_a_stage_would_not_look_at_is_refused(recipe: str, settings: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_recipe(recipe, settings)

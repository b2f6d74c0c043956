"""LISA as a model of the harness: prompts, modes, errors, and a run over the generated suite."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lens_bench import masks
from lens_bench.errors import CheckpointError, DataError, UsageError
from lens_bench.finite import MASK_SCORES, TOKEN_SCORES
from lens_bench.records import ImageTask, Query
from lens_bench.registry import catalogue, find_model
from lens_bench.report.published import read_published
from lens_bench.run.answer import BatchSize, answer
from lens_bench.segmenter import Segmenter, SupportsDigest

ROOT = Path(__file__).resolve().parents[2]
Folders = tuple[Path, Path]
Llava = Callable[..., Segmenter]
Pictures = Callable[..., list[ImageTask]]
NAMES = ["lisa-7b", "lisa-7b-explanatory", "lisa-13b-llama2", "lisa-13b-llama2-explanatory"]


def test_cards() -> None:
    assert [card.name for card in catalogue().models if card.folder.name == "lisa"] == NAMES
    known = {row.model for row in read_published(ROOT / "results" / "published.csv")}
    for name in NAMES:
        card = find_model(name)
        assert card.weights is not None and card.weights.hub == card.args["hub"].default
        assert card.dtypes[0] == "bfloat16"  # the authors' precision, and what a GPU run takes by default
        assert {p.model for p in card.published} <= known


@pytest.mark.parametrize(
    ("is_sentence", "question"),
    [
        (None, "What is the red car in this image? Please output segmentation mask."),
        (False, "What is the RED car in this image? Please output segmentation mask."),
        (True, "the RED car Please output segmentation mask."),
    ],
)
def test_questions_and_case_follow_the_validation(llava: Llava, is_sentence: bool | None, question: str) -> None:
    query = Query("s", " the RED car ", "", is_sentence)
    forced = llava("lisa-7b", (Path("a"), Path("b"))).turn(query)
    assert (forced.question, forced.answer) == (question, "[SEG].")
    free = llava("lisa-7b", (Path("a"), Path("b")), mode="generated").turn(query)
    assert (free.question, free.answer) == (question, None)


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("phrase", "Segment it.", r"phrase='Segment it.' has no \{expression\}"),
        ("sentence", "", r"sentence='' has no \{expression\}"),
        ("answer", "Sure.", r"answer='Sure.' has no \[SEG\]"),
        ("max_new_tokens", 0, "at least 1"),
        ("rows", -1, "at least 0"),
    ],
)
def test_arguments_that_cannot_be_used(llava: Llava, argument: str, value: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        llava("lisa-7b", (Path("a"), Path("b")), **{argument: value})


def test_forced_answers_do_not_depend_on_the_batch(llava: Llava, lisa_folders: Folders, pictures: Pictures) -> None:
    tasks = pictures(["the left one", "a man with a hat"], [], ["dog"])
    model = llava("lisa-7b", lisa_folders)
    report = model.load()
    assert report.parameters > 1_000_000 and report.notes
    together = model.segment(tasks)
    assert [p.sample_id for p in together] == ["i0/s0", "i0/s1", "i2/s0"]
    assert {p.status for p in together} == {"ok"}
    assert all(p.text == "[SEG]." and p.tokens is not None and p.tokens.completion == 0 for p in together)
    assert {"vision tower", "language", "SAM features", "masks"} <= set(together[0].stages_ms)
    assert len({p.mask for p in together}) == 3
    for task, expected in zip((tasks[0], tasks[2]), (together[:2], together[2:]), strict=True):
        for mine, theirs in zip(model.segment([task]), expected, strict=True):
            assert mine.mask is not None and theirs.mask is not None
            assert masks.area(mine.mask) + masks.area(theirs.mask) - 2 * masks.overlap(mine.mask, theirs.mask) <= 3
    model.close()


def test_bfloat16_gives_about_the_same_masks(llava: Llava, lisa_folders: Folders, pictures: Pictures) -> None:
    tasks = pictures(["the left one"])
    found = []
    for dtype in ("float32", "bfloat16"):
        model = llava("lisa-7b", lisa_folders, dtype=dtype)
        model.load()
        found.append(model.segment(tasks)[0].mask)
        model.close()
    plain, low = found
    assert plain is not None and low is not None and low.size == tasks[0].size
    assert 0 < masks.area(masks.union([plain, low], plain.size)) < 1.3 * masks.overlap(plain, low)


@pytest.fixture(scope="module")
def talkative(lisa_folders: Folders, tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Weights that write nothing but [SEG] and <unk>, by the sign of one direction of the hidden state."""
    import torch

    folder = shutil.copytree(lisa_folders[0], tmp_path_factory.mktemp("talkative") / "model")
    seg = json.loads((folder / "added_tokens.json").read_text())["[SEG]"]
    for shard in folder.glob("*.bin"):
        tensors = torch.load(shard, weights_only=True)
        if "lm_head.weight" in tensors:
            row = -tensors["lm_head.weight"][seg]
            tensors["lm_head.weight"] = torch.zeros_like(tensors["lm_head.weight"])
            tensors["lm_head.weight"][seg] = row
            torch.save(tensors, shard)
    return folder, lisa_folders[1]


def test_written_answers_have_none_one_or_several_masks(llava: Llava, talkative: Folders, pictures: Pictures) -> None:
    tasks = pictures(["the left one", "a man with a hat", "dog", "sky", "b"], ["two zebras", "grass", "0"])
    answers = {}
    for several in ("first", "union"):
        model = llava("lisa-7b", talkative, mode="generated", several=several, max_new_tokens=3)
        model.load()
        answers[several] = model.segment(tasks)
        model.close()
    counts = [str(p.text).count("[SEG]") for p in answers["first"]]
    assert min(counts) == 0 and max(counts) > 1
    for count, first, union in zip(counts, answers["first"], answers["union"], strict=True):
        assert first.text == union.text
        assert first.tokens is not None and first.tokens.completion == 3
        if count == 0:
            assert (first.status, first.mask) == (union.status, union.mask) == ("no_mask", None)
            continue
        assert first.mask is not None and union.mask is not None
        assert masks.overlap(first.mask, union.mask) == masks.area(first.mask)
        assert count > 1 or first.mask == union.mask


def test_an_expression_with_the_mask_token_costs_only_itself(
    llava: Llava, lisa_folders: Folders, pictures: Pictures
) -> None:
    model = llava("lisa-7b", lisa_folders)
    model.load()
    tasks = pictures(["dog", "what is [SEG] here"], is_sentence=False)
    with pytest.raises(DataError, match="special token"):
        model.segment(tasks)
    assert [p.status for p in answer(model, tasks, BatchSize(4))] == ["ok", "error"]
    held = answer(model, pictures(["</s> dog", "a <im_end> b", "cat"], is_sentence=False), BatchSize(4))
    assert [p.status for p in held] == ["error", "error", "ok"] and "'</s>'" in str(held[0].error)


def test_weights_that_are_nowhere_say_how_to_get_them(
    llava: Llava, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = llava("lisa-7b", (tmp_path / "none", tmp_path))
    with pytest.raises(CheckpointError, match="no checkpoint folder"):
        model.load()
    model = llava("lisa-7b", ("", ""), hub="xinlai/there-is-no-such-repository")
    assert isinstance(model, SupportsDigest)
    with pytest.raises(CheckpointError, match="not in the local Hub cache") as caught:
        model.weight_digest()
    assert "hf download xinlai/there-is-no-such-repository" in caught.value.hint


Cli = Callable[..., "subprocess.CompletedProcess[str]"]


def test_a_run_over_the_generated_suite(cli: Cli, lisa_folders: Folders, shapes_root: Path, tmp_path: Path) -> None:
    where = ["--suite", "shapes", "--split", "testA", "--data-root", shapes_root, "--out", tmp_path / "runs"]
    weights = ["--model-arg", f"checkpoint={lisa_folders[0]}", "--model-arg", f"clip={lisa_folders[1]}"]
    command = ["run", *where, "--model", "lisa-7b", *weights, "--limit", 5, "--device", "cpu", "--protocol", "lisa"]
    done = cli(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    (summary_path,) = (tmp_path / "runs").rglob("summary.json")
    summary = json.loads(summary_path.read_text())
    assert summary["complete"] and summary["n_samples"] == 5
    assert summary["metrics"]["error_rate"] == summary["metrics"]["no_mask_rate"] == 0
    rows = [json.loads(line) for line in (summary_path.parent / "predictions.jsonl").read_text().splitlines()]
    assert [row["status"] for row in rows] == ["ok"] * 5
    again = cli(*command)
    assert again.returncode == 0, again.stdout + again.stderr
    assert len((summary_path.parent / "predictions.jsonl").read_text().splitlines()) == 5


def test_the_wrong_tower_ends_the_command_with_5(
    cli: Cli, lisa_folders: Folders, glamm_folders: Folders, shapes_root: Path, tmp_path: Path
) -> None:
    where = ["--suite", "shapes", "--split", "testA", "--data-root", shapes_root, "--out", tmp_path / "runs"]
    weights = ["--model-arg", f"checkpoint={lisa_folders[0]}", "--model-arg", f"clip={glamm_folders[1]}"]
    done = cli("run", *where, "--model", "lisa-7b", *weights, "--limit", 2, "--device", "cpu")
    assert done.returncode == 5, done.stdout + done.stderr
    assert "336 px" in done.stderr and "openai/clip-vit-large-patch14" in done.stderr


def test_numbers_that_are_none_are_errors_of_their_answers(
    llava: Llava, lisa_folders: Folders, pictures: Pictures
) -> None:
    tasks = pictures(["dog", "a ~ cat", "bird"], is_sentence=False)
    for mode, why in (("teacher-forced", MASK_SCORES), ("generated", TOKEN_SCORES)):
        model = llava("lisa-7b", lisa_folders, mode=mode, max_new_tokens=4)
        model.load()
        before = model.segment(tasks)
        inner = model._engine.model  # type: ignore[attr-defined]
        tilde = set(model._tokenizer.encode("a ~ cat"))  # type: ignore[attr-defined]
        tilde -= set(model._tokenizer.encode("a cat"))  # type: ignore[attr-defined]

        def hook(module: object, args: tuple[Tensor, ...], out: Tensor, tilde: set[int] = tilde) -> Tensor:
            held = torch.isin(args[0], torch.tensor(sorted(tilde)))
            return out.masked_fill(held.unsqueeze(-1), float("nan"))

        handle = inner.embedding.register_forward_hook(hook)
        after = model.segment(tasks)
        assert after[1].status == "error" and after[1].error == why
        assert [(after[n].status, after[n].mask) for n in (0, 2)] == [
            (before[n].status, before[n].mask) for n in (0, 2)
        ]
        handle.remove()
        with torch.no_grad():
            next(inner.sam.mask_decoder.parameters()).fill_(float("nan"))
        drawn = [p for p in model.segment(tasks) if p.status != "no_mask"]
        assert {p.error for p in drawn} <= {MASK_SCORES} and (drawn or mode == "generated")

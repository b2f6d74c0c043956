"""GLaMM as a model of the harness: its chained evaluation, the fixed one, and a run over the generated suite."""

from __future__ import annotations

import json
import random
import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lens_bench import masks
from lens_bench.errors import RunError
from lens_bench.records import GroundTruth, ImageTask, Prediction, Sample
from lens_bench.registry import catalogue, find_model, home, import_file
from lens_bench.report.published import read_published
from lens_bench.scoring.select import select_ids
from lens_bench.segmenter import Segmenter, SupportsExpect

ROOT = Path(__file__).resolve().parents[2]
Folders = tuple[Path, Path]
Llava = Callable[..., Segmenter]
Pictures = Callable[..., list[ImageTask]]
NOWHERE = (Path("a"), Path("b"))
templates = import_file(home("baselines") / "glamm" / "templates.py")
draws = import_file(home("baselines") / "glamm" / "draws.py")


def test_cards() -> None:
    names = [card.name for card in catalogue().models if card.folder.name == "glamm"]
    assert names == ["glamm-refseg", "glamm-fullscope"]
    cards = [find_model(name) for name in names]
    known = {row.model for row in read_published(ROOT / "results" / "published.csv")}
    assert all({p.model for p in card.published} <= known for card in cards)
    assert find_model("glamm").name == "glamm-refseg"


def test_templates_are_eight_each_with_and_without_its_last_mark() -> None:
    assert len(set(templates.QUESTIONS)) == 16
    assert all(q.count("{expression}") == 1 for q in templates.QUESTIONS)
    assert [q[:-1] for q in templates.QUESTIONS[:8]] == list(templates.QUESTIONS[8:])
    assert all(a.count("[SEG]") == 1 for a in templates.ANSWERS)


def test_draws_are_even_and_functions_of_seed_and_name() -> None:
    drawn = [draws.pick(range(5), 1, "answer", f"s{n}") for n in range(5000)]
    assert all(900 < count < 1100 for count in Counter(drawn).values())
    assert drawn == [draws.pick(range(5), 1, "answer", f"s{n}") for n in range(5000)]
    assert drawn != [draws.pick(range(5), 2, "answer", f"s{n}") for n in range(5000)]
    assert drawn != [draws.pick(range(5), 1, "question", f"s{n}") for n in range(5000)]


# ---------------------------------------------------------------------------------------------- chains


def samples(tasks: list[ImageTask]) -> list[Sample]:
    return [
        Sample(q.sample_id, t.image_id, None, q.expression, GroundTruth(t.size))  # type: ignore[arg-type]
        for t in tasks
        for q in t.queries
    ]


@pytest.mark.parametrize("seed", [0, 7])
def test_the_first_chain_of_an_image_is_what_the_protocol_counts(llava: Llava, pictures: Pictures, seed: int) -> None:
    tasks = pictures([f"thing {n}" for n in range(8)], ["one", "two"], [f"other {n}" for n in range(4)])
    model = llava("glamm-refseg", NOWHERE, seed=seed, mode="glamm-paper")
    assert isinstance(model, SupportsExpect)
    model.expect(tasks)
    chains = [set(c.sample_ids) for c in model.conversations(tasks)]
    assert sorted(len(c) for c in chains) == [1, 2, 2, 3, 3, 3]
    counted = select_ids(samples(tasks), "three_per_image", seed)
    for task in tasks:
        assert {i for i in counted if i.startswith(f"{task.image_id}/")} in chains


def test_chains_do_not_depend_on_what_is_asked_when(llava: Llava, pictures: Pictures) -> None:
    tasks = pictures([f"thing {n}" for n in range(8)], [f"other {n}" for n in range(5)])
    model = llava("glamm-refseg", NOWHERE, mode="glamm-paper")
    model.expect(tasks)
    whole = {name: c for c in model.conversations(tasks) for name in c.sample_ids}
    shuffled = llava("glamm-refseg", NOWHERE, mode="glamm-paper")
    shuffled.expect([replace(t, queries=tuple(random.Random(1).sample(t.queries, len(t.queries)))) for t in tasks])
    for task in tasks:
        for query in task.queries:
            (alone,) = shuffled.conversations([replace(task, queries=(query,))])
            assert replace(alone, image=whole[query.sample_id].image) == whole[query.sample_id]
    other = llava("glamm-refseg", NOWHERE, seed=1, mode="glamm-paper")
    other.expect(tasks)
    assert {c.sample_ids for c in other.conversations(tasks)} != {c.sample_ids for c in whole.values()}
    with pytest.raises(RunError, match="was not announced"):
        llava("glamm-refseg", NOWHERE, mode="glamm-paper").conversations(tasks)


def test_questions_are_lower_case_and_drawn(llava: Llava, pictures: Pictures) -> None:
    tasks = pictures([f" Thing {n} " for n in range(40)])
    model = llava("glamm-refseg", NOWHERE, mode="glamm-paper")
    model.expect(tasks)
    turns = [turn for c in model.conversations(tasks) for turn in c.turns]
    assert all(" thing " in turn.question and "{" not in turn.question for turn in turns)
    assert len({turn.answer for turn in turns}) == 5
    fixed = llava("glamm-refseg", NOWHERE).conversations(pictures([" The Dog "], ["Why so?"]))
    assert fixed[0].turns[0].question == "Please segment the dog in this image."
    assert fixed[0].turns[0].answer == "Sure, it is [SEG]."
    (sentence,) = llava("glamm-refseg", NOWHERE, mode="generated").conversations(
        pictures(["Why so?"], is_sentence=True)
    )
    assert (sentence.turns[0].question, sentence.turns[0].answer) == ("Why so? Please output segmentation mask.", None)


def close(a: Prediction, b: Prediction) -> bool:
    assert a.mask is not None and b.mask is not None
    return masks.area(a.mask) + masks.area(b.mask) - 2 * masks.overlap(a.mask, b.mask) <= 3


def test_later_turns_see_earlier_ones_and_batches_change_nothing(
    llava: Llava, glamm_folders: Folders, pictures: Pictures
) -> None:
    tasks = pictures(["left one", "right one", "dog"], ["cat"])
    model = llava("glamm-refseg", glamm_folders, mode="glamm-paper")
    assert isinstance(model, SupportsExpect)
    model.expect(tasks)
    model.load()
    chained = model.segment(tasks)
    assert [p.sample_id for p in chained] == ["i0/s0", "i0/s1", "i0/s2", "i1/s0"]
    one = [model.segment([replace(tasks[0], queries=(query,))])[0] for query in tasks[0].queries]
    assert all(close(a, b) for a, b in zip(chained, one, strict=False))
    # The same words, each in a conversation of its own: only the first turn of the chain stays as it was.
    apart = llava("glamm-refseg", glamm_folders, mode="glamm-paper")
    assert isinstance(apart, SupportsExpect)
    apart.expect([replace(tasks[0], queries=(query,)) for query in tasks[0].queries])
    apart.load()
    (conversation,) = model.conversations(tasks[:1])
    by_name = {p.sample_id: p for p in apart.segment(tasks[:1])}
    equal = [close(next(p for p in chained if p.sample_id == n), by_name[n]) for n in conversation.sample_ids]
    assert equal == [True, False, False]


Cli = Callable[..., "subprocess.CompletedProcess[str]"]


def test_a_run_over_the_generated_suite(cli: Cli, glamm_folders: Folders, shapes_root: Path, tmp_path: Path) -> None:
    where = ["--suite", "shapes", "--split", "testA", "--data-root", shapes_root, "--out", tmp_path / "runs"]
    weights = ["--model-arg", f"checkpoint={glamm_folders[0]}", "--model-arg", f"clip={glamm_folders[1]}"]
    mode = ["--model-arg", "mode=glamm-paper", "--protocol", "glamm", "--seed", 3]
    done = cli("run", *where, "--model", "glamm-refseg", *weights, *mode, "--limit", 5, "--device", "cpu")
    assert done.returncode == 0, done.stdout + done.stderr
    (summary_path,) = (tmp_path / "runs").rglob("summary.json")
    summary = json.loads(summary_path.read_text())
    assert summary["complete"] and summary["metrics"]["error_rate"] == 0
    rows = [json.loads(line) for line in (summary_path.parent / "predictions.jsonl").read_text().splitlines()]
    assert [row["status"] for row in rows] == ["ok"] * 5
    assert all(row["text"] in templates.ANSWERS for row in rows)

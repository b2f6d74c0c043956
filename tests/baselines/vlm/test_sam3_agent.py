"""SAM 3's agent: its calls, its pictures, its rules, and the whole way through the run loop and real servers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lens_bench import masks
from lens_bench.errors import UsageError
from lens_bench.finite import MASK_SCORES
from lens_bench.masks import box_of, decode, encode
from lens_bench.records import ModelOptions, Pixels, Rle, Tokens
from lens_bench.registry import find_model, import_file, make_segmenter, resolve_args
from lens_bench.vlm.chat import Conversation, Picture, Reply
from lens_bench.vlm.sizing import Sizing
from lens_bench.vlm.tiny import save_tiny_vlm

from ...vlm.servers import FakeServer, pictures_of, serve, text_of
from .vlm_runs import IMAGES, run

FOLDER = Path(__file__).resolve().parents[3] / "baselines" / "sam3"
LOW = 0.01


def part(name: str) -> ModuleType:
    return import_file(FOLDER / f"{name}.py")


def call(name: str, **parameters: object) -> str:
    return f"<think>hm</think>\n<tool>{json.dumps({'name': name, 'parameters': parameters})}</tool>"


SEGMENT = call("segment_phrase", text_prompt="dog")
EXAMINE, NOTHING = call("examine_each_mask"), call("report_no_mask")


def select(*numbers: object) -> str:
    return call("select_masks_and_return", final_answer_masks=list(numbers))


# ---------------------------------------------------------------------------------------------- calls


def test_calls_are_read() -> None:
    calls = part("calls")
    assert calls.read_call(SEGMENT) == calls.Segment("dog")
    assert calls.read_call(EXAMINE) == calls.Examine() and calls.read_call(NOTHING) == calls.Nothing()
    assert calls.read_call(select(2, 1, "x", 1.5, True, -3)) == calls.Select((2, 1, -3))
    assert calls.read_call(SEGMENT + NOTHING) == calls.Segment("dog")  # the first of several
    assert calls.read_call(SEGMENT.removesuffix("</tool>")) == calls.Segment("dog")  # cut off behind the JSON
    assert calls.read_call(SEGMENT.replace("}}", "}}}")) == calls.Segment("dog")
    assert calls.first_call(SEGMENT + NOTHING) == SEGMENT


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no <tool>"),
        ("It is the dog.", "no <tool>"),
        ("</tool><tool>{}</tool>", "no <tool>"),
        ("<tool>{name: dog}</tool>", "not JSON"),
        ("<tool>" + "[" * 100_000 + "</tool>", "not JSON"),
        ('<tool>["segment_phrase"]</tool>', "names no tool"),
        (call("paint"), "no tool 'paint'"),
        (call("segment_phrase", phrase="dog"), "takes text_prompt and nothing else"),
        (call("segment_phrase", text_prompt="dog", box=[1]), "takes text_prompt and nothing else"),
        (call("segment_phrase", text_prompt=["dog"]), "cannot take this text_prompt"),
        (call("segment_phrase", text_prompt=" "), "cannot take this text_prompt"),
        (call("select_masks_and_return", final_answer_masks=1), "cannot take this final_answer_masks"),
    ],
)
def test_malformed_calls_say_why(text: str, why: str) -> None:
    found = part("calls").read_call(text)
    assert type(found).__name__ == "Malformed" and why in found.why and len(found.why) < 250


PIECES = [
    "<tool>",
    "</tool>",
    "{",
    "}",
    '"name"',
    ":",
    ",",
    "[",
    "]",
    "1",
    '"segment_phrase"',
    '"parameters"',
    "<verdict>",
]
NOISE = st.lists(st.sampled_from([*PIECES, '"text_prompt"', "Accept", "Reject", "\\ud800", " "]), max_size=25).map(
    "".join
)


@given(NOISE | st.text(max_size=50))
def test_every_text_has_a_result(text: str) -> None:
    calls = part("calls")
    assert type(calls.read_call(text)).__name__ in {"Segment", "Examine", "Select", "Nothing", "Malformed"}
    verdict = calls.read_verdict(text)
    assert verdict in ("Accept", "Reject") or type(verdict).__name__ == "Malformed"


def test_verdicts() -> None:
    read = part("calls").read_verdict
    assert read("<think>Reject?</think><verdict>Accept</verdict>") == "Accept"
    assert read("<verdict> Reject. </verdict> I would not Accept") == "Reject"
    for text in ("<verdict>maybe</verdict>", "<verdict>Accept or Reject</verdict>", ""):
        assert "without a verdict" in read(text).why


# ---------------------------------------------------------------------------------------------- pictures and overlap


def rectangle(x1: int, y1: int, x2: int, y2: int, size: tuple[int, int] = (60, 80)) -> Rle:
    mask = np.zeros(size, dtype=bool)
    mask[y1:y2, x1:x2] = True
    return encode(mask)


def thing(mask: Rle, score: float) -> Any:
    return part("concepts").Instance(mask, box_of(mask), score)


def test_repeats_are_left_out() -> None:
    big, inside, beside, touching = (
        thing(rectangle(*box), score)
        for box, score in (((0, 0, 40, 40), 0.9), ((5, 5, 20, 20), 0.8), ((45, 0, 80, 40), 0.7), ((30, 0, 70, 40), 0.6))
    )
    less = part("overlap").without_repeats
    assert less([big, inside, beside, touching]) == (big, beside)
    assert less([inside, big]) == (inside,) and less([]) == ()
    barely = thing(rectangle(28, 0, 68, 40), 0.5)  # shares exactly the allowed three tenths
    assert less([big, barely]) == (big, barely)


def test_marks_show_each_mask_and_leave_the_rest() -> None:
    marks = part("marks")
    image = np.full((60, 80, 3), 100, dtype=np.uint8)
    one, two = rectangle(5, 5, 35, 35), rectangle(45, 20, 75, 55)
    plain = marks.with_masks(image, [one, two])
    numbered = marks.with_masks(image, [one, two], [1, 2])
    assert (image == 100).all()
    inside = decode(one) | decode(two)
    assert (plain[inside] != 100).any(axis=1).all() and (plain[~inside] == 100).all()
    assert not np.array_equal(plain[decode(one)][0], plain[decode(two)][0])
    changed = (plain != numbered).any(axis=2)
    assert changed[decode(one)].any() and changed[decode(two)].any()
    tiny = rectangle(79, 59, 80, 60)
    assert marks.with_masks(image, [tiny, masks.empty((60, 80))], [11, 12]).shape == image.shape
    # Sixteen pixels around it, cut at the border; the plain and the tinted crop one above the other.
    assert marks.from_near(image, tiny).shape == (2 * 17, 17, 3)
    near = marks.from_near(image, one)
    assert near.shape == (2 * 51, 51, 3) and (near[:51] == 100).all() and (near[51:] != 100).any()


# ---------------------------------------------------------------------------------------------- one agent, scripted


IMAGE = np.random.default_rng(5).integers(0, 256, (60, 80, 3), dtype=np.uint8)
THREE = [((0, 0, 20, 20), 0.9), ((30, 0, 50, 20), 0.8), ((0, 30, 20, 50), 0.7)]


def play(
    *said: str | Callable[[Conversation], str], found: dict[str, list[Any]] | None = None, turns: int = 100
) -> Any:
    """Run one agent on a script; returns its outcome, all conversations it held, and the phrases it used."""
    agent, drive = part("agent"), part("drive")
    script = iter(said)
    held: list[Conversation] = []
    phrases: list[str] = []
    things = {"dog": [thing(rectangle(*box), score) for box, score in THREE], **(found or {})}

    def ask(conversations: list[Conversation]) -> list[Reply]:
        held.extend(conversations)
        answers = [next(script) for _ in conversations]
        texts = [a if isinstance(a, str) else a(c) for a, c in zip(answers, conversations, strict=True)]
        return [Reply(error=t[6:]) if t.startswith("ERROR:") else Reply(t, Tokens(10, 1)) for t in texts]

    def find(wanted: list[tuple[int, str]]) -> list[Any]:
        phrases.extend(phrase for _, phrase in wanted)
        return [part("concepts").Found(tuple(things.get(p, [])), masks.empty((60, 80))) for _, p in wanted]

    show = part("show").Show(Sizing(factor=4, min_pixels=16))
    rules = agent.Rules("SYSTEM", "EXAMINER", turns)
    steps = agent.Agent("the black dog", IMAGE, show, rules).run()
    (outcome,) = drive.drive([steps], ask, find)
    return outcome, held, phrases


def shown(conversation: Conversation) -> list[Picture]:
    return [p for turn in conversation for p in turn.parts if isinstance(p, Picture)]


def test_a_phrase_and_a_selection() -> None:
    outcome, held, phrases = play(SEGMENT, select(3, 1, 9, 1))
    assert phrases == ["dog"] and [t.mask for t in outcome.masks] == [rectangle(*THREE[0][0]), rectangle(*THREE[2][0])]
    assert outcome.failure is outcome.error is None and outcome.tokens == Tokens(20, 2)
    assert outcome.log == "segment_phrase 'dog': 3 masks\nselect_masks_and_return [1, 3] of 3"
    first, second = held
    assert [t.role for t in first] == ["system", "user"] and first[0].text == "SYSTEM"
    assert "the black dog" in first[1].text and len(shown(first)) == 1
    assert [t.role for t in second] == ["system", "user", "assistant", "user"]
    assert shown(second)[0] is shown(first)[0] and "3 masks" in second[3].text
    assert not np.array_equal(shown(second)[1].pixels, shown(second)[0].pixels)


def test_the_conversation_is_cut_back() -> None:
    other = call("segment_phrase", text_prompt="animal")
    third = call("segment_phrase", text_prompt="cat")
    found = {"animal": [thing(rectangle(1, 1, 9, 9), 0.5)]}
    outcome, held, phrases = play(SEGMENT, other, third, SEGMENT, NOTHING, found=found)
    assert phrases == ["dog", "animal", "cat"] and outcome.masks == () and outcome.failure is None
    assert [len(c) for c in held] == [2, 4, 4, 4, 4]
    assert all(len(shown(c)) <= 2 for c in held)
    assert "'dog'" in held[2][1].text and "'animal'" not in held[2][1].text
    assert "'dog', 'animal'" in held[3][1].text and "found nothing for 'cat'" in held[3][3].text
    assert "'dog' was used before" in held[4][3].text and len(shown(held[4])) == 1


def test_only_the_first_call_of_a_turn_stays_in_the_conversation() -> None:
    _, held, _ = play(SEGMENT + "and then " + select(1), select(2))
    assert held[1][2].text == SEGMENT


def test_masks_are_examined_one_by_one() -> None:
    verdicts = [f"<verdict>{v}</verdict>" for v in ("Reject", "Accept", "Accept")]
    outcome, held, _ = play(SEGMENT, EXAMINE, *verdicts, select(1))
    assert [t.mask for t in outcome.masks] == [rectangle(*THREE[1][0])]
    questions = held[2:5]
    assert all(q[0].text == "EXAMINER" and len(shown(q)) == 3 for q in questions)
    assert "the black dog" in questions[0][1].text
    last = held[5]
    assert len(shown(last)) == 2 and [t.role for t in last[2:]] == ["assistant", "user", "assistant", "user"]
    assert "2 masks are left" in last[-1].text
    assert "examine_each_mask: 2 of 3 kept" in outcome.log


def test_when_no_mask_passes_another_phrase_is_asked_for() -> None:
    reject = "<verdict>Reject</verdict>"
    outcome, held, _ = play(SEGMENT, EXAMINE, reject, reject, reject, select(1))
    assert outcome.masks == () and outcome.failure is None and "[] of 0" in outcome.log
    assert "No mask passed" in held[-1][-1].text and len(shown(held[-1])) == 1


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (["I see a dog."], "malformed tool call: no <tool>"),
        ([select(1)], "the first call is select_masks_and_return"),
        ([EXAMINE], "the first call is examine_each_mask"),
        ([call("segment_phrase", text_prompt="unicorn"), EXAMINE], "examine_each_mask without masks"),
        ([SEGMENT, SEGMENT, EXAMINE], "examine_each_mask without masks in the last turn"),
        ([SEGMENT, EXAMINE, "yes", "yes", "yes"], "malformed verdict"),
        ([SEGMENT, "<tool>{}</tool>"], "names no tool"),
    ],
)
def test_turns_that_cannot_be_followed_end_with_a_reason(said: list[str], why: str) -> None:
    outcome, _, _ = play(*said)
    assert outcome.masks == () and why in outcome.failure and outcome.error is None


def test_the_limit_on_turns() -> None:
    phrases = [call("segment_phrase", text_prompt=f"thing {n}") for n in range(7)]
    outcome, held, used = play(*phrases, turns=6)
    assert outcome.failure == "no end after 6 turns" and len(held) == len(used) == 6
    assert max(len(c) for c in held) == 4


def test_a_model_that_cannot_be_asked_is_an_error() -> None:
    outcome, _, _ = play(SEGMENT, "ERROR:no answer")
    assert outcome.error == "no answer" and outcome.failure is None and outcome.masks == ()


def test_selecting_stale_masks_is_possible_as_in_the_authors_agent() -> None:
    outcome, _, _ = play(SEGMENT, SEGMENT, select(2))
    assert [t.mask for t in outcome.masks] == [rectangle(*THREE[1][0])]


# ---------------------------------------------------------------------------------------------- through the run loop


def obedient(request: dict[str, Any]) -> str:
    """Segments a word of the query, examines, and selects the first mask that is left."""
    last = text_of(request)
    if "<verdict>" in request["messages"][0]["content"]:
        return f"<verdict>{'Accept' if len(last) % 4 else 'Reject'}</verdict>"
    if len(request["messages"]) == 2:
        return call("segment_phrase", text_prompt=last.split("'")[1].split()[-1])
    if "left after" in last:
        return select(1)
    return EXAMINE if "masks, numbered" in last else select(1) if "1 mask," in last else NOTHING


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with serve(FakeServer(obedient)) as fake:
        yield fake


def agent_args(server: FakeServer, sam: Path, **more: object) -> dict[str, object]:
    quick = {"timeout": 10, "retries": 1, "backoff": 0.001}
    return {"base_url": server.url, "model": "tiny", "sam": sam, "threshold": LOW, **quick, **more}


def test_agents_through_the_run_loop(server: FakeServer, shapes: Path, sam3_folder: Path, tmp_path: Path) -> None:
    ran = run("sam3-agent", shapes, tmp_path, agent_args(server, sam3_folder))
    assert ran.summary["complete"] and ran.summary["n_images"] == IMAGES
    assert "error" not in ran.statuses and "ok" in ran.statuses
    assert all(p["error"] is None for p in ran.predictions)
    for p in ran.predictions:
        assert p["text"].startswith("segment_phrase '") and p["tokens"]["prompt"] > 0
        assert (p["status"] == "ok") == ("select_masks_and_return [1] of" in p["text"])
        assert {"SAM 3 features", "phrases", "turns"} == set(p["stages_ms"])
    assert server.busiest > 1  # agents work side by side
    assert all(len(pictures_of(m)) <= 3 for r in server.requests for m in r["messages"])
    assert all("temperature" not in r and r["max_completion_tokens"] == 4096 for r in server.requests)
    again = run("sam3-agent", shapes, tmp_path / "1", agent_args(server, sam3_folder), batch_size=1)
    assert [p["mask"] for p in again.predictions] == [p["mask"] for p in ran.predictions]


def test_lost_models_and_broken_servers_are_told_apart(
    server: FakeServer, shapes: Path, sam3_folder: Path, tmp_path: Path
) -> None:
    run("sam3-agent", shapes, tmp_path / "whole", agent_args(server, sam3_folder))
    first = [text_of(r) for r in server.requests if len(r["messages"]) == 2 and "verdict" not in str(r["messages"][0])]
    lost, broken = first[0], first[-1]
    server.faults = {broken: ["500"]}
    server.answer = lambda request: "It is the dog." if text_of(request) == lost else obedient(request)
    ran = run("sam3-agent", shapes, tmp_path / "ran", agent_args(server, sam3_folder))
    failed = [p for p in ran.predictions if p["status"] == "no_mask" and p["error"]]
    errors = [p for p in ran.predictions if p["status"] == "error"]
    assert failed and all("malformed tool call: no <tool>" in p["error"] for p in failed)
    assert errors and all("status 500" in p["error"] for p in errors)
    assert len(ran.predictions) == ran.summary["n_samples"]
    assert ran.summary["metrics"]["no_mask_rate"] > 0 and ran.summary["metrics"]["error_rate"] > 0


def test_a_local_model_can_be_the_agent(shapes: Path, sam3_folder: Path, tmp_path: Path) -> None:
    folder = save_tiny_vlm(tmp_path / "vlm", answer=NOTHING.split("\n")[1])
    args = {"checkpoint": folder, "sam": sam3_folder, "max_new_tokens": 8, "max_pixels": 12544}
    ran = run("sam3-agent", shapes, tmp_path / "out", args, engine="hf", limit=3)
    assert set(ran.statuses) == {"no_mask"} and all(p["text"] == "report_no_mask" for p in ran.predictions)
    assert all(p["error"] is None for p in ran.predictions)


def options(server: FakeServer, sam: Path, **more: object) -> ModelOptions:
    card = find_model("sam3-agent")
    args = {k: str(v) for k, v in agent_args(server, sam, **more).items()}
    return ModelOptions(card.name, str(card.folder), resolve_args(card, args), engine="endpoint")


def test_other_prompts_are_another_model(server: FakeServer, sam3_folder: Path, tmp_path: Path) -> None:
    card = find_model("sam3-agent")
    text = tmp_path / "system.txt"
    text.write_text("You are somebody else.\n")
    ours = make_segmenter(card, options(server, sam3_folder))
    theirs = make_segmenter(card, options(server, sam3_folder, system_prompt=text))
    assert ours.weight_digest() != theirs.weight_digest()  # type: ignore[attr-defined]
    assert theirs.rules().system == "You are somebody else."  # type: ignore[attr-defined]
    for wrong in ({"system_prompt": tmp_path / "none"}, {"max_turns": 0}, {"model": ""}):
        with pytest.raises(UsageError):
            make_segmenter(card, options(server, sam3_folder, **wrong)).load()
    assert not server.requests


def test_what_is_asked_of_a_model_names_every_tool() -> None:
    wording, calls = part("wording"), part("calls")
    assert all(tool in wording.SYSTEM for tool in (calls.SEGMENT, calls.EXAMINE, calls.SELECT, calls.NOTHING))
    assert "<verdict>Accept</verdict>" in wording.EXAMINER
    assert "'dog', 'cat'" in wording.query("x", ["dog", "cat"]) and "again" not in wording.query("x", [])


def test_pictures_are_sized_once() -> None:
    show = part("show").Show(Sizing(square=28))
    image: Pixels = np.zeros((10, 20, 3), dtype=np.uint8)
    assert show(image) is show(image) and show(image).size == (28, 28) and show(image.copy()) is not show(image)


def test_masks_whose_numbers_are_none_are_an_error() -> None:
    agent = part("agent")
    steps = agent.Agent("the black dog", IMAGE, part("show").Show(Sizing(factor=4, min_pixels=16)), agent.Rules()).run()
    next(steps)
    steps.send([Reply(SEGMENT)])
    with pytest.raises(StopIteration) as end:
        steps.send(part("concepts").Found((), rectangle(0, 0, 1, 1), finite=False))
    assert end.value.value.error == MASK_SCORES and not end.value.value.masks

from __future__ import annotations

import csv
from collections import defaultdict
from decimal import Decimal
from pathlib import Path

import pytest
import yaml

from lens_bench.errors import DataError
from lens_bench.report.leaderboard.averages import EIGHT_CELLS, FAMILY, printed_averages
from lens_bench.report.published import COLUMNS, PublishedRow, read_published

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "results" / "published.csv"

# Rows of the classes of GroundingSuite-Eval, whose "all" column is the mean over rows.
GSEVAL_ROWS = {"stuff": 1011, "part": 455, "multi": 769, "single": 1480}

# Transcribed apart from the file: model, suite, split, subset, metric, value, a word of the source.
SAMPLE = """
LAVT refcoco testB . ciou 68.8 LAVT
LAVT refcoco+ val . giou 65.8 LAVT
ReLA refcoco+ testB . ciou 57.7 LENS
LISA-7B refcoco val . ciou 74.1 LISA
LISA-7B refcocog test . ciou 68.5 LISA
LISA-7B_(ft_ReferSeg) refcoco+ testA . ciou 70.8 LISA
LISA-7B-v1 refcoco testB . ciou 63 74
LISA-7B-v1 refcoco val . ciou 67.24 72
LISA-13B-llama2-v0 refcoco testA . ciou 75.00 162
PixelLM-7B refcocog val . ciou 69.3 EVF-SAM
PixelLLM refcoco+ testB . ciou 64.5 EVF-SAM
VISA-7B refcocog test . ciou 66.4 LENS
OMG-LLaVA refcoco testA . ciou 80.3 LENS
GSVA-13B refcoco+ val . ciou 70.3 SAM
GLaMM-7B refcocog val . ciou 74.2 GLaMM
GLaMM-7B_(zero-shot) refcoco+ testB . ciou 39.5 GLaMM
UniLSeg-100 refcoco testB . ciou 79.9 SAM
EVF-SAM refcoco+ testA . ciou 78.3 EVF-SAM
EVF-SAM_(extra_data) refcocog test . ciou 78.3 EVF-SAM
Sa2VA-26B refcoco+ val . ciou 78.8 later
Sa2VA-4B refcoco val . ciou 78.9 version_1
HyperSeg-3B refcocog test . ciou 78.9 HyperSeg
InstructSeg-3B refcoco testA . ciou 86.6 InstructSeg
X-SAM-3.8B refcocog val . ciou 83.8 SAM
Seg-Zero-7B refcoco+ testA . ciou 76.2 LENS
Seg-Zero-3B refcocog test . ciou 71.5 v1
Seg-Zero-7B refcocog test . ciou 72.6 v1
SAM-R1-7B refcocog test . ciou 73.1 2505.22596
SAM_3_Agent_Gemini_2.5_Pro refcoco+ testA . ciou 71.1 Table_42
SAM_3_Agent_Gemini_2.5_Pro refcoco testB . ciou 69.9 OpenReview
SAM_3_Agent_Qwen2.5-VL-7B refcoco+ testB . ciou 44.9 Table_42
LENS-2B refcoco testA . ciou 82.7 LENS
LENS-3B refcoco testB . ciou 81.0 LENS
LENS-3B refcocog test . ciou 81.0 LENS
ReLA_Swin-B grefcoco val . giou 63.6 ReLA
GSVA-7B grefcoco testB . n_acc 60.7 GSVA
GSVA-7B grefcoco testA . ciou 69.2 HyperSeg
PSALM grefcoco testB . ciou 50.6 HyperSeg
LISA-7B reasonseg val . giou 44.4 Table_1
LISA-7B_(ft_ReasonSeg) reasonseg test . ciou 48.4 Table_1
LISA-7B-LLaVA1.5 reasonseg test long ciou 48.9 LISA
LISA-13B-LLaVA1.5_(ft_ReasonSeg) reasonseg val . ciou 72.9 LISA
Seg-Zero-3B reasonseg test . ciou 48.6 Seg-Zero
Seg-Zero-3B reasonseg val . giou 62.6 v1
Seg-Zero-3B reasonseg val . giou 58.2 later
Seg-Zero-3B reasonseg val . ciou 58.5 v1
Seg-Zero-3B reasonseg val . ciou 53.1 later
RSVP-GPT-4o reasonseg test short ciou 50.4 SAM
SAM_3_Agent_Gemini_2.5_Pro reasonseg test long ciou 73.2 Table_40
EVOL-SAM3_7B reasonseg test . giou 72.5 EVOL
LENS-3B reasonseg val . giou 62.1 Table_3
LENS-3B reasonseg test . ciou 58.0 Table_3
LISA-7B gseval eval part giou 21.2 GroundingSuite
EVF-SAM gseval eval . giou 62.6 GroundingSuite
LENS-3B gseval eval . ciou 78.3 Table_3
Seg-Zero-3B gseval eval . giou 67.3 Table_3
Qwen2.5-VL-7B gseval eval single box_acc_0.5 59.1 box
Claude-3.7 gseval eval stuff box_acc_0.5 56.7 box
UniRES refcocom testB object+part giou 41.7 UniRES
DMMI_Swin-B ref-zom test . ciou 68.77 DMMI
""".strip().splitlines()


@pytest.fixture(scope="module")
def rows() -> tuple[PublishedRow, ...]:
    return read_published(FILE)


def test_the_sample_is_large_enough() -> None:
    assert len(SAMPLE) >= 40


@pytest.mark.parametrize("line", SAMPLE)
def test_cells_transcribed_apart(rows: tuple[PublishedRow, ...], line: str) -> None:
    model, suite, split, subset, metric, value, source = line.split()
    model, source, subset = model.replace("_", " "), source.replace("_", " "), subset.replace(".", "")
    found = [
        r
        for r in rows
        if (r.model, r.suite, r.split, r.subset, r.metric) == (model, suite, split, subset, metric)
        and source in r.source
    ]
    assert [str(r.printed) for r in found if r.printed == Decimal(value)] == [value]


def test_printed_averages_that_do_not_follow_from_their_cells(rows: tuple[PublishedRow, ...]) -> None:
    checked = printed_averages(rows)
    wrong = [
        (c.row.model, c.row.source, str(c.row.printed), round(100 * c.recomputed, 1)) for c in checked if not c.matches
    ]
    assert wrong == [("SAM 3 Agent Gemini 2.5 Pro", "LENS Table 1, quoting SAM 3 (OpenReview)", "74.2", 71.2)]
    assert len(checked) >= 30
    assert all(c.row.disputed for c in checked if not c.matches)


def test_averages_over_classes_that_do_not_follow_from_them(rows: tuple[PublishedRow, ...]) -> None:
    """GroundingSuite-Eval: "all" is the mean over rows, so it is the classes' mean weighted by their rows."""
    cells = grouped(rows, "gseval")
    wrong, checked = [], 0
    for (model, _, metric), own in cells.items():
        if set(own) != {"", *GSEVAL_ROWS}:
            continue
        checked += 1
        mean = sum(own[tag].value * n for tag, n in GSEVAL_ROWS.items()) / sum(GSEVAL_ROWS.values())
        rounding = own[""].rounding + max(own[tag].rounding for tag in GSEVAL_ROWS)
        if abs(mean - own[""].value) > rounding:
            assert f"is {100 * mean:.1f}" in own[""].note
            wrong.append((model, metric, str(own[""].printed), round(100 * mean, 1)))
    assert wrong == [("GSVA-7B", "giou", "48.6", 48.7), ("GLaMM-7B", "giou", "57.2", 57.0)]
    assert checked == 11


def test_wholes_that_lie_outside_their_parts(rows: tuple[PublishedRow, ...]) -> None:
    """ReasonSeg test is short and long together: a mean and a ratio of sums both lie between the two."""
    wrong, checked = [], 0
    for (model, _, metric), own in grouped(rows, "reasonseg", "test").items():
        if set(own) != {"", "short", "long"}:
            continue
        checked += 1
        low, high = sorted((own["short"].value, own["long"].value))
        rounding = 2 * own[""].rounding
        if not low - rounding <= own[""].value <= high + rounding:
            assert own[""].disputed
            wrong.append((model, metric))
    assert wrong == [("LISA-7B", "ciou"), ("X-SAM-3.8B", "giou")]
    assert checked >= 30


def grouped(
    rows: tuple[PublishedRow, ...], suite: str, split: str | None = None
) -> dict[tuple[str, str, str], dict[str, PublishedRow]]:
    cells: dict[tuple[str, str, str], dict[str, PublishedRow]] = defaultdict(dict)
    for row in rows:
        if row.suite == suite and split in (None, row.split):
            cells[row.model, row.source, row.metric][row.subset] = row
    return cells


def test_every_average_has_its_eight_cells(rows: tuple[PublishedRow, ...]) -> None:
    for row in rows:
        if row.suite == FAMILY and row.metric.endswith("_mean8"):
            own = {(r.suite, r.split) for r in rows if (r.model, r.source) == (row.model, row.source)}
            assert set(EIGHT_CELLS) <= own


def test_recalled_and_second_hand_numbers_are_unverified(rows: tuple[PublishedRow, ...]) -> None:
    assert {r.model for r in rows if r.evidence == "recall"} == {"SAM-R1-7B"}
    assert not any(r.verified for r in rows if r.evidence in ("recall", "secondary"))
    assert all(r.note for r in rows if r.disputed)


@pytest.mark.parametrize(
    ("model", "source", "words"),
    [
        ("SAM 3 Agent Gemini 2.5 Pro", "LENS Table 1", "71.2"),
        ("PixelLM-7B", "LENS (AAAI 2026) Table 1", "PixelLLM"),
        ("LISA-7B (ft ReasonSeg)", "LENS (AAAI 2026) Table 3", "joins two models"),
        ("LISA-7B", "LISA (CVPR 2024) Table 2", "67/70/63"),
    ],
)
def test_known_contradictions_carry_a_note(rows: tuple[PublishedRow, ...], model: str, source: str, words: str) -> None:
    assert any(words in r.note for r in rows if r.model == model and r.source.startswith(source))


def test_a_number_that_another_version_prints_otherwise_names_its_version(rows: tuple[PublishedRow, ...]) -> None:
    found = [r for r in rows if (r.model, r.suite, r.split) == ("Seg-Zero-3B", "reasonseg", "val")]
    assert len(found) == 4 and all(r.disputed and "version" in r.note for r in found)
    cells = {(r.metric, str(r.printed)): r.source for r in found}
    assert all("v1" in cells[key] for key in (("giou", "62.6"), ("ciou", "58.5")))


def test_cells_that_no_source_prints_are_not_there(rows: tuple[PublishedRow, ...]) -> None:
    """Seg-Zero has no RefCOCOg val figure (LENS prints its test figure there), SAM 3 Agent none on GSEval."""
    assert not [r for r in rows if r.model.startswith("Seg-Zero") and (r.suite, r.split) == ("refcocog", "val")]
    assert not [r for r in rows if r.model.startswith("SAM 3 Agent") and r.suite == "gseval"]
    wrong = [r for r in rows if r.source.startswith("LENS") and "Table 2" in r.source + r.note]
    assert not wrong, "LENS's table of ReasonSeg and GSEval is Table 3"


def test_relas_own_figures_are_at_480_pixels(rows: tuple[PublishedRow, ...]) -> None:
    found = [r for r in rows if r.model.startswith("ReLA") and r.suite != "gseval"]
    assert found and all(r.protocol == "rela" and "480x480" in r.note for r in found)


def test_models_that_suite_cards_name_are_there(rows: tuple[PublishedRow, ...]) -> None:
    known = {(r.suite, r.model) for r in rows}
    for path in sorted((ROOT / "suites").glob("*.yaml")):
        card = yaml.safe_load(path.read_text(encoding="utf-8"))
        missing = [p["model"] for p in card.get("published", []) if (card["name"], p["model"]) not in known]
        assert not missing, f"{path.name} names {missing}"


def test_a_fraction_is_exact(rows: tuple[PublishedRow, ...]) -> None:
    row = next(r for r in rows if str(r.printed) == "67.24")
    assert row.value == 0.6724
    assert row.rounding == pytest.approx(0.00005)


GOOD = {
    "model": "M",
    "suite": "refcoco",
    "split": "val",
    "metric": "ciou",
    "value": "70.1",
    "unit": "percent",
    "source": "Table 1",
    "evidence": "paper",
    "verified": "yes",
}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": ""}, "model is empty"),
        ({"value": "701"}, "not a percentage"),
        ({"value": "-0.1"}, "not a percentage"),
        ({"value": "nan"}, "not a percentage"),
        ({"value": "about 70"}, "not a number"),
        ({"unit": "fraction"}, "unit"),
        ({"evidence": "hearsay"}, "evidence"),
        ({"evidence": "recall"}, "no verification"),
        ({"verified": "maybe"}, "verified is 'maybe'"),
        ({"protocol": "lissa"}, "lissa"),
    ],
)
def test_a_row_that_is_wrong_is_named(tmp_path: Path, changes: dict[str, str], words: str) -> None:
    path = tmp_path / "published.csv"
    write(path, [GOOD, GOOD | {"split": "testA"} | changes])
    with pytest.raises(DataError, match=words) as caught:
        read_published(path)
    assert "line 3" in caught.value.message


def test_the_same_cell_twice_is_refused_and_two_sources_are_not(tmp_path: Path) -> None:
    path = tmp_path / "published.csv"
    write(path, [GOOD, GOOD | {"value": "70.2", "source": "Table 2"}])
    assert [r.value for r in read_published(path)] == [0.701, 0.702]
    write(path, [GOOD, GOOD | {"value": "70.2"}])
    with pytest.raises(DataError, match="lines 2 and 3"):
        read_published(path)


def test_files_that_are_no_table(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no published numbers"):
        read_published(tmp_path / "absent.csv")
    path = tmp_path / "published.csv"
    path.write_text("model,value\nM,70\n", encoding="utf-8")
    with pytest.raises(DataError, match="columns"):
        read_published(path)
    path.write_text(",".join(COLUMNS) + "\nM,refcoco\n", encoding="utf-8")
    with pytest.raises(DataError, match="line 2: 2 fields, not 15"):
        read_published(path)
    head = (",".join(COLUMNS) + "\n").encode()
    path.write_bytes(head + b"M,refcoco," + b"x" * 200_000 + b"\n")
    with pytest.raises(DataError, match="line 2: field larger than field limit"):
        read_published(path)
    path.write_bytes(head + b"M\xe9,refcoco\n")
    with pytest.raises(DataError, match="line 2: not UTF-8"):
        read_published(path)


def write(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, restval="")
        writer.writeheader()
        writer.writerows(rows)

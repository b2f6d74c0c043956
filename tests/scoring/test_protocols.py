from __future__ import annotations

import dataclasses

import pytest

from lens_bench.errors import UsageError
from lens_bench.scoring.explain import PROSE, WHY_FIELD, WHY_VALUE, choices, explain, why
from lens_bench.scoring.protocols import PROTOCOLS, STRICT, Protocol, get_protocol


def test_presets_are_those_of_the_design() -> None:
    assert list(PROTOCOLS) == [
        "strict",
        "lisa",
        "lens",
        "glamm",
        "seg-zero",
        "visionreasoner",
        "gseval",
        "gres",
        "rela",
        "lavt",
    ]
    assert all(name == p.name and p.summary and p.source for name, p in PROTOCOLS.items())


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("strict", {}),
        ("lisa", {"merge": "once", "iou_epsilon": 1e-5, "ciou_epsilon": 1e-10, "mean_epsilon": 1e-5}),
        (
            "lens",
            {
                "merge": "once",
                "ignore": "background",
                "iou_epsilon": 1e-5,
                "ciou_epsilon": 1e-8,
                "mean_epsilon": 1e-5,
            },
        ),
        (
            "glamm",
            {
                "select": "three_per_image",
                "merge": "once",
                "iou_epsilon": 1e-5,
                "ciou_epsilon": 1e-10,
                "mean_epsilon": 1e-5,
            },
        ),
        (
            "seg-zero",
            {
                "select": "one_per_ref",
                "ignore": "foreground",
                "empty_union_iou": None,
                "on_error": "zero",
                "on_no_mask": "zero",
                "box_inclusive": False,
            },
        ),
        (
            "visionreasoner",
            {
                "select": "one_per_ref",
                "ignore": "foreground",
                "empty_union_iou": None,
                "on_error": "drop",
                "on_no_mask": "zero",
                "box_inclusive": False,
            },
        ),
        ("gseval", {"empty_union_iou": 0.0, "pred_box_from_mask": False, "truth_box_from_mask": False}),
        (
            "gres",
            {
                "empty_union_iou": 0.0,
                "no_target": "gres",
                "min_pixels": 50,
                "precision_thresholds": (0.7, 0.8, 0.9),
                "precision_on": "targeted",
            },
        ),
        (
            "rela",
            {
                "resize": 480,
                "scale_polygons": True,
                "empty_union_iou": 0.0,
                "no_target": "gres",
                "min_pixels": 50,
                "precision_thresholds": (0.7, 0.8, 0.9),
                "precision_on": "targeted",
            },
        ),
        ("lavt", {"merge": "once", "ignore": "background", "resize": 480, "empty_union_iou": 0.0}),
    ],
)
def test_a_preset_differs_from_strict_in_exactly_these_choices(name: str, changes: dict[str, object]) -> None:
    differences = explain(get_protocol(name))
    assert {d.field: d.value for d in differences} == changes
    assert all(d.strict == getattr(STRICT, d.field) for d in differences)


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=str)
def test_every_choice_of_every_preset_has_its_own_sentence(protocol: Protocol) -> None:
    for field, value in choices(protocol).items():
        if value != getattr(STRICT, field) or (field, value) in WHY_VALUE:
            assert why(field, value).endswith(".")
    said = [d.why for d in explain(protocol)]
    assert len(set(said)) == len(said)


def test_no_sentence_is_about_a_field_that_does_not_exist() -> None:
    fields = {f.name for f in dataclasses.fields(Protocol)} - PROSE
    assert {name for name, _ in WHY_VALUE} | set(WHY_FIELD) == fields


def test_an_unknown_choice_has_no_sentence() -> None:
    with pytest.raises(KeyError):
        why("merge", "thrice")


@pytest.mark.parametrize(
    ("asked", "hint"),
    [
        ("lissa", "lisa"),
        ("seg_zero", "seg-zero"),
        ("Strict", "strict"),
        ("vision-reasoner", "visionreasoner"),
        ("xyzzy", "there are: strict, lisa"),
    ],
)
def test_an_unknown_name_is_a_usage_error_that_offers_the_nearest(asked: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        get_protocol(asked)
    assert repr(asked) in caught.value.message
    assert hint in caught.value.hint
    assert caught.value.exit_code == 2


def test_a_protocol_cannot_be_changed_by_accident() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        STRICT.merge = "once"  # type: ignore[misc]

"""Order and draws are functions of (seed, step); nothing of an evaluation split is trained on."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lens_bench.data.images import ImageFile
from lens_bench.errors import DataError, UsageError
from lens_bench.records import GroundTruth, Polygon, Sample
from lens_bench.train.begun import Begun, write_down
from lens_bench.train.config import DataConfig
from lens_bench.train.data import Item, Order, Unit, failure_weights, of_rank, open_data, open_items
from lens_bench.train.draws import stream
from lens_bench.trained import BEGUN

from .conftest import tiny_recipe

CONFIG = DataConfig(splits=("shapes/train",), held_out=("shapes/val",))


def units(count: int, sentences: int = 3) -> list[Unit]:
    truth = GroundTruth((4, 4), (Polygon((0, 0, 3, 0, 3, 3)),))

    def item(n: int, k: int) -> Item:
        return Item(Sample(f"s{n}.{k}", f"i{n}", ImageFile(Path("x")), f"text {k}", truth), f"i{n}")

    return [Unit(f"u{n}", tuple(item(n, k) for k in range(sentences))) for n in range(count)]


@given(st.integers(1, 40), st.integers(1, 7), st.integers(0, 5), st.integers(0, 9))
def test_every_epoch_is_every_unit_once(count: int, per_step: int, seed: int, start: int) -> None:
    per_step = min(per_step, count)
    order = Order(units(count), CONFIG, per_step, seed)
    steps = range(start * count, start * count + count)
    seen = [draw.unit for step in steps for draw in order.draws(step)]
    # ``count`` steps from a multiple of ``count`` are ``per_step`` whole epochs.
    for epoch in range(per_step):
        assert sorted(seen[epoch * count : (epoch + 1) * count]) == list(range(count))


def test_a_step_does_not_depend_on_those_before() -> None:
    straight = Order(units(10), CONFIG, 4, 0)
    many = [straight.draws(step) for step in range(8)]
    assert [Order(units(10), CONFIG, 4, 0).draws(step) for step in reversed(range(8))][::-1] == many
    assert Order(units(10), CONFIG, 4, 1).draws(0) != many[0]
    assert straight.epochs(5) == 2.0


def test_epochs_differ_and_a_step_crosses_their_border() -> None:
    order = Order(units(10), CONFIG, 4, 0)
    seen = [d.unit for step in range(5) for d in order.draws(step)]
    assert seen[:10] != seen[10:] and sorted(seen[:10]) == sorted(seen[10:])
    border = [d.place // 10 for d in order.draws(2)]
    assert border == [0, 0, 1, 1]


@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_share_a_step_and_split_no_unit(world: int) -> None:
    draws = Order(units(10), CONFIG, 8, 0).draws(3)
    shares = [of_rank(draws, rank, world) for rank in range(world)]
    assert [d for share in shares for d in share] == draws
    with pytest.raises(UsageError, match="does not divide"):
        of_rank(draws, 0, 3)


def test_the_sentence_of_a_referent_is_drawn_once_and_changes_over_epochs() -> None:
    config = CONFIG.model_copy(update={"unit": "referent"})
    order = Order(units(6), config, 6, 0)
    by_unit: dict[int, set[str]] = {}
    for step in range(12):
        draws = order.draws(step)
        assert draws == order.draws(step)
        for draw in draws:
            (item,) = draw.items
            by_unit.setdefault(draw.unit, set()).add(item.sample.expression)
    assert all(len(texts) > 1 for texts in by_unit.values())


def test_an_image_has_so_many_of_its_sentences() -> None:
    config = CONFIG.model_copy(update={"unit": "image", "per_image": 2})
    seen = Counter(
        i.sample.id for step in range(60) for d in Order(units(4), config, 4, 0).draws(step) for i in d.items
    )
    assert sum(seen.values()) == 60 * 4 * 2
    assert len(seen) == 12 and min(seen.values()) > 20


def test_a_step_larger_than_the_data_is_refused() -> None:
    with pytest.raises(UsageError, match="larger than the data"):
        Order(units(3), CONFIG, 4, 0)


def test_curriculum_draws_what_fails_more_often() -> None:
    weights = failure_weights({0: 1.0, 1: 1.0, 2: 0.0}, 4, floor=0.1, power=1.0)
    np.testing.assert_allclose(weights, [0.1, 0.1, 1.0, 0.1 + 0.9 / 3])
    order = Order(units(4), CONFIG, 2, 0, weights)
    seen = Counter(d.unit for step in range(600) for d in order.draws(step))
    assert seen[2] > 2.5 * seen[0] and seen[2] > seen[3] > seen[0]
    assert all(len({d.unit for d in order.draws(step)}) == 2 for step in range(50))
    assert order.draws(17) == Order(units(4), CONFIG, 2, 0, weights).draws(17)


def test_streams_are_told_apart() -> None:
    keys = [("a", 1), ("a", "1"), ("a", 2), (1, "a"), ("a1",)]
    assert len({float(stream(*key).random()) for key in keys}) == len(keys)
    assert float(stream("a", 1).random()) == float(stream("a", 1).random())


# ---------------------------------------------------------------------------------------------- real files


def test_a_split_that_is_smaller_than_its_card_says_is_counted_and_named(data_root: Path, tmp_path: Path) -> None:
    data = open_data(CONFIG, data_root)
    counts = data.counts["shapes/train"]
    expected, found = counts["expected"], counts["found"]
    assert isinstance(expected, dict) and isinstance(found, dict)
    assert found["expressions"] == len([i for unit in data.units for i in unit.items]) < expected["expressions"]
    part = f"{found['expressions']:,} of {expected['expressions']:,} expressions"
    assert data.partial == {"shapes/train": part}
    write_down(tmp_path, Begun(tiny_recipe("supervised"), data.hashes, None, data.counts))
    assert json.loads((tmp_path / BEGUN).read_text())["counts"] == data.counts


def test_rationales_referents_and_things(data_root: Path) -> None:
    data = open_data(CONFIG, data_root, with_things=True)
    items = [item for unit in data.units for item in unit.items]
    assert data.dropped == 0 and list(data.hashes) == ["shapes/train"]
    for item in items:
        # The rationale ends with the name and place of what is meant.
        assert item.referent and f"the {item.referent} " in item.rationale
        names = [thing.name for thing in data.things[item.image]]
        assert item.referent in names
    boxes = {t.truth.box for t in data.things[items[0].image]}
    assert items[0].sample.truth.box in boxes


def test_units_by_kind(data_root: Path) -> None:
    counts = {}
    for kind in ("expression", "referent", "image"):
        found = open_data(CONFIG.model_copy(update={"unit": kind}), data_root)
        counts[kind] = len(found.units)
        assert all(len({item.image for item in unit.items}) == 1 for unit in found.units)
    assert counts["image"] == 12 and counts["referent"] == 24 < counts["expression"]


def test_images_of_evaluation_splits_are_left_out(data_root: Path, tmp_path: Path) -> None:
    """Some pictures stand in both splits, and are trained on only where the paper's data is asked for."""
    for split in ("train", "val"):
        shutil.copytree(data_root / "shapes" / "train", tmp_path / "shapes" / split)
    path = tmp_path / "shapes" / "val" / "refs(lens).p"
    import pickle

    refs = pickle.loads(path.read_bytes())
    kept = refs[:6]
    for ref in kept:
        ref["split"] = "val"
    path.write_bytes(pickle.dumps(kept, protocol=2))
    found = open_data(CONFIG, tmp_path)
    shared = {str(ref["image_id"]) for ref in kept}
    assert found.dropped == len(shared) > 0
    assert not shared & {item.sample.image_id for unit in found.units for item in unit.items}
    everything = open_data(CONFIG.model_copy(update={"paper_data": True}), tmp_path)
    assert everything.dropped == 0 and len(everything.units) > len(found.units)


def test_a_held_out_split_must_be_there(data_root: Path, tmp_path: Path) -> None:
    shutil.copytree(data_root / "shapes" / "train", tmp_path / "shapes" / "train")
    with pytest.raises(DataError, match="shapes val"):
        open_data(CONFIG, tmp_path)
    assert open_data(CONFIG.model_copy(update={"paper_data": True}), tmp_path).units


def test_parts_are_disjoint_and_complete(data_root: Path) -> None:
    parts = [
        {u.items[0].image for u in open_data(CONFIG.model_copy(update={"part": part}), data_root).units}
        for part in ((0.0, 0.5), (0.5, 1.0))
    ]
    assert not parts[0] & parts[1] and len(parts[0] | parts[1]) == 12
    with pytest.raises(DataError, match="nothing is left"):
        open_data(CONFIG.model_copy(update={"part": (0.5, 0.5)}), data_root)
    with pytest.raises(UsageError, match="suite/split"):
        open_items("shapes", data_root)

from __future__ import annotations

from pathlib import Path

import pytest

from lens_bench.cards import read_model_cards, read_suite_card
from lens_bench.errors import UsageError
from lens_bench.registry import home

MODEL = "name: m\ntitle: M\nsummary: A model.\nadapter: adapter.py:M\n"
SUITE = "name: s\ntitle: S\nsummary: A suite.\nreader: refer\ndefault_splits: [val]\nsplits: {val: {}}\n"


def card(tmp_path: Path, text: str, name: str = "model.yaml") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_card_with_nothing_but_the_necessary(tmp_path: Path) -> None:
    (model,) = read_model_cards(card(tmp_path, MODEL))
    assert (model.name, model.adapter, model.folder) == ("m", "adapter.py:M", tmp_path)
    assert (model.reads_images, model.sees_ground_truth, model.python, model.args) == (True, False, None, {})
    suite = read_suite_card(card(tmp_path, SUITE, "s.yaml"))
    assert (suite.protocol, suite.default_splits, suite.folder) == ("strict", ("val",), tmp_path)
    assert suite.splits["val"].expected.expressions is None


def test_several_models_share_fields_and_override_them(tmp_path: Path) -> None:
    text = """
title: T
summary: S.
adapter: a.py:A
batch_size: 3
models:
  small: {args: {size: {default: 1, help: How large.}}}
  large: {adapter: "some.package:B", title: L, batch_size: 1}
"""
    small, large = read_model_cards(card(tmp_path, text))
    assert (small.name, small.title, small.adapter, small.batch_size) == ("small", "T", "a.py:A", 3)
    assert (large.name, large.title, large.adapter, large.batch_size) == ("large", "L", "some.package:B", 1)
    assert small.args["size"].default == 1


def test_arguments_keep_the_types_that_yaml_gives_them(tmp_path: Path) -> None:
    text = (
        MODEL
        + "args:\n"
        + "".join(
            f"  a{i}: {{default: {v}, help: h}}\n" for i, v in enumerate(["1", "1.0", "true", "'1'", "null", "1e-3"])
        )
    )
    (model,) = read_model_cards(card(tmp_path, text))
    defaults = [spec.default for spec in model.args.values()]
    assert [(type(d), d) for d in defaults[:5]] == [
        (int, 1),
        (float, 1.0),
        (bool, True),
        (str, "1"),
        (type(None), None),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MODEL + "batchsize: 3\n", "batchsize: there is no such key"),
        (MODEL + "batch_size: 0\n", "batch_size: Input should be greater than or equal to 1"),
        (MODEL + "batch_size: many\n", "batch_size: "),
        (MODEL + "devices: [tpu]\n", "devices.0: "),
        (MODEL + "args: {a: {default: 1}}\n", "args.a.help: Field required"),
        (MODEL + "args: {a: {default: [1], help: h}}\n", "args.a.default"),
        (MODEL + "args: {a: {default: 1, help: h, chioces: [1]}}\n", "args.a.chioces: there is no such key"),
        (MODEL.replace("name: m", "name: My Model"), "name: String should match pattern"),
        (MODEL.replace("name: m", "name: m\naliases: [../x]"), "aliases.0: String should match pattern"),
        (MODEL.replace("adapter.py:M", "adapter.py"), "adapter: .*expected 'file.py:Class'"),
        (MODEL.replace("adapter.py:M", "adapter.py:M()"), "adapter: .*expected 'file.py:Class'"),
        ("name: m\n", r"title: Field required \(and 2 more\)"),
        (MODEL + "models: []\n", "`models` must map names to fields"),
        (MODEL + "models: {}\n", "`models` must map names to fields"),
        (MODEL + "models: {a: 3}\n", "`models` must map names to fields"),
        (MODEL + "models: {a: {}, b: {adapter: 3}}\n", "models.b.adapter: "),
        ("- a\n", "is not a mapping of fields"),
        ("", "is not a mapping of fields"),
        ("a: [1\n", "is not readable YAML: "),
        ("a: !!python/object/apply:os.system [exit]\n", "is not readable YAML: "),
        ("a: \x07\n", "is not readable YAML: "),
    ],
)
def test_what_is_wrong_with_a_model_card_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = card(tmp_path, text)
    with pytest.raises(UsageError, match=message) as caught:
        read_model_cards(path)
    assert caught.value.message.startswith(str(path))
    assert "\n" not in caught.value.message
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SUITE + "split: val\n", "split: there is no such key"),
        (SUITE.replace("[val]", "[val, test]"), "default_splits names unknown splits: test"),
        (SUITE.replace("splits: {val: {}}", "splits: {}"), "default_splits names unknown splits: val"),
        (SUITE.replace("[val]", "[]").replace("splits: {val: {}}", "splits: {}"), "unknown splits: \\(none given\\)"),
        (SUITE.replace("{val: {}}", "{val: {expected: {expressions: many}}}"), "splits.val.expected.expressions: "),
        (SUITE + "images: {roots: [a], exif: turn}\n", "images.exif: "),
    ],
)
def test_what_is_wrong_with_a_suite_card_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        read_suite_card(card(tmp_path, text, "s.yaml"))
    assert caught.value.message.startswith(str(tmp_path / "s.yaml"))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no card at") as caught:
        read_model_cards(tmp_path / "model.yaml")
    assert "model.yaml and adapter.py" in caught.value.hint
    (tmp_path / "model.yaml").mkdir()
    with pytest.raises(UsageError, match="cannot be read: Is a directory"):
        read_model_cards(tmp_path / "model.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"title: caf\xe9\n")
    with pytest.raises(UsageError, match="is not readable YAML"):
        read_suite_card(tmp_path / "latin.yaml")


def test_cards_cannot_be_changed(tmp_path: Path) -> None:
    (model,) = read_model_cards(card(tmp_path, MODEL))
    with pytest.raises(ValueError, match="frozen"):
        model.name = "other"


@pytest.mark.parametrize("path", sorted(home("baselines").glob("*/model.yaml")), ids=lambda p: p.parent.name)
def test_every_shipped_model_card_is_complete(path: Path) -> None:
    for model in read_model_cards(path):
        assert model.summary.endswith((".", "?"))
        assert (path.parent / "README.md").is_file()
        where = model.adapter.partition(":")[0]
        assert not where.endswith(".py") or (path.parent / where).is_file()


@pytest.mark.parametrize("path", sorted(home("suites").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_suite_card_is_read(path: Path) -> None:
    assert read_suite_card(path).name == path.stem

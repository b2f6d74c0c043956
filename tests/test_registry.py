from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from lens_bench import registry
from lens_bench.cards import ModelCard
from lens_bench.errors import UsageError
from lens_bench.records import ArgValue, ModelOptions
from lens_bench.registry import (
    catalogue,
    find_model,
    find_suite,
    home,
    import_file,
    make_segmenter,
    resolve_args,
    split_reference,
    suggest,
)
from lens_bench.segmenter import Segmenter

ROOT = Path(__file__).resolve().parents[1]
CARD = "name: {name}\ntitle: T\nsummary: A model.\nadapter: adapter.py:Mine\n"
ADAPTER = """
from lens_bench.records import LoadReport, Prediction

from .prompts import PROMPT


class Mine:
    def __init__(self, options):
        self.options = options

    def load(self):
        return LoadReport(notes=(PROMPT,))

    def segment(self, tasks):
        return [Prediction(q.sample_id, "no_mask", text=PROMPT) for t in tasks for q in t.queries]

    def close(self):
        pass


class Half:
    def __init__(self, options):
        pass

    def load(self):
        pass


NOT_A_CLASS = 3
"""


@pytest.fixture
def fresh() -> Iterator[None]:
    """The catalogue is read once per process; a test that changes what it is read from starts and ends without it."""
    catalogue.cache_clear()
    yield
    catalogue.cache_clear()


def model_folder(folder: Path, name: str = "mine", prompt: str = "hello", card: str = CARD) -> Path:
    folder.mkdir(parents=True)
    (folder / "model.yaml").write_text(card.format(name=name))
    (folder / "adapter.py").write_text(ADAPTER)
    (folder / "prompts.py").write_text(f"PROMPT = {prompt!r}\n")
    return folder


def opened(card: ModelCard) -> Segmenter:
    return make_segmenter(card, ModelOptions(card.name, str(card.folder), resolve_args(card, {})))


# ---------------------------------------------------------------------------------------------- names and paths


def test_shipped_models_and_suites_are_found_by_name() -> None:
    assert find_model("oracle").folder == home("baselines") / "reference"
    assert find_suite("refcoco").name == "refcoco"
    assert catalogue().problems == ()
    for names in ([m.name for m in catalogue().models], [s.name for s in catalogue().suites]):
        assert len(set(names)) == len(names)


def test_a_folder_is_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = model_folder(tmp_path / "my_model")
    monkeypatch.chdir(tmp_path)
    references = [str(folder), "./my_model", "my_model", "./my_model/", "./my_model/model.yaml", "my_model:mine"]
    for reference in references:
        assert find_model(reference).name == "mine"
    assert opened(find_model("./my_model")).load().notes == ("hello",)


def test_a_known_name_wins_over_a_folder_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model_folder(tmp_path / "full", name="other")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find_model("full").name == "full"
    assert find_model("empty").name == "empty"
    assert find_model("./full").name == "other"


def test_a_folder_of_several_models(tmp_path: Path) -> None:
    folder = tmp_path / "zoo"
    folder.mkdir()
    (folder / "model.yaml").write_text(
        "title: T\nsummary: S.\nadapter: a.py:A\nmodels: {cat: {aliases: [felis]}, dog: {}}\n"
    )
    assert find_model(f"{folder}:dog").name == "dog"
    assert find_model(f"{folder}:felis").name == "cat"
    with pytest.raises(UsageError, match="holds 2 models") as caught:
        find_model(str(folder))
    assert f"{folder}:cat" in caught.value.hint
    with pytest.raises(UsageError, match="there is no model 'cats'") as caught:
        find_model(f"{folder}:cats")
    assert caught.value.hint == "did you mean cat?"


def test_folders_may_have_colons_in_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model_folder(tmp_path / "run:3" / "step:100", name="mine")
    model_folder(tmp_path / "run", name="other")
    monkeypatch.chdir(tmp_path / "run:3")
    for reference in ("./step:100", "step:100", f"{tmp_path}/run:3/step:100", "./step:100/model.yaml", "step:100:mine"):
        assert find_model(reference).name == "mine", reference
    assert find_model(f"{tmp_path}/run:other").name == "other"
    with pytest.raises(UsageError, match=r"no card at .*run:3/none/model\.yaml"):
        find_model(f"{tmp_path}/run:3/none")
    assert split_reference("refcoco:testA") == ("refcoco", "testA")
    assert split_reference(f"{tmp_path}/run:3/suite.yaml:val") == (f"{tmp_path}/run:3/suite.yaml", "val")
    assert split_reference(f"{tmp_path}/run:3/suite.yaml") == (f"{tmp_path}/run:3/suite.yaml", "")


def test_a_path_where_nothing_is(tmp_path: Path) -> None:
    for reference in (f"{tmp_path}/none", f"{tmp_path}/none:x", "./no/such"):
        with pytest.raises(UsageError, match="no card at"):
            find_model(reference)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be read: Not a directory"):
        find_model(f"{tmp_path}/file")


def test_a_suite_by_its_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\ntitle: T\nsummary: S.\nreader: refer\ndefault_splits: [val]\nsplits: {val: {}}\n")
    assert find_suite(str(path)).name == "mine"
    with pytest.raises(UsageError, match="no card at"):
        find_suite("none.yaml")


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [("orcale", "oracle"), ("ORACLE", "oracle"), ("Oracle-Box", "oracle-box"), ("noisy_oracle", "noisy-oracle")],
)
def test_did_you_mean(wrong: str, meant: str) -> None:
    with pytest.raises(UsageError, match=f"there is no model '{wrong}'") as caught:
        find_model(wrong)
    assert meant in caught.value.hint
    assert caught.value.hint.startswith("did you mean ")


def test_no_suggestion_where_nothing_is_close() -> None:
    assert suggest("xyzzy", ["oracle", "full"]) == ""
    with pytest.raises(UsageError) as caught:
        find_suite("xyzzy")
    assert "list suites" in caught.value.hint


# ---------------------------------------------------------------------------------------------- arguments


def card_with(args: dict[str, dict[str, object]]) -> ModelCard:
    return ModelCard.model_validate(
        {
            "name": "m",
            "title": "M",
            "summary": "S.",
            "adapter": "a.py:A",
            "args": {k: {"help": "h", **v} for k, v in args.items()},
        }
    )


@pytest.mark.parametrize(
    ("default", "text", "value"),
    [
        (1, "-3", -3),
        (0.5, "2", 2.0),
        (0.5, "1e-3", 0.001),
        (False, "Yes", True),
        (True, "0", False),
        ("", "3", "3"),
        ("a", "", ""),
        (None, "x=y", "x=y"),
    ],
)
def test_values_take_the_type_of_the_default(default: ArgValue, text: str, value: ArgValue) -> None:
    card = card_with({"a": {"default": default}, "b": {"default": 7}})
    result = resolve_args(card, {"a": text})
    assert result == {"a": value, "b": 7}
    assert type(result["a"]) is type(value)
    assert resolve_args(card, {}) == {"a": default, "b": 7}


@pytest.mark.parametrize(
    ("spec", "text", "message"),
    [
        ({"default": 1}, "1.5", "--model-arg a=1.5: m expects a value of type int"),
        ({"default": 1}, "", "expects a value of type int"),
        ({"default": 1.0}, "half", "expects a value of type float"),
        ({"default": True}, "maybe", "expects a value of type bool"),
        ({"default": "x", "choices": ["x", "y"]}, "z", "--model-arg a=z is not one of: x, y"),
        ({"default": 1, "choices": [1, 2]}, "3", "is not one of: 1, 2"),
    ],
)
def test_values_that_do_not_fit(spec: dict[str, object], text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        resolve_args(card_with({"a": spec}), {"a": text})
    assert caught.value.hint == "h"


def test_an_unknown_argument() -> None:
    card = card_with({"threshold": {"default": 0.5}})
    with pytest.raises(UsageError, match="model m has no argument 'treshold'") as caught:
        resolve_args(card, {"treshold": "1"})
    assert caught.value.hint == "did you mean threshold?"
    with pytest.raises(UsageError) as caught:
        resolve_args(card, {"zzz": "1"})
    assert caught.value.hint == "m takes: threshold"
    with pytest.raises(UsageError) as caught:
        resolve_args(card_with({}), {"zzz": "1"})
    assert caught.value.hint == "m takes: no arguments"


# ---------------------------------------------------------------------------------------------- adapters


def test_folders_do_not_see_one_another(tmp_path: Path) -> None:
    before = list(sys.path)
    first = opened(find_model(str(model_folder(tmp_path / "a", prompt="first"))))
    second = opened(find_model(str(model_folder(tmp_path / "b", prompt="second"))))
    assert (first.load().notes, second.load().notes) == (("first",), ("second",))
    assert sys.path == before
    assert "adapter" not in sys.modules
    assert "prompts" not in sys.modules


def test_an_adapter_in_an_importable_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model_folder(tmp_path / "registry_test_package")
    (tmp_path / "registry_test_package" / "__init__.py").touch()
    card = CARD.replace("adapter.py:Mine", "registry_test_package.adapter:Mine")
    folder = model_folder(tmp_path / "model", card=card)
    monkeypatch.syspath_prepend(tmp_path)
    assert opened(find_model(str(folder))).load().notes == ("hello",)


@pytest.mark.parametrize(
    ("adapter", "source", "message"),
    [
        ("none.py:Mine", ADAPTER, "cannot be imported: no file .*none.py"),
        ("no_such_package.x:Mine", ADAPTER, "cannot be imported: No module named 'no_such_package'"),
        ("adapter.py:Mine", "import no_such_dependency\n", "cannot be imported: No module named 'no_such_dependency'"),
        ("adapter.py:Mine", "def broken(:\n", "cannot be imported: invalid syntax .*line 1"),
        ("adapter.py:Yours", ADAPTER, "adapter.py of model mine has no class 'Yours'"),
        ("adapter.py:NOT_A_CLASS", ADAPTER, "has no class 'NOT_A_CLASS'"),
        ("adapter.py:Half", ADAPTER, "adapter.py:Half of model mine is not a segmenter"),
    ],
)
def test_an_adapter_that_does_not_work(tmp_path: Path, adapter: str, source: str, message: str) -> None:
    folder = model_folder(tmp_path / "m", card=CARD.replace("adapter.py:Mine", adapter))
    (folder / "adapter.py").write_text(source)
    card = find_model(str(folder))
    with pytest.raises(UsageError, match=message):
        opened(card)


def test_a_file_is_imported_once(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m")
    assert import_file(folder / "adapter.py") is import_file(tmp_path / "m" / ".." / "m" / "adapter.py")


# ---------------------------------------------------------------------------------------------- broken and double cards


@pytest.fixture
def homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh: None) -> Path:
    """An empty place of shipped cards."""
    monkeypatch.setattr("lens_bench.registry.home", lambda kind: tmp_path / kind)
    return tmp_path


def test_a_broken_card_is_a_problem_only_for_who_asks_for_it(homes: Path) -> None:
    model_folder(homes / "baselines" / "fine", name="fine")
    model_folder(homes / "baselines" / "broken", name="broken", card=CARD + "colour: red\n")
    (homes / "suites").mkdir()
    (homes / "suites" / "cracked.yaml").write_text("name: [\n")
    model_folder(homes / "baselines" / "nameless", name="No Name")
    assert [m.name for m in catalogue().models] == ["broken", "fine"]
    assert len(catalogue().problems) == 2
    assert find_model("fine").name == "fine"
    with pytest.raises(UsageError, match="colour: there is no such key"):
        find_model("broken")
    with pytest.raises(UsageError, match=r"cracked.yaml is not readable YAML"):
        find_suite("cracked")
    with pytest.raises(UsageError, match="there is no model 'else'") as caught:
        find_model("else")
    assert "a card that cannot be read" in caught.value.hint


def test_a_name_that_two_cards_claim(homes: Path) -> None:
    model_folder(homes / "baselines" / "a", name="twin")
    model_folder(homes / "baselines" / "b", name="twin")
    model_folder(homes / "baselines" / "c", name="other", card=CARD + "aliases: [twin]\n")
    with pytest.raises(UsageError, match=r"model 'twin' is defined twice: in .*a and .*b") as caught:
        find_model("twin")
    assert "path" in caught.value.hint
    assert find_model(str(homes / "baselines" / "b")).folder.name == "b"


# ---------------------------------------------------------------------------------------------- installed packages

PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""
# A build backend (PEP 517) of its own: the tests need nothing that builds packages, and no network.
BACKEND = """
import pathlib
import zipfile

NAME = "second_package-1.2"
INFO = NAME + ".dist-info/"
ENTRY_POINTS = '''
[lens_bench.models]
one = second_package
again = second_package
below = second_heavy.models
bare = second_package.bare
gone = no_such_package_anywhere

[lens_bench.suites]
theirs = second_package.suites
'''


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    files = {
        INFO + "METADATA": "Metadata-Version: 2.1\\nName: second-package\\nVersion: 1.2\\n",
        INFO + "WHEEL": "Wheel-Version: 1.0\\nGenerator: b\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
        INFO + "entry_points.txt": ENTRY_POINTS,
    }
    for package in ("second_package", "second_heavy"):
        for path in sorted(pathlib.Path(package).rglob("*")):
            if path.is_file():
                files[path.as_posix()] = path.read_text()
    files[INFO + "RECORD"] = "".join(name + ",,\\n" for name in [*files, INFO + "RECORD"])
    with zipfile.ZipFile(pathlib.Path(wheel_directory, NAME + "-py3-none-any.whl"), "w") as wheel:
        for name, content in files.items():
            wheel.writestr(name, content)
    return NAME + "-py3-none-any.whl"
"""
SUITE = """
name: their-suite
title: Theirs
summary: A suite of a second package.
reader: second_package.reader:read
default_splits: [eval]
splits: {eval: {}}
"""
READER = """
from lens_bench.records import GroundTruth, Sample


class Nothing:
    name = "nothing"


def read(source):
    yield Sample("their-suite/0", "a", Nothing(), "the " + source.split, GroundTruth((4, 4)))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second package, built and installed by pip into a folder of its own."""
    project = tmp_path_factory.mktemp("project")
    package = model_folder(project / "second_package", name="theirs", prompt="from afar")
    (package / "__init__.py").touch()
    (package / "bare").mkdir()
    (package / "bare" / "__init__.py").touch()
    (package / "suites").mkdir()
    (package / "suites" / "their-suite.yaml").write_text(SUITE)
    (package / "reader.py").write_text(READER)
    heavy = project / "second_heavy"
    model_folder(heavy / "models" / "large", name="large")
    model_folder(heavy / "models" / "small", name="small")
    (heavy / "__init__.py").write_text("raise SystemExit('imported to be looked up')\n")
    (project / "pyproject.toml").write_text(PYPROJECT)
    (project / "backend.py").write_text(BACKEND)
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    built = subprocess.run(
        [*command, "--target", str(target), str(project)], capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    return target


def run_with(site: Path, script: str) -> dict[str, object]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(ROOT)])}
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_models_and_suites_of_an_installed_package(installed: Path) -> None:
    found = run_with(
        installed,
        """
        import json
        from pathlib import Path
        from lens_bench.data.split import open_split
        from lens_bench.records import ImageTask, ModelOptions, Query
        from lens_bench.registry import catalogue, find_model, find_suite, make_segmenter
        cards = catalogue()
        card = find_model("theirs")
        model = make_segmenter(card, ModelOptions(card.name, str(card.folder), {}))
        model.load()
        print(json.dumps({
            "models": [m.name for m in cards.models if "second_" in str(m.folder)],
            "suites": [s.name for s in cards.suites if "second_" in str(s.folder)],
            "shipped": [m.name for m in cards.models if m.folder.name == "reference"],
            "problems": [p.message for p in cards.problems],
            "text": model.segment([ImageTask("a", (2, 2), (Query("s/0", "x"),))])[0].text,
            "samples": [s.expression for s in open_split(find_suite("their-suite"), "eval", Path()).samples],
        }))
        """,
    )
    assert sorted(found["models"]) == ["large", "small", "theirs"]
    assert found["suites"] == ["their-suite"]
    assert "oracle" in found["shipped"]
    assert found["text"] == "from afar"
    assert found["samples"] == ["the eval"]
    bare, gone = sorted(found["problems"])
    assert "bare, an entry point of group lens_bench.models, holds no model.yaml" in bare
    assert gone == "entry point gone of group lens_bench.models names no package: no_such_package_anywhere"


def test_looking_things_up_imports_nothing_heavy(installed: Path) -> None:
    heavy = ["torch", "torchvision", "transformers", "pandas", "cv2", "datasets", "matplotlib", "pycocotools", "PIL"]
    found = run_with(
        installed,
        f"""
        import json, sys
        from lens_bench.registry import catalogue, find_model, find_suite, resolve_args
        catalogue(); find_model("oracle"); find_suite("refcoco"); resolve_args(find_model("center"), {{"share": "0.5"}})
        adapters = [m for m in sys.modules if m.startswith(("lens_bench_plugin", "second_"))]
        print(json.dumps({{"heavy": [m for m in {heavy} if m in sys.modules], "adapters": adapters}}))
        """,
    )
    assert found == {"heavy": [], "adapters": []}


def test_what_macos_leaves_beside_a_card_is_no_card(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("name: mine\n")
    (tmp_path / "._mine.yaml").write_bytes(b"\x00\x05\x16\x07")
    assert [path.name for path in registry._visible(tmp_path.glob("*.yaml"))] == ["mine.yaml"]

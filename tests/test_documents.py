"""What the documents show works as shown."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def blocks(document: str, language: str) -> list[str]:
    """The fenced code blocks of a language, without the indentation of a list."""
    text = (ROOT / document).read_text(encoding="utf-8")
    return [
        re.sub(rf"^{indent}", "", body, flags=re.MULTILINE)
        for indent, body in re.findall(rf"^( *)```{language}\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)
    ]


def test_a_model_in_one_folder(cli: Any, tiny: Any, tmp_path: Path) -> None:
    folder = tmp_path / "darkest"
    folder.mkdir()
    card, *_ = [b for b in blocks("CONTRIBUTING.md", "yaml") if b.startswith("name: darkest")]
    (adapter,) = blocks("CONTRIBUTING.md", "python")
    (folder / "model.yaml").write_text(card)
    (folder / "adapter.py").write_text(adapter)
    assert "share" in cli("show", folder).stdout
    result = cli(*tiny.run(str(folder), tmp_path / "out", "--model-arg", "share=0.3", "--json"))
    summary = json.loads(result.stdout)
    assert summary["model"] == "darkest"
    assert summary["complete"]
    assert 0 < summary["metrics"]["ciou"] < 1
    assert summary["metrics"]["error_rate"] == 0


def test_a_suite_in_one_file(cli: Any, tiny: Any, tmp_path: Path) -> None:
    (card,) = [b for b in blocks("CONTRIBUTING.md", "yaml") if b.startswith("name: garden")]
    (tmp_path / "garden.yaml").write_text(card)
    garden = tmp_path / "data/refer_seg/garden"
    garden.parent.mkdir(parents=True)
    garden.symlink_to(tiny.data_root / "tiny")
    (tmp_path / "data/garden").mkdir()
    (tmp_path / "data/garden/images").symlink_to(tiny.data_root / "tiny/images")
    refs = garden / "refs(unc).p"
    (tmp_path / "data/refer_seg/own").mkdir()
    command = ["data", "verify", tmp_path / "garden.yaml", "--data-root", tmp_path / "data"]
    missing = cli(*command)
    assert missing.returncode == 4  # the tiny suite's file is called refs(unc).p, the card asks for refs(us).p
    assert "refs(us).p" in missing.stderr
    text = card.replace("split_by: us", "split_by: unc, split: val").replace(
        "images: 120, expressions: 803", "images: 12"
    )
    (tmp_path / "garden.yaml").write_text(text)
    assert refs.exists()
    found = cli(*command)
    assert found.returncode == 0, found.stderr
    assert "12 of 12 expected" in found.stdout


def test_readme_names_only_commands_and_options_that_exist(cli: Any) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    helps: dict[str, str] = {}
    fences = "\n".join(re.findall(r"^```\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    for line in re.findall(r"lens-bench ((?:data )?[a-z]+[^\n#]*)", fences):
        words = line.split()
        name = " ".join(words[:2]) if words[0] == "data" else words[0]
        if name not in helps:
            helps[name] = cli(*name.split(), "--help").stdout
        assert "Usage" in helps[name], f"README names a command that does not exist: {line}"
        for option in re.findall(r"--[a-z-]+", line):
            assert option in helps[name], f"README: {name} has no option {option}"

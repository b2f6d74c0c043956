"""Identity of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lens_bench.errors import UsageError
from lens_bench.registry import find_model
from lens_bench.run.plan import Request, folder_digest, make_model, select_samples


def test_a_folders_digest_is_of_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"1")
    (tmp_path / "adapter.py").write_text("x = 1")
    first = folder_digest(tmp_path)
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__/adapter.pyc").write_bytes(b"cache")
    (tmp_path / ".hidden").write_text("left out")
    assert folder_digest(tmp_path) == first
    (tmp_path / "weights.bin").write_bytes(b"2")
    changed = folder_digest(tmp_path)
    (tmp_path / "weights.bin").rename(tmp_path / "weight.bin")
    assert len({first, changed, folder_digest(tmp_path), folder_digest(tmp_path, "another name")}) == 4


def test_limit_and_shards(tiny: Any, tmp_path: Path) -> None:
    samples = tiny.plan("full", tmp_path).split.samples
    assert select_samples(samples, None, None) == samples
    assert select_samples(samples, 10**9, None) == samples
    assert select_samples(samples, 7, None) == samples[:7]
    parts = [select_samples(samples, 50, (i, 4)) for i in (1, 2, 3, 4)]
    assert sorted(s.id for part in parts for s in part) == sorted(s.id for s in samples[:50])
    assert sum(len({s.image_id for s in part}) for part in parts) == len({s.image_id for s in samples[:50]})


def test_a_whole_split_is_expected_under_a_limit_too(tiny: Any, tmp_path: Path) -> None:
    plan = tiny.plan("full", tmp_path, limit=3)
    assert sum(len(t.queries) for t in plan.whole_split()) == 72


def test_only_oracles_are_shown_the_ground_truth(tiny: Any, tmp_path: Path) -> None:
    for model, seen in {"full": False, "oracle": True}.items():
        tasks = [task for task, _ in tiny.plan(model, tmp_path).tasks(lambda _: True)]
        assert {q.truth is not None for t in tasks for q in t.queries} == {seen}


@pytest.mark.parametrize("wish", [{"device": "tpu"}, {"dtype": "int8"}, {"engine": "hf"}, {"args": {"y": "1"}}])
def test_what_a_model_does_not_offer(tiny: Any, tmp_path: Path, wish: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        tiny.plan("center", tmp_path, **wish)


@pytest.mark.parametrize(
    ("device", "there_are", "words"),
    [
        ("cuda", 0, "torch sees no CUDA device here"),
        ("cuda:1", 1, "there are 1, numbered from 0"),
        ("cuda:", 1, "neither cuda nor cuda:N"),
        ("cuda:x", 1, "neither cuda nor cuda:N"),
        ("cuda", 1, ""),
        ("cuda:1", 2, ""),
        ("cpu", 0, ""),
    ],
)
def test_a_device_that_is_not_there_is_refused_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch, device: str, there_are: int, words: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there_are > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there_are)
    card, request = find_model("lens-nano"), Request(device=device)
    if not words:
        assert make_model(card, request)[0].device == device
        return
    with pytest.raises(UsageError, match=words) as caught:
        make_model(card, request)
    assert caught.value.hint
    assert make_model(card, request, elsewhere=True)[0].device == device  # workers have devices of their own
    gpu_only = card.model_copy(update={"devices": ["cuda"]})
    if not there_are:
        with pytest.raises(UsageError) as caught:
            make_model(gpu_only, request)
        assert "CUDA devices only" in caught.value.hint

"""vLLM as the sampler: what travels, that it arrives, and that probabilities are the trainer's before and after."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from lens_bench.checkpoint_files import weight_files
from lens_bench.errors import RunError, UsageError
from lens_bench.lens.modeling import LensModel
from lens_bench.lens.save import export_qwen
from lens_bench.lens.sources import SafetensorsSource
from lens_bench.lens.tiny import byte_tokenizer
from lens_bench.train.config import Lora
from lens_bench.train.lora import inject, merged
from lens_bench.train.pack import Segment, pack
from lens_bench.train.parameters import group_of
from lens_bench.train.rollout import Ask, Rollout
from lens_bench.train.trainee import layout_of, read, score, see
from lens_bench.train.vllm_sampler import VllmSampler, travelling

from .test_rollout import MEMBERS, asks

INSTALLED = importlib.util.find_spec("vllm") is not None
TEMPERATURE = 0.8


def training(model: LensModel, *groups: str) -> LensModel:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(group_of(name, "grpo") in groups)
    return model


def moved(model: LensModel, seed: int) -> None:
    """An update of everything that trains, large enough to change what is sampled."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.03 * torch.randn(parameter.shape, generator=generator))


# ---------------------------------------------------------------------------------------------- what travels


def test_what_trains_travels_under_the_names_of_a_checkpoint(tmp_path: Path) -> None:
    model, _, _ = asks()
    export_qwen(model, tmp_path, byte_tokenizer())
    source = SafetensorsSource(weight_files(tmp_path))
    everything = travelling(training(model, "embeddings", "language", "vision", "head", "sam_decoder"), torch.float32)
    assert everything.keys() == source.shapes().keys()
    for name, tensor in everything.items():
        assert torch.equal(tensor, source.tensor(name))
    language = travelling(training(model, "language", "head"), torch.bfloat16)
    assert 0 < len(language) < len(everything)
    assert not any("visual" in name or "embed_tokens" in name or "lm_head" in name for name in language)
    assert {t.dtype for t in language.values()} == {torch.bfloat16}
    assert not travelling(training(model, "head", "sam_prompt"), torch.float32)


def test_adapters_travel_merged() -> None:
    pytest.importorskip("peft", reason="adapters need peft")
    model, _, _ = asks()
    inject(training(model), Lora(rank=2, targets=("q_proj",)), seed=0)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora_" in name)
    moved(model, 0)
    sent, plain = travelling(model, torch.float32), dict(merged(model).named_parameters())
    changed = [name for name in sent if name.endswith("q_proj.weight")]
    # The layers beside an adapted one travel too: vLLM keeps query, key and value as one.
    assert changed and len(sent) > 3 * len(changed) and not any("lora" in name for name in sent)
    own = next(p for name, p in plain.items() if name.endswith("layers.0.self_attn.q_proj.weight"))
    assert any(torch.equal(own, sent[name]) for name in changed)


@pytest.mark.skipif(INSTALLED, reason="vLLM is installed")
def test_its_absence_is_a_usage_error() -> None:
    model, prompter, _ = asks()
    with pytest.raises(UsageError, match="not installed"):
        VllmSampler(model, byte_tokenizer(), prompter, TEMPERATURE, 9).sync()


# ---------------------------------------------------------------------------------------------- a running engine


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[LensModel, VllmSampler, list[Ask]]]:
    model, prompter, found = asks()
    training(model, "embeddings", "language", "vision")
    sampler = VllmSampler(model, byte_tokenizer(), prompter, TEMPERATURE, 9)
    sampler.sync()
    yield model, sampler, found
    sampler.close()


def difference(model: LensModel, found: list[Ask], groups: list[list[Rollout]]) -> float:
    """Largest difference of log-probabilities between the sampler and the trainer."""
    _, prompter, _ = asks()
    sights = [ask.sight for ask in found]
    asked = [[Segment(ask.after, r.ids) for r in group] for ask, group in zip(found, groups, strict=True)]
    rows = pack(layout_of(model, prompter), [s.prepared.grid for s in sights], asked)
    with torch.no_grad():
        ours = score(model, read(model, rows, see(model, sights)), rows, TEMPERATURE, 1024).logps
    theirs = torch.tensor([p for group in groups for r in group for p in r.logps])
    return float((ours[rows.real] - theirs).abs().max())


@pytest.mark.vllm
@pytest.mark.skipif(not INSTALLED, reason="vLLM is not installed here; run tox -e vllm")
def test_probabilities_are_the_trainers_before_and_after_updates(
    running: tuple[LensModel, VllmSampler, list[Ask]],
) -> None:
    model, sampler, found = running
    assert difference(model, found, sampler.sample(found, MEMBERS, 0)) < 1e-4
    for seed in (1, 2):
        moved(model, seed)
        assert difference(model, found, sampler.sample(found, MEMBERS, 0)) > 0.05, "an update that nothing depends on"
        sampler.sync()
        # Pictures and prompts are the same as before: nothing that was kept of them may be used again.
        assert difference(model, found, sampler.sample(found, MEMBERS, 0)) < 1e-4


@pytest.mark.vllm
@pytest.mark.skipif(not INSTALLED, reason="vLLM is not installed here; run tox -e vllm")
def test_draws_are_functions_of_seed_place_and_member(running: tuple[LensModel, VllmSampler, list[Ask]]) -> None:
    _, sampler, found = running
    whole = [[r.ids for r in group] for group in sampler.sample(found, MEMBERS, 0)]
    assert [[r.ids for r in group] for group in sampler.sample(found, MEMBERS, 0)] == whole
    assert [r.ids for r in sampler.sample(found[1:2], MEMBERS, 0)[0]] == whole[1]
    assert [[r.ids for r in group] for group in sampler.sample(found, MEMBERS, 1)] != whole
    assert all(a != b for group in whole for a, b in itertools.combinations(group, 2))
    for group in sampler.sample(found, MEMBERS, 2):
        for rollout in group:
            assert 1 <= len(rollout.ids) == len(rollout.logps) <= 9 and max(rollout.logps) <= 1e-6


@pytest.mark.vllm
@pytest.mark.skipif(not INSTALLED, reason="vLLM is not installed here; run tox -e vllm")
def test_weights_that_do_not_arrive_are_an_error(
    running: tuple[LensModel, VllmSampler, list[Ask]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, sampler, _ = running
    engine = sampler._engine
    assert engine is not None and engine._llm is not None
    with monkeypatch.context() as patch:
        patch.setattr(engine._llm, "collective_rpc", lambda *_, **__: [])
        moved(model, 3)
        with pytest.raises(RunError, match="did not take over"):
            sampler.sync()
    sampler.sync()

"""Rollouts from vLLM: an engine of its own in every process, which takes over the policy's weights after each update.

Only the language model and the vision tower are known to vLLM, and only those of their parts travel that train. What it
then holds is compared with what was sent, and its log-probabilities with the trainer's at every step (``Policy``).
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from lens_bench.lens.config import whole
from lens_bench.lens.images import Patching
from lens_bench.lens.layouts import QWEN, Slot, tied_names
from lens_bench.lens.modeling import LensModel
from lens_bench.lens.prompts import HubTokenizer, Prompter
from lens_bench.lens.save import export_qwen
from lens_bench.lens.vllm_writer import pixels_of
from lens_bench.train.draws import stream
from lens_bench.train.lora import Merged, merged
from lens_bench.train.parameters import group_of
from lens_bench.train.rollout import Ask, Rollout
from lens_bench.vllm_engine import Request, VllmEngine, VllmSettings

_CONTEXT = 4096


class VllmSampler:
    """Samples with vLLM. A draw is a function of (seed, place, member), as vLLM's generators make it of its seed.

    Args:
        lens: The policy, with or without adapters.
        tokenizer: Goes into the folder that vLLM is started from.
        prompter: Of its prompts.
        temperature: Scores are divided by it.
        longest: Most tokens of an answer.
        dtype: Precision that vLLM computes in.
        share: Share of device memory that vLLM takes.
        sleeps: Whether vLLM gives it back while it rests.
    """

    def __init__(
        self,
        lens: LensModel,
        tokenizer: HubTokenizer,
        prompter: Prompter,
        temperature: float,
        longest: int,
        dtype: torch.dtype = torch.float32,
        share: float = 0.3,
        sleeps: bool = False,
    ) -> None:
        self._lens = lens
        self._tokenizer = tokenizer
        self._prompter = prompter
        self._temperature = temperature
        self._longest = longest
        self._dtype = dtype
        self._share = share
        self._sleeps = sleeps
        self._engine: VllmEngine | None = None
        temporal = whole(lens.qwen.config.vision_config, "temporal_patch_size")
        self._patching = Patching(lens.patch, lens.merge, temporal)

    def sync(self) -> None:
        """Hand vLLM the weights as they are now; the first time by starting it from them.

        Raises:
            UsageError: vLLM is not installed.
            RunError: What arrived is not what was sent.
        """
        if self._engine is None:
            self._engine = self._start()
        else:
            self._engine.load(travelling(self._lens, self._dtype))

    def sample(self, asks: Sequence[Ask], members: int, seed: int) -> list[list[Rollout]]:
        """``members`` answers to each group, in order."""
        if self._engine is None:
            self._engine = self._start()
        requests, seeds = list[Request](), list[int]()
        for ask in asks:
            ids = (*self._prompter.before, self._lens.image_token, *ask.after)
            request = Request(ids, (pixels_of(ask.sight.prepared, self._patching),), self._longest)
            requests += [request] * members
            seeds += [int(stream(seed, "rollout", ask.place, m).integers(2**63)) for m in range(members)]
        found = self._engine.sample(requests, self._prompter.ends, self._temperature, seeds)
        rollouts = [Rollout(answer.ids, answer.logps) for answer in found]
        return [rollouts[n * members : (n + 1) * members] for n in range(len(asks))]

    def rest(self) -> None:
        """Let vLLM give its memory back, where it sleeps."""
        if self._engine is not None:
            self._engine.rest()

    def close(self) -> None:
        """Stop vLLM."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def _start(self) -> VllmEngine:
        """Start vLLM from a folder that is only there meanwhile."""
        context = min(_CONTEXT, whole(self._lens.qwen.config.text_config, "max_position_embeddings"))
        several = torch.distributed.is_available() and torch.distributed.is_initialized()
        dtype = str(self._dtype).removeprefix("torch.")
        settings = VllmSettings(
            str(self._lens.device), dtype, context, share=self._share, many=several, sleeps=self._sleeps
        )
        with tempfile.TemporaryDirectory(prefix="lens-bench-vllm-") as name:
            export_qwen(merged(self._lens), Path(name), self._tokenizer)
            return VllmEngine(Path(name), settings)


def travelling(lens: LensModel, dtype: torch.dtype) -> dict[str, Tensor]:
    """What vLLM must take over after an update, under the Hub's names: whole groups of parameters, adapters merged in.

    A group travels as a whole where anything in it trains, because vLLM keeps several layers as one. An output layer
    that is tied to the embeddings is the embeddings.
    """
    groups = {group_of(name, "grpo") for name, p in lens.named_parameters() if p.requires_grad} - {None}
    tied, plain = tied_names(lens), Merged(lens)
    found: dict[str, Tensor] = {}
    for name in plain.parameters:
        if name.startswith("qwen.") and name not in tied and group_of(name, "grpo") in groups:
            key = QWEN.to_theirs(Slot(name))
            if key is None:
                raise ValueError(f"{name} has no name in a Qwen-VL folder")
            found[key] = plain.tensor(name).to(dtype)
    return found

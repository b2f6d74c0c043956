"""The model: CLIP, a projector, LLaMA, a head that turns one of its states into a prompt, and SAM."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lens_bench.torchvision_guard import guard_torchvision

guard_torchvision()

from transformers import CLIPVisionModel, LlamaForCausalLM  # noqa: E402

from lens_bench.lens.config import whole  # noqa: E402
from lens_bench.llava_sam.config import LlavaSamConfig  # noqa: E402
from lens_bench.sam.model import PROMPT_WIDTH, SamModel  # noqa: E402

if TYPE_CHECKING:
    from lens_bench.lens.cache import Cache


class LlavaSam(nn.Module):
    """The whole model. Construct under ``torch.device("meta")`` to get shapes without memory.

    Nothing in it is stateful between calls.
    """

    def __init__(self, config: LlavaSamConfig) -> None:
        super().__init__()
        self.config = config
        clip, width = config.clip_config(), config.width
        self.llama = LlamaForCausalLM(config.llama_config())  # type: ignore[no-untyped-call]
        self.clip = CLIPVisionModel(clip)
        self.projector = _projector(config.family.projector, whole(clip, "hidden_size"), width)
        head = nn.Sequential(nn.Linear(width, width), nn.ReLU(inplace=True), nn.Linear(width, PROMPT_WIDTH))
        self.text_hidden_fcs = nn.ModuleList([head])
        self.sam = SamModel(config.sam)

    # ------------------------------------------------------------------------------------------ facts

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        return self.embedding.weight.device

    @property
    def embedding(self) -> nn.Embedding:
        """The word embeddings."""
        table = self.llama.get_input_embeddings()
        if not isinstance(table, nn.Embedding):
            raise TypeError(f"the word embeddings are a {type(table).__name__}")
        return table

    @property
    def image_tokens(self) -> int:
        """Tokens that an image takes in the language model."""
        clip = self.clip.config
        return (whole(clip, "image_size") // whole(clip, "patch_size")) ** 2 + int(self.config.keep_class)

    # ------------------------------------------------------------------------------------------ language

    def see(self, pixels: Tensor) -> Tensor:
        """Image tokens [B, T, D] of normalised images [B, 3, S, S]."""
        out = self.clip(pixels.to(self.embedding.weight), output_hidden_states=True)
        states = out.hidden_states[self.config.select_layer]
        tokens: Tensor = self.projector(states if self.config.keep_class else states[:, 1:])
        return tokens

    def read(self, embeds: Tensor, positions: Tensor, mask: Tensor, cache: Cache | None = None) -> Tensor:
        """Run the language model.

        Args:
            embeds: [B, Q, D].
            positions: [B, Q].
            mask: Bool [B, 1, Q, K], what may be attended to; ``KeyValues.open`` gives it for a cache.
            cache: Keys and values of what lies before; the new ones are added to it.

        Returns:
            Hidden states [B, Q, D] behind the final norm.
        """
        out = self.llama.model(
            inputs_embeds=embeds,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=cache is not None,
        )
        hidden: Tensor = out.last_hidden_state
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Vocabulary scores at hidden states [..., D]."""
        scores: Tensor = self.llama.lm_head(hidden)
        return scores

    # ------------------------------------------------------------------------------------------ masks

    def prompts(self, hidden: Tensor) -> Tensor:
        """SAM prompt tokens [N, 1, 256] from hidden states [N, D], each the one that predicts [SEG]."""
        tokens: Tensor = self.text_hidden_fcs[0](hidden)
        return tokens.unsqueeze(1)


def _projector(layers: int, width: int, out: int) -> nn.Module:
    """One linear layer (LLaVA), or several with GELU between them (LLaVA-1.5)."""
    if layers == 1:
        return nn.Linear(width, out)
    parts: list[nn.Module] = [nn.Linear(width, out)]
    for _ in range(layers - 1):
        parts += [nn.GELU(), nn.Linear(out, out)]
    return nn.Sequential(*parts)

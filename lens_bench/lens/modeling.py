"""LENS on transformers' backbones: vision tower, language model, context queries, SAM 2.

One class serves inference and training. Nothing in it is stateful between calls; positions are always passed
explicitly, because transformers would otherwise remember those of an earlier batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lens_bench.lens.config import LensConfig, Positions, whole
from lens_bench.lens.connector import ContextHead
from lens_bench.lens.hf import Qwen2_5_VLForConditionalGeneration, Qwen2VLForConditionalGeneration
from lens_bench.lens.positions import Grid, padded_positions
from lens_bench.lens.sam import SamPart
from lens_bench.lens.spans import Spans, use_spans

if TYPE_CHECKING:
    from lens_bench.lens.cache import Cache


@dataclass(frozen=True, slots=True)
class Joint:
    """Last hidden states (behind the final norm) of a pass with the queries appended.

    Attributes:
        text: [B, L, D] at the given tokens, padding included.
        queries: [B, M, D] at the context queries.
    """

    text: Tensor
    queries: Tensor


class LensModel(nn.Module):
    """The whole model. Construct under ``torch.device("meta")`` to get shapes without memory."""

    def __init__(self, config: LensConfig) -> None:
        super().__init__()
        self.config = config
        backbone = (
            Qwen2_5_VLForConditionalGeneration if config.family == "qwen2_5_vl" else Qwen2VLForConditionalGeneration
        )
        self.qwen = backbone(config.qwen_config())
        use_spans(self.qwen.model.language_model)
        self.head = ContextHead(config.head, self.width)
        self.sam = SamPart(config.sam_config())

    # ------------------------------------------------------------------------------------------ facts

    @property
    def width(self) -> int:
        """Width of the language model."""
        return whole(self.qwen.config.text_config, "hidden_size")

    @property
    def merge(self) -> int:
        """Patches merged into one language-model token, per axis."""
        return whole(self.qwen.config.vision_config, "spatial_merge_size")

    @property
    def patch(self) -> int:
        """Side of a patch in pixels."""
        return whole(self.qwen.config.vision_config, "patch_size")

    @property
    def image_token(self) -> int:
        """Id of the image placeholder."""
        return int(self.qwen.config.image_token_id)

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        return self.head.queries.device

    @property
    def embedding(self) -> nn.Embedding:
        """The word embeddings."""
        table = self.qwen.get_input_embeddings()
        if not isinstance(table, nn.Embedding):
            raise TypeError(f"the word embeddings are a {type(table).__name__}")
        return table

    @property
    def text_dtype(self) -> torch.dtype:
        """Precision of the language model."""
        return self.embedding.weight.dtype

    # ------------------------------------------------------------------------------------------ language

    def see(self, patches: Tensor, grids: Sequence[Grid]) -> list[Tensor]:
        """Run the vision tower on a packed batch.

        Args:
            patches: [sum of t*h*w, channels * temporal * patch * patch] flattened patches of all images.
            grids: Patch grid of each image.

        Returns:
            Merged visual tokens [t*h*w / merge^2, D] per image.
        """
        grid = torch.tensor([list(g) for g in grids], dtype=torch.long, device=self.device)
        out = self.qwen.model.get_image_features(patches.to(self.device), grid, return_dict=True)
        return list(out.pooler_output)

    def embed(self, ids: Tensor, images: Sequence[Tensor]) -> Tensor:
        """Embed token ids [..., L]; gives [..., L, D].

        Args:
            ids: Token ids; [B, L] where ``images`` are given.
            images: Visual tokens of one image per row, put in place of the row's first placeholders; none to embed
                every id as a word, as an answer's are, whatever it holds.

        Raises:
            ValueError: A row has fewer placeholders than its image has tokens.
        """
        embeds: Tensor = self.embedding(ids)
        if not images:
            return embeds
        visual = torch.cat(list(images)).to(embeds)
        counts = torch.tensor([len(image) for image in images], device=ids.device)
        placeholder = ids == self.image_token
        mask = placeholder & (placeholder.cumsum(dim=1) <= counts[:, None])
        if int(mask.sum()) != len(visual):
            raise ValueError(f"{int(mask.sum())} image placeholders, but {len(visual)} visual tokens")
        return embeds.masked_scatter(mask.unsqueeze(-1), visual)

    def read(
        self, embeds: Tensor, positions: Tensor, mask: Tensor | Spans | None = None, cache: Cache | None = None
    ) -> Tensor:
        """Run the language model.

        Args:
            embeds: [B, Q, D].
            positions: [3, B, Q].
            mask: [B, Q] with 1 at real tokens (causality is added), or bool [B, 1, Q, K] that says everything, or
                spans of one long row.
            cache: Keys and values of what lies before; the new ones are added to it.

        Returns:
            Hidden states [B, Q, D] behind the final norm.
        """
        complete = isinstance(mask, Spans) or (mask is not None and mask.ndim == 4)
        attention = {"full_attention": mask} if complete else mask
        out = self.qwen.model.language_model(
            inputs_embeds=embeds,
            position_ids=positions,
            attention_mask=attention,
            past_key_values=cache,
            use_cache=cache is not None,
        )
        hidden: Tensor = out.last_hidden_state
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Vocabulary scores at hidden states [..., D]."""
        scores: Tensor = self.qwen.lm_head(hidden)
        return scores

    # ------------------------------------------------------------------------------------------ the mask pass

    def joint(
        self,
        ids: Tensor,
        mask: Tensor,
        images: Sequence[Tensor],
        grids: Sequence[Grid],
        positions: Positions | None = None,
    ) -> Joint:
        """Read whole rows with the context queries behind them: the mask pass without any sharing.

        The queries stand behind the padded end and take the positions that follow each row's last real token. Text
        states do not depend on them, because attention is causal.

        Args:
            ids: [B, L] prompt and answer, image placeholders expanded, padded on either side.
            mask: [B, L], 1 at real tokens.
            images: Visual tokens of each row's image, as ``see`` gives them.
            grids: Patch grid of each row's image.
            positions: Overrides the configuration.
        """
        mode = positions or self.config.positions
        index = padded_positions(mode, ids, mask, list(grids), self.image_token, self.merge)
        count = self.head.config.queries
        embeds = self.embed(ids, images)
        queries = self.head.queries.to(embeds.dtype).expand(len(ids), -1, -1)
        last = index.masked_fill(mask.unsqueeze(0) == 0, -1).amax(dim=(0, 2))
        steps = last.view(1, -1, 1) + 1 + torch.arange(count, device=ids.device).view(1, 1, -1)
        hidden = self.read(
            torch.cat([embeds, queries], dim=1),
            torch.cat([index, steps.expand(3, -1, -1)], dim=2),
            torch.cat([mask, mask.new_ones(len(ids), count)], dim=1),
        )
        return Joint(hidden[:, :-count], hidden[:, -count:])

    def prompts(self, queries: Tensor) -> Tensor:
        """SAM 2 prompt tokens [B, 1, C] from hidden states [B, M, D] at the queries, in SAM's precision."""
        tokens: Tensor = self.head(queries.to(next(self.head.project.parameters()).dtype))
        return tokens.to(self.sam.sam2.no_memory_embedding.dtype)

"""Sizes of a model that is trained from nothing, and which of them fit together."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

Count = Annotated[int, Field(ge=1)]


class Sizes(BaseModel):
    """Sizes of a model that is trained from nothing; the defaults are ``lens-nano``'s."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    width: Count = 160
    layers: Count = 4
    heads: Count = 5
    hidden: Count = 384
    theta: float = Field(default=1e4, gt=0)
    vision_width: Count = 128
    vision_layers: int = Field(default=4, ge=0)
    vision_heads: Count = 4
    vision_hidden: Count = 256
    side: Count = Field(default=112, multiple_of=14, description="Of the language model's square image in pixels.")
    step: Count = Field(default=2, description="Coordinates in an answer are multiples of it; one token each.")
    sam_side: Count = Field(default=128, multiple_of=32)
    # The decoder attends at half of it, with four heads.
    sam_width: Count = Field(default=64, multiple_of=8)
    sam_trunk: tuple[Count, Count, Count, Count] = (16, 32, 64, 128)
    queries: Count = 8
    head_width: Count = Field(default=128, multiple_of=4)
    head_layers: int = Field(default=2, ge=0)
    answer_tokens: Count = 40

    @model_validator(mode="after")
    def _heads_divide(self) -> Sizes:
        # Rotary positions turn pairs of a head's channels, in the vision tower one for either axis.
        if self.width % (2 * self.heads):
            raise ValueError("width must be a multiple of twice heads")
        if self.vision_width % (4 * self.vision_heads):
            raise ValueError("vision_width must be a multiple of four times vision_heads")
        first, second, third, fourth = self.sam_trunk
        if third % 2 or fourth % 4:
            raise ValueError("sam_trunk: the third width must be even and the fourth a multiple of 4")
        # SAM 2's trunk halves its grid at every stage, that of the residual only where the width changes.
        if first == second or second == third or third == fourth:
            raise ValueError("sam_trunk: neighbouring widths must differ")
        return self

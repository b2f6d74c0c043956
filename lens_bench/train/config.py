"""Recipes: what is trained, on what, how. Typed, and an unknown key is an error.

``recipe_files`` reads them from YAML.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from lens_bench.heads import NAME, NAME_HINT
from lens_bench.lens.recipe import Recipe
from lens_bench.train.saving import Saving
from lens_bench.train.sizes import Count, Sizes
from lens_bench.train.trackers import TrackerName

Stage = Literal["sam", "vision", "supervised", "grpo"]
Group = Literal["embeddings", "language", "vision", "head", "sam_prompt", "sam_decoder", "sam_image"]
Fraction = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0)]
Decay = Annotated[float, Field(ge=0, lt=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelConfig(_Part):
    """Where training starts: exactly one of ``checkpoint``, ``qwen`` with ``sam``, ``fresh``.

    Attributes:
        checkpoint: Folder of a LENS checkpoint. In a chain the last stage's result stands in where no start is named.
        qwen: Folder of a plain Qwen-VL checkpoint; ``sam``: SAM 2's file or folder. The head is drawn from the seed.
        sam_size: Of the plain checkpoint, one of Meta's four names.
        queries: Context queries of a fresh head.
        fresh: Sizes of a model that is trained from nothing, with its own tokenizer of words.
        like: Sizes of a checkpoint that is not there yet; only ``--dry-run`` looks at them.
        prompt: Overrides of how the model is asked (``lens.recipe.Recipe``). In a file, ``card: NAME`` takes what a
            model's card says, in front of the other overrides (``recipe_files``).
        dtype: Precision of weights that are not trained; trained ones are kept in float32.
    """

    checkpoint: str = ""
    qwen: str = ""
    sam: str = ""
    sam_size: str = "sam2_hiera_l"
    queries: Count = 64
    fresh: Sizes | None = None
    like: Sizes | None = None
    prompt: dict[str, str | int | bool | None] = {}
    dtype: Literal["float32", "bfloat16"] = "float32"

    @field_validator("prompt")
    @classmethod
    def _can_be_asked(cls, prompt: dict[str, str | int | bool | None]) -> dict[str, str | int | bool | None]:
        """Keys, and the question's placeholder; what depends on the start's own fields is checked with it."""
        for key in prompt:
            if key not in Recipe.model_fields:
                raise ValueError(f"there is no such key {key!r}: {', '.join(Recipe.model_fields)}, or card in a file")
        if "{expression}" not in str(prompt.get("question", "{expression}")):
            raise ValueError("question needs the placeholder {expression}")
        return prompt

    @model_validator(mode="after")
    def _one_start(self) -> ModelConfig:
        given = [bool(self.checkpoint), bool(self.qwen or self.sam), self.fresh is not None]
        if sum(given) > 1 or bool(self.qwen) != bool(self.sam):
            raise ValueError("name one start: checkpoint, or qwen with sam, or fresh")
        return self


class Lora(_Part):
    """Low-rank adapters on the language model instead of its own weights (arXiv 2106.09685)."""

    rank: int = Field(default=16, ge=1)
    alpha: int = Field(default=32, ge=1)
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class Optimiser(_Part):
    """AdamW and its schedule. A group without a learning rate, or with null for one, is frozen."""

    rates: dict[Group, Annotated[float, Field(gt=0)]] = Field(min_length=1)
    muon: tuple[Group, ...] = Field(default=(), description="Groups whose matrices Muon moves.")
    steps: int = Field(ge=1)
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    warmup: int = Field(default=0, ge=0)
    floor: Fraction = Field(default=0.0, description="Share of the learning rate that the schedule ends at.")
    decay: int | None = Field(
        default=None, ge=1, description="Step at which linear and cosine reach the floor; by default the last one."
    )
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    epsilon: float = Field(default=1e-8, gt=0)
    weight_decay: Weight = 0.0
    max_norm: float = Field(default=1.0, gt=0)

    @field_validator("rates", mode="before")
    @classmethod
    def _null_freezes(cls, rates: object) -> object:
        """A null leaves the group out; one for a group that does not exist stays, to be refused."""
        if not isinstance(rates, Mapping):
            return rates
        return {group: rate for group, rate in rates.items() if rate is not None or group not in get_args(Group)}

    @model_validator(mode="after")
    def _learns_to_the_end(self) -> Optimiser:
        if self.decay is not None and self.schedule == "constant":
            raise ValueError("decay belongs to the schedules linear and cosine")
        if self.decay is not None and self.decay < self.steps and not self.floor:
            raise ValueError(f"after step {self.decay} (decay) the learning rate is 0: give floor a value")
        return self

    @property
    def open_ended(self) -> bool:
        """Whether more steps leave the learning rates of the earlier ones as they are."""
        return self.schedule == "constant" or self.decay is not None


class Curriculum(_Part):
    """Draw samples more often where the start fails, by its measured reward.

    Attributes:
        measure: Units that are measured before the first step; the others get the mean reward of those.
        floor: Weight of a unit that is always answered right, beside 1 for one that never is.
        power: Of the failure rate.
    """

    measure: int = Field(ge=1)
    floor: Fraction = 0.1
    power: float = Field(default=1.0, gt=0)


class DataConfig(_Part):
    """What is trained on.

    Attributes:
        splits: ``suite/split``, joined in order.
        held_out: ``suite/split`` or ``suite/*`` (all but the training splits): an image that occurs there is not
            trained on.
        paper_data: Train on every image, as the paper did.
        unit: What an epoch goes over: every expression, every referent with one drawn expression, or every image with
            up to ``per_image`` drawn expressions.
        images: Make the splits anew, of so many images each, in ``data-IMAGES`` beside the stage's folder (generated
            suites; to try things out). None: they lie under the data root.
        no_target: Also train on expressions that mean nothing in their image (stage grpo). The right answer to one
            names no box and marks no pixel.
        part: Share of the images, by their place in a shuffled order that no seed changes, so that stages can see
            different ones.
        recolour: Share of the draws whose image has its colours exchanged, so that shapes are learned apart from
            colours (stage vision).
    """

    splits: tuple[str, ...]
    held_out: tuple[str, ...] = ()
    paper_data: bool = False
    unit: Literal["expression", "referent", "image"] = "expression"
    per_image: int = Field(default=8, ge=1)
    images: int | None = Field(default=None, ge=1)
    no_target: bool = False
    part: tuple[Fraction, Fraction] = (0.0, 1.0)
    recolour: Fraction = 0.0
    curriculum: Curriculum | None = None


class Batch(_Part):
    """Units of an optimizer step over all ranks, and of one forward pass."""

    units: int = Field(ge=1)
    micro: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _divides(self) -> Batch:
        if self.units % self.micro:
            raise ValueError("units must be a multiple of micro")
        return self


class Answer(_Part):
    """What a perfect answer says.

    Attributes:
        text: May name ``{box}``, ``{expression}``, and ``{rationale}``, which is empty where data has none.
        box: May name ``{x1}``, ``{y1}``, ``{x2}``, ``{y2}``.
    """

    text: str = "{box}"
    box: str = '[{{"bbox_2d": [{x1}, {y1}, {x2}, {y2}]}}]'
    step: int = Field(default=1, ge=1, description="Coordinates are rounded to multiples of it.")

    @model_validator(mode="after")
    def _can_be_filled_in(self) -> Answer:
        # As supervised.answer_text does; an expression may come without a rationale.
        _try(self.text, "text", {"expression": "a thing", "rationale": "", "box": "a box"})
        _try(self.box, "box", dict.fromkeys(("x1", "y1", "x2", "y2"), 0))
        return self


def _try(template: str, field: str, values: Mapping[str, object]) -> None:
    try:
        template.format(**values)
    except (LookupError, ValueError, TypeError, AttributeError):
        names = ", ".join(f"{{{name}}}" for name in values)
        raise ValueError(
            f"{field} cannot be filled in: {template!r} may name {names}; a brace that is meant as one is doubled"
        ) from None


class Text(_Part):
    """Cross-entropy of the perfect answer. ``smoothing``: deviation, in tokens, of soft targets at coordinates."""

    weight: Weight = 1.0
    smoothing: Weight = 0.0


class Mask(_Part):
    """Dice plus binary cross-entropy.

    Attributes:
        weight: Beside the other losses.
        size: Where they are compared: the image's own pixels, or the decoder's.
        correctness: With ``box``, a rollout counts by the IoU of its own box, so that the decoder does not learn from
            descriptions of something else.
    """

    weight: Weight = 1.0
    size: Literal["original", "decoder"] = "original"
    correctness: Literal["none", "box"] = "none"


_IN_FILE = re.compile(r"(?P<file>.*\.py):(?P<function>[A-Za-z_]\w*)")


BUILT_IN = ("format", "box", "mask", "target")  # rewards


def without_folder(reward: str) -> str:
    """The name of a reward; of ``folder/file.py:function`` without the folder."""
    found = _IN_FILE.fullmatch(reward)
    return f"{Path(found['file']).name}:{found['function']}" if found else reward


class RewardConfig(_Part):
    """One reward: ``format``, ``box``, ``mask``, ``target``, or a function with TRL's signature.

    A function is named by ``file.py:function``, relative to the recipe's folder, or by its dotted path. ``power`` and
    ``threshold`` shape IoUs; ``kind`` is the wanted format. With ``quantile: N`` the reward is the quantile of its
    value among those of the last N steps.
    """

    name: str
    weight: float = 1.0
    power: float = Field(default=2.0, gt=0)
    threshold: Fraction | None = None
    kind: Literal["any-box", "think-answer", "reason-box", "box-only"] = "any-box"
    quantile: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _known(self) -> RewardConfig:
        if self.name in BUILT_IN or self.is_user:
            return self
        offered = ", ".join((*BUILT_IN, "file.py:function or package.module.function"))
        raise ValueError(f"no reward {self.name!r}: {offered}")

    @property
    def is_user(self) -> bool:
        """Whether it is a function of the user's own."""
        return self.source is not None or re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", self.name) is not None

    @property
    def source(self) -> tuple[Path, str] | None:
        """File and function of a reward that is named by a file."""
        found = _IN_FILE.fullmatch(self.name)
        return (Path(found["file"]), found["function"]) if found else None

    @property
    def label(self) -> str:
        """Its name in the log and in messages."""
        return f"{self.base}>{self.threshold:g}" if self.threshold is not None else self.base

    @property
    def base(self) -> str:
        """Its name; of a file without the folder."""
        return without_folder(self.name)


class Grpo(_Part):
    """Rollouts and the policy loss. Names as TRL's where TRL has them.

    Every rollout is used for one update, so its ratio to the policy that sampled is 1, and what bounds ratios
    (``epsilon``, ``importance_sampling_level``, ``loss_type: cispo``) acts only with ``ratio_to: sampler``.

    Attributes:
        ratio_to: What a token's ratio is relative to: the policy itself, or the log-probabilities that the sampler
            reported, in place of ``importance_cap``.
        importance_sampling_level: Whether ratios are of tokens or, ``sequence``, of whole completions (GSPO).
        epsilon: Ratios are clipped below at 1 - epsilon.
        epsilon_high: Ratios are clipped above at 1 + epsilon_high; None: at 1 + epsilon. CISPO bounds at
            1 + epsilon_high and has no lower bound.
        redraws: How often a group of equal rewards is replaced by one about another unit before it is kept after all.
        rollouts: ``hf``: the policy itself samples; ``vllm``: an engine beside it, which gets its weights every step.
        vllm_share: Share of device memory that vLLM takes.
        vllm_sleep: Whether vLLM gives it back while gradients live (CUDA only); its weights are in the host meanwhile.
        importance_cap: vLLM's arithmetic is not the trainer's. Each token's advantage is weighted by how much likelier
            it is under the policy than under the sampler, at most by this much; 0: not at all.
        sampler_tolerance: Mean difference of log-probabilities between sampler and trainer, in nats a token, beyond
            which training stops: the sampler has other weights or other positions; 0: not looked at.
    """

    num_generations: int = Field(default=8, ge=2)
    max_completion_length: int = Field(default=768, ge=1)
    temperature: float = Field(default=1.0, gt=0)
    beta: Weight = 0.04
    loss_type: Literal["grpo", "dr_grpo", "dapo", "cispo"] = "grpo"
    ratio_to: Literal["policy", "sampler"] = "policy"
    importance_sampling_level: Literal["token", "sequence"] = "token"
    epsilon: Fraction = 0.2
    epsilon_high: Weight | None = None
    scale_rewards: Literal["group", "none"] = "group"
    weight: Weight = 1.0
    rewards: tuple[RewardConfig, ...] = tuple(RewardConfig(name=name) for name in ("format", "box", "mask"))
    share_prefix: bool = Field(default=True, description="Read a group's image and instructions once.")
    redraws: int = Field(default=0, ge=0)
    rollouts: Literal["hf", "vllm"] = "hf"
    vllm_share: Fraction = 0.3
    vllm_sleep: bool = False
    importance_cap: Weight = 2.0
    sampler_tolerance: Weight = 0.1

    @field_validator("rewards")
    @classmethod
    def _any_counts(cls, rewards: tuple[RewardConfig, ...]) -> tuple[RewardConfig, ...]:
        if not any(reward.weight for reward in rewards):
            raise ValueError("no reward has a weight: there is nothing to learn from")
        return rewards

    @model_validator(mode="after")
    def _ratio_counts(self) -> Grpo:
        acts = {
            "loss_type: cispo": self.loss_type == "cispo",
            "importance_sampling_level: sequence": self.importance_sampling_level == "sequence",
            "epsilon": self.epsilon != Grpo.model_fields["epsilon"].default,
            "epsilon_high": self.epsilon_high is not None,
        }
        chosen = [name for name, is_chosen in acts.items() if is_chosen]
        if self.ratio_to == "policy" and chosen:
            raise ValueError(f"{chosen[0]} changes nothing where every ratio is 1: set ratio_to: sampler")
        if self.loss_type == "cispo" and self.importance_sampling_level == "sequence":
            raise ValueError("loss_type: cispo bounds the ratio of each token: importance_sampling_level: token")
        return self


class Evaluation(_Part):
    """Periodic evaluation on the first samples of a split, with overlays of the first few."""

    split: str
    every: int = Field(ge=1)
    samples: int = Field(default=64, ge=1)
    overlays: int = Field(default=0, ge=0)


class Stop(_Part):
    """When to give up: NaN always; a reward whose mean over ``window`` steps falls under ``floor`` of the best such.

    Attributes:
        unreadable: Share of images that may fail to be read after the check before the first step. Each is replaced by
            another; the share counts from the first epoch's number of draws on.
    """

    window: int = Field(default=50, ge=1)
    floor: Fraction = 0.5
    flat: int = Field(default=50, ge=1, description="Steps in a row without any difference inside any group.")
    unreadable: Fraction = 0.01


class Runtime(_Part):
    """How it is computed. ``cache_gb``: features of frozen towers that are kept; ``threads``: of the CPU, 0: all.

    ``report_to`` names where numbers go beside the log.
    """

    precision: Literal["no", "bf16"] = "no"
    gradient_checkpointing: bool = False
    logits_chunk: int = Field(default=1024, ge=1, description="Tokens whose scores are in memory at once.")
    cache_gb: Weight = 0.0
    threads: int = Field(default=0, ge=0)
    report_to: tuple[TrackerName, ...] = ()

    @field_validator("precision", mode="before")
    @classmethod
    def _no_is_a_word(cls, value: object) -> object:
        """YAML reads an unquoted ``no`` as false."""
        return "no" if value is False else value


def require_name(name: str) -> str:
    """A name of a folder and a model card. Raises ``ValueError`` where it is none."""
    if not NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not a name: {NAME_HINT}")
    return name


class TrainRecipe(_Part):
    """One stage.

    Attributes:
        model_name: Of the result's card; the recipe's name where it is empty.
        model_title: Of the result's card, for people.
        summary: Of the result, in a sentence.
        licence: Of the result's weights.
    """

    name: str
    title: str = ""
    model_name: str = ""
    model_title: str = ""
    summary: str = "A LENS checkpoint."
    licence: str = ""
    stage: Stage
    seed: int = 0
    model: ModelConfig = ModelConfig()
    lora: Lora | None = None
    data: DataConfig
    batch: Batch
    optimiser: Optimiser
    answer: Answer = Answer()
    text: Text = Text()
    mask: Mask = Mask()
    grpo: Grpo | None = None
    evaluation: Evaluation | None = None
    saving: Saving = Saving()
    stop: Stop = Stop()
    runtime: Runtime = Runtime()

    @field_validator("name", "model_name")
    @classmethod
    def _is_a_name(cls, name: str, info: ValidationInfo) -> str:
        return name if info.field_name == "model_name" and not name else require_name(name)

    @model_validator(mode="after")
    def _fits(self) -> TrainRecipe:
        if (self.stage == "grpo") != (self.grpo is not None):
            raise ValueError("the section grpo belongs to stage grpo, and to no other")
        if self.saving.best is not None:
            split, every = (looks.split, looks.every) if (looks := self.evaluation) is not None else (None, 1)
            self.saving.best.require_measured(self.stage, split, every, self.optimiser.steps)
        if self.stage == "supervised" and not (self.text.weight or self.mask.weight):
            raise ValueError("text and mask loss both have weight 0: nothing to learn")
        if self.stage != "supervised" and self.text != Text():
            raise ValueError("the section text belongs to stage supervised: no other reads perfect answers")
        if self.stage != "grpo" and self.mask.correctness != "none":
            raise ValueError("mask.correctness belongs to stage grpo: it looks at the boxes of rollouts")
        if self.stage in ("sam", "vision") and self.mask.weight != 1:
            raise ValueError(f"stage {self.stage} has one loss: mask.weight changes nothing")
        if self.lora is not None and self.grpo is not None and self.grpo.beta:
            # The reference is the model without its adapters, and these two would train in it.
            if moved := [group for group in ("embeddings", "vision") if group in self.optimiser.rates]:
                raise ValueError(f"lora with grpo.beta: {moved[0]} cannot train, the reference would change with it")
        if self.data.curriculum is not None and self.grpo is None:
            raise ValueError("a curriculum needs rewards: stage grpo")
        if self.grpo is not None and self.data.unit == "image":
            raise ValueError("a group is about one expression: unit expression or referent")
        if unknown := [group for group in self.optimiser.muon if group not in self.optimiser.rates]:
            raise ValueError(f"optimiser.muon: group {unknown[0]} has no learning rate")
        if self.data.no_target and self.stage != "grpo":
            raise ValueError("data.no_target belongs to stage grpo: no perfect answer says that nothing is meant")
        if self.data.recolour and self.stage != "vision":
            raise ValueError("data.recolour belongs to stage vision")
        if self.lora is not None and "language" not in self.optimiser.rates:
            raise ValueError("lora trains the language model: give the group language a learning rate")
        return self


class Link(_Part):
    """A stage of a chain. ``set`` overrides the recipe's keys."""

    recipe: str
    set: dict[str, object] = {}


class ChainRecipe(_Part):
    """Stages that are trained one after another."""

    name: str
    title: str = ""
    chain: tuple[Link, ...] = Field(min_length=1)

    @field_validator("name")
    @classmethod
    def _is_a_name(cls, name: str) -> str:
        return require_name(name)


AnyRecipe = TrainRecipe | ChainRecipe

"""Writing checkpoints: our format, the authors' layout, and a plain Qwen-VL folder for other engines.

A checkpoint of ours is a folder that is also a model: ``lens-bench run --model ./folder`` works, because a model card
lies beside the weights. Files are written under temporary names first, so that an interrupted save leaves no file that
looks whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from safetensors.torch import save_file
from torch import Tensor

from lens_bench.errors import CheckpointError
from lens_bench.lens.config import CONFIG_NAME, LensConfig
from lens_bench.lens.images import QWEN_MEAN, QWEN_STD
from lens_bench.lens.layouts import OWN, QWEN, RELEASED, Layout, own_shapes, slots, tied_names
from lens_bench.lens.model_card import Result, evaluation, head
from lens_bench.lens.modeling import LensModel
from lens_bench.lens.prompts import HubTokenizer
from lens_bench.lens.recipe import Recipe

SHARD_BYTES = 4_000_000_000


@dataclass(frozen=True, slots=True)
class Story:
    """What a checkpoint's README says about where it comes from.

    Attributes:
        name: Of the model; lower case letters, digits, dots, dashes.
        summary: One sentence.
        recipe: Training settings, as the trainer had them.
        data: Content hash of every data set that was trained on.
        licence: Of the weights.
        title: For people; the name where it is empty.
        bases: What training started from, ``owner/name`` on the Hugging Face Hub.
        results: What was measured with these weights.
        suites: That it was trained for; the card suggests them.
    """

    name: str
    summary: str = "A LENS checkpoint."
    recipe: Mapping[str, object] = field(default_factory=dict)
    data: Mapping[str, str] = field(default_factory=dict)
    licence: str = ""
    title: str = ""
    bases: Sequence[str] = ()
    results: Sequence[Result] = ()
    suites: Sequence[str] = ()


def save(
    model: LensModel, folder: Path, tokenizer: HubTokenizer, story: Story, shard_bytes: int = SHARD_BYTES
) -> tuple[Path, ...]:
    """Write a checkpoint in our format: shards, configuration, tokenizer, model card, README.

    Args:
        model: Weights are written in the precision they have.
        folder: Made where it does not exist; earlier shards in it are removed.
        tokenizer: Goes with the weights.
        story: For README and card.
        shard_bytes: Largest size of a shard's tensors; a single larger tensor gets a shard of its own.

    Returns:
        The shards.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = _write_shards(folder, _named(model, OWN), shard_bytes)
    _write_text(folder / CONFIG_NAME, model.config.model_dump_json(indent=1) + "\n")
    tokenizer.save(folder)
    _write_json(folder / "preprocessor_config.json", processor(model.config))
    _write_text(folder / "model.yaml", _card(model, story))
    _write_text(folder / "README.md", _readme(model, story, files))
    return files


def export_released(
    model: LensModel, folder: Path, tokenizer: HubTokenizer, shard_bytes: int = SHARD_BYTES
) -> tuple[Path, ...]:
    """Write a checkpoint in the authors' layout, so that their own evaluation can run it.

    Raises:
        CheckpointError: The head is one that their code cannot build, or SAM 2 is not Hiera-L, which it always builds.
    """
    config = model.config
    trunk = config.sam_config().vision_config
    width = getattr(getattr(trunk, "backbone_config", None), "hidden_size", 0)
    if config.head.width != model.width or config.head.depth not in (0, 4) or config.head.prompt_width != 256:
        raise CheckpointError("this head has no place in the authors' layout", "it needs the language model's width")
    folder.mkdir(parents=True, exist_ok=True)
    files = _write_shards(folder, _named(model, RELEASED), shard_bytes)
    _write_json(folder / "config.json", released_fields(config))
    ids = {"eos_token_id": list(config.ends), "pad_token_id": config.padding}
    _write_json(folder / "generation_config.json", ids)
    tokenizer.save(folder)
    _write_json(folder / "preprocessor_config.json", processor(config))
    note = "" if width == 144 else "SAM 2 is not Hiera-L here; the authors' code always builds Hiera-L.\n"
    _write_text(folder / "README.md", f"LENS checkpoint in the authors' layout, exported by lens-bench.\n{note}")
    return files


def export_qwen(model: LensModel, folder: Path, tokenizer: HubTokenizer, shard_bytes: int = SHARD_BYTES) -> None:
    """Write the language model and vision tower as a plain Qwen-VL folder, which vLLM and transformers read."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_shards(folder, _named(model, QWEN, prefix="qwen."), shard_bytes)
    fields = json.loads(model.config.qwen_config().to_json_string(use_diff=False))
    name = (
        "Qwen2_5_VLForConditionalGeneration"
        if model.config.family == "qwen2_5_vl"
        else "Qwen2VLForConditionalGeneration"
    )
    fields["architectures"] = [name]
    fields["dtype"] = str(model.text_dtype).removeprefix("torch.")
    _write_json(folder / "config.json", fields)
    ids = {"eos_token_id": list(model.config.ends), "pad_token_id": model.config.padding}
    _write_json(folder / "generation_config.json", ids)
    tokenizer.save(folder)
    _write_json(folder / "preprocessor_config.json", processor(model.config))


# ---------------------------------------------------------------------------------------------- tensors


def _named(model: LensModel, layout: Layout, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Tensors under a layout's names; a tied output layer is left out, as transformers does."""
    tied = tied_names(model)
    whole = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers())
    expected = {name: shape for name, shape in own_shapes(model).items() if name.startswith(prefix)}
    for slot in slots(layout, expected):
        if slot.name in tied:
            continue
        key = layout.to_theirs(slot)
        if key is None:
            raise CheckpointError(f"{slot.name} has no place in the {layout.name} layout")
        tensor = whole[slot.name].detach()
        yield key, tensor if slot.row is None else tensor[slot.row : slot.row + 1]


def _write_shards(folder: Path, tensors: Iterator[tuple[str, Tensor]], limit: int) -> tuple[Path, ...]:
    groups: list[dict[str, Tensor]] = [{}]
    size = total = 0
    for name, tensor in tensors:
        bytes_ = tensor.numel() * tensor.element_size()
        if groups[-1] and size + bytes_ > limit:
            groups.append({})
            size = 0
        groups[-1][name] = tensor
        size, total = size + bytes_, total + bytes_
    names = [f"model-{n:05d}-of-{len(groups):05d}.safetensors" for n in range(1, len(groups) + 1)]
    if len(groups) == 1:
        names = ["model.safetensors"]
    for name, group in zip(names, groups, strict=True):
        ready = {key: tensor.cpu().contiguous() for key, tensor in group.items()}
        part = folder / f"{name}.part"
        save_file(ready, part, metadata={"format": "pt"})
        part.replace(folder / name)
    for old in {*folder.glob("*.safetensors")} - {folder / name for name in names}:
        old.unlink()
    index = folder / "model.safetensors.index.json"
    index.unlink(missing_ok=True)
    if len(groups) > 1:
        places = {key: name for name, group in zip(names, groups, strict=True) for key in group}
        _write_json(index, {"metadata": {"total_size": total}, "weight_map": places})
    return tuple(folder / name for name in names)


# ---------------------------------------------------------------------------------------------- the other files


def processor(config: LensConfig) -> dict[str, object]:
    """``preprocessor_config.json`` of Qwen's image processor, with the recipe's bounds."""
    vision = config.qwen_config().vision_config
    return {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2_5_VLProcessor" if config.family == "qwen2_5_vl" else "Qwen2VLProcessor",
        "patch_size": getattr(vision, "patch_size", 14),
        "merge_size": getattr(vision, "spatial_merge_size", 2),
        "temporal_patch_size": getattr(vision, "temporal_patch_size", 2),
        "size": {"shortest_edge": config.recipe.min_pixels, "longest_edge": config.recipe.max_pixels},
        "min_pixels": config.recipe.min_pixels,
        "max_pixels": config.recipe.max_pixels,
        "image_mean": list(QWEN_MEAN),
        "image_std": list(QWEN_STD),
    }


def released_fields(config: LensConfig) -> dict[str, object]:
    """``config.json`` as the authors' class reads it: the text model's fields at the top, LENS' own beside them."""
    fields: dict[str, object] = dict(config.qwen)
    nested = fields.pop("text_config", None)
    if isinstance(nested, dict):
        fields = {**nested, **fields}
    rope = fields.pop("rope_parameters", None)
    if isinstance(rope, dict):
        fields["rope_theta"] = rope.get("rope_theta", 1e6)
        fields["rope_scaling"] = {"type": "mrope", "mrope_section": rope.get("mrope_section", [16, 24, 24])}
    suffix = "_qwen2p5" if config.family == "qwen2_5_vl" else ""
    return fields | {
        "architectures": [f"SAMR1ForConditionalGeneration{suffix}"],
        "num_of_query": config.head.queries,
        "if_use_qwen_connector": config.head.depth > 0,
    }


def _card(model: LensModel, story: Story) -> str:
    """``model.yaml``: makes the folder a model. Written as JSON, which is YAML."""
    card = {
        "name": story.name,
        "title": story.title or story.name,
        "summary": story.summary,
        "adapter": "lens_bench.lens.segmenter:LensSegmenter",
        **({"suites": list(story.suites)} if story.suites else {}),
        "licence": story.licence,
        "engines": ["hf", "vllm"],
        "args": {**ARGS, **recipe_args(model.config.recipe)},
    }
    return json.dumps(card, indent=1) + "\n"


# Arguments of ``LensSegmenter`` that every card of a checkpoint offers.
ARGS: Mapping[str, Mapping[str, object]] = {
    "checkpoint": {"default": "", "help": "Folder of the checkpoint; empty: the folder of this card."},
    "positions": {
        "default": "checkpoint",
        "choices": ["checkpoint", "lens-1d", "mrope"],
        "help": "Positions of the mask pass; the checkpoint's own unless said otherwise.",
    },
    "head_dtype": {
        "default": "same",
        "choices": ["same", "float32", "bfloat16", "float16"],
        "help": "Precision of queries and connector.",
    },
    "sam_dtype": {
        "default": "same",
        "choices": ["same", "float32", "bfloat16", "float16"],
        "help": "Precision of SAM 2.",
    },
    "rows": {"default": 0, "help": "Expressions decoded together; 0: what fits."},
    "decode": {
        "default": "auto",
        "choices": ["auto", "eager", "static", "compiled", "graphs"],
        "help": "How engine hf decodes; auto: CUDA graphs over a static cache on a GPU, a growing cache elsewhere.",
    },
    "load_in": {
        "default": "none",
        "choices": ["none", "8bit", "4bit"],
        "help": "Weights of the language model's blocks by bitsandbytes (LLM.int8(), NF4), to fit smaller GPUs.",
    },
    "devices": {
        "default": 1,
        "help": "GPUs for a language model that one is too small for: hf spreads its blocks, vllm divides its layers.",
    },
}


# What of a recipe a user may want to change for other data than the model was trained on.
_RECIPE_HELP: Mapping[str, str] = {
    "question": "Question with the placeholder {expression}.",
    "sizing": "How the language model's image is sized.",
    "max_pixels": "Largest area of the language model's image.",
    "longest_side": "For sizing=longest-side and square: that side in pixels.",
    "sam_resize": "Kernel that stretches the image for SAM 2.",
    "max_length": "Most tokens of prompt, image and answer together.",
    "max_new_tokens": "Most tokens of an answer.",
    "coordinates": "Frame of the boxes in an answer.",
}


def recipe_args(recipe: Recipe) -> dict[str, Mapping[str, object]]:
    """Arguments of a card for the fields of a recipe; a limit that the recipe does not set is no argument."""
    found: dict[str, Mapping[str, object]] = {}
    for name, text in _RECIPE_HELP.items():
        value = getattr(recipe, name)
        choices = get_args(Recipe.model_fields[name].annotation) if isinstance(value, str) else ()
        if value is not None:
            found[name] = {"default": value, "help": text} | ({"choices": list(choices)} if choices else {})
    return found


def _readme(model: LensModel, story: Story, files: tuple[Path, ...]) -> str:
    config, shape = model.config, model.config.head
    count = sum(p.numel() for p in model.parameters())
    lines = [
        f"# {story.name}",
        "",
        story.summary,
        "",
        f"- {count:,} parameters: {config.family} of width {model.width}, {shape.queries} context queries, connector "
        f"of {shape.depth} blocks at width {shape.width}, SAM 2 at {model.sam.image_size} pixels",
        f"- positions of the mask pass: {config.positions}",
        f"- question: `{config.recipe.question}`",
        f"- {len(files)} file{'s' if len(files) != 1 else ''} of safetensors",
    ]
    lines += [f"- licence: {story.licence}"] if story.licence else []
    lines += evaluation(story.results)
    for title, table in (("Training recipe", story.recipe), ("Data (content hashes)", story.data)):
        if table:
            lines += ["", f"## {title}", "", *(f"- {key}: {value}" for key, value in table.items())]
    suites = ",".join(story.suites) or "refcoco"
    lines += ["", "## Use", "", "```", f"lens-bench run --suite {suites} --model ./PATH_OF_THIS_FOLDER", "```", ""]
    return head(story.name, story.licence, story.bases, story.results) + "\n" + "\n".join(lines)


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    _write_text(path, json.dumps(content, indent=1) + "\n")


def _write_text(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)

"""Loading: every tensor is checked against the architecture before memory is taken, then read one by one.

Released checkpoints are shards of pickles (``pytorch_model-*.bin``), read without running code, or safetensors. The
vision tower comes from a checkpoint of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lens_bench.checkpoint_files import read_object, require_unquantised, weight_files
from lens_bench.errors import CheckpointError
from lens_bench.lens.filling import require_filled
from lens_bench.lens.layouts import Plan, make_plan, own_shapes
from lens_bench.lens.quantise import Bits, quantise
from lens_bench.lens.sources import (
    MemorySource,
    SafetensorsSource,
    Shape,
    TensorSource,
    pickle_source,
)
from lens_bench.lens.spread import Spread, check_whole, link, notes_of
from lens_bench.llava_sam.config import Family, released_config
from lens_bench.llava_sam.layout import CLIP, check_files, check_names, check_tower, left_out_by, released
from lens_bench.llava_sam.modeling import LlavaSam
from lens_bench.llava_sam.tokens import SegTokenizer, load_tokenizer
from lens_bench.records import LoadReport

# LLaMA's blocks among the model's tensors.
BLOCKS = "llama.model.layers."
IMAGE_TOKENS = ("<im_start>", "<im_end>")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in evaluation mode, its tokenizer, and what loading them found."""

    model: LlavaSam
    tokenizer: SegTokenizer
    report: LoadReport


def load(
    family: Family,
    folder: Path,
    tower: Path,
    device: str | torch.device | Sequence[str] = "cpu",
    dtype: torch.dtype = torch.float32,
    bits: Bits | None = None,
) -> Loaded:
    """Load a released checkpoint and its vision tower.

    Args:
        family: LISA or GLaMM.
        folder: The checkpoint.
        tower: Folder of the CLIP checkpoint.
        device: Where to; several, where the language model is to be spread over them.
        dtype: Of everything, SAM included; the authors evaluate in bfloat16.
        bits: Quantises the language model's blocks.

    Raises:
        CheckpointError: A file is missing or broken, or the checkpoint is not one of this family.
    """
    check_files(folder)
    require_unquantised(folder)
    config = released_config(
        family, read_object(folder / "config.json"), read_object(tower / "config.json", _TOWER_HINT)
    )
    source, clip_source = open_folder(folder), open_folder(tower)
    shapes = source.shapes()
    check_names(family, shapes, str(folder))
    check_tower(config, shapes, tower)
    tokenizer = load_tokenizer(folder, int(config.llama_config().vocab_size), IMAGE_TOKENS)
    with torch.device("meta"):
        model = LlavaSam(config)
    plans = plan(model, source, clip_source)
    parameters = sum(p.numel() for p in model.parameters())
    devices = [device] if isinstance(device, str | torch.device) else list(device)
    fill(model, plans, devices, dtype, bits)
    notes = [f"[SEG] is token {tokenizer.seg}; vision tower {tower.name}, {config.clip_side} px"]
    notes += [f"the language model's blocks are held in {bits}"] if bits else []
    notes += notes_of(devices, model.llama.model.layers)
    left_out = (*left_out_by(released(family), plans[0].ignored), *left_out_by(CLIP, plans[1].ignored))
    report = LoadReport(parameters, left_out, tuple(notes))
    return Loaded(model, tokenizer, report)


_TOWER_HINT = "the vision tower is a CLIP checkpoint with config.json and weights: --model-arg clip=FOLDER"


class PickledShards:
    """Tensors of several ``.bin`` files, mapped into memory and read when asked for.

    Raises:
        CheckpointError: A file is not a pickle of tensors, or two files hold the same name.
    """

    def __init__(self, files: tuple[Path, ...]) -> None:
        self._files = files
        self._where: dict[str, MemorySource] = {}
        self._shapes: dict[str, Shape] = {}
        for file in files:
            part = pickle_source(file)
            for name, shape in part.shapes().items():
                if name in self._where:
                    raise CheckpointError(f"tensor {name} is both in {self._where[name].what} and in {file.name}")
                self._where[name], self._shapes[name] = part, shape

    @property
    def what(self) -> str:
        """The folder."""
        return str(self._files[0].parent)

    def shapes(self) -> Mapping[str, Shape]:
        """Every tensor's shape."""
        return self._shapes

    def tensor(self, name: str) -> Tensor:
        """One tensor."""
        return self._where[name].tensor(name)


def open_folder(folder: Path) -> TensorSource:
    """The tensors of a checkpoint folder. Raises ``CheckpointError`` where a file is missing or broken."""
    files = weight_files(folder, (".safetensors", ".bin"))
    return PickledShards(files) if files[0].suffix == ".bin" else SafetensorsSource(files)


# ---------------------------------------------------------------------------------------------- tensors


def plan(model: LlavaSam, source: TensorSource, tower: TensorSource) -> list[Plan]:
    """Match both checkpoints with the model's tensors.

    Raises:
        CheckpointError: A tensor is missing, unexpected or misshapen; up to ten are named.
    """
    shapes = own_shapes(model)
    clip = {name: shape for name, shape in shapes.items() if name.startswith("clip.")}
    rest = {name: shape for name, shape in shapes.items() if name not in clip}
    return [make_plan(released(model.config.family), rest, source), make_plan(CLIP, clip, tower)]


def fill(
    model: LlavaSam,
    plans: list[Plan],
    devices: Sequence[str | torch.device],
    dtype: torch.dtype,
    bits: Bits | None = None,
) -> None:
    """Give a model that lies on the meta device its tensors, and put it into evaluation mode.

    Raises:
        UsageError: Quantised blocks are to be spread.
    """
    check_whole(bits, devices)
    blocks, device = model.llama.model.layers, devices[0]
    spread = Spread.over(devices, blocks, model)

    def place(name: str) -> str | torch.device:
        return "cpu" if bits and name.startswith(BLOCKS) else spread.place(name, BLOCKS)

    tensors = {name: tensor.to(device=place(name), dtype=dtype) for p in plans for name, tensor in _tensors(p)}
    model.load_state_dict(tensors, strict=True, assign=True)
    del tensors
    if bits:
        quantise(blocks, bits, device, dtype)
    link(model.llama.model, spread, devices)
    finish(model, device)


def finish(model: LlavaSam, device: str | torch.device) -> None:
    """Compute what no file holds, make sure that nothing is left empty, and put the model into evaluation mode."""
    # Rotary frequencies stay in float32 whatever the precision.
    llama, clip = model.llama.model, model.clip.embeddings
    llama.rotary_emb = type(llama.rotary_emb)(config=model.llama.config).to(device)
    positions = torch.arange(clip.num_positions, device=device).expand((1, -1))
    clip.register_buffer("position_ids", positions, persistent=False)
    require_filled(model)
    model.eval().requires_grad_(False)


def _tensors(p: Plan) -> Iterator[tuple[str, Tensor]]:
    for slot, key in p.keys.items():
        yield slot.name, p.source.tensor(key)

"""The first SAM with boxes: against ``segment_anything.SamPredictor``, and files that are something else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lens_bench.errors import CheckpointError, UsageError
from lens_bench.masks import decode
from lens_bench.sam.model import SamModel, SamSize
from lens_bench.sam2.prompts import SamPrompt
from lens_bench.vlm.sam1 import Sam1, _size

from segment_anything import SamPredictor  # isort: skip - after the guard that lens_bench.sam.model calls
from segment_anything.modeling import Sam  # isort: skip

SIZE = SamSize(width=16, depth=3, heads=2, global_blocks=(1,))
BOXES = [(10.0, 20.0, 60.5, 80.0), (0.0, 0.0, 141.0, 90.0), (70.0, 5.0, 130.0, 60.0)]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = SamModel(SIZE)
        for name, parameter in model.named_parameters():
            if "pos" in name:  # zero when new: an error in them would not show
                torch.nn.init.normal_(parameter, std=0.1)
    path = tmp_path_factory.mktemp("sam") / "sam_vit_t.pth"
    torch.save(model.state_dict(), path)
    return path


def test_masks_are_those_of_the_predictor(file: Path) -> None:
    ours = Sam1.load(file)
    model = ours.model
    predictor = SamPredictor(Sam(model.image_encoder, model.prompt_encoder, model.mask_decoder))
    rng = np.random.default_rng(0)
    pixels = np.kron(rng.integers(0, 256, (3, 3, 3), dtype=np.uint8), np.ones((30, 47, 1), np.uint8))
    encoded = ours.encode([pixels, np.ascontiguousarray(pixels[::-1])])
    predictor.set_image(pixels)
    for three in (True, False):
        asked = [(encoded[n % 2], SamPrompt(box)) for box in BOXES for n in (0, 1)]
        found = ours.masks(asked, best_of_three=three)[::2]
        for box, mask in zip(BOXES, found, strict=True):
            with torch.no_grad():
                theirs, scores, _ = predictor.predict(box=np.array(box), multimask_output=three)
            best = int(np.argmax(scores))
            assert mask.score == pytest.approx(float(scores[best]), abs=1e-4)
            assert np.mean(decode(mask.mask) != theirs[best]) < 1e-3
    assert ours.parameters > 4_000_000


def test_features_are_computed_once_and_sizes_are_told_by_the_tensors(file: Path) -> None:
    ours = Sam1.load(file)
    calls: list[int] = []
    ours.model.image_encoder.register_forward_hook(lambda module, args, out: calls.append(len(args[0])))
    (encoded,) = ours.encode([np.zeros((40, 60, 3), dtype=np.uint8)])
    ours.masks([(encoded, SamPrompt((1.0, 1.0, 9.0 + n, 9.0))) for n in range(6)])
    assert calls == [1]
    shapes = {name: tuple(t.shape) for name, t in torch.load(file, weights_only=True).items()}
    assert _size(shapes, file) == SIZE


def test_files_and_prompts_that_do_not_fit(file: Path, tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="not a SAM checkpoint"):
        Sam1.load(tmp_path / "other.pth")
    state = torch.load(file, weights_only=True)
    state.pop("mask_decoder.iou_token.weight")
    torch.save(state, tmp_path / "part.pth")
    with pytest.raises(CheckpointError, match=r"1 missing: mask_decoder\.iou_token\.weight"):
        Sam1.load(tmp_path / "part.pth")
    ours = Sam1.load(file)
    (encoded,) = ours.encode([np.zeros((40, 60, 3), dtype=np.uint8)])
    with pytest.raises(UsageError, match="boxes alone"):
        ours.masks([(encoded, SamPrompt((1.0, 1.0, 9.0, 9.0), ((3.0, 3.0),)))])


def test_numbers_that_are_none_are_told(file: Path) -> None:
    ours = Sam1.load(file)
    good, bad = ours.encode([np.zeros((40, 60, 3), dtype=np.uint8), np.full((40, 60, 3), 9, dtype=np.uint8)])
    broken = replace(bad, features=bad.features * float("nan"))
    prompt = SamPrompt((1.0, 1.0, 9.0, 9.0))
    assert [mask.finite for mask in ours.masks([(good, prompt), (broken, prompt)])] == [True, False]

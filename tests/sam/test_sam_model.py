"""SAM's preprocessing, prompts and upsampling against ``segment_anything.SamPredictor``."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lens_bench.sam.images import SamImage, inside_size, prepare
from lens_bench.sam.model import SamModel, SamSize, upsample

from segment_anything import SamPredictor  # isort: skip - after the guard that lens_bench.sam.model calls
from segment_anything.modeling import Sam  # isort: skip
from segment_anything.utils.transforms import ResizeLongestSide  # isort: skip

SIZE = SamSize(width=16, depth=2, heads=2, global_blocks=(1,))


@pytest.fixture(scope="module")
def sam() -> SamModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = SamModel(SIZE)
        for name, parameter in model.named_parameters():
            if "pos" in name:  # zero when new: an error in them would not show
                torch.nn.init.normal_(parameter, std=0.1)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def predictor(sam: SamModel) -> SamPredictor:
    return SamPredictor(Sam(sam.image_encoder, sam.prompt_encoder, sam.mask_decoder))


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_sizes_are_those_of_the_package(height: int, width: int) -> None:
    assert inside_size((height, width), 1024) == ResizeLongestSide.get_preprocess_shape(height, width, 1024)


@pytest.mark.parametrize("size", [(97, 61), (120, 333), (1300, 700)])
def test_pixels_are_those_of_the_predictor(predictor: SamPredictor, size: tuple[int, int]) -> None:
    pixels = picture(*size)
    ours = prepare(pixels, 1024)
    theirs = torch.as_tensor(predictor.transform.apply_image(pixels)).permute(2, 0, 1)
    assert ours.inside == tuple(theirs.shape[1:])
    assert ours.original == size
    torch.testing.assert_close(ours.pixels, predictor.model.preprocess(theirs), rtol=0, atol=1e-6)


def test_masks_of_boxes_are_those_of_the_predictor(sam: SamModel, predictor: SamPredictor) -> None:
    pixels = picture(90, 141)
    boxes = [(10.0, 20.0, 60.5, 80.0), (0.0, 0.0, 141.0, 90.0)]
    predictor.set_image(pixels)
    image = prepare(pixels, 1024)
    features = sam.features(image.pixels.unsqueeze(0))
    torch.testing.assert_close(features, predictor.features)
    logits = upsample(sam.masks(features, sam.box_prompts(boxes, image)), image)
    for box, mine in zip(boxes, logits, strict=True):
        theirs = predictor.predict(box=np.array(box), multimask_output=False, return_logits=True)[0][0]
        np.testing.assert_allclose(mine.numpy(), theirs, rtol=1e-4, atol=1e-4)
        assert 0 < (theirs > 0).sum() < theirs.size  # a mask that says something


def test_positions_are_the_packages_in_float32_and_exist_in_bfloat16(sam: SamModel) -> None:
    torch.testing.assert_close(sam.positions(), sam.prompt_encoder.get_dense_pe())
    low = SamModel(SIZE).bfloat16()
    assert low.positions().dtype == torch.bfloat16
    image = SamImage(torch.zeros(3, 1024, 1024), (1024, 1024), (64, 64))
    with torch.no_grad():
        logits = low.masks(low.features(image.pixels.unsqueeze(0)), torch.zeros(1, 1, 256))
    assert upsample(logits, image).dtype == torch.float32


def test_padding_never_reaches_the_mask() -> None:
    """Upsampling cuts the padding off: what stands there in the logits has no influence away from the border."""
    image = SamImage(torch.zeros(0), (512, 1024), (100, 200))
    logits = torch.zeros(1, 256, 256)
    logits[:, 140:] = 1000.0
    assert not upsample(logits, image)[:, :98].any()
    assert upsample(logits, image).shape == (1, 100, 200)

"""One picture instead of a suite: open a model, ask it, look at the result.

The way is the same as in a run (registry, adapter, ``Segmenter``), so the answer is too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
from PIL import Image

from lens_bench import masks
from lens_bench.data.images import ImageFile
from lens_bench.errors import DataError, UsageError
from lens_bench.records import ImageTask, LoadReport, Pixels, Prediction, Query
from lens_bench.registry import find_model
from lens_bench.run.answer import BatchSize, answer
from lens_bench.run.plan import Request, make_model
from lens_bench.run.session import load_model

# Red and green on most pictures; the mask is mixed in by this share.
_MASK_COLOUR, _BOX_COLOUR, _SHARE = (255, 40, 40), (40, 220, 40), 0.45


class OpenModel:
    """A loaded model that answers questions about single pictures. A context manager; close it when done.

    Args:
        reference: Name, alias, or path of a model, as ``--model`` takes it.
        args: ``--model-arg`` values as text.
        device: ``cpu``, ``cuda`` or ``cuda:<n>``; by default a GPU if there is one that the model can use.
        dtype: ``float32``, ``bfloat16`` or ``float16``; by default as ``run`` chooses it.
        engine: Text engine, where the model offers a choice.
        seed: Of every random draw.

    Raises:
        UsageError: No such model, argument or engine, or a model that needs ground truth.
        CheckpointError: Its weights are missing or do not fit.
    """

    def __init__(
        self,
        reference: str,
        args: Mapping[str, str] | None = None,
        *,
        device: str | None = None,
        dtype: str | None = None,
        engine: str | None = None,
        seed: int = 0,
    ) -> None:
        card = find_model(reference)
        if card.sees_ground_truth:
            raise UsageError(f"{card.name} answers from the ground truth, which a picture does not have")
        request = Request(args=args or {}, device=device, dtype=dtype, engine=engine, seed=seed)
        self.card = card
        self.options, self._segmenter = make_model(card, request)
        with ExitStack() as failing:
            failing.callback(self._segmenter.close)
            self.report: LoadReport = load_model(self._segmenter, card.name)
            failing.pop_all()

    def ask(self, picture: Pixels | Path | str, expressions: Sequence[str]) -> list[Prediction]:
        """Answer expressions about one picture, in order; ``sample_id`` is the number of the expression.

        An expression that the model fails on has the status ``error``, as in a run.

        Args:
            picture: RGB uint8 [H, W, 3], or a file.
            expressions: What to look for.

        Raises:
            DataError: The file is missing or not an image.
        """
        pixels = picture if isinstance(picture, np.ndarray) else read_picture(Path(picture))
        queries = tuple(Query(str(n), text, text) for n, text in enumerate(expressions))
        size = (int(pixels.shape[0]), int(pixels.shape[1]))
        return answer(self._segmenter, [ImageTask("picture", size, queries, pixels)], BatchSize(1))

    def close(self) -> None:
        """Free the model."""
        self._segmenter.close()

    def __enter__(self) -> OpenModel:
        """The model itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Free the model."""
        self.close()


def read_picture(path: Path) -> Pixels:
    """Decode a file to RGB uint8 [H, W, 3] the way a viewer shows it (EXIF orientation applied).

    Raises:
        DataError: The file is missing or not an image.
    """
    if not path.is_file():
        raise DataError(f"there is no picture {path}")
    return ImageFile(path, exif=True).read()


def overlay(pixels: Pixels, prediction: Prediction) -> Pixels:
    """Draw a prediction over a picture: the mask mixed in with its outline, the box as a frame; a new array."""
    out = pixels.copy()
    width = max(1, round(max(pixels.shape[:2]) / 400))
    if prediction.mask is not None:
        inside = masks.decode(prediction.mask)
        colour = np.asarray(_MASK_COLOUR, dtype=np.float32)
        out[inside] = np.rint((1 - _SHARE) * out[inside] + _SHARE * colour).astype(np.uint8)
        outlines, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(out, outlines, -1, _MASK_COLOUR, width)
    if prediction.box is not None:
        x1, y1, x2, y2 = (round(v) for v in prediction.box)
        cv2.rectangle(out, (x1, y1), (x2 - 1, y2 - 1), _BOX_COLOUR, width)
    return out


def write_picture(path: Path, pixels: Pixels) -> None:
    """Write RGB uint8 [H, W, 3] in the format of the file's ending.

    Raises:
        UsageError: The ending names no format, or the place cannot be written.
    """
    try:
        Image.fromarray(pixels).save(path)
    except (ValueError, OSError) as error:
        raise UsageError(f"cannot write {path}: {' '.join(str(error).split())}") from None

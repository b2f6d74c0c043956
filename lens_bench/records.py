"""What flows between the rooms: frozen records, no behaviour beyond construction and simple views.

``suite card -> reader -> Sample* -> ImageTask* -> Segmenter -> Prediction* -> journal -> protocol -> Score*``

Conventions used everywhere: a size is ``(height, width)`` in pixels; a box is ``(x1, y1, x2, y2)`` in pixels of the
image at its original size; a mask is at the image's original size; times are milliseconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, runtime_checkable

if TYPE_CHECKING:  # listing models and suites must not wait for numpy
    import numpy as np
    from numpy.typing import NDArray

Size: TypeAlias = tuple[int, int]
Box: TypeAlias = tuple[float, float, float, float]
Pixels: TypeAlias = "NDArray[np.uint8]"  # [H, W, 3], RGB
BoolMask: TypeAlias = "NDArray[np.bool_]"  # [H, W]
Status: TypeAlias = Literal["ok", "no_mask", "error"]
ArgValue: TypeAlias = str | int | float | bool | None


# ---------------------------------------------------------------------------------------------- ground truth


@dataclass(frozen=True, slots=True)
class Rle:
    """A mask in COCO's compressed run-length encoding (column-major runs, ``counts`` as pycocotools writes them)."""

    size: Size
    counts: bytes


@dataclass(frozen=True, slots=True)
class Polygon:
    """One outline in image coordinates, flat ``(x1, y1, x2, y2, ...)``; may leave the image."""

    points: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Outline:
    """One labelme shape: flat points and whether the region is to be ignored. Painted large to small (ReasonSeg).

    ``region`` holds the pixels of a shape that is not the polygon through its points: a circle, a mask.
    """

    points: tuple[float, ...]
    ignore: bool
    region: Rle | None = None


@runtime_checkable
class MaskSource(Protocol):
    """A part whose pixels are read on demand: a PNG file, a cell of a table."""

    def rle(self, size: Size) -> Rle:
        """The mask at ``size``. Raises ``DataError`` where it cannot be read or has another size."""
        ...

    def fingerprint(self) -> bytes:
        """Bytes that change when the content changes; goes into the suite's content hash."""
        ...


Part: TypeAlias = Polygon | Rle | MaskSource


@dataclass(frozen=True, slots=True)
class GroundTruth:
    """A raw annotation. Merging its parts is the protocol's business, because papers merge differently.

    Attributes:
        size: Of the annotated image.
        parts: Polygons and RLEs of the referent(s). Empty for an expression without a target.
        outlines: labelme shapes to be painted over one another instead of ``parts``; never both.
        ignore: Regions that belong neither to the target nor to the background.
        box: The annotation's own box, where it has one. It need not be the tight box of the mask.
        no_target: The annotation says that nothing in the image is meant (gRefCOCO, Ref-ZOM).
    """

    size: Size
    parts: tuple[Part, ...] = ()
    outlines: tuple[Outline, ...] = ()
    ignore: tuple[Part, ...] = ()
    box: Box | None = None
    no_target: bool = False


# ---------------------------------------------------------------------------------------------- samples and tasks


@runtime_checkable
class ImageSource(Protocol):
    """Where an image comes from. Cheap to create; nothing is opened before ``read``."""

    @property
    def name(self) -> str:
        """What to call it in a message: a path, or dataset and row."""
        ...

    def exists(self) -> bool:
        """Whether the image can be expected to be there (no decoding)."""
        ...

    def read(self) -> Pixels:
        """Decode to RGB uint8 [H, W, 3]. Raises ``DataError`` where the image is missing or broken."""
        ...


@runtime_checkable
class EncodedImage(ImageSource, Protocol):
    """An image source whose encoded bytes can be had, so that a run can tell whether it reads the same image again."""

    def encoded(self) -> bytes:
        """The bytes of the image file. Raises ``DataError`` where it is missing."""
        ...

    def decode(self, data: bytes) -> Pixels:
        """What ``read`` gives for these bytes."""
        ...

    def mark(self) -> str:
        """``data.images.fingerprint`` of the bytes as they are now, empty where there are none. Cheap."""
        ...


@dataclass(frozen=True, slots=True)
class Sample:
    """One expression on one image.

    Attributes:
        id: Stable and unique in the suite, e.g. ``refcoco/unc/val/ref12/sent34``.
        image_id: Identity of the image in the suite: expressions that share it share one ``ImageTask`` and one
            cluster of the bootstrap.
        expression: The text a model is asked about (for REFER sets the cleaned ``sent``).
        raw: The text as typed, where the set keeps both; else equal to ``expression``.
        is_sentence: True for a full sentence or question, False for a phrase, None where the set does not say.
        ref_id: The referent the expression belongs to, where several expressions name one.
        key: The set's own key of the row (``sent_id``, ``idx``), by which somebody else's predictions are joined.
        tags: Names of the groups that the summary reports apart, e.g. ``("part",)``.
    """

    id: str
    image_id: str
    image: ImageSource
    expression: str
    truth: GroundTruth
    raw: str = ""
    is_sentence: bool | None = None
    ref_id: str | None = None
    key: str | None = None
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Query:
    """What a model is told about one expression. ``truth`` is None except for models marked as seeing it."""

    sample_id: str
    expression: str
    raw: str = ""
    is_sentence: bool | None = None
    key: str | None = None
    truth: GroundTruth | None = None


@dataclass(frozen=True, slots=True)
class ImageTask:
    """One image and all expressions that are asked about it in this run.

    ``pixels`` is None where the model's card says ``reads_images: false``.
    """

    image_id: str
    size: Size
    queries: tuple[Query, ...]
    pixels: Pixels | None = None

    @property
    def rgb(self) -> Pixels:
        """The decoded image, uint8 [H, W, 3]."""
        if self.pixels is None:
            raise ValueError(f"image {self.image_id} was not decoded: set `reads_images: true` in the model's card")
        return self.pixels


# ---------------------------------------------------------------------------------------------- predictions


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token counts of a generated answer."""

    prompt: int
    completion: int


@dataclass(frozen=True, slots=True)
class Prediction:
    """A model's answer to one expression.

    Attributes:
        status: ``ok``; ``no_mask`` where the model gave none; ``error`` where it failed (then ``error`` says how).
        mask: At the image's original size. None with ``status="ok"`` means that only a box was predicted.
        box: In pixels of the original image, where the model says one.
        stages_ms: Milliseconds per stage, the model's own split of its time.
        error: What failed; beside another status why something is missing. ``answers.UNREAD`` there is counted: the
            text holds numbers, but the model's reader made no box of them.
    """

    sample_id: str
    status: Status
    mask: Rle | None = None
    box: Box | None = None
    score: float | None = None
    text: str | None = None
    tokens: Tokens | None = None
    stages_ms: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None


# ---------------------------------------------------------------------------------------------- models


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """Everything an adapter is constructed with.

    Attributes:
        name: The card's name.
        folder: The folder that holds ``model.yaml``; weights of a local checkpoint may lie beside it.
        args: The card's arguments with the user's ``--model-arg`` applied.
        device: ``cpu``, ``cuda`` or ``cuda:<n>``.
        dtype: ``float32``, ``bfloat16`` or ``float16``.
        engine: Text engine, for models that offer a choice; else None.
        seed: Of every random draw; draws are functions of (seed, sample id).
    """

    name: str
    folder: str
    args: Mapping[str, ArgValue]
    device: str = "cpu"
    dtype: str = "float32"
    engine: str | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Cost:
    """What a stage of a model has to do at the least, from its shapes alone.

    Attributes:
        flops: Floating-point operations of its matrix products and convolutions, two for a multiply-add.
        moved: Bytes that have to pass the device's memory: weights once for every pass over them, keys and values.
        known: False where nobody here can say, as of a model behind an endpoint; what is added to it is not known
            either.
    """

    flops: float = 0.0
    moved: float = 0.0
    known: bool = True

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.flops + other.flops, self.moved + other.moved, self.known and other.known)


UNKNOWN_COST = Cost(known=False)


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What loading a model found. A missing or unexpected tensor is an error at load time, so none is listed here.

    Attributes:
        parameters: Number of parameters, 0 for a model without weights.
        ignored: Tensors of the checkpoint that are left out on purpose, by name or pattern.
        notes: How the model was loaded, for the manifest: internals that a reader of the result may ask for.
        warnings: What the person at the terminal should know now; shown, and kept in the manifest as well.
    """

    parameters: int = 0
    ignored: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


# ---------------------------------------------------------------------------------------------- scores


@dataclass(frozen=True, slots=True)
class Score:
    """One expression scored under one protocol. Areas are exact pixel counts.

    Attributes:
        iou: Of the masks, by the protocol's rule. None where the protocol drops the sample from every sum.
        box_iou: Of predicted and annotated box; None where there is no box to compare.
        boundary_iou: IoU of the boundary bands (2 % of the diagonal); None where a mask is missing on both sides.
        no_target: The expression has no referent.
        has_mask: The prediction carries a mask (even an empty one).
        predicted_empty: The protocol reads the prediction as "nothing is meant".
        counted: False where the protocol leaves the sample out (unselected, or dropped as some authors' code does).
        unread: The answer holds numbers, but no box was read out of it (``answers.UNREAD``).
    """

    sample_id: str
    image_id: str
    status: Status
    intersection: int
    union: int
    pred_area: int
    gt_area: int
    iou: float | None
    box_iou: float | None
    boundary_iou: float | None
    no_target: bool
    has_mask: bool
    predicted_empty: bool
    counted: bool
    tags: tuple[str, ...] = ()
    unread: bool = False

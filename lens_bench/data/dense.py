"""Dense masks in the cells of a table: nested lists of booleans or numbers, in every form that ``datasets`` writes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lens_bench.data.mask_files import at_least, two_valued
from lens_bench.errors import DataError
from lens_bench.masks import check_size
from lens_bench.records import BoolMask, Size

if TYPE_CHECKING:
    import pyarrow as pa

_FORM = "a dense mask is [H][W] of booleans or numbers; option `mask` of the card names the other forms"


def size_of(cell: pa.Scalar, name: str) -> Size:
    """(height, width) of a dense mask, without reading its pixels. Raises ``DataError`` where it is none."""
    return _flattened(cell, name)[0]


def mask_of(cell: pa.Scalar, threshold: float | None, name: str) -> BoolMask:
    """A dense mask, bool [H, W].

    Args:
        cell: Lists of booleans, integers or floats: [H][W], [1][H][W] or [H][W][1], ``datasets.Array2D`` too.
        threshold: From which value on a pixel is foreground; None where all but 0 is, and there are two values.
        name: Of the mask, for a message.

    Raises:
        DataError: The cell is null or holds something else, rows differ in length, or values are null, not finite or,
            without a threshold, more than two.
    """
    import pyarrow as pa

    size, flat = _flattened(cell, name)
    kind = flat.type
    if not (pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise DataError(f"{name} holds {kind}", _FORM)
    if flat.null_count:
        raise DataError(f"{name} has {flat.null_count} values that are null")
    values = flat.to_numpy(zero_copy_only=False).reshape(size)
    if threshold is None:
        return two_valued(values, name)
    return at_least(values, threshold, name)


def _flattened(cell: pa.Scalar, name: str) -> tuple[Size, pa.Array]:
    """The size and the values row by row."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if isinstance(cell, pa.ExtensionScalar):
        cell = cell.value  # None for null
    array = getattr(cell, "values", None)
    if array is None or not isinstance(cell, pa.ListScalar | pa.FixedSizeListScalar):
        raise DataError(f"{name} is not a dense mask, but {getattr(cell, 'type', 'null')}", _FORM)
    shape = [len(array)]
    while True:
        if isinstance(array, pa.ExtensionArray):
            array = array.storage
        if not _is_list(array.type):
            break
        lengths = pc.unique(pc.list_value_length(array)).to_pylist()
        if len(lengths) != 1 or lengths[0] is None:
            raise DataError(f"{name} is not a mask of rows of one length", _FORM)
        shape.append(lengths[0])
        array = array.flatten()
    if len(shape) == 3 and 1 in (shape[0], shape[2]):
        del shape[0 if shape[0] == 1 else 2]
    if len(shape) != 2:
        raise DataError(f"{name} is nested {len(shape)} deep", _FORM)
    size = (shape[0], shape[1])
    check_size(size, f"{name}")
    return size, array


def _is_list(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))

"""Fields that people write, in cards and recipes, checked against a model: what is wrong, and what was meant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar, get_args

from pydantic import BaseModel, ValidationError

from lens_bench.errors import UsageError
from lens_bench.registry import suggest

_Model = TypeVar("_Model", bound=BaseModel)


def checked(kind: type[_Model], fields: Mapping[str, object], where: str, whole: str) -> _Model:
    """Check fields.

    Args:
        kind: What they should make.
        fields: As they were read.
        where: What the message begins with.
        whole: What it names where no field alone is to blame.

    Raises:
        UsageError: They do not fit. Names the first field that does not, and what a misspelt key may have meant.
    """
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        # A misspelt key explains a missing one.
        first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
        way = [str(part) for part in first["loc"]]
        unknown = first["type"] == "extra_forbidden"
        said = "there is no such key" if unknown else first["msg"].removeprefix("Value error, ")
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise UsageError(
            f"{where}{'.'.join(way) or whole}: {said}{more}", _keys(kind, way) if unknown else ""
        ) from None


def _keys(kind: type[BaseModel], way: list[str]) -> str:
    """A hint for the unknown key at the end of the way: the close ones, else all that its section has."""
    for name in way[:-1]:
        field = kind.model_fields.get(name)
        # A number or a name of the user's leads into a list or a mapping, whose kind the field before has given.
        inner = _model_in(field.annotation) if field is not None else kind
        if inner is None:
            return ""
        kind = inner
    return suggest(way[-1], kind.model_fields) or f"keys here: {', '.join(kind.model_fields)}"


def _model_in(annotation: object) -> type[BaseModel] | None:
    """The model inside an annotation such as ``tuple[Model, ...] | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part)) is not None), None)

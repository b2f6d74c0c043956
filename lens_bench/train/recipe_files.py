"""Recipes as files: by name or path, based on one another, with overrides.

A recipe is a YAML file under ``recipes/`` or a path of the user's. ``base: NAME`` takes another recipe and overrides
it. A recipe with ``chain`` trains several one after another, each from the last one's result. ``card: NAME`` under
``model.prompt`` asks as the card of a model does. Paths of recipes and of rewards in a file are relative to its folder;
in a setting they are relative to the working directory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from lens_bench.errors import UsageError
from lens_bench.fields import checked
from lens_bench.heads import load_yaml
from lens_bench.lens.recipe import Recipe
from lens_bench.parsing import parse_yaml
from lens_bench.registry import find_model, suggest
from lens_bench.train.config import AnyRecipe, ChainRecipe, TrainRecipe

RECIPES = Path(__file__).parent / "recipes"


def recipe_names() -> tuple[str, ...]:
    """The recipes that come with the package."""
    return tuple(sorted(path.stem for path in RECIPES.glob("*.yaml")))


def load_recipe(
    reference: str, settings: Sequence[str] = (), overrides: Mapping[str, object] | None = None
) -> AnyRecipe:
    """Read a recipe by name or path, with overrides by dotted key, then ``key=value`` settings (values as YAML).

    Raises:
        UsageError: No such recipe, an unknown key, or a value that does not fit.
    """
    fields = _fields(reference)
    for key, value in (overrides or {}).items():
        override(fields, key, value)
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise UsageError(f"--set {setting}: expected key=value", "e.g. --set optimiser.steps=100")
        override(fields, key, _placed(_value(text, setting), Path()))
    _ask_as_card(fields, reference)
    return validated(fields, reference)


def _ask_as_card(fields: dict[str, object], where: str) -> None:
    """Put what the model card named by ``model.prompt.card`` says in front of the other overrides of the prompt.

    So a recipe asks what the card asks, and what was asked is written out in ``recipe.json``.

    Raises:
        UsageError: No such model, or its card does not say how a LENS is asked.
    """
    model = fields.get("model")
    prompt = model.get("prompt") if isinstance(model, dict) else None
    if not isinstance(prompt, dict) or "card" not in prompt:
        return
    name, own = prompt["card"], {key: value for key, value in prompt.items() if key != "card"}
    if name is None:
        override(fields, "model.prompt", own)
        return
    key = f"recipe {where}: model.prompt.card"
    try:
        card = find_model(str(name))
    except UsageError as error:
        raise UsageError(f"{key}: {error.message}", error.hint) from None
    said = {arg: spec.default for arg, spec in card.args.items() if arg in Recipe.model_fields}
    if "question" not in said:
        raise UsageError(f"{key}: the card of {name} does not say how a LENS is asked", "it has no argument question")
    override(fields, "model.prompt", {**said, **own})


def validated(fields: Mapping[str, object], where: str) -> AnyRecipe:
    """Check a recipe's fields. Raises ``UsageError`` naming the field."""
    named = f"recipe {where}: "
    if "chain" in fields:
        return checked(ChainRecipe, fields, named, "recipe")
    return checked(TrainRecipe, fields, named, "recipe")


def override(fields: dict[str, object], key: str, value: object) -> None:
    """Set a dotted key in nested fields. Raises ``UsageError`` where the way leads through something else."""
    *way, last = key.split(".")
    for name in way:
        inner = fields.setdefault(name, {})
        if not isinstance(inner, dict):
            raise UsageError(f"--set {key}: {name} is not a section")
        fields = inner
    fields[last] = value


def _value(text: str, setting: str) -> object:
    try:
        value = parse_yaml(text)
    except ValueError:
        raise UsageError(f"--set {setting}: the value is not readable YAML") from None
    if isinstance(value, str):
        try:
            return float(value)  # YAML reads 1e-3 as text
        except ValueError:
            return value
    return value


def _fields(reference: str, seen: tuple[Path, ...] = ()) -> dict[str, object]:
    own = _is_path(reference)
    path = Path(reference) if own else RECIPES / f"{reference}.yaml"
    if not path.is_file():
        if own:
            raise UsageError(f"there is no file {reference}", f"recipes by name: {', '.join(recipe_names())}")
        raise UsageError(
            f"no training recipe {reference!r}",
            suggest(reference, recipe_names()) or f"recipes: {', '.join(recipe_names())}; or the path of a YAML file",
        )
    if path.resolve() in seen:
        raise UsageError(f"recipe {reference} is based on itself")
    fields = {key: _placed(value, path.parent) for key, value in load_yaml(path).items()}
    chain = fields.get("chain")
    for link in chain if isinstance(chain, list) else []:
        if isinstance(link, dict) and isinstance(link.get("recipe"), str):
            link["recipe"] = _beside(path, link["recipe"])
    base = fields.pop("base", None)
    if base is None:
        return fields
    return merged(_fields(_beside(path, str(base)), (*seen, path.resolve())), fields)


def _is_path(reference: str) -> bool:
    return reference.endswith((".yaml", ".yml"))


def _beside(file: Path, reference: str) -> str:
    """A recipe that a file refers to: a name as it is, a path from the file's folder."""
    return str(file.parent / reference) if _is_path(reference) else reference


def _placed(value: object, folder: Path) -> object:
    """A value in which rewards that are named by a file have its whole path, so that it is found from anywhere."""
    if isinstance(value, list):
        return [_placed(inner, folder) for inner in value]
    if not isinstance(value, dict):
        return value
    found = {key: _placed(inner, folder) for key, inner in value.items()}
    name = found.get("name")
    file, colon, function = name.rpartition(":") if isinstance(name, str) else ("", "", "")
    if colon and file.endswith(".py"):
        found["name"] = f"{(folder / Path(file).expanduser()).resolve()}:{function}"
    return found


def merged(base: dict[str, object], over: Mapping[str, object]) -> dict[str, object]:
    """Nested sections merged, everything else replaced; None removes a key."""
    out = dict(base)
    for key, value in over.items():
        inner = out.get(key)
        if value is None:
            out.pop(key, None)
        elif isinstance(value, dict) and isinstance(inner, dict):
            out[key] = merged(inner, value)
        else:
            out[key] = value
    return out

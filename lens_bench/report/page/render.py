"""From content to one HTML file that needs nothing else and lets nothing in.

Style and script are inlined and named by their hashes in a content security policy that forbids everything else: no
request, no other script, no handler in an attribute. Data travels as JSON in a script element of a type that is not
run; text that a model or a data set wrote becomes text nodes only.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lens_bench.run.files import JsonObject


def render(context: Mapping[str, object], data: JsonObject) -> str:
    """Fill the template.

    Args:
        context: What the template shows; escaped by it.
        data: What the script works on.
    """
    style, script = _asset("page.css"), _asset("page.js")
    policy = (
        "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; "
        f"style-src {_hash(style)}; script-src {_hash(script)}"
    )
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            **context,
            policy=policy,
            style=Markup(style),  # noqa: S704 - our own file
            script=Markup(script),  # noqa: S704 - our own file
            data=Markup(embedded_json(data)),  # noqa: S704 - escaped for this place by embedded_json
        )
    )


def render_training(context: Mapping[str, object]) -> str:
    """Fill the template of a training, which has no script."""
    style = _asset("page.css")
    policy = f"default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; style-src {_hash(style)}"
    return (
        _environment().get_template("training.html.j2").render(**context, policy=policy, style=Markup(style))  # noqa: S704 - our own file
    )


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("lens_bench.report.page", "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def embedded_json(content: JsonObject) -> str:
    """JSON that can stand in a script element: no ``<``, and no line separators that old parsers stumble over.

    Lone surrogates (a model's cut-off emoji) stay escapes, so that the file is valid UTF-8.
    """
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _asset(name: str) -> str:
    return files("lens_bench.report.page").joinpath("assets", name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
    return f"'sha256-{digest}'"

"""The page at /docs: what the front takes, from its OpenAPI description, without a script from anywhere."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from fastapi.responses import HTMLResponse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastapi import FastAPI

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 50em; margin: 2em auto; padding: 0 1em; }}
h2 {{ font-size: 1em; margin: 2em 0 0; }} h2, code {{ font-family: ui-monospace, monospace; }}
table {{ border-collapse: collapse; margin: .5em 0; }} td {{ padding: .1em 1em .1em 0; vertical-align: top; }}
</style>
<h1>{title}</h1>
<p>{description} The same for programs: <a href="openapi.json">openapi.json</a>.</p>
{operations}
</html>
"""


def add_docs(app: FastAPI) -> None:
    """Adds the page; call it after all paths are added."""

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(page_of(app.openapi()))


def page_of(openapi: dict[str, Any]) -> str:
    """HTML that lists each path, what it takes and how it answers."""
    schemas = openapi.get("components", {}).get("schemas", {})
    operations = [
        _operation(method.upper(), path, operation, schemas)
        for path, methods in openapi["paths"].items()
        for method, operation in methods.items()
    ]
    info = openapi["info"]
    return _PAGE.format(
        title=escape(info["title"]), description=escape(info["description"]), operations="\n".join(operations)
    )


def _operation(method: str, path: str, operation: dict[str, Any], schemas: dict[str, Any]) -> str:
    rows = [
        (one["name"], one["in"], one["schema"], one.get("required", False)) for one in operation.get("parameters", ())
    ]
    rows += _body_fields(operation, schemas)
    taken = "".join(
        f"<tr><td><code>{escape(name)}</code><td>{place}{', required' if required else ''}<td>{escape(_type(schema))}"
        for name, place, schema, required in rows
    )
    answers = "; ".join(
        f"{status} {escape(answer['description'])}" for status, answer in operation["responses"].items()
    )
    said = escape(operation.get("description", ""))
    table = f"<table>{taken}</table>" if taken else ""
    return f"<h2>{method} {escape(path)}</h2><p>{said}</p>{table}<p>Answers: {answers}.</p>"


def _body_fields(operation: dict[str, Any], schemas: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any], bool]]:
    for content in operation.get("requestBody", {}).get("content", {}).values():
        schema = schemas[content["schema"]["$ref"].rpartition("/")[2]]
        for name, field in schema["properties"].items():
            yield name, "body, JSON", field, name in schema.get("required", ())


def _type(schema: dict[str, Any]) -> str:
    """A JSON schema in a few words."""
    if "anyOf" in schema:
        return " or ".join(_type(one) for one in schema["anyOf"])
    words = "list of " + _type(schema["items"]) if schema.get("type") == "array" else str(schema.get("type", "any"))
    if "enum" in schema:
        words = "one of " + ", ".join(map(str, schema["enum"]))
    bounds = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "maxItems": "at most"}
    limits = [f"{text} {schema[key]:,.10g}" for key, text in bounds.items() if key in schema]
    default = [f"by default {schema['default']}"] if schema.get("default") is not None else []
    return ", ".join([words, *limits, *default, *filter(None, [schema.get("description")])])

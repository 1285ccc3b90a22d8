"""The page at /docs: what the HTTP front takes, as plain HTML without scripts, so that it needs no other server."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Schema = dict[str, Any]

_LIMITS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "maxItems": "at most {}",
    "pattern": "matches {}",
    "default": "{} unless given",
}
"""Keywords of JSON Schema, and how they are told."""
_STYLE = "body{font-family:sans-serif;max-width:60em;margin:2em auto}td,th{text-align:left;padding:0 1em .2em 0}"


def docs_page(openapi: Mapping[str, Any]) -> str:
    """The page for an OpenAPI description: each path and method with its parameters, fields and statuses."""
    schemas = openapi.get("components", {}).get("schemas", {})
    title = escape(openapi["info"]["title"])
    sections = [
        section
        for path, methods in openapi["paths"].items()
        for method, operation in methods.items()
        for section in _section(f"{method.upper()} {path}", operation, schemas)
    ]
    return "\n".join(
        [
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>',
            f"<h1>{title}</h1><p>{escape(openapi['info']['description'])}</p>",
            '<p>For programs: <a href="/openapi.json">/openapi.json</a></p>',
            *sections,
            "</html>",
        ]
    )


def _section(heading: str, operation: Mapping[str, Any], schemas: Mapping[str, Schema]) -> Iterator[str]:
    yield f"<h2><code>{escape(heading)}</code></h2><p>{escape(operation.get('description', ''))}</p>"
    rows = [*_parameters(operation), *_body_fields(operation, schemas)]
    if rows:
        cells = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows]
        yield "<table>" + "".join(f"<tr>{row}</tr>" for row in cells) + "</table>"
    answers = [f"{status}: {answer['description']}" for status, answer in operation["responses"].items()]
    yield f"<p>{escape('; '.join(answers))}</p>"


def _parameters(operation: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for one in operation.get("parameters", ()):
        yield one["name"], f"{one['in']}, {_needed(one['required'])}", _kind(one["schema"], one.get("description"))


def _body_fields(operation: Mapping[str, Any], schemas: Mapping[str, Schema]) -> Iterator[tuple[str, str, str]]:
    for content in operation.get("requestBody", {}).get("content", {}).values():
        schema = schemas[content["schema"]["$ref"].rpartition("/")[2]]
        for name, field in schema["properties"].items():
            yield name, f"body, {_needed(name in schema.get('required', ()))}", _kind(field, field.get("description"))


def _needed(is_required: bool) -> str:
    return "required" if is_required else "optional"


def _kind(schema: Schema, description: str | None = None) -> str:
    """A schema in words, such as `integer, at least 1, at most 1000, 5 unless given`."""
    if "anyOf" in schema:
        kinds = [_kind(one) for one in schema["anyOf"] if one.get("type") != "null"]
        return "; ".join([" or ".join(kinds), *([description] if description else [])])
    kind = schema.get("type", "value")
    if kind == "array":
        kind = f"list of ({_kind(schema['items'])})"
    if "enum" in schema:
        kind = "one of " + ", ".join(map(str, schema["enum"]))
    limits = [told.format(_plain(schema[key])) for key, told in _LIMITS.items() if schema.get(key) is not None]
    return "; ".join([", ".join([kind, *limits]), *([description] if description else [])])


def _plain(value: object) -> object:
    return f"{value:g}" if isinstance(value, float) else value

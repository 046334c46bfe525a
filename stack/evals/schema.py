"""A small part of JSON Schema, enough for answers and tool arguments.

A keyword outside the part is refused when the suite is loaded: a schema that is only half checked would let a
wrong answer pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "null": (type(None),),
    "number": (int, float),
    "integer": (int,),
}
_ANNOTATIONS = frozenset({"title", "description", "$schema", "$id", "default", "examples"})
_COUNTS = frozenset({"minLength", "maxLength", "minItems", "maxItems"})
_NUMBERS = frozenset({"minimum", "maximum"})
_KNOWN = _ANNOTATIONS | _COUNTS | _NUMBERS | {
    "type", "properties", "required", "additionalProperties", "items", "enum", "const",
}  # fmt: skip


def schema_problems(schema: Any, where: str = "schema") -> Iterator[str]:
    """What this module can't check in `schema`, or what is wrong with it."""
    if not isinstance(schema, dict):
        yield f"{where} must be a mapping"
        return
    for key in sorted(schema.keys() - _KNOWN):
        yield f"{where}: the keyword {key!r} is not supported"
    types = schema.get("type", [])
    for name in types if isinstance(types, list) else [types]:
        if not isinstance(name, str) or name not in _TYPES:
            yield f"{where}: unknown type {name!r}"
    yield from _shape_problems(schema, where)
    properties = schema.get("properties", {})
    if isinstance(properties, dict):
        for name, inner in properties.items():
            yield from schema_problems(inner, f"{where}.properties.{name}")
    if "items" in schema:
        yield from schema_problems(schema["items"], f"{where}.items")


def _shape_problems(schema: dict[str, Any], where: str) -> Iterator[str]:
    if not isinstance(schema.get("properties", {}), dict):
        yield f"{where}: properties must be a mapping"
    if not isinstance(schema.get("additionalProperties", True), bool):
        yield f"{where}: additionalProperties must be true or false"
    if not isinstance(schema.get("enum", []), list):
        yield f"{where}: enum must be a list"
    required = schema.get("required", [])
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        yield f"{where}: required must be a list of names"
    for key in (_COUNTS | _NUMBERS) & schema.keys():
        value = schema[key]
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            yield f"{where}: {key} must be a number"


def violations(value: Any, schema: dict[str, Any], where: str = "answer") -> Iterator[str]:
    """How `value` breaks `schema` (one that `schema_problems` finds nothing in)."""
    types = schema.get("type")
    names = types if isinstance(types, list) else [types] if types else []
    if names and not any(_is(value, name) for name in names):
        yield f"{where} is not {' or '.join(names)}"
        return
    if "enum" in schema and not any(_same(value, option) for option in schema["enum"]):
        yield f"{where} is none of the allowed values"
    if "const" in schema and not _same(value, schema["const"]):
        yield f"{where} is not the required value"
    yield from _range(value, schema, where)
    if isinstance(value, dict):
        yield from _object(value, schema, where)
    if isinstance(value, list) and "items" in schema:
        for index, item in enumerate(value):
            yield from violations(item, schema["items"], f"{where}[{index}]")


def _object(value: dict[str, Any], schema: dict[str, Any], where: str) -> Iterator[str]:
    properties = schema.get("properties", {})
    for name in schema.get("required", []):
        if name not in value:
            yield f"{where} lacks {name!r}"
    for name, item in value.items():
        if name in properties:
            yield from violations(item, properties[name], f"{where}.{name}")
        elif not schema.get("additionalProperties", True):
            yield f"{where} has {name!r}, which is not allowed"


def _range(value: Any, schema: dict[str, Any], where: str) -> Iterator[str]:
    if isinstance(value, (str, list)):
        low, high = ("minLength", "maxLength") if isinstance(value, str) else ("minItems", "maxItems")
        size: float = len(value)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        low, high, size = "minimum", "maximum", value
    else:
        return
    if low in schema and size < schema[low]:
        yield f"{where} is below {low} {schema[low]}"
    if high in schema and size > schema[high]:
        yield f"{where} is above {high} {schema[high]}"


def _is(value: Any, name: str) -> bool:
    if isinstance(value, bool):
        return name == "boolean"
    if name == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES[name])


def _same(left: Any, right: Any) -> bool:
    return isinstance(left, bool) == isinstance(right, bool) and bool(left == right)

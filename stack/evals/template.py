"""Fills `{{name}}` and `{{name.inner}}` in prompts and expected values.

Substitution by name only: no expression is evaluated, and a filled-in value is never looked at again, so a
variable's content can't reach anything. What promptfoo's templates can do beyond that is refused, not ignored.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

_HOLE = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*\Z")


class BadTemplate(ValueError):
    """The template asks for something that can't be filled in; the text says what."""


def fill(text: str, variables: Mapping[str, Any]) -> str:
    """`text` with every hole filled; raises `BadTemplate`."""
    if "{%" in text or "{#" in text:
        raise BadTemplate("{% ... %} and {# ... #} are not supported: only {{name}} is filled in")
    return _HOLE.sub(lambda hole: _text(_lookup(hole.group(1).strip(), variables)), text)


def fill_all(value: Any, variables: Mapping[str, Any]) -> Any:
    """`value` with every text inside it filled (keys are left alone)."""
    if isinstance(value, str):
        return fill(value, variables)
    if isinstance(value, list):
        return [fill_all(item, variables) for item in value]
    if isinstance(value, dict):
        return {key: fill_all(item, variables) for key, item in value.items()}
    return value


def _lookup(expression: str, variables: Mapping[str, Any]) -> Any:
    if not _NAME.match(expression):
        raise BadTemplate(f"{{{{{expression[:60]}}}}} is more than a name: only {{{{name}}}} is filled in")
    value: Any = variables
    for part in expression.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise BadTemplate(f"no variable {expression[:60]!r}")
        value = value[part]
    return value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

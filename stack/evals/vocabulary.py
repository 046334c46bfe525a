"""The assertion types this product can judge, and what each needs: one table, used when a suite is loaded.

A type that is not here is refused: an assertion nobody checks would be a pass without evidence.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from stack.evals.schema import schema_problems

MAX_PATTERN = 500
FINISH_REASONS = ("stop", "length", "tool_calls", "function_call", "content_filter")


def _text(value: Any) -> Iterator[str]:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        yield "value must be text (quote it)"


def _comparable(value: Any) -> Iterator[str]:
    if isinstance(value, bool) or value is None:
        yield "value must be text, or a mapping or list to compare as JSON (quote it if text is meant)"


def _words(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        value = value.split(",")
    if not isinstance(value, list) or not value or not all(isinstance(v, (str, int)) and str(v) for v in value):
        yield "value must be a list of texts"


def _pattern(value: Any) -> Iterator[str]:
    if not isinstance(value, str) or not value:
        yield "value must be a pattern"
    elif len(value) > MAX_PATTERN:
        yield f"the pattern is longer than {MAX_PATTERN} characters"
    else:
        try:
            re.compile(value)
        except (re.error, RecursionError, OverflowError) as error:
            yield f"not a pattern that Python's re knows: {error}"


def _schema(value: Any) -> Iterator[str]:
    if value is not None:
        yield from schema_problems(value)


def _reason(value: Any) -> Iterator[str]:
    if value not in FINISH_REASONS:
        yield f"value must be one of {', '.join(FINISH_REASONS)}"


def _nothing(value: Any) -> Iterator[str]:
    if value is not None:
        yield "takes no value"


@dataclass(frozen=True, kw_only=True)
class Kind:
    """How the entry of one type is checked; `threshold`: needs one; `negatable`: `not-` makes sense."""

    check: Callable[[Any], Iterator[str]]
    threshold: bool = False
    negatable: bool = True


KINDS: dict[str, Kind] = {
    "equals": Kind(check=_comparable),
    "contains": Kind(check=_text),
    "icontains": Kind(check=_text),
    "contains-all": Kind(check=_words),
    "contains-any": Kind(check=_words),
    "icontains-all": Kind(check=_words),
    "icontains-any": Kind(check=_words),
    "starts-with": Kind(check=_text),
    "regex": Kind(check=_pattern),
    "is-json": Kind(check=_schema),
    "contains-json": Kind(check=_schema),
    "finish-reason": Kind(check=_reason),
    "is-valid-openai-tools-call": Kind(check=_nothing),
    "latency": Kind(check=_nothing, threshold=True, negatable=False),
    "stream-parity": Kind(check=_nothing, negatable=False),
}
ALIASES = {"tool-call": "is-valid-openai-tools-call"}
REFUSED = {
    "cost": "cost is not judged here: local models are free, and a check that always passes is none",
    "javascript": "code in a suite is not run",
    "python": "code in a suite is not run",
    "llm-rubric": "no model judges another here",
    "model-graded-closedqa": "no model judges another here",
    "factuality": "no model judges another here",
    "similar": "needs an embedding provider, which a suite run does not have",
    "webhook": "a suite may not call other servers",
}


def split_type(written: str) -> tuple[str, bool]:
    """`not-contains` -> `("contains", True)`; aliases resolved."""
    negated = written.startswith("not-")
    name = written[4:] if negated else written
    return ALIASES.get(name, name), negated


def type_problem(written: str) -> str | None:
    """Why this type can't be used; None when it can."""
    name, negated = split_type(written)
    if name in REFUSED:
        return f"the assertion type {written!r} is refused: {REFUSED[name]}"
    if name not in KINDS:
        return f"unknown assertion type {written[:60]!r}; known: {', '.join(sorted(KINDS))}, each also with not-"
    if negated and not KINDS[name].negatable:
        return f"{written!r}: this type can't be negated"
    return None

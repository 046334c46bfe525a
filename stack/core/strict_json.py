"""JSON as the standard has it, from sources that may lie: no NaN, no infinities, no lone surrogates, bounded depth."""

from __future__ import annotations

import json
import math
import re
from typing import Any

MAX_DEPTH = 100
_HALF_PAIR = re.compile(r"\\u[dD][89a-fA-F]")


class NotJson(ValueError):
    """The text is not JSON; says why."""


def parse_json(data: bytes | str, *, unique: bool = False) -> Any:
    """The value; raises `NotJson`, and nothing else. ``unique`` refuses objects in which a key stands twice."""
    try:
        text = data if isinstance(data, str) else data.decode("utf-8")
        hook = _unique if unique else None
        value = json.loads(text, parse_constant=_refuse, parse_float=_finite, object_pairs_hook=hook)
        (json.dumps(value, ensure_ascii=False) if _HALF_PAIR.search(text) else text).encode("utf-8")
        if deeper_than(value, MAX_DEPTH):
            raise RecursionError
    except RecursionError:
        raise NotJson("nested too deeply") from None
    except UnicodeEncodeError:
        raise NotJson("half a surrogate pair is not text") from None
    except ValueError as error:
        raise NotJson(str(error)[:160]) from None
    return value


def deeper_than(value: Any, depth: int) -> bool:
    """Is `value` nested more than `depth` levels deep?"""
    level = [value]
    for _ in range(depth + 1):
        level = [
            inner for outer in level if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]  # fmt: skip
        if not level:
            return False
    return True


def find_json(text: str, longest: int = 200) -> list[Any]:
    """Every object and array that stands in `text` (tries at most `longest` beginnings)."""
    decoder = json.JSONDecoder(parse_constant=_refuse, parse_float=_finite)
    found: list[Any] = []
    position = tries = 0
    while tries < longest:
        starts = [at for at in (text.find("{", position), text.find("[", position)) if at >= 0]
        if not starts:
            break
        tries += 1
        try:
            value, position = decoder.raw_decode(text, min(starts))
            if not deeper_than(value, MAX_DEPTH):
                found.append(value)
        except (ValueError, RecursionError):
            position = min(starts) + 1
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key stands twice")
    return value


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is out of range")
    return value

"""JSON from sources that may lie: a value of the standard, or NotJson; a key given twice where that matters."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stack.core.strict_json import MAX_DEPTH, NotJson, parse_json


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "Expecting value"),
        (b"{} x", "Extra data"),
        (b"NaN", "NaN is not JSON"),
        (b"[-Infinity]", "-Infinity is not JSON"),
        (b"1e999", "1e999 is out of range"),
        (b"9" * 5_000, "4300 digits"),
        (b"\xff", "can't decode"),
        (b'"\\ud800"', "half a surrogate pair"),
        (b'{"\\uDFFF": 1}', "half a surrogate pair"),
        ('"\ud800"', "half a surrogate pair"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[" * (MAX_DEPTH + 2) + b"]" * (MAX_DEPTH + 2), "nested too deeply"),
    ],
)
def test_what_is_not_json(data: bytes | str, reason: str) -> None:
    with pytest.raises(NotJson, match=reason):
        parse_json(data)


def test_a_whole_pair_is_a_character() -> None:
    assert parse_json(b'"\\ud83d\\ude00"') == "\N{GRINNING FACE}"


def test_a_key_that_stands_twice() -> None:
    text = '{"a": {"b": 1, "b": 2}}'
    assert parse_json(text) == {"a": {"b": 2}}
    with pytest.raises(NotJson, match="stands twice"):
        parse_json(text, unique=True)


@settings(deadline=None)
@given(st.binary(max_size=100) | st.text(alphabet='{}[]",:\\u0dD8e1-. tN', max_size=60))
def test_any_input_is_a_value_or_not_json(data: bytes | str) -> None:
    try:
        value = parse_json(data)
    except NotJson:
        return
    json.dumps(value, allow_nan=False, ensure_ascii=False).encode("utf-8")


@settings(deadline=None)
@given(st.recursive(st.none() | st.floats(allow_nan=False, allow_infinity=False) | st.text(), st.lists))
def test_what_json_writes_is_read_back(value: object) -> None:
    assert parse_json(json.dumps(value), unique=True) == value
    assert parse_json(json.dumps(value, ensure_ascii=False).encode("utf-8")) == value
    assert not isinstance(value, float) or math.isfinite(value)

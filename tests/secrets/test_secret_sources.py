"""What every source of secrets does, whatever stands behind it; and what a secret does not show."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from secret_places import NAME, PLACES, PlaceOfSecret

from stack.core.errors import StackError, Unavailable
from stack.secrets.source import LONGEST, NoSecret, Secret, SecretUnusable

VALUES = [
    "a" * 64,
    "p/+=?&%#@:; \"'`${x}{{ y }}<z>",
    "é€😀 漢字",
    "-----BEGIN KEY-----\nabc\n-----END KEY-----",
    " x ",
    "1",
]


@pytest.fixture(params=list(PLACES))
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[PlaceOfSecret]:
    with PLACES[request.param](tmp_path) as made:
        yield made


@pytest.mark.parametrize("value", VALUES)
def test_what_was_put_is_read(place: PlaceOfSecret, value: str) -> None:
    place.put(value)
    assert place.source.read(NAME).reveal() == value


def test_one_newline_at_the_end_is_not_part_of_it(place: PlaceOfSecret) -> None:
    place.put("abc\n\n")
    assert place.source.read(NAME).reveal() == "abc\n"
    place.put("abc\r\n")
    assert place.source.read(NAME).reveal() == "abc"


def test_a_rotated_secret_is_seen(place: PlaceOfSecret) -> None:
    for value in ("first", "second", "third"):
        place.put(value)
        assert place.source.read(NAME).reveal() == value


def test_what_is_not_there_is_unavailable(place: PlaceOfSecret) -> None:
    with pytest.raises(Unavailable) as missing:
        place.source.read(NAME)
    assert missing.value.advice
    place.put("x")
    place.source.read(NAME)
    place.remove()
    with pytest.raises(Unavailable):
        place.source.read(NAME)


def test_names_that_nobody_configured(place: PlaceOfSecret) -> None:
    place.put("x")
    with pytest.raises(NoSecret) as unknown:
        place.source.read("other.key")
    assert "other.key" in unknown.value.message


@pytest.mark.parametrize("text", ["", "\n", "  ", "a\0b", "x" * (LONGEST + 1)])
def test_what_can_be_no_secret_is_refused(place: PlaceOfSecret, text: str) -> None:
    place.put(text)
    with pytest.raises(SecretUnusable):
        place.source.read(NAME)


def test_neither_sources_nor_errors_show_it(place: PlaceOfSecret) -> None:
    value = secrets.token_hex(20)
    place.put(value + "\0")
    with pytest.raises(StackError) as refused:
        place.source.read(NAME)
    shown = json.dumps(refused.value.to_json()) + repr(refused.value) + repr(place.source)
    place.put(value)
    place.source.read(NAME)
    assert value not in shown + repr(place.source) + str(place.source)


def test_a_secret_does_not_show_itself(caplog: pytest.LogCaptureFixture) -> None:
    secret = Secret("hush-hush-value")
    logging.getLogger("x").warning("%s %r %s", secret, secret, {"k": [secret]})
    shown = [repr(secret), str(secret), f"{secret}", f"{secret:>20}", f"{secret!r}", caplog.text, repr([secret])]
    assert not [text for text in shown if "hush" in text]
    assert str(secret) == "***"
    assert secret.reveal() == "hush-hush-value"
    assert not hasattr(secret, "__dict__")
    for serialise in (pickle.dumps, json.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            serialise(secret)
    with pytest.raises(AttributeError):
        secret.value = "x"  # type: ignore[attr-defined]


def test_secrets_are_compared_by_value() -> None:
    assert Secret("é") == Secret("é")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    with pytest.raises(TypeError):
        hash(Secret("a"))

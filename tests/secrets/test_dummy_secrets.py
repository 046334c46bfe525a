"""Dummy values are known for what they are, and no random secret is taken for one."""

from __future__ import annotations

import base64
import secrets
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from secret_places import private

from stack.secrets.chosen import ChosenSource
from stack.secrets.dummy import why_dummy
from stack.secrets.file import FileSource
from stack.secrets.source import DummySecret, NoSecret

SAID = """
changeme CHANGEME change-me changeme123 please-change-me ChangeMe!ChangeMe! password Password1234567890 passw0rd
p@ssw0rd-p@ssw0rd secret supersecret my-secret-token-123 test testtesttesttest test-token-0000 example
example-api-key-example EXAMPLE_TOKEN_HERE dummy dummy-dummy-dummy-dummy fake-credential-value xxx xxxxxxxxxxxxxxxxxxxx
XXXX-XXXX-XXXX-XXXX 123456 1234567890123456 12345678901234567890123456789012 aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
00000000000000000000000000000000 abababababababababababab deadbeefdeadbeefdeadbeefdeadbeef abcdefghijklmnopqrstuvwxyz
0123456789abcdef0123456789abcdef fedcba9876543210 qwertyuiopasdfgh <your-token-here> <INSERT_CLIENT_KEY_OF_PRODUCTION>
${CLIENT_KEY} ${CLIENT_KEY_OF_THE_PRODUCTION_STACK} $CLIENT_KEY_OF_PRODUCTION {{vault.client_key.of_production}}
%CLIENT_KEY_OF_PRODUCTION% [insert-a-random-token-of-64] __CLIENT_KEY_OF_PRODUCTION__ todo TODO-replace-this-token
your_api_key_here your-super-secret-token-goes-here none null undefined short abc123 letmein-letmein-1 admin-admin-admin
placeholder-placeholder temporary-password-42 fixme foobarfoobarfoobar hello-world-hello-world default-admin-token
redacted ******************** --------------------------------
"""
DUMMIES = SAID.split()


@pytest.mark.parametrize("value", [*DUMMIES, "", " ", "change me please now", "'changeme-changeme'"])
def test_dummies(value: str) -> None:
    assert why_dummy(value)


@given(st.sampled_from(DUMMIES), st.sampled_from(["{}", "{}\n", " {} ", '"{}"']))
def test_the_reason_never_holds_the_value(value: str, shape: str) -> None:
    reason = why_dummy(shape.format(value))
    assert reason
    assert value in ("changeme", "password", "test", "xxx", "short") or value not in reason


@settings(max_examples=400)
@given(st.binary(min_size=20, max_size=48))
def test_random_bytes_in_any_spelling_are_no_dummies(data: bytes) -> None:
    if len(set(data)) < 16:  # Hypothesis likes zeros; these are not random
        data = secrets.token_bytes(32)
    for text in (data.hex(), base64.b64encode(data).decode(), base64.urlsafe_b64encode(data).decode()):
        assert why_dummy(text) == ""


def test_thousands_of_random_secrets() -> None:
    made = [f() for _ in range(3000) for f in (lambda: secrets.token_hex(32), lambda: secrets.token_urlsafe(24))]
    assert [text for text in made if why_dummy(text)] == []


def test_only_where_real_ones_are_asked_for(tmp_path: Path) -> None:
    files = FileSource(paths={"client.key": private(tmp_path / "k", "changeme-changeme")})
    chosen = {"sources": {"client.key": files}, "places": {"client.key": "file"}}
    assert ChosenSource(**chosen, real_only=False).read("client.key").reveal() == "changeme-changeme"
    with pytest.raises(DummySecret) as refused:
        ChosenSource(**chosen).read("client.key")
    assert "changeme-changeme" not in str(refused.value.to_json())
    assert (refused.value.exit_code, bool(refused.value.advice)) == (3, True)
    with pytest.raises(NoSecret):
        ChosenSource(**chosen).read("other")

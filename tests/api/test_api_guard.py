"""Who may ask: token, Host, size. And: every error has one shape."""

from __future__ import annotations

import contextlib
import http.client
from collections.abc import Iterator

import pytest
from fake_desks import TOKEN
from fake_operator import Busy, FakeOperator
from hypothesis import given
from hypothesis import strategies as st
from served import Answer, Served, served

from stack.api.guard import MAX_BODY, bearer_token, host_allowed
from stack.core.errors import (
    ApprovalNeeded,
    BypassAttempt,
    InvalidInput,
    NotEnoughEvidence,
    Refused,
    StackError,
    Unavailable,
)

ERROR_KEYS = {"code", "message", "hint", "exit_code", "facts"}


@pytest.fixture(scope="module")
def api() -> Iterator[Served]:
    with served(FakeOperator()) as running:
        yield running


def check_shape(answer: Answer, status: int, exit_code: int) -> None:
    assert answer.status == status, answer.content
    assert set(answer.json) == {"error"}
    error = answer.json["error"]
    assert set(error) == ERROR_KEYS
    assert error["exit_code"] == exit_code
    assert error["message"].strip()
    assert answer.headers["content-type"] == "application/json"


def test_health_needs_no_token(api: Served) -> None:
    assert api.ask("GET", "/health", Authorization="").json == {"status": "ok"}


@pytest.mark.parametrize(
    "sent", ["", "Bearer", "Bearer ", f"Bearer {TOKEN}x", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN[:-1]}"]
)
@pytest.mark.parametrize("path", ["/api/v1/status", "/openapi.json", "/nowhere", "/health/", "//health"])
def test_a_wrong_token_opens_nothing(api: Served, sent: str, path: str) -> None:
    check_shape(api.ask("GET", path, Authorization=sent), 401, 3)


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost:x", ""])
def test_a_foreign_host_is_refused_even_with_the_token(api: Served, host: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", api.port, timeout=20)
    connection.putrequest("GET", "/health", skip_host=True)
    connection.putheader("Host", host)
    connection.putheader("Authorization", f"Bearer {TOKEN}")
    connection.endheaders()
    response = connection.getresponse()
    assert response.status == 421
    connection.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:8000", "LOCALHOST", "[::1]:8000", "[::1]"])
def test_loopback_names_are_welcome(host: str) -> None:
    assert host_allowed(host)


@given(st.text(max_size=80))
def test_a_token_is_read_whole_or_not_at_all(text: str) -> None:
    token = bearer_token([f"Bearer {text}"])
    assert token in ("", text.strip())
    assert token.isascii()
    assert bearer_token([f"Bearer {text}"] * 2) == ""
    assert bearer_token([f"Basic {text}"]) == ""


@pytest.mark.parametrize("extra", [{}, {"Transfer-Encoding": "chunked"}])
def test_a_large_body_is_refused(api: Served, extra: dict[str, str]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", api.port, timeout=20)
    chunks = [b" " * 65536] * (MAX_BODY // 65536 + 2)
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json", **extra}
    body = iter(chunks) if extra else b"".join(chunks)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # refused before all of it was sent
        connection.request("POST", "/api/v1/deploy", body=body, headers=headers, encode_chunked=bool(extra))
    response = connection.getresponse()
    check_shape(Answer(response.status, dict(response.getheaders()), response.read()), 413, 2)
    connection.close()


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/api/v1/nowhere", None, 404),
        ("DELETE", "/api/v1/status", None, 405),
        ("POST", "/api/v1/deploy", b"{", 422),
        ("POST", "/api/v1/deploy", b"", 422),
        ("POST", "/api/v1/deploy", [], 422),
        ("POST", "/api/v1/deploy", {"claimed": "a", "force": True}, 422),
        ("POST", "/api/v1/deploy", {"claimed": "a", "dry_run": "yes"}, 422),
        ("POST", "/api/v1/deploy", {"claimed": ""}, 422),
        ("POST", "/api/v1/deploy", {"actor": "a"}, 422),
        ("POST", "/api/v1/deploy", {"claimed": "a\nb"}, 422),
        ("POST", "/api/v1/deploy", {"change": "../CHG"}, 422),
        ("POST", "/api/v1/deploy", {"accept_pause_s": 301}, 422),
        ("POST", "/api/v1/rollback", {"accept_pause_s": -1}, 422),
        ("POST", "/api/v1/rollback", {"accept_pause_s": "60"}, 422),
        ("POST", "/api/v1/deploy", {"environment": "Production"}, 422),
        ("POST", "/api/v1/tokens", {"name": "x", "roles": []}, 422),
        ("POST", "/api/v1/alerts/x/acknowledge", {}, 422),
        ("GET", "/api/v1/changes/CHG-9", None, 404),
        ("POST", "/api/v1/models/register", {"path": "m.yaml", "format": "pickle"}, 422),
        ("GET", "/api/v1/rollouts?limit=0", None, 422),
        ("GET", "/api/v1/rollouts/ro-aaaaaaaaaa/events?wait=26", None, 422),
        ("GET", "/api/v1/admin/audit?limit=x", None, 422),
        ("GET", "/api/v1/rollouts/ro-none", None, 404),
        ("GET", "/api/v1/models/other@1.0", None, 404),
    ],
)
def test_bad_requests_have_the_one_shape(api: Served, method: str, path: str, body: object, status: int) -> None:
    check_shape(api.ask(method, path, body), status, 2)


def test_values_sent_are_not_echoed(api: Served) -> None:
    answer = api.ask("POST", "/api/v1/deploy", {"claimed": "a", "model": ["hunter2"]})
    assert b"hunter2" not in answer.content
    assert answer.json["error"]["facts"]["problems"] == [
        {"path": "body.model", "problem": "Input should be a valid string"}
    ]


@pytest.mark.parametrize(
    ("raised", "status", "exit_code"),
    [
        (InvalidInput("x"), 400, 2),
        (Refused("x"), 409, 3),
        (BypassAttempt("x"), 403, 3),
        (Unavailable("x"), 503, 4),
        (Busy(service="tiny", rollout="ro-1"), 409, 5),
        (NotEnoughEvidence("x"), 409, 6),
        (ApprovalNeeded("x"), 403, 7),
        (StackError("x"), 500, 1),
        (ZeroDivisionError("secret detail"), 500, 1),
    ],
)
def test_errors_of_the_operator_keep_code_and_exit_code(raised: Exception, status: int, exit_code: int) -> None:
    with served(FakeOperator(failing={"status": raised})) as api:
        answer = api.ask("GET", "/api/v1/status")
    check_shape(answer, status, exit_code)
    assert b"secret detail" not in answer.content
    if isinstance(raised, StackError):
        assert answer.json == raised.to_json()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({f"x-{n}": "1" for n in range(80)}, 431),
        ({"x-long": "a" * 40_000}, 431),
        ({"x-longer": "a" * 200_000}, 400),
        ({"Authorization": f"Bearer {'t' * 5000}"}, 401),
    ],
    ids=["many", "long", "longer than is read", "long token"],
)
def test_large_heads_are_refused(api: Served, headers: dict[str, str], status: int) -> None:
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # refused before all of it was sent
        assert api.ask("GET", "/api/v1/status", **headers).status == status
    assert api.ask("GET", "/api/v1/status").status == 200


@pytest.mark.parametrize("name", ["Host", "Authorization"])
def test_a_header_that_comes_twice_counts_as_none(api: Served, name: str) -> None:
    given = {"Host": f"127.0.0.1:{api.port}", "Authorization": f"Bearer {TOKEN}"}
    connection = http.client.HTTPConnection("127.0.0.1", api.port, timeout=20)
    connection.putrequest("GET", "/api/v1/status", skip_host=True)
    for each, value in given.items():
        connection.putheader(each, value)
    connection.putheader(name, given[name])
    connection.endheaders()
    assert connection.getresponse().status in (400, 401, 421)
    connection.close()


def test_who_is_not_known_is_told_how_to_be(api: Served) -> None:
    answer = api.ask("GET", "/api/v1/status", Authorization="")
    assert answer.headers["www-authenticate"] == "Bearer"

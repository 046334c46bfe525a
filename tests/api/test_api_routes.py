"""Each request reaches its method of the operator with the right arguments."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fake_operator import FakeOperator
from served import served

from stack.api.server import PortInUse, bind
from stack.app.access import NoToken, check_shared

ME = {"claimed": "me"}
BY = "operator (me)"
PLACE = {"environment": "production", "change": "CHG-1", "accept_pause_s": 12.5}
FULL = {"service": "tiny", "model": "/m.yaml", "runtime": "llamacpp/xllamacpp", "dry_run": True, **PLACE}
EMPTY = dict.fromkeys(FULL) | {"dry_run": False}
TOKEN_BODY = {"name": "vera", "roles": ["viewer"], "days": 3, "change": None}


@pytest.mark.parametrize(
    ("method", "path", "body", "call"),
    [
        ("GET", "/status", None, ("status", ())),
        ("GET", "/diff", None, ("diff", ())),
        ("POST", "/plan", FULL, ("plan", (FULL,))),
        ("POST", "/deploy", ME, ("deploy", (EMPTY, BY))),
        ("POST", "/deploy", {}, ("deploy", (EMPTY, "operator"))),
        ("POST", "/deploy", FULL, ("deploy", (FULL, "operator"))),
        ("POST", "/rollback", PLACE, ("rollback", ({"service": None, **PLACE}, "operator"))),
        ("GET", "/rollouts?limit=3", None, ("rollouts", (3,))),
        ("GET", "/rollouts/ro-aaaaaaaaaa", None, ("rollout", ("ro-aaaaaaaaaa",))),
        ("GET", "/rollouts/ro-a/events?after=4&wait=2.5", None, ("events", ("ro-a", 4, 2.5))),
        ("POST", "/rollouts/ro-a/resume", ME, ("resume", ("ro-a", BY))),
        ("POST", "/rollouts/ro-a/abort", {**ME, "reason": "r"}, ("abort", ("ro-a", "r", BY))),
        ("GET", "/models", None, ("models", ())),
        ("GET", "/models/tiny@1.0%3Agguf", None, ("model", ("tiny@1.0:gguf",))),
        ("POST", "/models/tiny@1.0/verify", {}, ("verify", ("tiny@1.0",))),
        ("POST", "/models/scrub", {"repair_from": "/copy"}, ("scrub", ("/copy", "operator"))),
        ("GET", "/changes", None, ("changes", (False,))),
        ("GET", "/changes?open=true", None, ("changes", (True,))),
        ("GET", "/changes/CHG-1", None, ("change", ("CHG-1",))),
        ("GET", "/changes/CHG-1/report", None, ("report", ("CHG-1",))),
        ("POST", "/changes/CHG-1/approve", {"signature": "s\ns"}, ("approve", ("CHG-1", "s\ns", "operator"))),
        ("POST", "/changes/CHG-1/reject", {**ME, "reason": "r"}, ("reject", ("CHG-1", "r", BY))),
        ("POST", "/changes/CHG-1/revoke", {"reason": "r"}, ("revoke", ("CHG-1", None, "r", "operator"))),
        (
            "POST",
            "/changes/CHG-1/revoke",
            {"person": "anna", "reason": "r"},
            ("revoke", ("CHG-1", "anna", "r", "operator")),
        ),
        ("GET", "/hosts", None, ("hosts", ())),
        ("POST", "/hosts/check", {"host": "gpu1"}, ("check_hosts", ("gpu1",))),
        ("GET", "/tokens", None, ("tokens", ())),
        ("POST", "/tokens", {**TOKEN_BODY, **ME}, ("create_token", (TOKEN_BODY, BY))),
        ("POST", "/tokens/tk-1/revoke", {"change": "CHG-2"}, ("revoke_token", ("tk-1", "CHG-2", "operator"))),
        ("GET", "/alerts?open=1", None, ("alerts", (True,))),
        ("POST", "/alerts/7/acknowledge", ME, ("acknowledge", (7, BY))),
        ("GET", "/admin/audit?limit=7&after=9", None, ("audit", (7, 9))),
    ],
)
def test_requests_reach_the_operator(method: str, path: str, body: Any, call: tuple[str, tuple[Any, ...]]) -> None:
    operator = FakeOperator()
    with served(operator) as api:
        assert api.ask(method, f"/api/v1{path}", body).status == 200
    assert operator.calls[0] == call


def lines(content: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in content.splitlines()]


def test_registration_streams_progress_and_ends_with_the_result() -> None:
    with served(FakeOperator()) as api:
        got = lines(api.ask("POST", "/api/v1/models/register", {"path": "/m.yaml"}).content)
    assert [list(item) for item in got] == [["progress"], ["progress"], ["done"]]
    assert got[-1]["done"]["ref"] == "tiny@1.0"


def test_an_error_in_the_stream_is_its_last_line() -> None:
    from stack.core.errors import Refused

    raised = Refused("other digest")
    with served(FakeOperator(failing={"register": raised})) as api:
        got = lines(api.ask("POST", "/api/v1/models/register", {"path": "/m.yaml"}).content)
    assert got[-1] == raised.to_json()


def test_the_openapi_document_lists_every_route() -> None:
    with served(FakeOperator()) as api:
        document = api.ask("GET", "/openapi.json").json
    assert {"/health", "/api/v1/status", "/api/v1/rollouts/{rollout_id}/events"} <= set(document["paths"])


def test_a_port_in_use_is_named_with_its_variable() -> None:
    taken = bind(0)
    with pytest.raises(PortInUse) as caught:
        bind(taken.getsockname()[1])
    taken.close()
    assert "STACK_ADMIN_PORT" in caught.value.advice
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("content", ["", "short", "x" * 31])
def test_no_good_token_no_api(content: str) -> None:
    with pytest.raises(NoToken):
        check_shared(content)
    check_shared("x" * 32)

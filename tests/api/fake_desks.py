"""The desks of a fake operator: a handful of tokens, one change that waits, one alert."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from stack.api.operator import Json
from stack.core.actions import Action
from stack.core.caller import Caller
from stack.core.canonical import canonical
from stack.core.digest import Digest
from stack.core.errors import BypassAttempt, InvalidInput

TOKEN = "t" * 64
VIEWER = "st_viewer"
PLAN = {"service": "tiny", "model": "tiny@1.1", "from": "tiny@1.0", "environment": "production"}
Asked = Callable[..., None]


class NotPermitted(BypassAttempt):
    """{name} may not ask for {action}."""


class UnknownChange(InvalidInput):
    """There is no change {change}."""


class FakeAccess:
    """``callers`` by token; a role ``admin`` may everything, any other may read."""

    def __init__(self, asked: Asked) -> None:
        self.callers = {
            TOKEN: Caller(name="operator", roles=frozenset({"admin"}), shared=True),
            VIEWER: Caller(name="vera", roles=frozenset({"viewer"})),
        }
        self.permitted: list[tuple[str, Action]] = []
        self.told: list[tuple[str, str, str]] = []
        self.token_rows: list[Json] = []
        self.alert_rows: list[Json] = [
            {"id": 1, "code": "INC-04", "severity": "critical", "title": "refused", "subject": "x", "count": 2}
        ]
        self._asked = asked

    def authenticate(self, token: str) -> Caller | None:
        return self.callers.get(token)

    def permit(self, caller: Caller, action: Action) -> None:
        self.permitted.append((caller.name, action))
        if "admin" not in caller.roles and action is not Action.READ:
            raise NotPermitted(name=caller.name, action=action.value)

    def refused(self, what: str, why: str, peer: str) -> None:
        self._asked("refused", what, why, peer)
        self.told.append((what, why, peer))

    def tokens(self) -> Json:
        self._asked("tokens")
        return {"tokens": self.token_rows}

    def create_token(self, request: Json, caller: Caller) -> Json:
        self._asked("create_token", request, caller.shown)
        return {
            "id": "tk-1",
            "name": request["name"],
            "roles": request["roles"],
            "expires_at": None,
            "token": "st_shown-once",
        }

    def revoke_token(self, token_id: str, change: str, caller: Caller) -> Json:
        self._asked("revoke_token", token_id, change, caller.shown)
        return {"id": token_id, "name": "vera", "revoked_at": "2026-01-01T00:00:00.000000Z"}

    def alerts(self, open_only: bool) -> Json:
        self._asked("alerts", open_only)
        return {"alerts": self.alert_rows}

    def acknowledge(self, alert_id: int, caller: Caller) -> Json:
        self._asked("acknowledge", alert_id, caller.shown)
        return {"alerts": []}


class FakeChanges:
    """``CHG-1`` waits for one owner. Tests change ``request``, ``statement`` and ``plan_body`` to lie."""

    def __init__(self, asked: Asked) -> None:
        self.plan_body: Json = dict(PLAN)
        self.request: Json = {
            "request": "rq-aaaaaaaaaaaaaaaaaaaa",
            "change": "CHG-1",
            "action": "rollout.deploy",
            "gate": "start",
            "environment": "production",
            "target": "tiny",
            "plan": str(Digest.of_value(PLAN)),
            "policy": "sha256:" + "c" * 64,
            "risk": "R2",
            "requester": "otto",
            "state": "open",
            "created_at": "2026-01-01T00:00:00.000000Z",
            "expires_at": "2026-01-01T08:00:00.000000Z",
            "approvals": [],
            "missing": ["an approval of one owner (anna)"],
        }
        self.statement: str | None = None
        self.more: list[Json] = []
        self._asked = asked

    def list(self, open_only: bool) -> Json:
        self._asked("changes", open_only)
        return {"requests": [self.request], "queue": {"waiting": 1, "oldest_s": 10.0, "expiring_soon": 0}}

    def show(self, change: str) -> Json:
        self._asked("change", change)
        if change not in ("CHG-1", self.request["request"]):
            raise UnknownChange(change=change)
        shown = {**self.request, "statement": self.statement or statement_of(self.request)}
        return {"change": "CHG-1", "requests": [shown, *self.more], "plan_body": self.plan_body, "rollouts": []}

    def approve(self, change: str, signature: str, caller: Caller) -> Json:
        self._asked("approve", change, signature, caller.shown)
        return {**self.request, "approvals": [{"person": "anna"}], "missing": []}

    def reject(self, change: str, reason: str, caller: Caller) -> Json:
        self._asked("reject", change, reason, caller.shown)
        return {**self.request, "state": "rejected"}

    def revoke(self, change: str, person: str | None, reason: str, caller: Caller) -> Json:
        self._asked("revoke", change, person, reason, caller.shown)
        return {**self.request, "state": "open" if person else "revoked"}

    def report(self, change: str) -> Json:
        self._asked("report", change)
        return {"change": change, "markdown": f"# {change}\n", "report": {"change": change}, "digest": "sha256:0"}


class FakeRecords:
    """Answers that tests set, by method name."""

    def __init__(self, asked: Asked) -> None:
        self.answers: dict[str, Any] = {}
        self._asked = asked

    def _answer(self, name: str, *facts: Any) -> Any:
        self._asked(name, *facts)
        return self.answers.get(name, {})

    def head(self) -> Json:
        return dict(self._answer("head"))

    def show(self, seq: int) -> Json:
        return dict(self._answer("show", seq))

    def prove(self, seq: int, size: int | None) -> Json:
        return dict(self._answer("prove", seq, size))

    def consistency(self, old: int, new: int) -> Json:
        return dict(self._answer("consistency", old, new))

    def export(self, start: int) -> Iterator[bytes]:
        yield from self._answer("export", start) or ()


def statement_of(request: Json) -> str:
    """The statement as ``stack.policy.statement`` writes it."""
    left_out = ("state", "created_at", "approvals", "missing")
    said = {name: value for name, value in request.items() if name not in left_out}
    return (canonical({"kind": "inference-stack approval", "v": 1, **said}) + b"\n").decode()


class FakeMachines:
    """The hosts."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self.ok = True

    def list(self) -> Json:
        self._asked("hosts")
        return {"hosts": [HOST]}

    def check(self, host: str | None) -> Json:
        self._asked("check_hosts", host)
        wrong = [] if self.ok else ["its clock is +90 s off"]
        return {"hosts": [{**HOST, "problems": wrong}], "ok": self.ok}


HOST: Json = {
    "name": "local",
    "connection": "local",
    "address": "127.0.0.1",
    "group": "cpu",
    "root": "/r",
    "replicas": 1,
    "facts": {"cpus": 2, "memory_available": 3_000_000_000, "disk_free": None, "accelerators": []},
    "problems": [],
    "asked_at": None,
}

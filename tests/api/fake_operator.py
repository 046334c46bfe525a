"""An operator without a stack behind it: one service, scripted rollouts, errors on demand. For API and CLI tests."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from fake_desks import FakeAccess, FakeChanges, FakeMachines, FakeRecords

from stack.api.operator import Json, OnProgress
from stack.core.caller import Caller
from stack.core.errors import Conflict, InvalidInput

RELEASE = {"release": "sha256:" + "a" * 64, "model": "tiny@1.0", "runtime": "llamacpp/xllamacpp@0.2.0"}


class UnknownRollout(InvalidInput):
    """There is no rollout {id}."""

    hint = "stackctl rollout list"


class UnknownModel(InvalidInput):
    """There is no model {ref}."""


class Busy(Conflict):
    """Service {service} has a running rollout, {rollout}."""

    hint = "stackctl rollout watch {rollout}"


def script(*states: str) -> list[Json]:
    """Events that walk through these states."""
    return [
        {"seq": n, "at": "2026-01-01T00:00:00.000000Z", "state": "phase", "text": f"step {n}: {state}", "now": state}
        for n, state in enumerate(states, start=1)
    ]


class FakeOperator:
    """``failing`` maps a method name to what it raises; ``calls`` is what was asked, with who asked."""

    def __init__(self, *states: str, kind: str = "deploy", failing: Mapping[str, Exception] | None = None) -> None:
        self.kind = kind
        self.failing = dict(failing or {})
        self.calls: list[tuple[str, Any]] = []
        self.nothing_to_do = False
        self.in_sync = True
        self.dry_run: list[Json] = [{"host": "local", "status": "done", "message": "", "events": ["would start"]}]
        self.ok = True
        self.rollback_says: Json = {"plan": {}}
        self.rows: list[Json] = []
        self.truncate_stream = False
        self.says: Json = {}
        self.access = FakeAccess(self.asked)
        self.changes = FakeChanges(self.asked)
        self.records = FakeRecords(self.asked)
        self.machines = FakeMachines(self.asked)
        self._lock = threading.Condition()
        self._events = script(*(states or ("preflight", "holding", "promoted")))

    def then(self, *states: str) -> None:
        """More events, e.g. after a resume."""
        with self._lock:
            begin = len(self._events)
            more = script(*states)
            self._events += [{**event, "seq": begin + n} for n, event in enumerate(more, start=1)]
            self._lock.notify_all()

    def asked(self, name: str, *facts: Any) -> None:
        """Note a call; fail if it is to."""
        self.calls.append((name, facts))
        if name in self.failing:
            raise self.failing[name]

    def status(self) -> Json:
        self.asked("status")
        replica = {"host": "local", "release": RELEASE["release"], "state": "running", "observed_digest": None}
        service = {
            "name": "tiny",
            "stable": RELEASE,
            "candidate": None,
            "lkg": None,
            "weights": {"stable": 100},
            "replicas": [replica],
        }
        gateway = self.gateway_health()
        control = {"url": "http://127.0.0.1:8000", "pid": 2}
        said = {"services": [service], "rollouts": [self._rollout()], "gateway": gateway, "control_plane": control}
        return said | self.says

    def gateway_health(self) -> Json:
        return {"url": "http://127.0.0.1:8317", "healthy": True, "table_version": 3, "pid": 1}

    def diff(self) -> Json:
        self.asked("diff")
        differences = [] if self.in_sync else [{"what": "tiny stable", "desired": "tiny@1.1", "observed": "tiny@1.0"}]
        return {"in_sync": self.in_sync, "differences": differences}

    def plan(self, request: Json) -> Json:
        self.asked("plan", request)
        return {"digest": "sha256:" + "b" * 64, "steps": [{"what": "place", "host": "local"}], "request": request}

    def deploy(self, request: Json, caller: Caller) -> Json:
        self.asked("deploy", request, caller.shown)
        if request["dry_run"]:
            return {"dry_run": self.dry_run, "plan": {}}
        if self.nothing_to_do:
            return {"nothing_to_do": True, "reason": "tiny@1.0 is stable already", "status": self.status()}
        return {"rollout": "ro-aaaaaaaaaa", "plan": {}}

    def rollback(self, request: Json, caller: Caller) -> Json:
        self.asked("rollback", request, caller.shown)
        return {"rollout": "ro-aaaaaaaaaa", **self.rollback_says}

    def rollouts(self, limit: int) -> Json:
        self.asked("rollouts", limit)
        return {"rollouts": [self._rollout()][:limit]}

    def rollout(self, rollout_id: str) -> Json:
        self.asked("rollout", rollout_id)
        if rollout_id != "ro-aaaaaaaaaa":
            raise UnknownRollout(id=rollout_id)
        return self._rollout()

    def events(self, rollout_id: str, after: int, wait_s: float) -> Json:
        self.asked("events", rollout_id, after, wait_s)
        with self._lock:
            found = [event for event in self._events if event["seq"] > after][:2]
        ending = found[-1]["seq"] if found else after
        return {"events": found, "next": ending, "state": self._state(), "waiting_for": "more evidence"}

    def resume(self, rollout_id: str, caller: Caller) -> Json:
        self.asked("resume", rollout_id, caller.shown)
        return self._rollout()

    def abort(self, rollout_id: str, reason: str, caller: Caller) -> Json:
        self.asked("abort", rollout_id, reason, caller.shown)
        return self._rollout()

    def models(self) -> Json:
        self.asked("models")
        return {"models": [self.model("tiny@1.0")]}

    def model(self, ref: str) -> Json:
        self.asked("model", ref)
        if not ref.startswith("tiny@1.0"):
            raise UnknownModel(ref=ref)
        return {"ref": "tiny@1.0", "format": "gguf", "digest": RELEASE["release"], "bytes": 1_700_000, "files": []}

    def register(self, path: str, format: str, on_progress: OnProgress, caller: Caller) -> Json:
        on_progress({"text": "reading", "done": 1, "total": 2})
        self.asked("register", path, format, caller.shown)
        if self.truncate_stream:
            raise KeyboardInterrupt  # leaves the stream without its last line
        on_progress({"text": "reading", "done": 2, "total": 2})
        return {"ref": "tiny@1.0", "digest": RELEASE["release"]}

    def verify(self, ref: str) -> Json:
        self.asked("verify", ref)
        return {"ok": self.ok, "ref": ref, "problems": [] if self.ok else ["model.gguf: other digest"]}

    def scrub(self, repair_from: str | None, caller: Caller) -> Json:
        self.asked("scrub", repair_from, caller.shown)
        return {"ok": self.ok, "problems": [], "repaired": []}

    def audit(self, limit: int, after: int) -> Json:
        self.asked("audit", limit, after)
        found = self.rows[-limit:] if after < 0 else [r for r in self.rows if r["seq"] > after][:limit]
        return {"records": found, "next": found[-1]["seq"] if found else after}

    def _state(self) -> str:
        return str(self._events[-1]["now"])

    def _rollout(self) -> Json:
        return {
            "id": "ro-aaaaaaaaaa",
            "kind": self.kind,
            "service": "tiny",
            "state": self._state(),
            "verdict": {"promoted": "PROMOTE", "rolled_back": "ROLLBACK"}.get(self._state()),
            "reason": "because",
            "evidence": "/evidence/ro-aaaaaaaaaa",
        }

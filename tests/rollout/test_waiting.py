"""Waiting for people: what ends it, what does not, and that a candidate which breaks meanwhile goes back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from approving import PLAN, Office

from stack.core.clock import SystemClock
from stack.core.digest import Digest
from stack.core.names import RolloutId, ServiceName
from stack.gateway.errors import GatewayUnavailable
from stack.rollout.authority import Authority
from stack.rollout.change_report import ChangeReporter
from stack.rollout.machine import Done, Failed, Observation
from stack.rollout.state import Phase, RolloutState
from stack.rollout.waiting import Waiting
from stack.rollout.worker import Interrupted
from stack.store.rows import ServiceRow

STATE = RolloutState(
    id=RolloutId("ro-wait"),
    service=ServiceName("tiny"),
    kind="deploy",
    plan=PLAN,
    release=Digest.of(b"new"),
    stable=Digest.of(b"old"),
    lkg=None,
    ladder=(5, 25, 100),
    phase=Phase.AWAITING,
    rung=1,
    exposed=True,
    environment="production",
    change="CHG-1",
    requester="dan",
    gates=(100,),
    awaiting=2,
)
LIMITS = SimpleNamespace(
    hold=SimpleNamespace(min_requests=10, min_seconds=0.0, max_seconds=1.0),
    thresholds=SimpleNamespace(
        max_error_rate=0.05, max_latency_p95_s=8.0, max_ttft_p95_s=4.0, max_latency_ratio=3.0, confidence=0.95
    ),
)


class Context:
    """Interrupted after so many looks; remembers what was told, and acts at each look."""

    epoch = 1

    def __init__(self, looks: int, *acts: Any) -> None:
        self.looks, self.acts = looks, list(acts)
        self.told: list[str] = []

    def tell(self, kind: str, text: str, **data: Any) -> None:
        self.told.append(text)

    def evidence(self, kind: str, body: Any) -> None:
        return None

    def writing(self, store: Any) -> Any:
        return store.transaction()

    def check(self) -> None:
        self.looks -= 1
        if self.looks < 0:
            raise Interrupted()
        if self.acts:
            self.acts.pop(0)()


class Samples:
    """The gateway's control socket: nothing, or answers of the candidate."""

    def __init__(self, status: int | None = None) -> None:
        self.status = status
        self.cursor = 0

    def attempts(self, since: int = 0) -> dict[str, Any]:
        if self.status is None:
            raise GatewayUnavailable("gone")
        self.cursor += 40
        items = [[n, self.status, 0.01, 0.01, 4, "candidate", False, "ok"] for n in range(since, self.cursor)]
        figures = {"items": items, "lost": 0, "slice": "candidate"}
        return {"boot_id": "b", "cursor": self.cursor, "targets": {"tiny-a": figures}}


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    made = Office.made(tmp_path)
    made.edit("gates:\n", "gates:\n  - {environment: production, action: rollout.deploy, before: 100, class: R2}\n")
    yield made
    made.store.close()


def waiting(office: Office, samples: Samples, replicas: tuple[str, ...] = ("tiny-a",)) -> Waiting:
    clock = SystemClock()
    authority = Authority(
        gatekeeper=office.gatekeeper,
        reports=ChangeReporter(store=office.store, clock=office.clock),
        environment_of_stack="dev",
        clock=office.clock,
    )
    services: Any = {"tiny": SimpleNamespace(rollout=LIMITS)}
    quick: Any = SimpleNamespace(monotonic=clock.monotonic, sleep=lambda s: clock.sleep(s / 10), now=clock.now)
    control: Any = samples
    return Waiting(store=office.store, control=control, services=services, authority=authority, clock=quick)


def go(office: Office, context: Context, state: RolloutState = STATE, samples: Samples | None = None) -> Observation:
    return waiting(office, samples or Samples()).for_approval(state, context)


def open_requests(office: Office) -> list[Any]:
    with office.store.reading() as tx:
        return [row for row in tx.requests(open_only=True) if row.gate == "100"]


def test_it_asks_once_and_goes_on_when_it_is_approved(office: Office) -> None:
    context = Context(3)
    with pytest.raises(Interrupted):
        go(office, context)
    (row,) = open_requests(office)
    assert (row.plan, row.change, row.requester) == (PLAN, "CHG-1", "dan")
    assert any(str(row.id) in text for text in context.told)
    with pytest.raises(Interrupted):
        go(office, Context(3))
    assert [r.id for r in open_requests(office)] == [row.id], "a restart asks nothing anew"
    office.vote("ann", row)
    assert go(office, Context(3)) == Done()


def test_passing_uses_the_approval_up(office: Office) -> None:
    with pytest.raises(Interrupted):
        go(office, Context(2))
    (row,) = open_requests(office)
    office.vote("ann", row)
    authority = waiting(office, Samples()).authority
    with office.store.transaction() as tx:
        assert authority.admit(tx, STATE) is None
    with office.store.transaction() as tx:
        assert authority.admit(tx, STATE) is not None, "a second rollout of the same plan asks again"


def test_an_expired_request_is_asked_anew_and_it_goes_on_waiting(office: Office) -> None:
    with pytest.raises(Interrupted):
        go(office, Context(2))
    (old,) = open_requests(office)
    office.clock.advance(9 * 3600)
    with pytest.raises(Interrupted):
        go(office, Context(2))
    (new,) = open_requests(office)
    assert new.id != old.id


def test_policies_that_break_meanwhile_are_waited_for(office: Office) -> None:
    good = (office.folder / "risk.yaml").read_bytes()
    (office.folder / "risk.yaml").write_text("[broken")
    context = Context(4)
    with pytest.raises(Interrupted):
        go(office, context)
    assert any("risk.yaml" in text for text in context.told)
    authority = waiting(office, Samples()).authority
    with office.store.transaction() as tx:
        assert "risk.yaml" in str(authority.admit(tx, STATE))
    (office.folder / "risk.yaml").write_bytes(good)
    with pytest.raises(Interrupted):
        go(office, Context(3))
    assert len(open_requests(office)) == 1


def test_a_candidate_that_fails_while_it_waits_goes_back(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stack.store.store.Reading.live_ids", lambda *_, **__: frozenset({"tiny-a"}))
    for effect in ("for_approval", "for_a_person"):
        seen = getattr(waiting(office, Samples(500)), effect)(STATE, Context(50))
        assert isinstance(seen, Failed)
        assert "while it waited" in seen.reason
        with pytest.raises(Interrupted):
            getattr(waiting(office, Samples(200)), effect)(STATE, Context(50))
        unexposed = replace(STATE, exposed=False)
        with pytest.raises(Interrupted):
            getattr(waiting(office, Samples(500)), effect)(unexposed, Context(50))


def test_a_rollout_can_not_begin_as_if_its_service_were_in_a_laxer_environment(office: Office) -> None:
    row = ServiceRow(name=STATE.service, environment="production", updated_at=office.clock.now())
    with office.store.transaction() as tx:
        tx.put_service(row)
    planted = replace(STATE, phase=Phase.PLANNED, environment="dev", change="")
    authority = waiting(office, Samples()).authority
    with office.store.transaction() as tx:
        assert "production" in str(authority.admit(tx, planted))
    assert office.recorded("policy.refused") == ["refused"]
    with office.store.transaction() as tx:
        tx.put_service(replace(row, environment="dev"))
    with office.store.transaction() as tx:
        assert authority.admit(tx, planted) is None

"""Every rollout that the release before left open is driven to its end here: nothing stranded, lost or done twice.

The worker, its lease, the gate with real policies and the store are real; effects are a script's, so that which ones
are asked for can be compared with what is due. ``test_upgrade_hosts`` drives the real effects.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from older import Rows, dumps, open_rollout, restore, rows

from stack.audit.append import catch_up
from stack.audit.chain import row_bytes, verify
from stack.audit.checkpointer import Checkpointer
from stack.audit.keys import signer_from
from stack.audit.merkle import Frontier, leaf_hash
from stack.audit.note import open_checkpoint
from stack.config.policies import load_policies
from stack.core.clock import SystemClock
from stack.core.digest import Digest
from stack.rollout.authority import Authority
from stack.rollout.change_report import ChangeReporter
from stack.rollout.gatekeeper import Gatekeeper
from stack.rollout.machine import Done, Judged, Observation
from stack.rollout.state import Phase, Placement, RolloutState, Verdict
from stack.rollout.status import rollout_json
from stack.rollout.worker import REQUEST, Context, Worker
from stack.store import migrations
from stack.store.store import Store

POLICIES = Path(__file__).resolve().parents[2] / "policies"
CLOCK = SystemClock()
WAY = ("planned", "preflight", "placing", "warming", "smoking", "evaluating")
CLIMB = ("shifting", "holding")
BACK = ("reverting", "confirming", "cleaning")
Count = Callable[[str, str, str], None]
SWITCH = ("switching", "confirming", "retiring")


class Script:
    """Succeeds at everything, and remembers what it was asked for."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.done: list[str] = []

    def perform(self, state: RolloutState, context: Context) -> Observation:
        while state.phase is Phase.PAUSED:
            context.check()
            CLOCK.sleep(0.02)
        self.done.append(f"{state.phase} {state.rung}")
        if state.phase in (Phase.EVALUATING, Phase.HOLDING):
            return Judged(verdict=Verdict.PROMOTE, reason="shown")
        if state.phase is Phase.PREFLIGHT:
            return Done(placements=(Placement(replica=f"tiny-{state.id}", host="local", port=20001),))  # type: ignore[arg-type]
        if state.phase is Phase.CHECKING:
            return Done(placements=self._places(state, "lkg"))
        if state.phase in (Phase.PROMOTING, Phase.SWITCHING):
            return Done(retire=self._places(state, "retired"))
        return Done()

    def _places(self, state: RolloutState, role: str) -> tuple[Placement, ...]:
        with self.store.reading() as tx:
            found = [r for r in tx.replicas(service=state.service, live_only=True) if r.slice == role]
        return tuple(Placement(replica=r.id, host=r.host, port=r.port) for r in found)


class Nobody:
    def finished(self, state: RolloutState) -> None:
        return None


def authority(store: Store, environment: str, policies: Path) -> Authority:
    return Authority(
        gatekeeper=Gatekeeper(policies=partial(load_policies, policies), clock=CLOCK),
        reports=ChangeReporter(store=store, clock=CLOCK),
        environment_of_stack=environment,
        clock=CLOCK,
    )


@contextmanager
def driving(store: Store, environment: str = "dev", policies: Path = POLICIES) -> Iterator[Script]:
    script = Script(store)
    worker = Worker(store, script, authority(store, environment, policies), Nobody(), CLOCK, holder="newer")
    thread = threading.Thread(target=worker.run, args=(lambda lead: None, lambda: None))
    thread.start()
    try:
        yield script
    finally:
        worker.stop()
        thread.join(30)


def wait_for(store: Store, rollout: str, what: Callable[[Any], bool]) -> RolloutState:
    for _ in range(1200):
        with store.reading() as tx:
            row = tx.rollout(rollout)
        if what(row):
            return RolloutState.from_json(dict(row.state))
        CLOCK.sleep(0.025)
    raise AssertionError(f"stranded in {row.phase}: {row.state['reason']}")


def due(was: dict[str, Any]) -> list[str]:
    """What is still to be done of a rollout that stands so, if all goes well: each effect once."""
    rungs = range(len(was["ladder"]))
    up = [f"{p} 0" for p in WAY] + [f"{p} {n}" for n in rungs for p in CLIMB]
    last = len(was["ladder"]) - 1
    ways = {
        ("deploy", True): [f"{p} {was['rung']}" for p in BACK],
        ("deploy", False): [*up, f"promoting {last}", f"retiring {last}"],
        ("rollback", False): [f"{p} 0" for p in ("planned", "checking", "placing", "warming", *SWITCH)],
        ("rollback", True): ["cleaning 0"],
    }
    way = ways[was["kind"], was["phase"] in BACK and (was["kind"], was["phase"]) != ("rollback", "confirming")]
    rest = way[way.index(f"{was['paused_from'] or was['phase']} {was['rung']}") :]
    warm = was["kind"] == "rollback" and was["phase"] in ("planned", "checking")
    return [step for step in rest if not (warm and step in ("placing 0", "warming 0"))]


def outcome(was: dict[str, Any]) -> str:
    if was["kind"] == "rollback":
        return "failed" if was["phase"] == "cleaning" else "rolled_back"
    return "rolled_back" if was["phase"] in BACK else "promoted"


def nothing_lost(before: Rows, after: Rows) -> None:
    """What was written down is there as it was; what may change does so only by new versions of the same rows."""
    for table in ("audit", "events", "evidence", "plans", "releases", "routing_tables"):
        kept = [{k: r[k] for k in old} for old, r in zip(before[table], after[table], strict=False)]
        missing = [r for r in before[table] if r not in kept and r not in after[table]]
        assert not missing, table
    for table, key in (("rollouts", "id"), ("replicas", "id"), ("services", "name")):
        assert {r[key] for r in before[table]} <= {r[key] for r in after[table]}


def log_is_whole(store: Store, rollout: str, before: int) -> None:
    """Chain, tree and checkpoint verify; every step has one record and every record of a step one step."""
    assert catch_up(store) == 0, "the first record that was written made up for the older ones"
    with store.reading() as tx:
        records = tx.audit_rows(1, 100_000)
        moves = [e for e in tx.events(rollout, limit=10_000) if e.kind == "phase"]
        size = tx.leaf_count()
    assert verify(records).ok
    assert size == len(records) > before
    tree = Frontier()
    for record in records:
        tree = tree.add(leaf_hash(row_bytes(record)))
    signer = signer_from("ab" * 32, "checkpoint.key")
    Checkpointer(store, signer, (), CLOCK, every_s=1, every_records=1).sign()
    with store.reading() as tx:
        newest = tx.checkpoint()
    assert newest is not None
    signed = open_checkpoint(newest[2], signer.key)
    assert (signed.size, signed.root) == (len(records), tree.root)
    mine = [r for r in records if r.change == rollout and r.body.get("to")]
    assert [r.body["to"] for r in mine] == [m.data["to"] for m in moves if m.data.get("to")]
    for move in moves:
        assert sum(move.data.get("weights", {}).values()) in (0, 100)


def service_fits(store: Store, was: dict[str, Any], end: RolloutState, before: Rows) -> None:
    """Who serves is who should, all of the traffic goes there, its replicas are ready; no candidate is left."""
    with store.reading() as tx:
        service, live = tx.service("tiny"), tx.replicas(service="tiny", live_only=True)
    old = before["services"][0]
    wanted = {
        "promoted": (was["release"], was["stable"]),
        "rolled_back": (was["stable"], was["lkg"]) if was["kind"] == "deploy" else (was["release"], was["release"]),
        "failed": (old["stable"], old["lkg"]),
    }[str(end.phase)]
    assert (service.stable, service.lkg) == wanted
    assert service.candidate is None
    assert dict(service.weights) == ({"stable": 100} if service.stable else {})
    assert {(r.release, r.state) for r in live if r.slice == "stable"} == (
        {(service.stable, "ready")} if live else set()
    )
    assert not [r for r in live if r.slice == "candidate"]


@pytest.mark.parametrize("name", dumps())
def test_every_rollout_goes_on_to_its_end(name: str, tmp_path: Path, ended: Count) -> None:
    path = restore(name, tmp_path / "state.db")
    before = rows(path)
    was = open_rollout(before)
    store = Store.open(path, CLOCK)
    migrated = rows(path)
    newest = len(migrations.STEPS)
    assert (before["schema_version"], migrated["schema_version"]) == ([{"version": 1}], [{"version": newest}])
    for table in before.keys() - {"schema_version"}:
        assert [{k: r[k] for k in old} for r, old in zip(migrated[table], before[table], strict=True)] == before[table]
    with driving(store) as script:
        if was["phase"] == "paused":
            CLOCK.sleep(0.5)
            assert wait_for(store, was["id"], lambda row: True).phase is Phase.PAUSED
            assert script.done == []
            with store.transaction() as tx:
                tx.add_event(was["id"], REQUEST, "resume", {"what": "resume", "by": "ann"})
        end = wait_for(store, was["id"], lambda row: bool(row.closed))
    assert script.done == due(was)
    assert str(end.phase) == outcome(was)
    service_fits(store, was, end, before)
    nothing_lost(before, rows(path))
    log_is_whole(store, was["id"], len(before["audit"]))
    store.close()
    ended("a script, policies: dev", was["phase"], str(end.phase))


@pytest.mark.parametrize(
    ("name", "back"), [("unsure-paused", ["cleaning 0"]), ("quiet-paused", [f"{p} 1" for p in BACK])]
)
def test_what_is_paused_can_be_aborted(name: str, back: list[str], tmp_path: Path, ended: Count) -> None:
    path = restore(name, tmp_path / "state.db")
    before = rows(path)
    was = open_rollout(before)
    store = Store.open(path, CLOCK)
    with driving(store) as script:
        with store.transaction() as tx:
            tx.add_event(was["id"], REQUEST, "abort", {"what": "abort", "by": "ann"})
        end = wait_for(store, was["id"], lambda row: bool(row.closed))
    assert (script.done, str(end.phase)) == (back, "rolled_back")
    service_fits(store, was, end, before)
    log_is_whole(store, was["id"], len(before["audit"]))
    store.close()
    ended("a script, abort", was["phase"], str(end.phase))


@pytest.mark.parametrize(
    ("name", "ends", "reason"),
    [
        ("first-planned", "rolled_back", "a request for approval"),
        ("deploy-planned", "rolled_back", "a request for approval"),
        ("back-planned", "rolled_back", ""),
        ("deploy-holding-25", "promoted", ""),
        ("worse-reverting", "rolled_back", ""),
    ],
)
def test_where_policies_want_approval_what_had_not_begun_does_not(
    name: str, ends: str, reason: str, tmp_path: Path, ended: Count
) -> None:
    """Nothing says in which environment an older rollout is: it is the stack's. What had begun is not asked again."""
    end, script = driven(name, tmp_path, "production", POLICIES)
    assert str(end.phase) == ends
    assert reason in end.reason
    assert not reason or script.done == ["planned 0"]
    ended("a script, policies: production", name.split("-")[1], str(end.phase))


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("deploy-planned", "rolled_back"),
        ("back-planned", "failed"),
        ("deploy-placing", "promoted"),
        ("deploy-holding-25", "promoted"),
        ("worse-reverting", "rolled_back"),
        ("back-switching", "rolled_back"),
    ],
)
def test_a_checkout_without_policies_strands_nothing(name: str, ends: str, tmp_path: Path, ended: Count) -> None:
    end, script = driven(name, tmp_path, "dev", tmp_path / "none")
    assert str(end.phase) == ends
    assert "planned" not in name or ("policies" in end.reason and script.done == ["planned 0"])
    ended("a script, no policies", name.split("-")[1], str(end.phase))


def driven(name: str, folder: Path, environment: str, policies: Path) -> tuple[RolloutState, Script]:
    path = restore(name, folder / "state.db")
    before = rows(path)
    was = open_rollout(before)
    store = Store.open(path, CLOCK)
    with driving(store, environment, policies) as script:
        end = wait_for(store, was["id"], lambda row: bool(row.closed))
    service_fits(store, was, end, before)
    nothing_lost(before, rows(path))
    with store.reading() as tx:
        assert verify(tx.audit_rows(1, 100_000)).ok
    store.close()
    return end, script


def test_what_is_over_can_still_be_looked_at(tmp_path: Path) -> None:
    """Rollouts of before have no change, no requester and no environment; a report of one says so."""
    store = Store.open(restore("cold-checking", tmp_path / "state.db"), CLOCK)
    with store.reading() as tx:
        found = tx.rollouts(limit=100)
    over = [row for row in found if row.closed]
    assert len(over) == 9
    for row in over:
        assert rollout_json(row, None)["state"] == row.phase
        report = ChangeReporter(store=store, clock=CLOCK).report(str(row.id))
        assert (report["recorded"], report["report"]["rollouts"][0]["ended"]) == (None, row.phase)
        assert f"{row.id}: {row.phase}" in report["markdown"]
    store.close()


def test_every_phase_that_the_release_before_had_is_here() -> None:
    found = {str(open_rollout_of(name)["phase"]) for name in dumps()}
    newer = {"awaiting", "measuring", "queueing", "draining", "starting", "restoring"}
    assert found == {str(phase) for phase in Phase if not phase.final} - newer


def open_rollout_of(name: str) -> dict[str, Any]:
    """From the SQL, without a database."""
    wanted = [line for line in dumps()[name].splitlines() if line.startswith('INSERT INTO "rollouts"')]
    (row,) = [line for line in wanted if line.endswith(",NULL,0);")]
    return dict(json.loads(row[row.index("'{") + 1 : row.rindex("}'") + 1].replace("''", "'")))


def test_an_older_state_reads_as_it_was_written() -> None:
    for name in dumps():
        body = open_rollout_of(name)
        state = RolloutState.from_json(body)
        assert {k: v for k, v in json.loads(json.dumps(state.to_json())).items() if k in body} == body
        assert (state.environment, state.gates, state.awaiting) == ("", (), None)
        assert Digest(state.plan) == body["plan"]

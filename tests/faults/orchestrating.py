"""Rollouts with the real worker and store and a scripted performer: hosts are a folder with a fence and a journal.

What is counted afterwards comes from the database and from that journal, never from the processes themselves.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stack.audit.append import append, stored_node
from stack.audit.chain import row_bytes, verify
from stack.audit.merkle import Frontier, leaf_hash, root
from stack.audit.record import AuditRecord
from stack.core.clock import SystemClock
from stack.core.digest import Digest
from stack.core.errors import StackError
from stack.core.names import HostName, ReplicaId, RolloutId, ServiceName
from stack.core.release import Launch, Release, RuntimeVersion
from stack.rollout.machine import Done, Judged, Observation
from stack.rollout.state import Phase, Placement, RolloutState, Verdict
from stack.rollout.worker import Context, Worker
from stack.store.rows import RolloutRow, ServiceRow
from stack.store.store import Store, Transaction

CLOCK = SystemClock()
_RUNTIME = RuntimeVersion(engine="llamacpp", distribution="xllamacpp", version="1", lock=Digest.of(b"lock"))


def release(model: str) -> Release:
    return Release(
        service="tiny",
        model=model,
        artifact=Digest.of(model.encode()),
        artifact_format="gguf",
        runtime=_RUNTIME,
        launch=Launch(),
    )


OLD, NEW = release("tiny@1.0"), release("tiny@1.1")


class Fenced(StackError):
    """The host has seen a higher epoch than {detail}."""


class FencedHost:
    """A host: it does each operation once, and nothing for an epoch lower than one that it has seen."""

    def __init__(self, directory: Path) -> None:
        self.journal = directory / "journal.jsonl"
        self.lock = directory / "lock"

    def do(self, operation: str, epoch: int) -> None:
        """Its effect is the line in the journal. Refusals leave one too."""
        with self.lock.open("ab") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            lines = self.lines()
            highest = max((line["epoch"] for line in lines), default=0)
            if epoch < highest:
                self._write("refused", operation, epoch)
                raise Fenced(str(epoch))
            again = any(line["operation"] == operation and line["what"] == "done" for line in lines)
            self._write("again" if again else "done", operation, epoch)

    def _write(self, what: str, operation: str, epoch: int) -> None:
        line = {"what": what, "operation": operation, "epoch": epoch, "pid": os.getpid(), "at": CLOCK.monotonic()}
        with self.journal.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def lines(self) -> list[dict[str, Any]]:
        if not self.journal.exists():
            return []
        return [json.loads(line) for line in self.journal.read_text(encoding="utf-8").splitlines()]


class Script:
    """Every effect succeeds, after a moment in which it asks whether to go on, tells and keeps evidence."""

    def __init__(self, host: FencedHost, moment_s: float) -> None:
        self.host = host
        self.moment_s = moment_s

    def perform(self, state: RolloutState, context: Context) -> Observation:
        until = CLOCK.monotonic() + self.moment_s
        context.tell("begun", str(state.phase))
        while CLOCK.monotonic() < until:
            context.check()
            CLOCK.sleep(0.005)
        self.host.do(str(state.operation(str(state.phase))), context.epoch)
        context.evidence("effect", {"phase": str(state.phase), "epoch": context.epoch})
        if state.phase in (Phase.EVALUATING, Phase.HOLDING):
            return Judged(verdict=Verdict.PROMOTE, reason="shown")
        place = Placement(replica=ReplicaId(f"tiny-{state.id}"), host=HostName("local"), port=20001)
        return Done(placements=(place,)) if state.phase is Phase.PREFLIGHT else Done()


class Open:
    """A gate that lets everybody pass."""

    def admit(self, tx: Transaction, state: RolloutState) -> str | None:
        return None

    def ended(self, tx: Transaction, state: RolloutState) -> None:
        return None


class Nobody:
    """Reports nothing."""

    def finished(self, state: RolloutState) -> None:
        return None


def worker(store: Store, host: FencedHost, holder: str, moment_s: float = 0.01, **more: float) -> Worker:
    """The real one."""
    return Worker(store, Script(host, moment_s), Open(), Nobody(), CLOCK, holder=holder, **more)


def begin(store: Store, name: str) -> RolloutId:
    """A rollout of its own service, planned."""
    now, service = CLOCK.now(), ServiceName(f"s-{name}")
    state = RolloutState(
        id=RolloutId(name),
        service=service,
        kind="deploy",
        plan=Digest.of(b"plan"),
        release=NEW.digest,
        stable=OLD.digest,
        lkg=None,
        ladder=(5, 100),
    )
    row = RolloutRow(
        id=state.id,
        service=service,
        kind="deploy",
        phase="planned",
        state=state.to_json(),
        created_at=now,
        updated_at=now,
    )
    with store.transaction() as tx:
        if tx.find_rollout(state.id) is not None:
            return state.id  # asked again, after a commit that may or may not have been
        tx.put_release(OLD)
        tx.put_release(NEW)
        tx.put_service(ServiceRow(name=service, stable=OLD.digest, weights={"stable": 100}, updated_at=now))
        tx.insert_rollout(row)
    return state.id


@dataclass(frozen=True, kw_only=True)
class Found:
    """What stands at the end."""

    rollouts: int
    promoted: int
    operations: int
    repeated: int
    refused: int
    audit: int


def found(store: Store, host: FencedHost) -> Found:
    """Everything is whole: each operation took effect once, transitions equal audit rows, log and tree verify."""
    with store.reading() as tx:
        rows = tx.rollouts(limit=100_000)
        audit = tx.audit_rows(limit=100_000)
        moves = {row.id: [e for e in tx.events(row.id, limit=100_000) if e.kind == "phase"] for row in rows}
        said = {row.id: tx.evidence(row.id) for row in rows}
        leaves = tx.leaf_count()
        stored = root(leaves, lambda level, position: stored_node(tx, level, position)) if leaves else b""
    assert all(row.closed for row in rows), [row.phase for row in rows if not row.closed]
    report = verify(audit)
    assert report.ok, report
    tree = Frontier()
    for record in audit:
        tree = tree.add(leaf_hash(row_bytes(record)))
    assert (leaves, stored) == (len(audit), tree.root if audit else b"")
    per_change = Counter(record.change for record in audit)
    for row in rows:
        assert per_change[str(row.id)] == len(moves[row.id]) == row.version - 1, row.id
        epochs = [item.body["epoch"] for item in said[row.id]]
        assert epochs == sorted(epochs), "evidence of an old epoch came after that of a newer one"
    lines = host.lines()
    done = Counter(line["operation"] for line in lines if line["what"] == "done")
    assert all(times == 1 for times in done.values())
    acted = [line["epoch"] for line in lines if line["what"] != "refused"]
    assert acted == sorted(acted), "the host acted for an old epoch after a newer one"
    return Found(
        rollouts=len(rows),
        promoted=sum(row.phase == "promoted" for row in rows),
        operations=len(done),
        repeated=sum(line["what"] == "again" for line in lines),
        refused=sum(line["what"] == "refused" for line in lines),
        audit=len(audit),
    )


def note(store: Store, number: int) -> int:
    """One more record in the log; its number."""
    said = AuditRecord(actor="writer", action="step", target=str(number), change="other", result="ok")
    with store.transaction() as tx:
        return append(tx, said, CLOCK).seq


__all__ = ["CLOCK", "NEW", "OLD", "FencedHost", "Found", "begin", "found", "note", "worker"]

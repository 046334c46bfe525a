"""What is only ever added: plans, evidence, events for people, and the rows of the audit log."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from sqlalchemy import select

from stack.core.digest import Digest
from stack.store.errors import AuditGap, NotStorable, StoreCorrupt
from stack.store.rows import AuditRow, EventRow, EvidenceRow
from stack.store.schema import audit, events, evidence, plans
from stack.store.session import Session, as_json, as_text


class JournalReads(Session):
    """Reading what was written down."""

    def plan(self, digest: str) -> dict[str, Any] | None:
        """The plan of this digest, or None; one whose content does not give its digest is damage."""
        row = self._first(select(plans.c.body).where(plans.c.digest == as_text(str(digest))))
        if row is None:
            return None
        body = dict(json.loads(row["body"]))
        if Digest.of_value(body) != digest:
            raise StoreCorrupt(f"plan {digest} has the content of {Digest.of_value(body)}")
        return body

    def evidence(self, rollout_id: str) -> tuple[EvidenceRow, ...]:
        """All of a rollout's, in order."""
        query = select(evidence).where(evidence.c.rollout == as_text(str(rollout_id))).order_by(evidence.c.id)
        return tuple(EvidenceRow.from_row(row) for row in self._all(query))

    def events(
        self, rollout_id: str, after: int = 0, limit: int = 1000, kind: str | None = None
    ) -> tuple[EventRow, ...]:
        """The first ``limit`` with ``seq > after``, in order; only of one kind if asked."""
        query = select(events).where(events.c.rollout == as_text(str(rollout_id)), events.c.seq > after)
        if kind is not None:
            query = query.where(events.c.kind == as_text(kind))
        return tuple(EventRow.from_row(row) for row in self._all(query.order_by(events.c.seq).limit(limit)))

    def last_audit(self) -> AuditRow | None:
        """The newest audit row, or None before the first."""
        row = self._first(select(audit).order_by(audit.c.seq.desc()).limit(1))
        return None if row is None else AuditRow.from_row(row)

    def audit_rows(self, start: int = 1, limit: int = 1000) -> tuple[AuditRow, ...]:
        """The first ``limit`` with ``seq >= start``, in order."""
        query = select(audit).where(audit.c.seq >= start).order_by(audit.c.seq).limit(limit)
        return tuple(AuditRow.from_row(row) for row in self._all(query))

    def audit_of(self, change: str) -> tuple[AuditRow, ...]:
        """All records of a change, in order."""
        query = select(audit).where(audit.c.change == as_text(change)).order_by(audit.c.seq)
        return tuple(AuditRow.from_row(row) for row in self._all(query))


class JournalWrites(JournalReads):
    """Writing down."""

    def put_plan(self, digest: str, body: Mapping[str, Any]) -> None:
        """Keep a plan under its digest; twice is fine. A digest that is not the body's is refused."""
        if Digest.of_value(dict(body)) != digest:
            raise NotStorable(f"the plan's digest is {Digest.of_value(dict(body))}, not {digest}")
        if self.plan(digest) is None:
            self._write(plans.insert().values(digest=str(digest), body=as_json(body), created_at=self._stamp()))

    def add_evidence(self, rollout_id: str, phase: str, kind: str, body: Mapping[str, Any]) -> int:
        """Keep evidence; its id within the rollout. NaN in it is refused: that is no evidence."""
        number = self._next(evidence, "id", str(rollout_id))
        words = {"phase": as_text(phase), "kind": as_text(kind), "body": as_json(body)}
        row = {"rollout": str(rollout_id), "id": number, **words, "created_at": self._stamp()}
        self._write(evidence.insert().values(**row))
        return number

    def add_event(self, rollout_id: str, kind: str, text: str, data: Mapping[str, Any] | None = None) -> int:
        """One line for people; its seq within the rollout."""
        seq = self._next(events, "seq", str(rollout_id))
        words = {"kind": as_text(kind), "text": as_text(text), "data": as_json(dict(data or {}))}
        row = {"rollout": str(rollout_id), "seq": seq, **words, "created_at": self._stamp()}
        self._write(events.insert().values(**row))
        return seq

    def insert_audit(self, row: AuditRow) -> None:
        """The next audit row. What stands in it is the audit room's; that nothing is skipped is checked here."""
        last = self.last_audit()
        if row.seq != (last.seq if last else 0) + 1:
            raise AuditGap(seq=row.seq, last=last.seq if last else 0)
        self._write(audit.insert().values(**asdict(row)))

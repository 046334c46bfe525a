"""The hash chain: pure. Each row's hash is over its canonical JSON, which includes the hash of the row before.

A row's bytes never change meaning: another layout is another value of ``v``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

from stack.audit.record import AuditRecord, plain
from stack.core.canonical import NotCanonical, canonical
from stack.core.digest import Digest
from stack.store.rows import AuditRow

VERSION = 1
GENESIS = Digest.of(b"inference-stack audit chain 1")


@dataclass(frozen=True, kw_only=True)
class ChainReport:
    """``first_bad`` is the number of the first record that is wrong or missing; ``head`` the last good hash."""

    ok: bool
    count: int
    first_bad: int | None
    reason: str
    head: str | None

    def to_json(self) -> dict[str, Any]:
        """For ``--json`` and the API."""
        return asdict(self)


def row_bytes(row: AuditRow) -> bytes:
    """What is hashed: canonical JSON of everything in the row but its hash."""
    said = asdict(row)
    said.pop("hash")
    return canonical({"v": VERSION, **said})


def follow(last: AuditRow | None, record: AuditRecord, time: str) -> AuditRow:
    """The row for ``record`` after ``last`` (None: the first row)."""
    said = {name: plain(str(getattr(record, name))) for name in ("actor", "action", "target", "change", "result")}
    row = AuditRow(
        seq=last.seq + 1 if last else 1,
        time=time,
        **said,
        body_json=canonical(plain(record.body)).decode(),
        prev_hash=last.hash if last else str(GENESIS),
        hash="",
    )
    return replace(row, hash=str(Digest.of(row_bytes(row))))


def verify(rows: Iterable[AuditRow], after: AuditRow | None = None, known_head: str | None = None) -> ChainReport:
    """Check rows that should follow ``after`` (None: the beginning). No rows at all prove nothing: not ok.

    ``known_head`` is a hash that was kept elsewhere; it must be that of one of the rows, or records are gone.
    """
    last, count, met = after, 0, known_head is None
    for row in rows:
        bad = _fault(last, row)
        if bad is not None:
            return _broken(last, count, *bad)
        last, count, met = row, count + 1, met or row.hash == known_head
    due = last.seq + 1 if last else 1
    if not count:
        return _broken(last, 0, due, "there are no records")
    if not met:
        return _broken(last, count, due, "none has the known head: the end was cut off or written anew")
    return ChainReport(ok=True, count=count, first_bad=None, reason="", head=last.hash if last else None)


def _broken(last: AuditRow | None, count: int, first_bad: int, reason: str) -> ChainReport:
    head = last.hash if last else None
    return ChainReport(ok=False, count=count, first_bad=first_bad, reason=reason, head=head)


def _fault(last: AuditRow | None, row: AuditRow) -> tuple[int, str] | None:
    """The number of the record at fault and why; None when ``row`` rightly follows ``last``."""
    due = last.seq + 1 if last else 1
    if not isinstance(row.seq, int) or row.seq < due:
        return due, f"record {due} is out of order or altered: {row.seq!r} stands in its place"
    if row.seq > due:
        return due, f"record {due} is missing: {row.seq} stands in its place"
    if not _intact(row):
        return due, f"record {due} was altered: its hash is not that of its content"
    if row.prev_hash != (last.hash if last else GENESIS):
        return due, f"record {due} does not follow the one before: one of the two was written anew"
    return None


def _intact(row: AuditRow) -> bool:
    try:
        return canonical(json.loads(row.body_json)) == row.body_json.encode() and Digest.of(row_bytes(row)) == row.hash
    except (ValueError, TypeError, NotCanonical, RecursionError):
        return False

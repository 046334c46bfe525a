"""What replicas were measured to take beside what was predicted. What is learned from it is for the rooms above."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Self

from sqlalchemy import select

from stack.core.clock import stamp, unstamp
from stack.core.digest import Digest
from stack.core.names import HostName, ReplicaId
from stack.store.errors import StoreCorrupt
from stack.store.schema import loads
from stack.store.session import Row, Session, as_json

Memory = Literal["main", "accelerator"]
_KEPT = 20
_ASKED = 500


@dataclass(frozen=True, kw_only=True)
class LoadRow:
    """One replica, loaded and warm. ``runtime`` is engine/distribution; sizes are bytes of the ``memory`` named.

    Law: ``LoadRow.from_row`` of what was stored is equal to what was put.
    """

    replica: ReplicaId
    release: Digest
    host: HostName
    runtime: str
    lock: Digest
    artifact: Digest
    launch: Mapping[str, Any]
    memory: Memory
    weights_bytes: int
    kv_bytes: int
    slots: int
    predicted_bytes: int
    measured_bytes: int
    measured_at: datetime

    @classmethod
    def from_row(cls, row: Row) -> Self:
        """From the ``loads`` table."""
        if row["memory"] not in ("main", "accelerator"):
            raise StoreCorrupt(f"a load of {row['memory']!r:.40} memory")
        numbers = ("weights_bytes", "kv_bytes", "slots", "predicted_bytes", "measured_bytes")
        return cls(
            replica=ReplicaId(row["replica"]),
            release=Digest(row["release"]),
            host=HostName(row["host"]),
            runtime=row["runtime"],
            lock=Digest(row["lock_digest"]),
            artifact=Digest(row["artifact"]),
            launch=json.loads(row["launch"]),
            memory=row["memory"],
            measured_at=unstamp(row["measured_at"]),
            **{name: int(row[name]) for name in numbers},
        )


class LoadReads(Session):
    """Looking."""

    def loads(self, runtime: str, limit: int = 500) -> tuple[LoadRow, ...]:
        """Of this engine/distribution, newest first."""
        query = select(loads).where(loads.c.runtime == runtime)
        newest = query.order_by(loads.c.measured_at.desc(), loads.c.replica.desc()).limit(limit)
        return tuple(LoadRow.from_row(row) for row in self._all(newest))

    def load(self, replica: str) -> LoadRow | None:
        """What this replica was measured to take, if it was."""
        row = self._first(select(loads).where(loads.c.replica == str(replica)))
        return None if row is None else LoadRow.from_row(row)

    def loads_of(self, replicas: Iterable[str]) -> dict[str, LoadRow]:
        """By replica: of these, those that were measured."""
        names, found = [str(name) for name in replicas], {}
        for start in range(0, len(names), _ASKED):
            query = select(loads).where(loads.c.replica.in_(names[start : start + _ASKED]))
            found.update({str(row["replica"]): LoadRow.from_row(row) for row in self._all(query)})
        return found


class LoadWrites(LoadReads):
    """Adding."""

    def put_load(self, row: LoadRow) -> None:
        """Keep it. Of a replica the most that it ever took counts; of one configuration the newest 20 replicas stay."""
        earlier = self.load(row.replica)
        most = row.measured_bytes
        if earlier is not None and earlier.release == row.release and earlier.memory == row.memory:
            most = max(most, earlier.measured_bytes)
        values = {
            "replica": str(row.replica),
            "release": str(row.release),
            "host": str(row.host),
            "runtime": row.runtime,
            "lock_digest": str(row.lock),
            "artifact": str(row.artifact),
            "launch": as_json(dict(row.launch)),
            "memory": row.memory,
            "weights_bytes": row.weights_bytes,
            "kv_bytes": row.kv_bytes,
            "slots": row.slots,
            "predicted_bytes": row.predicted_bytes,
            "measured_bytes": most,
            "measured_at": stamp(row.measured_at),
        }
        self._put(loads, "replica", values)
        self._forget(values)

    def _forget(self, values: Row) -> None:
        same = [loads.c[name] == values[name] for name in ("runtime", "lock_digest", "artifact", "launch", "memory")]
        query = select(loads.c.replica).where(*same).order_by(loads.c.measured_at.desc(), loads.c.replica.desc())
        old = [str(row["replica"]) for row in self._all(query)[_KEPT:]]
        if old:
            self._write(loads.delete().where(loads.c.replica.in_(old)))

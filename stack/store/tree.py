"""The Merkle tree over the audit log, as stored: complete nodes, signed checkpoints, and how far each sink has come.

What the hashes mean is the audit room's; here they are hex text under (level, position).
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import bindparam, func, select

from stack.store.schema import audit_nodes, checkpoints, deliveries
from stack.store.session import Session, as_text

Checkpoint = tuple[int, str, str]
"""Tree size, root (hex), signed note."""
# Asked for every record that is written, so built once.
_HIGHEST_LEAF = select(func.max(audit_nodes.c.position)).where(audit_nodes.c.level == 0)
_NODE = select(audit_nodes.c.hash).where(
    audit_nodes.c.level == bindparam("level"), audit_nodes.c.position == bindparam("position")
)


class TreeReads(Session):
    """Looking."""

    def node(self, level: int, position: int) -> str | None:
        """The hash (hex) of a complete subtree of 2**level leaves, the ``position``-th of its level from 0."""
        found = self._connection.execute(_NODE, {"level": level, "position": position}).scalar()
        return None if found is None else str(found)

    def leaf_count(self) -> int:
        """How many leaves have been hashed in."""
        highest = self._connection.execute(_HIGHEST_LEAF).scalar()
        return 0 if highest is None else int(highest) + 1

    def checkpoint(self, size: int | None = None) -> Checkpoint | None:
        """The checkpoint of this tree size, or the newest."""
        query = select(checkpoints).order_by(checkpoints.c.size.desc()).limit(1)
        row = self._first(query if size is None else query.where(checkpoints.c.size == size))
        return None if row is None else (int(row["size"]), str(row["root"]), str(row["note"]))

    def checkpoints(self, after: int = 0, limit: int = 1000) -> tuple[Checkpoint, ...]:
        """Those of trees larger than ``after``, in order."""
        query = select(checkpoints).where(checkpoints.c.size > after).order_by(checkpoints.c.size).limit(limit)
        return tuple((int(r["size"]), str(r["root"]), str(r["note"])) for r in self._all(query))

    def deliveries(self) -> dict[str, tuple[int, str, str]]:
        """By sink: the largest tree size delivered, the last error (empty: none), and when that was."""
        return {r["sink"]: (int(r["size"]), r["error"], r["updated_at"]) for r in self._all(select(deliveries))}


class TreeWrites(TreeReads):
    """Growing."""

    def insert_nodes(self, nodes: Iterable[tuple[int, int, str]]) -> None:
        """New nodes: level, position, hash. Nodes never change."""
        rows = [{"level": level, "position": position, "hash": text} for level, position, text in nodes]
        if rows:
            self._connection.execute(audit_nodes.insert(), rows)

    def insert_checkpoint(self, size: int, root: str, note: str) -> None:
        """A new one. Checkpoints never change."""
        self._write(checkpoints.insert().values(size=size, root=root, note=note, created_at=self._stamp()))

    def note_delivery(self, sink: str, size: int, error: str = "") -> None:
        """What became of the newest delivery to a sink."""
        self._put(
            deliveries,
            "sink",
            {"sink": as_text(sink), "size": size, "error": as_text(error), "updated_at": self._stamp()},
        )

"""The audit log for readers and verifiers: where it stands, single records, proofs, and the whole of it as a stream.

Proofs are made here from stored nodes; whoever asks checks them with code of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from stack.audit.append import stored_node
from stack.audit.chain import GENESIS, row_bytes
from stack.audit.checkpointer import SIGNING
from stack.audit.exported import checkpoint_line, end_line, header_line, record_line
from stack.audit.merkle import Frontier, NodeAt, NoSuchProof, consistency, frontier, inclusion, leaf_hash, root
from stack.audit.note import VerifierKey
from stack.audit.sinks import Sink
from stack.core.canonical import NotCanonical
from stack.core.errors import InvalidInput
from stack.store.rows import AuditRow
from stack.store.store import Reading, Store

Json = dict[str, Any]
_PAGE = 500


class UnknownRecord(InvalidInput):
    """There is no audit record {seq}; the last is {last}."""

    hint = "See `stackctl audit tail`."


class RecordsDesk:
    """Reads only. Hashes are hex; ``seq`` counts records from 1, indexes of proofs from 0."""

    def __init__(self, store: Store, key: VerifierKey, sinks: Sequence[Sink]) -> None:
        self._store, self._key, self._sinks = store, key, tuple(sinks)

    def head(self) -> Json:
        """Size and root of the tree, the newest checkpoint, and how far every sink is."""
        with self._store.reading() as tx:
            size, last, newest = tx.leaf_count(), tx.last_audit(), tx.checkpoint()
            done = tx.deliveries()
            top = root(size, _nodes(tx))
        return {
            "size": size,
            "records": last.seq if last else 0,
            "root": top.hex(),
            "head": last.hash if last else None,
            "checkpoint": {"size": newest[0], "root": newest[1], "note": newest[2]} if newest else None,
            "key": str(self._key),
            "signing_error": done.get(SIGNING, (0, "", ""))[1],
            "sinks": [self._sink(sink, done.get(sink.name)) for sink in self._sinks],
        }

    def health(self) -> Json:
        """For the status screen: how many records, how many of them signed, and what each sink has or why not."""
        with self._store.reading() as tx:
            last, newest, done = tx.last_audit(), tx.checkpoint(), tx.deliveries()
        return {
            "records": last.seq if last else 0,
            "signed": newest[0] if newest else 0,
            "error": done.get(SIGNING, (0, "", ""))[1],
            "sinks": [self._sink(sink, done.get(sink.name)) for sink in self._sinks],
        }

    def _sink(self, sink: Sink, done: tuple[int, str, str] | None) -> Json:
        size, error, at = done or (0, "", None)
        return {"sink": sink.name, "size": size, "error": error, "at": at, "off_host": sink.off_host}

    def show(self, seq: int) -> Json:
        """One record with its leaf hash."""
        with self._store.reading() as tx:
            row = _row(tx, seq)
        return {"record": row.to_json(), "leaf": leaf_hash(row_bytes(row)).hex()}

    def prove(self, seq: int, size: int | None) -> Json:
        """Inclusion of record ``seq`` in the tree of ``size`` (None: the newest checkpoint's)."""
        with self._store.reading() as tx:
            row, leaves = _row(tx, seq), tx.leaf_count()
            newest = tx.checkpoint() if size is None else tx.checkpoint(size)
            size = newest[0] if size is None and newest else size
            if size is None:
                raise NoSuchProof("there is no checkpoint yet")
            if size > leaves:
                raise NoSuchProof(f"record {seq} in a tree of {size}; there are {leaves} records")
            path, top = inclusion(seq - 1, size, _nodes(tx)), root(size, _nodes(tx))
        return {
            "seq": seq,
            "index": seq - 1,
            "size": size,
            "leaf": leaf_hash(row_bytes(row)).hex(),
            "path": [step.hex() for step in path],
            "root": top.hex(),
            "checkpoint": newest[2] if newest else None,
            "key": str(self._key),
            "record": row.to_json(),
        }

    def consistency(self, old: int, new: int) -> Json:
        """That the tree of ``new`` begins with that of ``old``."""
        with self._store.reading() as tx:
            if new > (leaves := tx.leaf_count()):
                raise NoSuchProof(f"from a tree of {old} to one of {new}; there are {leaves} records")
            nodes = _nodes(tx)
            path = [step.hex() for step in consistency(old, new, nodes)]
            roots = [root(size, nodes).hex() for size in (old, new)]
        return {"old": old, "new": new, "path": path, "old_root": roots[0], "new_root": roots[1]}

    def export(self, start: int) -> Iterator[bytes]:
        """The lines of ``stack.audit.exported``: records from ``start`` to the last one of now, and checkpoints.

        The first line is made before this returns, so that a wrong ``start`` is an error and not a broken stream.
        """
        with self._store.reading() as tx:
            size = tx.leaf_count()
            if not 1 <= start <= size + 1:
                raise UnknownRecord(seq=start, last=size)
            before = frontier(start - 1, _nodes(tx))
            head = _row(tx, start - 1).hash if start > 1 else str(GENESIS)
        return self._lines(start, size, before, head)

    def _lines(self, start: int, size: int, tree: Frontier, head: str) -> Iterator[bytes]:
        yield header_line(self._key, start, size, tree, head)
        checkpoints, due = 0, start
        while due <= size:
            with self._store.reading() as tx:
                rows = tx.audit_rows(due, min(_PAGE, size - due + 1))
                notes = {at: note for at, _, note in tx.checkpoints(after=due - 1, limit=_PAGE) if at <= size}
            if not rows:
                return
            for row in rows:
                yield record_line(row)
                tree = tree.add(_leaf(row))
                if row.seq in notes:
                    yield checkpoint_line(notes[row.seq])
                    checkpoints += 1
            due = rows[-1].seq + 1
        yield end_line(size - start + 1, checkpoints, tree.root)


def _nodes(tx: Reading) -> NodeAt:
    return lambda level, position: stored_node(tx, level, position)


def _leaf(row: AuditRow) -> bytes:
    """Of what is stored now; nothing at all for what was damaged beyond a canonical form."""
    try:
        return leaf_hash(row_bytes(row))
    except NotCanonical:
        return bytes(32)


def _row(tx: Reading, seq: int) -> AuditRow:
    rows = tx.audit_rows(seq, 1) if seq >= 1 else ()
    if not rows or rows[0].seq != seq:
        last = tx.last_audit()
        raise UnknownRecord(seq=seq, last=last.seq if last else 0)
    return rows[0]

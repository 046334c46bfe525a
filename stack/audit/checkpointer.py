"""Signs checkpoints as the log grows, and takes them to every sink until each has the newest.

One thread of the control plane, and one more for each sink while it takes something: a sink that hangs holds up no
other, and no signing. It signs only what it has checked: the new records hash to the tree's leaves, and
the tree grows out of the last checkpoint. What fails is noted, with its reason, and tried again; nothing else
waits for it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stack.audit.append import BATCH, TreeDamaged, catch_up, stored_node
from stack.audit.chain import row_bytes
from stack.audit.merkle import Frontier, consistency, frontier, leaf_hash, root
from stack.audit.note import BadNote, Checkpoint, Signer, open_checkpoint
from stack.audit.sinks import Delivery, Sink, SinkFailed
from stack.core.canonical import NotCanonical
from stack.core.clock import Clock
from stack.core.errors import Refused, StackError
from stack.store.rows import AuditRow
from stack.store.store import Reading, Store, Transaction

_LOG = logging.getLogger("stack.audit")
_LONGEST_PAUSE_S = 60.0
SIGNING = "signing"
AWAY = "AUDIT-02"
_LONG_AWAY_S = 32.0
_PATIENCE_S = 5.0
ALERT = "AUDIT-01"


class LogRewritten(Refused):
    """The audit log is not what was signed before: {detail}"""

    hint = "No checkpoint is signed until it is. See docs/runbooks/audit-broken.md."


class OtherSigningKey(Refused):
    """The audit log was signed with another key than checkpoint.key is now."""

    hint = (
        "Put the old key back, from a backup. Nothing is signed until then; see docs/audit.md for a key that is lost."
    )


@dataclass
class _Pause:
    """When a sink is tried again: at once, then after 1, 2, 4 .. 60 s."""

    until: float = 0.0
    seconds: float = 0.5

    def longer(self, now: float) -> None:
        self.seconds = min(_LONGEST_PAUSE_S, self.seconds * 2)
        self.until = now + self.seconds


class Checkpointer:
    """``start`` and ``stop``; ``tick`` is one round of its work, for tests and for the moment before a stop."""

    def __init__(
        self,
        store: Store,
        signer: Signer,
        sinks: Sequence[Sink],
        clock: Clock,
        *,
        every_s: float = 60.0,
        every_records: int = 100,
        poll_s: float = 1.0,
    ) -> None:
        self._store, self._signer, self._sinks, self._clock = store, signer, tuple(sinks), clock
        self._every_s, self._every_records, self._poll_s = every_s, every_records, poll_s
        self._pauses = {name: _Pause() for name in (SIGNING, *(sink.name for sink in sinks))}
        self._busy: dict[str, threading.Thread] = {}
        self._behind_since: float | None = None
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin. What a stop or a crash left unsigned or undelivered comes first."""
        self._thread = threading.Thread(target=self._run, name="checkpointer", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Sign what is there, deliver it once, and end."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(timeout=30)
            self._thread = None

    def _run(self) -> None:
        self._safely(lambda: catch_up(self._store))
        self.tick(now=True)
        while not self._stopping.wait(self._poll_s):
            self.tick()
        self.tick(now=True)

    def tick(self, *, now: bool = False) -> None:
        """Sign if it is time (``now``: if there is anything), then deliver to every sink that is behind."""
        if now or self._clock.monotonic() >= self._pauses[SIGNING].until:
            self._safely(lambda: self._sign_if_due(now))
        self._safely(self._deliver_all)

    def _safely(self, action: Callable[[], object]) -> None:
        """Nothing that the store or a sink does ends the thread."""
        try:
            action()
        except StackError as error:
            _LOG.error("checkpoints: %s", error.message)
            self._pauses[SIGNING].longer(self._clock.monotonic())
            self._note_failure(error)

    def _note_failure(self, error: StackError) -> None:
        try:
            with self._store.transaction() as tx:
                tx.note_delivery(SIGNING, tx.deliveries().get(SIGNING, (0, "", ""))[0], error.message)
                self._alert(tx, SIGNING, error)
        except StackError as again:
            _LOG.error("checkpoints: %s", again.message)

    def _sign_if_due(self, now: bool) -> None:
        with self._store.reading() as tx:
            size, last = tx.leaf_count(), tx.checkpoint()
        signed = last[0] if last else 0
        if size == signed:
            self._behind_since = None
            return
        moment = self._clock.monotonic()
        self._behind_since = moment if self._behind_since is None else self._behind_since
        waited = moment - self._behind_since
        if now or size - signed >= self._every_records or waited >= self._every_s or size < signed:
            self.sign()

    def sign(self) -> Checkpoint:
        """Sign the tree as it is now, after checking what is new in it, and store the checkpoint."""
        with self._store.reading() as tx:
            size, last = tx.leaf_count(), tx.checkpoint()
            checkpoint = Checkpoint(origin=self._signer.key.name, size=size, root=checked_root(tx, size, last))
        self._check_key(last)
        note = self._signer.sign(checkpoint.text)
        with self._store.transaction() as writing:
            if writing.checkpoint(size) is None:
                writing.insert_checkpoint(size, checkpoint.root.hex(), note)
            writing.note_delivery(SIGNING, size)
        self._behind_since, self._pauses[SIGNING] = None, _Pause()
        return checkpoint

    def _check_key(self, last: tuple[int, str, str] | None) -> None:
        """One log has one key: a checkpoint under a second one would make neither of them prove anything."""
        try:
            if last is not None:
                open_checkpoint(last[2], self._signer.key)
        except BadNote as error:
            raise OtherSigningKey() from error

    def _deliver_all(self) -> None:
        with self._store.reading() as tx:
            newest, done = tx.checkpoint(), tx.deliveries()
        if newest is None:
            return
        begun = []
        for sink in self._sinks:
            pause, had = self._pauses[sink.name], done.get(sink.name, (0, "", ""))[0]
            due = had < newest[0] and self._clock.monotonic() >= pause.until
            if due and not self._hangs(sink.name, had):
                begun.append(self._begin(sink, newest, had, pause))
        end = self._clock.monotonic() + _PATIENCE_S
        for thread in begun:
            thread.join(max(0.0, end - self._clock.monotonic()))

    def _begin(self, sink: Sink, newest: tuple[int, str, str], had: int, pause: _Pause) -> threading.Thread:
        def take() -> None:
            try:
                self._deliver(sink, newest, had, pause)
            except StackError as error:
                _LOG.error("checkpoints: %s: %s", sink.name, error.message)

        thread = threading.Thread(target=take, name=f"checkpoints-{sink.name}", daemon=True)
        self._busy[sink.name] = thread
        thread.start()
        return thread

    def _hangs(self, name: str, had: int) -> bool:
        """Whether it still has an earlier one in hand. Said to people like a failure."""
        thread = self._busy.get(name)
        if thread is None or not thread.is_alive():
            return False
        error = SinkFailed("it has not come back from an earlier checkpoint", sink=name)
        pause = self._pauses[name]
        pause.longer(self._clock.monotonic())
        with self._store.transaction() as tx:
            tx.note_delivery(name, had, error.message)
            if pause.seconds >= _LONG_AWAY_S:
                self._away(tx, name, error)
        return True

    def _deliver(self, sink: Sink, newest: tuple[int, str, str], had: int, pause: _Pause) -> None:
        checkpoint = Checkpoint(origin=self._signer.key.name, size=newest[0], root=bytes.fromhex(newest[1]))
        delivery = Delivery(
            note=newest[2],
            checkpoint=checkpoint,
            key=self._signer.key,
            consistency=lambda old: self._proof(old, newest[0]),
        )
        try:
            sink.deliver(delivery)
        except StackError as error:
            pause.longer(self._clock.monotonic())
            _LOG.warning("checkpoints: %s", error.message)
            with self._store.transaction() as tx:
                tx.note_delivery(sink.name, had, error.message)
                self._alert(tx, sink.name, error)
                if pause.seconds >= _LONG_AWAY_S:
                    self._away(tx, sink.name, error)
            return
        self._pauses[sink.name] = _Pause()
        with self._store.transaction() as tx:
            tx.note_delivery(sink.name, newest[0])

    def _alert(self, tx: Transaction, where: str, error: StackError) -> None:
        """People must know of a log that was changed; of a sink that is away, status is enough."""
        if isinstance(error, (Refused, TreeDamaged)):
            body = {"error": error.message, "hint": error.advice}
            title = "The audit log is not what was signed before"
            tx.raise_alert(ALERT, "critical", title, where, body, self._clock.now())

    def _away(self, tx: Transaction, sink: str, error: StackError) -> None:
        """A sink that has not taken anything for a minute: what happens now is on this host alone."""
        body = {"error": error.message, "hint": error.advice}
        tx.raise_alert(AWAY, "warning", f"Checkpoints do not reach sink {sink}", sink, body, self._clock.now())

    def _proof(self, old: int, new: int) -> tuple[bytes, ...]:
        with self._store.reading() as tx:
            return consistency(old, new, lambda level, position: stored_node(tx, level, position))


def checked_root(tx: Reading, size: int, last: tuple[int, str, str] | None) -> bytes:
    """The root of the tree of ``size``, made of the records themselves since the last checkpoint; LogRewritten else."""

    def node(level: int, position: int) -> bytes:
        return stored_node(tx, level, position)

    grows = Frontier()
    if last is not None:
        if last[0] > size:
            raise LogRewritten(f"it had {last[0]} records, and now it has {size}")
        grows = frontier(last[0], node)
        if grows.root.hex() != last[1]:
            raise LogRewritten(f"the first {last[0]} records have another root than the one that was signed")
    while grows.size < size:
        rows = tx.audit_rows(grows.size + 1, min(BATCH, size - grows.size))
        if not rows or rows[0].seq != grows.size + 1:
            raise LogRewritten(f"record {grows.size + 1} is missing")
        for row in rows:
            leaf = _leaf(row)
            if row.seq != grows.size + 1 or leaf != node(0, grows.size):
                raise LogRewritten(f"record {grows.size + 1} is not what was appended")
            grows = grows.add(leaf)
    if grows.root != root(size, node):
        raise LogRewritten("its tree was altered")
    return grows.root


def _leaf(row: AuditRow) -> bytes | None:
    try:
        return leaf_hash(row_bytes(row))
    except NotCanonical:
        return None

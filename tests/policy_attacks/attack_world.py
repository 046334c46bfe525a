"""The product under attack: a real store, desk, gatekeeper and worker's gate, real keys, and the model beside it.

Policies are read as their files' bytes each time; what was parsed is remembered by those bytes, since a thousand
situations share a few dozen of them. The clock is set by hand, also back: each situation begins at the same moment.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from rulebook import NAMESPACE, Book, KeyLine, Oracle, Wanted

from stack.app.changes import ChangeDesk
from stack.app.permission import Permission, Permit
from stack.config.policies import parse_policies
from stack.config.policy_values import Policies
from stack.config.ssh_wire import string
from stack.core.actions import Action
from stack.core.caller import Caller
from stack.core.digest import Digest
from stack.core.errors import BypassAttempt, StackError
from stack.core.names import RolloutId, ServiceName
from stack.policy.sshsig import parse_public_key, seal, signed_data
from stack.rollout.authority import Authority, start_ask
from stack.rollout.change_report import ChangeReporter
from stack.rollout.gatekeeper import Ask, Gatekeeper, Refusals
from stack.rollout.state import RolloutState
from stack.store.approval_rows import RequestRow
from stack.store.store import Store

BEGIN = datetime(2026, 6, 1, 8, tzinfo=UTC)
HOUR = timedelta(hours=1)
PEOPLE: Mapping[str, tuple[str, ...]] = {
    "ann": ("owner",),
    "bob": ("security",),
    "cid": ("owner", "security"),
    "dan": (),
    "eve": ("owner",),
}
SECOND = {"ann2": "ann", "bob2": "bob", "cid2": "cid"}
OWNED = {**{name: name for name in PEOPLE}, **SECOND}
NOBODYS = "nobody"
FREEZE = (BEGIN + 5 * HOUR, BEGIN + 6 * HOUR)
"""A freeze that stands in every book: situations begin before it."""


@dataclass
class HandClock:
    """Set by hand."""

    at: datetime = BEGIN

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return (self.at - BEGIN).total_seconds()

    def sleep(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


@dataclass(frozen=True)
class Private:
    """A key that signs in this process."""

    key: Ed25519PrivateKey
    line: str
    blob: bytes

    @classmethod
    def made(cls, seed: str) -> Private:
        key = Ed25519PrivateKey.from_private_bytes(seed.encode().ljust(32, b"."))
        line = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
        return cls(key, line, parse_public_key(line).blob)

    def sign(self, message: bytes, namespace: str, blob: bytes | None = None) -> str:
        """An armored signature; ``blob`` is the key it says it is of."""
        raw = self.key.sign(signed_data(message, namespace, "sha512"))
        return seal(blob or self.blob, namespace, "sha512", string(b"ssh-ed25519") + string(raw))


@dataclass
class Counts:
    """What became of the attempts of one kind. ``audited`` counts refusals that are in the audit log."""

    attempts: int = 0
    granted: int = 0
    refused: int = 0
    audited: int = 0


class Bypass(AssertionError):
    """Something privileged passed without the approval that its risk demands."""


class Overcautious(AssertionError):
    """Something was refused though everything that it needs is there."""


@dataclass
class World:
    """``tally`` is by kind."""

    store: Store
    database: sqlite3.Connection
    clock: HandClock
    oracle: Oracle
    book: Book
    tally: dict[str, Counts] = field(default_factory=dict)
    keys: dict[str, Private] = field(default_factory=dict)
    number: int = 0
    _written: tuple[Book | None, Mapping[str, bytes]] = (None, {})
    _parsed: dict[tuple[bytes, ...], Policies] = field(default_factory=dict)

    @classmethod
    def made(cls, folder: Path) -> World:
        clock = HandClock()
        store = Store.open(folder / "state.db", clock)
        database = sqlite3.connect(folder / "state.db", isolation_level=None, check_same_thread=False, timeout=30)
        world = cls(store, database, clock, Oracle(database), standard())
        world.keys = {name: Private.made(name) for name in (*OWNED, NOBODYS)}
        return world

    def close(self) -> None:
        self.database.close()
        self.store.close()

    def files(self) -> Mapping[str, bytes]:
        book, files = self._written
        if book is not self.book:
            files = self.book.files({name: key.line for name, key in self.keys.items()})
            self._written = (self.book, files)
        return files

    def policies(self) -> Policies:
        files = self.files()
        bytes_of = tuple(files.values())
        if bytes_of not in self._parsed:
            self._parsed[bytes_of] = parse_policies(files, Path("policies"))
        return self._parsed[bytes_of]

    @property
    def gatekeeper(self) -> Gatekeeper:
        return Gatekeeper(policies=self.policies, clock=self.clock)

    @property
    def refusals(self) -> Refusals:
        return Refusals(store=self.store, clock=self.clock)

    @property
    def authority(self) -> Authority:
        reports = ChangeReporter(store=self.store, clock=self.clock)
        return Authority(gatekeeper=self.gatekeeper, reports=reports, environment_of_stack="dev", clock=self.clock)

    @property
    def permission(self) -> Permission:
        return Permission(
            store=self.store,
            gatekeeper=self.gatekeeper,
            refusals=self.refusals,
            policies=self.policies,
            environment_of_stack="dev",
            clock=self.clock,
        )

    @property
    def desk(self) -> ChangeDesk:
        return ChangeDesk(
            store=self.store,
            gatekeeper=self.gatekeeper,
            refusals=self.refusals,
            policies=self.policies,
            report_of=lambda change: {"change": change},
            clock=self.clock,
        )

    def open(self, ask: Ask) -> RequestRow:
        """Ask for it, as a command does; the open request."""
        with self.store.transaction() as tx:
            standing = self.gatekeeper.ask(tx, ask)
        assert standing.kept, standing.decision.missing
        self.oracle.made_under.setdefault(str(standing.request.id), self.files())
        return standing.request

    def sign(self, key: str, message: bytes, namespace: str = NAMESPACE) -> str:
        """A good signature, which the model knows of."""
        armored = self.keys[key].sign(message, namespace)
        self.oracle.signed[armored.rstrip("\n")] = (key, message, namespace)
        return armored

    def hand_in(self, change: str, armored: str, by: str = "mallory") -> bool:
        """Whether the desk takes a signature."""
        try:
            self.desk.approve(change, armored, Caller(name=by, roles=frozenset({"admin"})))
        except BypassAttempt:
            return False
        return True

    def attempt(self, kind: str, ask: Ask, request: str, *, exact: bool = True) -> bool:
        """Try to begin it; whether that went. Compares with the model and with the audit log.

        ``exact``: what the model allows must pass too.
        """
        should = self.oracle.allows(self.book, self.files(), wanted(ask), request, self.clock.now())
        self.number += 1
        used_by = f"ro-{self.number}"
        before = self.refused_so_far()
        granted = self._begun(ask, request, used_by)
        written = self.refused_so_far() - before
        counts = self.tally.setdefault(kind, Counts())
        counts.attempts += 1
        counts.granted += granted
        counts.refused += not granted
        counts.audited += not granted and written == 1
        said = f"{kind}: {ask} by {request or 'no request'}"
        if granted and not should:
            raise Bypass(said)
        if exact and should and not granted:
            raise Overcautious(said)
        assert written == (not granted), f"{written} records of a refusal; {said}"
        if granted and request:
            self.oracle.over.add(request)
            assert self.said("change.used", used_by) == 1, said
        return granted

    def refused_so_far(self) -> int:
        """How many refusals are in the audit log; each raised or counted up the alert."""
        since = "select seq, action from audit where seq > ?"
        for seq, action in self.database.execute(since, (self._seen,)).fetchall():
            self._seen = seq
            self._refused += action == "policy.refused"
        (alerts,) = self.database.execute("select coalesce(sum(count), 0) from alerts where code = 'INC-04'").fetchone()
        assert alerts == self._refused, f"{self._refused} refusals and {alerts} alerts"
        return self._refused

    _seen: int = 0
    _refused: int = 0

    def said(self, action: str, used_by: str) -> int:
        query = "select count(*) from audit where seq > ? and action = ? and result = ?"
        (found,) = self.database.execute(query, (self._seen - 3, action, f"by {used_by}")).fetchone()
        return int(found)

    def _begun(self, ask: Ask, request: str, used_by: str) -> bool:
        if ask.action in (Action.DEPLOY, Action.ROLLBACK):
            state = rollout(ask, request, used_by)
            assert start_ask(state) == ask
            with self.store.transaction() as tx:
                return self.authority.admit(tx, state) is None
        try:
            permit = Permit(gatekeeper=self.gatekeeper, ask=ask, request=request)
            recorded = self.refusals.recorded(caller_of(ask), ask.action, ask.target, ask.change)
            with recorded, self.store.transaction() as tx:
                permit.use(tx, used_by)
        except BypassAttempt:
            return False
        return True


def caller_of(ask: Ask) -> Caller:
    """Who asks, as the API knows it."""
    name, shared, _ = ask.requester.partition(" (shared)")
    return Caller(name=name, roles=frozenset({"admin"}), shared=bool(shared))


def standard() -> Book:
    """The policies of every situation's begin."""
    return Book(people=PEOPLE, keys={key: KeyLine(person=person) for key, person in OWNED.items()}, freezes=(FREEZE,))


def rollout(ask: Ask, request: str, name: str, **more: Any) -> RolloutState:
    """A rollout that is to begin by this request."""
    said: dict[str, Any] = {
        "id": RolloutId(name),
        "service": ServiceName(ask.target),
        "kind": "deploy" if ask.action is Action.DEPLOY else "rollback",
        "plan": ask.plan,
        "release": Digest.of(b"new"),
        "stable": None,
        "lkg": None,
        "ladder": (100,),
        "environment": ask.environment,
        "change": ask.change,
        "requester": ask.requester,
        "approval": request,
    }
    return RolloutState(**{**said, **more})


def wanted(ask: Ask) -> Wanted:
    """For the model."""
    return Wanted(
        action=ask.action.value,
        target=ask.target,
        environment=ask.environment,
        plan=str(ask.plan),
        change=ask.change,
        gate=ask.gate,
    )


def table(tally: Mapping[str, Counts]) -> str:
    """For people."""
    head = f"{'kind of attempt':<66} attempts  granted  refused  audited"
    rows = [f"{k:<66} {c.attempts:>8} {c.granted:>8} {c.refused:>8} {c.audited:>8}" for k, c in sorted(tally.items())]
    total: Counter[str] = Counter()
    for counts in tally.values():
        total.update(vars(counts))
    last = f"{'all':<66} {total['attempts']:>8} {total['granted']:>8} {total['refused']:>8} {total['audited']:>8}"
    return "\n".join(["", head, *rows, last])


__all__ = ["BEGIN", "HOUR", "Bypass", "Overcautious", "StackError", "World"]

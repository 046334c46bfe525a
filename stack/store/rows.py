"""The store's values: frozen, built by ``from_row``, moments aware and in UTC.

Laws: reading a row that was written gives an equal value; unknown text in a typed column is refused on reading.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, Self, TypeVar, get_args

from stack.core.clock import unstamp
from stack.core.digest import Digest
from stack.core.names import HostName, ReplicaId, RolloutId, ServiceName
from stack.store.errors import StoreCorrupt

RolloutKind = Literal["deploy", "rollback"]
ReplicaState = Literal["starting", "ready", "draining", "stopped", "failed"]
LIVE_STATES = ("starting", "ready", "draining")
_KINDS: tuple[RolloutKind, ...] = get_args(RolloutKind)
_STATES: tuple[ReplicaState, ...] = get_args(ReplicaState)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
Columns = Mapping[str, Any]
_T = TypeVar("_T", bound=str)


def _digest(text: str | None) -> Digest | None:
    return None if text is None else Digest(text)


def _one_of(text: str, known: tuple[_T, ...]) -> _T:
    for word in known:
        if word == text:
            return word
    raise StoreCorrupt(f"{text!r} is none of {', '.join(known)}")


@dataclass(frozen=True, kw_only=True)
class Lease:
    """The right to act until ``expires_at`` (the database's clock). ``epoch`` rises with every acquisition."""

    name: str
    holder: str
    epoch: int
    expires_at: datetime

    @classmethod
    def from_row(cls, row: Columns) -> Self:
        """From the ``leases`` table."""
        expires = _EPOCH + timedelta(seconds=row["expires_s"])
        return cls(name=row["name"], holder=row["holder"], epoch=row["epoch"], expires_at=expires)


@dataclass(frozen=True, kw_only=True)
class RolloutRow:
    """One rollout. ``state`` is the machine's (JSON); ``version`` rises with every save; ``closed`` is for ever."""

    id: RolloutId
    service: ServiceName
    kind: RolloutKind
    phase: str
    state: Mapping[str, Any]
    version: int = 1
    lease_epoch: int = 0
    created_at: datetime
    updated_at: datetime
    wake_at: datetime | None = None
    closed: bool = False

    @classmethod
    def from_row(cls, row: Columns) -> Self:
        """From the ``rollouts`` table."""
        return cls(
            id=RolloutId(row["id"]),
            service=ServiceName(row["service"]),
            kind=_one_of(row["kind"], _KINDS),
            phase=row["phase"],
            state=json.loads(row["state"]),
            version=row["version"],
            lease_epoch=row["lease_epoch"],
            created_at=unstamp(row["created_at"]),
            updated_at=unstamp(row["updated_at"]),
            wake_at=unstamp(row["wake_at"]) if row["wake_at"] else None,
            closed=bool(row["closed"]),
        )


@dataclass(frozen=True, kw_only=True)
class ServiceRow:
    """What a service serves: releases by role, and the share of traffic of each slice in per cent.

    ``environment`` is that of the last deploy that was begun: a service does not fall back into a laxer one.
    """

    name: ServiceName
    stable: Digest | None = None
    candidate: Digest | None = None
    lkg: Digest | None = None
    weights: Mapping[str, int] = field(default_factory=dict)
    updated_at: datetime
    environment: str = ""

    @classmethod
    def from_row(cls, row: Columns) -> Self:
        """From the ``services`` table."""
        return cls(
            name=ServiceName(row["name"]),
            stable=_digest(row["stable"]),
            candidate=_digest(row["candidate"]),
            lkg=_digest(row["lkg"]),
            weights=json.loads(row["weights"]),
            updated_at=unstamp(row["updated_at"]),
            environment=row["environment"],
        )


@dataclass(frozen=True, kw_only=True)
class ReplicaRow:
    """One process on one host. ``slice`` is its role; ``observed_digest`` the release the host says it loaded."""

    id: ReplicaId
    service: ServiceName
    release: Digest
    host: HostName
    port: int
    state: ReplicaState
    slice: str
    observed_digest: Digest | None = None
    updated_at: datetime

    @property
    def live(self) -> bool:
        """Whether the process may exist, and so holds its port."""
        return self.state in LIVE_STATES

    @classmethod
    def from_row(cls, row: Columns) -> Self:
        """From the ``replicas`` table."""
        return cls(
            id=ReplicaId(row["id"]),
            service=ServiceName(row["service"]),
            release=Digest(row["release"]),
            host=HostName(row["host"]),
            port=row["port"],
            state=_one_of(row["state"], _STATES),
            slice=row["slice"],
            observed_digest=_digest(row["observed_digest"]),
            updated_at=unstamp(row["updated_at"]),
        )


@dataclass(frozen=True, kw_only=True)
class EvidenceRow:
    """One piece of evidence of a rollout; ``id`` counts up from 1 within the rollout."""

    rollout: RolloutId
    id: int
    phase: str
    kind: str
    body: Mapping[str, Any]
    created_at: datetime

    @classmethod
    def from_row(cls, row: Columns) -> Self:
        """From the ``evidence`` table."""
        return cls(
            rollout=RolloutId(row["rollout"]),
            id=row["id"],
            phase=row["phase"],
            kind=row["kind"],
            body=json.loads(row["body"]),
            created_at=unstamp(row["created_at"]),
        )


@dataclass(frozen=True, kw_only=True)
class EventRow:
    """One line of progress for people; ``seq`` counts up from 1 within the rollout, without gaps."""

    rollout: RolloutId
    seq: int
    kind: str
    text: str
    data: Mapping[str, Any]
    created_at: datetime

    @classmethod
    def from_row(cls, row: Columns) -> Self:
        """From the ``events`` table."""
        return cls(
            rollout=RolloutId(row["rollout"]),
            seq=row["seq"],
            kind=row["kind"],
            text=row["text"],
            data=json.loads(row["data"]),
            created_at=unstamp(row["created_at"]),
        )


@dataclass(frozen=True, kw_only=True)
class AuditRow:
    """One audit record as stored, text exactly as it was hashed: ``body_json`` is canonical JSON, ``time`` a stamp.

    Nothing is parsed on reading, so that damage can be shown instead of failing on it.
    """

    seq: int
    time: str
    actor: str
    action: str
    target: str
    change: str
    result: str
    body_json: str
    prev_hash: str
    hash: str

    @property
    def body(self) -> dict[str, Any]:
        """The body as a value."""
        return dict(json.loads(self.body_json))

    def to_json(self) -> dict[str, Any]:
        """Every column as it was hashed: ``AuditRow(**row.to_json()) == row``."""
        return asdict(self)

    @classmethod
    def from_row(cls, row: Columns) -> Self:
        """From the ``audit`` table."""
        return cls(**{name: row[name] for name in cls.__dataclass_fields__})

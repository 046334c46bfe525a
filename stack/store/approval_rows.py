"""Requests for approval, the approvals given, tokens and alerts, as frozen values.

Laws: as in ``rows``: reading what was written gives an equal value; unknown text in a typed column is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Self

from stack.core.actions import Action, Risk
from stack.core.clock import unstamp
from stack.core.digest import Digest
from stack.core.names import RequestId
from stack.store.errors import StoreCorrupt

Columns = Mapping[str, Any]


class RequestState(StrEnum):
    """OPEN waits for approvals (or has them all and waits to be used); every other state is for ever."""

    OPEN = "open"
    USED = "used"
    REJECTED = "rejected"
    REVOKED = "revoked"
    EXPIRED = "expired"
    SUPERSEDED = "superseded"


@dataclass(frozen=True, kw_only=True)
class RequestRow:
    """One request: may ``plan`` be done to ``target`` in ``environment``, by the policies of digest ``policy``?

    ``gate`` is ``start``, or the per cent of traffic before which it is asked. ``used_by`` is what used it up (a
    rollout). ``change`` is the ticket; empty where the policies want none.
    """

    id: RequestId
    change: str
    action: Action
    gate: str
    environment: str
    target: str
    plan: Digest
    policy: Digest
    risk: Risk
    requester: str
    state: RequestState = RequestState.OPEN
    reason: str = ""
    used_by: str = ""
    created_at: datetime
    expires_at: datetime
    updated_at: datetime

    @classmethod
    def from_row(cls, row: Columns) -> Self:
        """From the ``requests`` table."""
        plain = {name: row[name] for name in ("change", "gate", "environment", "target", "requester", "reason")}
        try:
            return cls(
                id=RequestId(row["id"]),
                action=Action(row["action"]),
                plan=Digest(row["plan"]),
                policy=Digest(row["policy"]),
                risk=Risk(row["risk"]),
                state=RequestState(row["state"]),
                used_by=row["used_by"],
                created_at=unstamp(row["created_at"]),
                expires_at=unstamp(row["expires_at"]),
                updated_at=unstamp(row["updated_at"]),
                **plain,
            )
        except ValueError as error:
            raise StoreCorrupt(f"request {row['id']!r}: {error}") from error


@dataclass(frozen=True, kw_only=True)
class ApprovalRow:
    """One person's signature on a request's statement. ``signature`` is the armored sshsig, as it was handed in."""

    request: RequestId
    person: str
    fingerprint: str
    signature: str
    created_at: datetime
    revoked_at: datetime | None = None

    @classmethod
    def from_row(cls, row: Columns) -> Self:
        """From the ``approvals`` table."""
        return cls(
            request=RequestId(row["request"]),
            person=row["person"],
            fingerprint=row["fingerprint"],
            signature=row["signature"],
            created_at=unstamp(row["created_at"]),
            revoked_at=None if row["revoked_at"] is None else unstamp(row["revoked_at"]),
        )


@dataclass(frozen=True, kw_only=True)
class TokenRow:
    """Access to the admin API. ``hash`` is the SHA-256 (hex) of the token, which has 256 random bits itself."""

    id: str
    name: str
    roles: frozenset[str]
    hash: str
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None

    @classmethod
    def from_row(cls, row: Columns) -> Self:
        """From the ``tokens`` table."""
        return cls(
            id=row["id"],
            name=row["name"],
            roles=frozenset(json.loads(row["roles"])),
            hash=row["hash"],
            created_at=unstamp(row["created_at"]),
            expires_at=None if row["expires_at"] is None else unstamp(row["expires_at"]),
            revoked_at=None if row["revoked_at"] is None else unstamp(row["revoked_at"]),
        )


@dataclass(frozen=True, kw_only=True)
class AlertRow:
    """Something people must know. While it is open, the same code and subject count up instead of a second row."""

    id: int
    code: str
    severity: str
    title: str
    subject: str
    count: int = 1
    body: Mapping[str, Any] = field(default_factory=dict)
    created_at: datetime
    last_at: datetime
    closed_at: datetime | None = None
    closed_by: str = ""

    @classmethod
    def from_row(cls, row: Columns) -> Self:
        """From the ``alerts`` table."""
        plain = {name: row[name] for name in ("id", "code", "severity", "title", "subject", "count", "closed_by")}
        return cls(
            body=json.loads(row["body"]),
            created_at=unstamp(row["created_at"]),
            last_at=unstamp(row["last_at"]),
            closed_at=None if row["closed_at"] is None else unstamp(row["closed_at"]),
            **plain,
        )

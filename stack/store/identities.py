"""Tokens of the admin API, and alerts."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import func, select

from stack.core.clock import stamp
from stack.store.approval_rows import AlertRow, TokenRow
from stack.store.errors import UnknownAlert
from stack.store.schema import alerts, tokens
from stack.store.session import Session, as_json, as_text


class IdentityReads(Session):
    """Looking."""

    def token_by_hash(self, token_hash: str) -> TokenRow | None:
        """The token with this SHA-256 (hex), also one that was revoked or has expired: the caller looks."""
        row = self._first(select(tokens).where(tokens.c.hash == as_text(token_hash)))
        return None if row is None else TokenRow.from_row(row)

    def tokens(self) -> tuple[TokenRow, ...]:
        """All, by time."""
        return tuple(TokenRow.from_row(row) for row in self._all(select(tokens).order_by(tokens.c.created_at)))

    def alerts(self, *, open_only: bool = False, limit: int = 100) -> tuple[AlertRow, ...]:
        """Newest first."""
        query = select(alerts).order_by(alerts.c.id.desc()).limit(limit)
        if open_only:
            query = query.where(alerts.c.closed_at.is_(None))
        return tuple(AlertRow.from_row(row) for row in self._all(query))


class IdentityWrites(IdentityReads):
    """Changing."""

    def insert_token(self, row: TokenRow) -> None:
        """A new one."""
        values = {"id": row.id, "name": as_text(row.name), "roles": as_json(sorted(row.roles)), "hash": row.hash}
        expires = None if row.expires_at is None else stamp(row.expires_at)
        self._write(tokens.insert().values(**values, created_at=stamp(row.created_at), expires_at=expires))

    def revoke_token(self, token_id: str, at: datetime) -> bool:
        """False if there is none of this id that was still good."""
        standing = (tokens.c.id == as_text(token_id)) & tokens.c.revoked_at.is_(None)
        return bool(self._write(tokens.update().where(standing).values(revoked_at=stamp(at))))

    def raise_alert(
        self, code: str, severity: str, title: str, subject: str, body: Mapping[str, Any], at: datetime
    ) -> AlertRow:
        """Open an alert, or count up the open one of the same code and subject."""
        same = (alerts.c.code == as_text(code)) & (alerts.c.subject == as_text(subject)) & alerts.c.closed_at.is_(None)
        said = {"title": as_text(title), "body": as_json(dict(body)), "last_at": stamp(at)}
        if not self._write(alerts.update().where(same).values(count=alerts.c.count + 1, **said)):
            number = int(self._connection.execute(select(func.max(alerts.c.id))).scalar() or 0) + 1
            fixed = {"id": number, "code": as_text(code), "severity": as_text(severity), "subject": as_text(subject)}
            self._write(alerts.insert().values(**fixed, **said, count=1, created_at=stamp(at), closed_by=""))
        row = self._first(select(alerts).where(same))
        assert row is not None
        return AlertRow.from_row(row)

    def close_alert(self, alert_id: int, by: str, at: datetime) -> None:
        """Somebody has seen to it. Raises UnknownAlert when none of this id is open."""
        standing = (alerts.c.id == alert_id) & alerts.c.closed_at.is_(None)
        if not self._write(alerts.update().where(standing).values(closed_at=stamp(at), closed_by=as_text(by))):
            raise UnknownAlert(alert=alert_id)

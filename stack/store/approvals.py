"""Requests for approval and the approvals given. What they are worth is decided elsewhere."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime

from sqlalchemy import select

from stack.core.clock import stamp
from stack.core.names import RequestId
from stack.store.approval_rows import ApprovalRow, RequestRow, RequestState
from stack.store.errors import RequestClosed, UnknownRequest
from stack.store.schema import approvals, requests
from stack.store.session import Session, as_text


class ApprovalReads(Session):
    """Looking at requests."""

    def request(self, request_id: str) -> RequestRow:
        """The request of this id; raises UnknownRequest."""
        row = self._first(select(requests).where(requests.c.id == as_text(str(request_id))))
        if row is None:
            raise UnknownRequest(request=str(request_id)[:90])
        return RequestRow.from_row(row)

    def requests(
        self, *, change: str | None = None, plan: str | None = None, open_only: bool = False, limit: int = 200
    ) -> tuple[RequestRow, ...]:
        """Newest first."""
        query = select(requests).order_by(requests.c.created_at.desc(), requests.c.id)
        if change is not None:
            query = query.where(requests.c.change == as_text(change))
        if plan is not None:
            query = query.where(requests.c.plan == as_text(plan))
        if open_only:
            query = query.where(requests.c.state == RequestState.OPEN.value)
        return tuple(RequestRow.from_row(row) for row in self._all(query.limit(limit)))

    def approvals(self, request_id: str) -> tuple[ApprovalRow, ...]:
        """All that were given to a request, by time; also those that were taken back."""
        query = select(approvals).where(approvals.c.request == as_text(str(request_id)))
        query = query.order_by(approvals.c.created_at, approvals.c.person)
        return tuple(ApprovalRow.from_row(row) for row in self._all(query))


class ApprovalWrites(ApprovalReads):
    """Opening, voting, closing."""

    def insert_request(self, row: RequestRow) -> None:
        """A new request."""
        moments = {name: stamp(getattr(row, name)) for name in ("created_at", "expires_at", "updated_at")}
        self._write(requests.insert().values(**{k: str(v) for k, v in asdict(row).items()} | moments))

    def close_request(self, request_id: RequestId, state: RequestState, *, reason: str = "", used_by: str = "") -> None:
        """End an open request, once. Raises RequestClosed when it was not open any more."""
        values = {"state": state.value, "reason": as_text(reason), "used_by": used_by, "updated_at": self._stamp()}
        still = (requests.c.id == str(request_id)) & (requests.c.state == RequestState.OPEN.value)
        if not self._write(requests.update().where(still).values(**values)):
            raise RequestClosed(request=str(request_id), state=self.request(request_id).state.value)

    def add_approval(self, row: ApprovalRow) -> bool:
        """One per person and request, for ever: False if there is one, also one that was taken back.

        Whoever still has a signature that was taken back could otherwise hand it in again.
        """
        same = (approvals.c.request == str(row.request)) & (approvals.c.person == row.person)
        if self._first(select(approvals).where(same)) is not None:
            return False
        values = {"fingerprint": row.fingerprint, "signature": row.signature, "created_at": stamp(row.created_at)}
        self._write(approvals.insert().values(request=str(row.request), person=row.person, **values))
        return True

    def revoke_approval(self, request_id: RequestId, person: str, at: datetime) -> bool:
        """Take one back; False if there was none that stands."""
        standing = (
            (approvals.c.request == str(request_id))
            & (approvals.c.person == as_text(person))
            & approvals.c.revoked_at.is_(None)
        )
        return bool(self._write(approvals.update().where(standing).values(revoked_at=stamp(at))))

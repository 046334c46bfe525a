"""Requests for approval, for people: what waits, what it is, the votes. The ``Changes`` desk of the API.

A vote is judged here in the transaction that stores it, by the same ``decide`` that later lets the action pass, which
judges it again then: what this desk lets in is convenience, not trust.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from stack.audit.append import append
from stack.config.policies import NoPolicies, PoliciesInvalid
from stack.config.policy_values import Person, Policies
from stack.core.caller import Caller
from stack.core.clock import Clock, stamp
from stack.core.errors import BypassAttempt, InvalidInput, Refused
from stack.core.names import RolloutId
from stack.policy.sshsig import PublicKey, verify
from stack.policy.statement import NAMESPACE, statement
from stack.rollout.gatekeeper import TAKEN_BACK, Gatekeeper, Refusals, expired, request_record
from stack.rollout.worker import REQUEST
from stack.store.approval_rows import ApprovalRow, RequestRow, RequestState
from stack.store.store import Reading, Store, Transaction

Json = dict[str, Any]
SOON = timedelta(hours=1)


class UnknownChange(InvalidInput):
    """No request for approval belongs to {change}."""

    hint = "See `stackctl change list`. A request is opened by the command that needs it, e.g. `stackctl deploy`."


class NothingOpen(Refused):
    """No request of {change} is open: {states}."""

    hint = "Run the command that needs it again: it opens a new request."


class VoteRefused(BypassAttempt):
    """This approval of {change} does not count: {detail}"""


@dataclass(frozen=True, kw_only=True)
class ChangeDesk:
    """See ``stack/api/operator.py`` for the shapes. ``report`` makes the post-change report."""

    store: Store
    gatekeeper: Gatekeeper
    refusals: Refusals
    policies: Callable[[], Policies]
    report_of: Callable[[str], Json]
    clock: Clock

    def list(self, open_only: bool) -> Json:
        """Newest first, and how the queue is."""
        with self.store.reading() as tx:
            rows = tx.requests(open_only=open_only)
            shown = [self._shown(tx, row) for row in rows]
            queue = self.queue(tx)
        return {"requests": [s for s in shown if not open_only or s["state"] == "open"], "queue": queue}

    def queue(self, tx: Reading) -> Json:
        """Its health: how many wait, since when (seconds), how many expire within the hour."""
        now = self.clock.now()
        waiting = [r for r in tx.requests(open_only=True, limit=1000) if r.expires_at > now]
        oldest = min((r.created_at for r in waiting), default=now)
        soon = sum(r.expires_at - now <= SOON for r in waiting)
        return {"waiting": len(waiting), "oldest_s": round((now - oldest).total_seconds()), "expiring_soon": soon}

    def show(self, change: str) -> Json:
        """All requests of a change, with what an approver signs and what it is about."""
        with self.store.reading() as tx:
            rows = self._of(tx, change)
            requests = [{**self._shown(tx, row), "statement": statement(row).decode()} for row in rows]
            return {
                "change": rows[0].change,
                "requests": requests,
                "plan_body": tx.plan(rows[0].plan),
                "rollouts": sorted({r.used_by for r in rows if r.used_by}),
            }

    def approve(self, change: str, signature: str, caller: Caller) -> Json:
        """Take in a signature over the statement of one of the change's open requests."""
        with self.store.reading() as tx:
            ticket = self._of(tx, change)[0].change
        with self.refusals.recorded(caller, "change.approve", change, ticket), self.store.transaction() as tx:
            row, key = self._signed(self._of(tx, change), signature, change)
            vote = self._vote(row, key, signature, change)
            given = {a.person: a for a in tx.approvals(row.id)}
            mine = given.get(vote.person)
            if mine is not None and mine.revoked_at is not None:
                why = f"{vote.person} took it back; what was taken back is given again to a new request only"
                raise VoteRefused(why, change=change)
            if mine is not None:
                return self._shown(tx, row)
            tx.add_approval(vote)
            after = self.gatekeeper.standing_of(tx, row)
            if vote.person not in after.decision.counted:
                mine_only = [text for text in after.decision.refusals if vote.person in text]
                raise VoteRefused("; ".join(mine_only or after.decision.missing), change=change)
            record = request_record(
                row,
                "change.approved",
                vote.person,
                f"{len(after.decision.counted)} given"
                + ("" if after.decision.granted else f"; {after.decision.missing[0]}"),
                fingerprint=vote.fingerprint,
                signature=signature,
                handed_in_by=caller.shown,
            )
            append(tx, record, self.clock)
            return self._shown(tx, row)

    def reject(self, change: str, reason: str, caller: Caller) -> Json:
        """Close what is open; a rollout that waits for it goes back."""
        with self.store.transaction() as tx:
            for row in self._open(tx, change):
                self._close(tx, row, RequestState.REJECTED, "change.rejected", reason, caller)
            return {"change": change, "requests": [self._shown(tx, row) for row in self._of(tx, change)]}

    def revoke(self, change: str, person: str | None, reason: str, caller: Caller) -> Json:
        """Take back one person's approval, or close the requests with all of them."""
        with self.store.transaction() as tx:
            for row in self._open(tx, change):
                if person is None:
                    self._close(tx, row, RequestState.REVOKED, "change.revoked", reason, caller)
                elif tx.revoke_approval(row.id, person, self.clock.now()):
                    record = request_record(row, TAKEN_BACK, caller.shown, reason, person=person)
                    append(tx, record, self.clock)
            return {"change": change, "requests": [self._shown(tx, row) for row in self._of(tx, change)]}

    def report(self, change: str) -> Json:
        """The post-change report."""
        with self.store.reading() as tx:
            self._of(tx, change)
        return self.report_of(change)

    def _close(
        self, tx: Transaction, row: RequestRow, state: RequestState, action: str, reason: str, caller: Caller
    ) -> None:
        tx.close_request(row.id, state, reason=reason)
        append(tx, request_record(row, action, caller.shown, reason), self.clock)
        for rollout in tx.rollouts(limit=100, open_only=True):
            said = rollout.state
            if row.gate != "start" and said.get("plan") == row.plan and said.get("change") == row.change:
                why = f"{row.id} (before {row.gate} %) was {state.value}: {reason}"
                body = {"what": "abort", "by": caller.shown, "reason": why}
                tx.add_event(RolloutId(rollout.id), REQUEST, f"abort: {why}", body)

    def _of(self, tx: Reading, change: str) -> Sequence[RequestRow]:
        """By the request's own id, or all of a change (newest first)."""
        rows = (tx.request(change),) if change.startswith("rq-") else tx.requests(change=change) if change else ()
        if not rows:
            raise UnknownChange(change=change[:90])
        return rows

    def _open(self, tx: Reading, change: str) -> Sequence[RequestRow]:
        rows = self._of(tx, change)
        open_now = [row for row in rows if row.state is RequestState.OPEN]
        if not open_now:
            states = ", ".join(sorted({f"{row.id} is {row.state.value}" for row in rows}))
            raise NothingOpen(change=change, states=states)
        return open_now

    def _signed(self, rows: Sequence[RequestRow], signature: str, change: str) -> tuple[RequestRow, PublicKey]:
        """The request whose statement was signed, also one that is closed: then it is known why it does not count."""
        problem = "there is no request"
        for row in sorted(rows, key=lambda r: r.state is not RequestState.OPEN):
            try:
                return row, verify(signature, statement(row), NAMESPACE)
            except Refused as error:
                problem = error.message
        raise VoteRefused(f"{problem} (looked at {len(rows)} requests)", change=change)

    def _vote(self, row: RequestRow, key: PublicKey, signature: str, change: str) -> ApprovalRow:
        now = self.clock.now()
        if row.state is not RequestState.OPEN:
            raise VoteRefused(f"it was made for {row.id}, which is {row.state.value}", change=change)
        if row.expires_at <= now:
            raise VoteRefused(f"{row.id} expired at {stamp(row.expires_at)}", change=change)
        signer = next((s for s in self.policies().signers if s.blob == key.blob), None)
        if signer is None:
            raise VoteRefused(f"the key {key.fingerprint} is nobody's in policies/allowed_signers", change=change)
        return ApprovalRow(
            request=row.id,
            person=signer.person,
            fingerprint=key.fingerprint,
            signature=signature,
            created_at=now,
        )

    def _shown(self, tx: Reading, row: RequestRow) -> Json:
        seen = expired(row, self.clock)
        body: Json = {
            "request": str(row.id),
            "change": row.change,
            "action": row.action.value,
            "gate": row.gate,
            "environment": row.environment,
            "target": row.target,
            "plan": str(row.plan),
            "policy": str(row.policy),
            "risk": row.risk.value,
            "requester": row.requester,
            "state": seen.state.value,
            "reason": row.reason,
            "used_by": row.used_by,
            "created_at": stamp(row.created_at),
            "expires_at": stamp(row.expires_at),
            "approvals": self._approvals(tx, row),
            "missing": [],
            "may_approve": [],
        }
        if seen.state is RequestState.OPEN:
            body |= self._standing(tx, row)
        return body

    def _standing(self, tx: Reading, row: RequestRow) -> Json:
        """Looking goes on while the policies can't be read; what is missing then is the policies."""
        try:
            standing = self.gatekeeper.standing_of(tx, row)
        except (NoPolicies, PoliciesInvalid) as error:
            return {"missing": [error.message], "refusals": [], "may_approve": []}
        decision = standing.decision
        return {
            "missing": list(decision.missing),
            "refusals": list(decision.refusals),
            "may_approve": list(standing.may),
        }

    def _approvals(self, tx: Reading, row: RequestRow) -> Sequence[Json]:
        people: Mapping[str, Person] = {}
        with suppress(NoPolicies, PoliciesInvalid):
            people = self.policies().people
        return [
            {
                "person": given.person,
                "roles": sorted(people[given.person].roles) if given.person in people else [],
                "fingerprint": given.fingerprint,
                "at": stamp(given.created_at),
                "revoked_at": stamp(given.revoked_at) if given.revoked_at else None,
            }
            for given in tx.approvals(row.id)
        ]

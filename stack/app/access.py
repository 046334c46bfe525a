"""Who calls, and what they may ask for: tokens, the roles behind them, and the alerts that refusals raise.

A token is 256 random bits and is stored as its SHA-256 only. The shared token of the state directory names nobody; it
is read anew from its file, so that it can be replaced while everything runs. Policies are read anew for every question;
without good ones only looking is left. Every refusal is in the audit log and raises INC-04 before it is raised. What
giving or taking access needs on top (approvals) is asked through ``permitted``; the policy room decides that.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

from stack.audit.append import append
from stack.audit.record import AuditRecord
from stack.config.policy_fields import person_name
from stack.config.policy_values import Policies
from stack.core.actions import Action
from stack.core.caller import Caller
from stack.core.clock import Clock, stamp
from stack.core.errors import BypassAttempt, InvalidInput, StackError, Unavailable
from stack.policy.risk import may_ask
from stack.rollout.gatekeeper import Refusals, requester_of
from stack.store.approval_rows import AlertRow, TokenRow
from stack.store.store import Store, Transaction

Json = dict[str, Any]
PREFIX = "st_"
DAYS = 90
MOST_DAYS = 3650
SHORTEST_SHARED = 32
NOBODY = "unauthenticated"
_ALPHABET = "abcdefghjkmnpqrstvwxyz0123456789"
_LOOKING = frozenset({Action.READ, Action.READ_AUDIT})
_LOOKERS = frozenset({"admin", "operator", "viewer", "auditor"})


class NotPermitted(BypassAttempt):
    """{caller} may not ask for {action}: {detail}"""


class MoreThanOwn(BypassAttempt):
    """{caller} may not give the roles {roles}: they allow what its own roles do not."""


class NoToken(Unavailable):
    """The admin token is shorter than {shortest} characters, so it opens nothing."""

    hint = (
        "Write at least 32 random characters into STACK_HOME/secrets/admin.token, or remove it: stackctl up makes one."
    )


class BadToken(InvalidInput):
    """This token can't be made: {detail}"""

    hint = 'stackctl token create NAME --role ROLE --days 90. The roles stand in policies/risk.yaml under "roles".'


class UnknownToken(InvalidInput):
    """There is no token {token}."""

    hint = "See `stackctl token list`."


class Permit(Protocol):
    """A yes, to be used up in the transaction of what it is for."""

    def use(self, tx: Transaction, used_by: str) -> None:
        """Decide again; raises when it is a yes no more."""


Permitted = Callable[[Action, str, Json, str, Caller], Permit]
"""``(action, target, body, change, caller)``: the yes, or what is missing is raised."""


@dataclass(frozen=True, kw_only=True)
class AccessDesk:
    """See ``stack/api/operator.py`` for the shapes. ``shared`` reads the shared token as it is now."""

    store: Store
    shared: Callable[[], str]
    policies: Callable[[], Policies]
    refusals: Refusals
    permitted: Permitted
    clock: Clock

    def authenticate(self, token: str) -> Caller | None:
        """Whose token this is; comparisons take the same time wherever the difference is."""
        if self._is_shared(token):
            return Caller(name="operator", roles=frozenset({"admin"}), shared=True)
        if not token.startswith(PREFIX):
            return None
        wanted = token_hash(token)
        with self.store.reading() as tx:
            row = tx.token_by_hash(wanted)
        if row is None or not hmac.compare_digest(row.hash, wanted) or not self._is_good(row):
            return None
        return Caller(name=row.name, roles=row.roles, token=row.id)

    def permit(self, caller: Caller, action: Action) -> None:
        """Whether a role of the caller may ask for this, by the policies as they are now."""
        try:
            allowed, why = may_ask(self.policies(), caller.roles, action), "no role of it allows that"
        except StackError as error:
            allowed, why = action in _LOOKING and bool(caller.roles & _LOOKERS), error.message
        if not allowed:
            name = requester_of(caller)
            facts = {"roles": sorted(caller.roles), "token": caller.token, "claimed": caller.claimed}
            self.refusals.record(name, action.value, "admin API", why, facts=facts)
            raise NotPermitted(why, caller=name, action=action.value)

    def refused(self, what: str, why: str, peer: str) -> None:
        """A call that was refused before anybody knew who it was."""
        self.refusals.record(NOBODY, "call", what, why, facts={"peer": peer})

    def tokens(self) -> Json:
        """All of them, without their hashes."""
        with self.store.reading() as tx:
            return {"tokens": [_token_json(row) for row in tx.tokens()]}

    def create_token(self, request: Json, caller: Caller) -> Json:
        """A new one, shown this once. Nobody gives more than they have."""
        name, roles, days = self._checked(request)
        target = f"token of {name}"
        self._no_more_than_own(caller, roles, target)
        body = {"name": name, "roles": sorted(roles), "days": days}
        change = str(request.get("change") or "")
        permit = self.permitted(Action.CREATE_TOKEN, target, body, change, caller)
        token = PREFIX + secrets.token_urlsafe(32)
        now = self.clock.now()
        row = TokenRow(
            id="tk-" + "".join(secrets.choice(_ALPHABET) for _ in range(10)),
            name=name,
            roles=roles,
            hash=token_hash(token),
            created_at=now,
            expires_at=None if days is None else now + timedelta(days=days),
        )
        recorded = self.refusals.recorded(caller, Action.CREATE_TOKEN, target, change)
        with recorded, self.store.transaction() as tx:
            permit.use(tx, row.id)
            tx.insert_token(row)
            self._note(tx, caller, Action.CREATE_TOKEN, row, change)
        return {**_token_json(row), "token": token}

    def revoke_token(self, token_id: str, change: str, caller: Caller) -> Json:
        """Takes effect with the next call that comes with it. Taken away twice is taken away."""
        row = self._token(token_id)
        if row.revoked_at is not None:
            return _token_json(row)
        target = f"token of {row.name}"
        permit = self.permitted(Action.REVOKE_TOKEN, target, {"id": row.id}, change, caller)
        recorded = self.refusals.recorded(caller, Action.REVOKE_TOKEN, target, change)
        with recorded, self.store.transaction() as tx:
            permit.use(tx, row.id)
            if tx.revoke_token(row.id, self.clock.now()):
                self._note(tx, caller, Action.REVOKE_TOKEN, row, change)
        return _token_json(self._token(token_id))

    def alerts(self, open_only: bool) -> Json:
        """Newest first."""
        with self.store.reading() as tx:
            return {"alerts": [_alert_json(row) for row in tx.alerts(open_only=open_only)]}

    def acknowledge(self, alert_id: int, caller: Caller) -> Json:
        """Somebody has seen it; the next of its kind opens a new one."""
        by = requester_of(caller)
        with self.store.transaction() as tx:
            tx.close_alert(alert_id, by, self.clock.now())
            record = AuditRecord(
                actor=by, action=Action.ACKNOWLEDGE.value, target=f"alert {alert_id}", change="", result="ok"
            )
            append(tx, record, self.clock)
        return self.alerts(open_only=True)

    def _is_shared(self, token: str) -> bool:
        try:
            shared = self.shared().encode()
        except StackError:
            return False
        return hmac.compare_digest(token.encode(), shared) and len(shared) >= SHORTEST_SHARED

    def _is_good(self, row: TokenRow) -> bool:
        return row.revoked_at is None and (row.expires_at is None or self.clock.now() < row.expires_at)

    def _checked(self, request: Json) -> tuple[str, frozenset[str], int | None]:
        days = request.get("days", DAYS)
        try:
            name = person_name(str(request["name"]))
        except ValueError as error:
            raise BadToken(str(error)) from error
        if name.casefold() == NOBODY:
            raise BadToken(f"{name!r} is what records call those whom nobody knows")
        if days is not None and not (type(days) is int and 1 <= days <= MOST_DAYS):
            raise BadToken(f"days must be a whole number from 1 to {MOST_DAYS}, or nothing")
        known = self.policies().roles
        roles = frozenset(str(role) for role in request["roles"])
        if not roles or not roles <= set(known):
            raise BadToken(f"there are the roles {', '.join(sorted(known))}, and it needs at least one")
        return name, roles, days

    def _no_more_than_own(self, caller: Caller, roles: frozenset[str], target: str) -> None:
        policies = self.policies()
        if all(may_ask(policies, caller.roles, a) for a in Action if may_ask(policies, roles, a)):
            return
        with self.refusals.recorded(caller, Action.CREATE_TOKEN, target):
            raise MoreThanOwn(caller=requester_of(caller), roles=", ".join(sorted(roles)))

    def _token(self, token_id: str) -> TokenRow:
        with self.store.reading() as tx:
            row = next((t for t in tx.tokens() if t.id == token_id), None)
        if row is None:
            raise UnknownToken(token=token_id[:63])
        return row

    def _note(self, tx: Transaction, caller: Caller, action: Action, row: TokenRow, change: str) -> None:
        body = {"token": row.id, "roles": sorted(row.roles), "expires_at": _stamped(row.expires_at)}
        record = AuditRecord(
            actor=requester_of(caller),
            action=action.value,
            target=f"token of {row.name}",
            change=change,
            result="ok",
            body=body | {"claimed": caller.claimed},
        )
        append(tx, record, self.clock)


def check_shared(token: str) -> None:
    """At the start: without a shared token that is good nobody could ask for one of their own."""
    if len(token.encode()) < SHORTEST_SHARED:
        raise NoToken(shortest=SHORTEST_SHARED)


def token_hash(token: str) -> str:
    """SHA-256, hex. A token has 256 random bits itself, so nothing slower is needed."""
    return hashlib.sha256(token.encode()).hexdigest()


def _stamped(moment: Any) -> str | None:
    return None if moment is None else stamp(moment)


def _token_json(row: TokenRow) -> Json:
    return {
        "id": row.id,
        "name": row.name,
        "roles": sorted(row.roles),
        "created_at": stamp(row.created_at),
        "expires_at": _stamped(row.expires_at),
        "revoked_at": _stamped(row.revoked_at),
    }


def _alert_json(row: AlertRow) -> Json:
    plain = {name: getattr(row, name) for name in ("id", "code", "severity", "title", "subject", "count", "closed_by")}
    moments = {name: _stamped(getattr(row, name)) for name in ("created_at", "last_at", "closed_at")}
    return {**plain, **moments, "body": dict(row.body)}

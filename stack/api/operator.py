"""What the admin API needs from the program: one facade, JSON-able values in and out.

``stack.app`` provides it; tests provide a fake. Methods are synchronous and thread-safe (the API calls
them from a pool of threads) and raise ``StackError`` only. Unknown things (a rollout, a model) are
``InvalidInput`` errors whose class name begins with ``Unknown``: the API answers 404 for those.

A *rollout* is a dict with at least ``id, kind, service, state, verdict, reason, evidence``: ``kind`` is
``deploy`` or ``rollback``; ``state`` is its phase, of which ``promoted``, ``rolled_back`` and ``failed`` are
final and ``paused`` waits for a person; ``evidence`` is the path of its evidence directory, or null.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

from stack.core.actions import Action
from stack.core.caller import Caller

Json = dict[str, Any]
OnProgress = Callable[[Json], None]


class Access(Protocol):
    """Who calls, and what they may ask for. A refusal is audited and raises INC-04 before it is raised."""

    def authenticate(self, token: str) -> Caller | None:
        """Whose token this is; None for one that is unknown, expired or revoked. Compares in constant time."""

    def permit(self, caller: Caller, action: Action) -> None:
        """Raises ``NotPermitted`` when no role of the caller may ask for this; policies as they are now."""

    def refused(self, what: str, why: str, peer: str) -> None:
        """Record a call that was refused before anybody knew who it was: ``what`` is the method and path."""

    def tokens(self) -> Json:
        """``{"tokens": [{id, name, roles, created_at, expires_at, revoked_at}]}``; never the token itself."""

    def create_token(self, request: Json, caller: Caller) -> Json:
        """For ``{name, roles, days, change}``: ``{"id", "name", "roles", "expires_at", "token"}``, shown this once."""

    def revoke_token(self, token_id: str, change: str, caller: Caller) -> Json:
        """The token as it is then."""

    def alerts(self, open_only: bool) -> Json:
        """``{"alerts": [{id, code, severity, title, subject, count, body, created_at, last_at, closed_at, ..}]}``."""

    def acknowledge(self, alert_id: int, caller: Caller) -> Json:
        """The alerts that are still open."""


class Changes(Protocol):
    """Requests for approval. A *request* is a dict with at least ``request, change, action, gate, environment, target,
    plan, risk, requester, state, created_at, expires_at, approvals, missing``: ``approvals`` are
    ``{person, roles, fingerprint, at}``, ``missing`` says in words what is missing (empty: it may go ahead)."""

    def list(self, open_only: bool) -> Json:
        """``{"requests": [..], "queue": {"waiting", "oldest_s", "expiring_soon"}}``, newest first."""

    def show(self, change: str) -> Json:
        """By change or request id: ``{"change", "requests": [.. + "statement"], "plan_body", "rollouts": [id]}``."""

    def approve(self, change: str, signature: str, caller: Caller) -> Json:
        """Hand in an armored signature over an open request's statement; the request as it is then."""

    def reject(self, change: str, reason: str, caller: Caller) -> Json:
        """``{"change", "requests"}``: closes the open ones; a rollout that waits for one goes back."""

    def revoke(self, change: str, person: str | None, reason: str, caller: Caller) -> Json:
        """Take back a person's approval (None: close the request, all of them)."""

    def report(self, change: str) -> Json:
        """The post-change report: ``{"change", "markdown", "report": {..}, "digest"}``."""


class Machines(Protocol):
    """The hosts. A *host* is ``{name, connection, address, group, replicas, facts, problems, asked_at}``: ``facts`` is
    null for one that never answered, ``problems`` says in words why it can't carry replicas now."""

    def list(self) -> Json:
        """``{"hosts": [..]}`` as last known; asks nobody."""

    def check(self, host: str | None) -> Json:
        """The same for one or all, asked now; ``{"hosts": [..], "ok": bool}``."""


class Records(Protocol):
    """The audit log for readers and verifiers. Hashes are hex; sizes and indexes count records from 0."""

    def head(self) -> Json:
        """``{"size", "root", "checkpoint": {size, root, note} | null, "key", "sinks": [{sink, size, error}]}``."""

    def show(self, seq: int) -> Json:
        """One record with its leaf hash."""

    def prove(self, seq: int, size: int | None) -> Json:
        """Inclusion of record ``seq`` in the tree of ``size`` (None: the newest checkpoint's)."""

    def consistency(self, old: int, new: int) -> Json:
        """That the tree of ``new`` begins with that of ``old``."""

    def export(self, start: int) -> Iterator[bytes]:
        """JSON lines: a header, every record from ``start`` (checkpoints right after what they cover), an end."""


class Operator(Protocol):
    """Everything that can be asked of, or done to, the stack."""

    @property
    def access(self) -> Access: ...

    @property
    def changes(self) -> Changes: ...

    @property
    def records(self) -> Records: ...

    @property
    def machines(self) -> Machines: ...

    def status(self) -> Json:
        """The stable interface: ``services, rollouts, gateway, control_plane`` (see README)."""

    def diff(self) -> Json:
        """``{"in_sync": bool, "differences": [{"what", "desired", "observed"}]}``."""

    def plan(self, request: Json) -> Json:
        """The plan for ``{service, model, runtime, dry_run, environment, change}`` (nulls: as in stack.yaml).

        Changes nothing. The answer has ``digest``, ``risk`` and ``approvals`` (``{"request", "missing": [..]}``).
        """

    def deploy(self, request: Json, caller: Caller) -> Json:
        """``{"rollout": id, "plan": {..}}``, or ``{"nothing_to_do": true, "reason": .., "status": {..}}``.

        Raises ApprovalNeeded, with what is missing, where the policies want approvals that are not there.
        With ``dry_run``: ``{"dry_run": [{host, status, message, events}], "plan": {..}}``.
        """

    def rollback(self, request: Json, caller: Caller) -> Json:
        """Back to the last known good of ``{service, environment, change}``; answers like ``deploy``."""

    def rollouts(self, limit: int) -> Json:
        """``{"rollouts": [..]}``, newest first."""

    def rollout(self, rollout_id: str) -> Json:
        """One rollout, with its plan and its evidence."""

    def events(self, rollout_id: str, after: int, wait_s: float) -> Json:
        """``{"events": [{seq, at, state, text}], "next": seq, "state", "waiting_for"}``, seq > after.

        An event's ``state`` is its kind (``phase``, ``progress``, ``host``, ...); the page's is the rollout's.
        When there are none and the state is not final, waits up to ``wait_s`` seconds for one. ``next`` is the
        last event's number; ``waiting_for`` says in words what the rollout waits for now.
        """

    def resume(self, rollout_id: str, caller: Caller) -> Json:
        """Let a paused rollout go on; the rollout as it is then."""

    def abort(self, rollout_id: str, reason: str, caller: Caller) -> Json:
        """Stop it and put traffic back; the rollout as it is then."""

    def models(self) -> Json:
        """``{"models": [{ref, format, digest, bytes, ..}]}``."""

    def model(self, ref: str) -> Json:
        """One model version, ``name@version[:format]``."""

    def register(self, path: str, format: str, on_progress: OnProgress, caller: Caller) -> Json:
        """Admit the manifest at ``path`` on this machine; progress as ``{"text", "done", "total"}`` (bytes)."""

    def verify(self, ref: str) -> Json:
        """Read every byte of it again: ``{"ok": bool, "ref", "problems": [..]}``."""

    def scrub(self, repair_from: str | None, caller: Caller) -> Json:
        """Verify the whole store, repair from a second copy: ``{"ok": bool, "problems": [..], "repaired": [..]}``."""

    def audit(self, limit: int, after: int) -> Json:
        """``{"records": [..], "next": seq}``: with ``seq > after`` in order, or if ``after < 0`` the last.

        A record has the fields of ``stack.store.rows.AuditRow`` as they are stored, so that a reader can verify them.
        """

    def gateway_health(self) -> Json:
        """``{"url", "healthy", "table_version", "pid"}`` as the gateway itself says."""

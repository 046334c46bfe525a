"""What the admin API needs from the program: one facade, JSON-able values in and out.

``stack.app`` provides it; tests provide a fake. Methods are synchronous and thread-safe (the API calls
them from a pool of threads) and raise ``StackError`` only. Unknown things (a rollout, a model) are
``InvalidInput`` errors whose class name begins with ``Unknown``: the API answers 404 for those.

A *rollout* is a dict with at least ``id, kind, service, state, verdict, reason, evidence``: ``kind`` is
``deploy`` or ``rollback``; ``state`` is its phase, of which ``promoted``, ``rolled_back`` and ``failed`` are
final and ``paused`` waits for a person; ``evidence`` is the path of its evidence directory, or null.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

Json = dict[str, Any]
OnProgress = Callable[[Json], None]


class Operator(Protocol):
    """Everything that can be asked of, or done to, the stack."""

    def status(self) -> Json:
        """The stable interface: ``services, rollouts, gateway, control_plane`` (see README)."""

    def diff(self) -> Json:
        """``{"in_sync": bool, "differences": [{"what", "desired", "observed"}]}``."""

    def plan(self, request: Json) -> Json:
        """The plan for ``{service, model, runtime, dry_run, actor}`` (nulls: as in stack.yaml); changes nothing."""

    def deploy(self, request: Json) -> Json:
        """``{"rollout": id, "plan": {..}}``, or ``{"nothing_to_do": true, "reason": .., "status": {..}}``.

        With ``dry_run``: ``{"dry_run": [{host, status, message, events}], "plan": {..}}``.
        """

    def rollback(self, request: Json) -> Json:
        """Back to the last known good of ``{service, actor}``; answers like ``deploy``."""

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

    def resume(self, rollout_id: str, actor: str) -> Json:
        """Let a paused rollout go on; the rollout as it is then."""

    def abort(self, rollout_id: str, reason: str, actor: str) -> Json:
        """Stop it and put traffic back; the rollout as it is then."""

    def models(self) -> Json:
        """``{"models": [{ref, format, digest, bytes, ..}]}``."""

    def model(self, ref: str) -> Json:
        """One model version, ``name@version[:format]``."""

    def register(self, path: str, format: str, on_progress: OnProgress) -> Json:
        """Admit the manifest at ``path`` on this machine; progress as ``{"text", "done", "total"}`` (bytes)."""

    def verify(self, ref: str) -> Json:
        """Read every byte of it again: ``{"ok": bool, "ref", "problems": [..]}``."""

    def scrub(self, repair_from: str | None) -> Json:
        """Verify the whole store, repair from a second copy: ``{"ok": bool, "problems": [..], "repaired": [..]}``."""

    def audit(self, limit: int, after: int) -> Json:
        """``{"records": [..], "next": seq}``: with ``seq > after`` in order, or if ``after < 0`` the last.

        A record has the fields of ``stack.store.rows.AuditRow`` as they are stored, so that a reader can verify them.
        """

    def gateway_health(self) -> Json:
        """``{"url", "healthy", "table_version", "pid"}`` as the gateway itself says."""

"""Puts on record which policies are in force: at the start, and whenever their files change or can't be read any more.

Decisions read them anew by themselves; this is so that the log says by which policies they were made, and from when on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from stack.audit.append import append
from stack.audit.record import AuditRecord
from stack.config.policies import NoPolicies, PoliciesInvalid
from stack.config.policy_values import Policies
from stack.core.clock import Clock
from stack.policy.warnings import warnings
from stack.rollout.tenure import Writing
from stack.store.store import Store

CHANGED = "policy.changed"
ABOUT = "policies"


@dataclass
class PolicyWatch:
    """``tick`` is called every few seconds by the orchestrator that leads."""

    store: Store
    policies: Callable[[], Policies]
    clock: Clock
    _noted: str | None = field(default=None, init=False)

    def tick(self, writing: Writing) -> None:
        """Note what is new, under the lead. After a restart the last note of the log is what counts."""
        try:
            policies = self.policies()
            now, facts = str(policies.digest), {"warnings": list(warnings(policies))}
        except (NoPolicies, PoliciesInvalid) as error:
            now, facts = "invalid", {"warnings": [error.message]}
        if now == self._noted:
            return
        with writing(self.store) as tx:
            last = next((r.body["policy"] for r in reversed(tx.audit_of(ABOUT)) if r.action == CHANGED), None)
            if last != now:
                body = {"policy": now, "before": last, **facts}
                result = "in force" if now != "invalid" else "unreadable: everything privileged is denied"
                record = AuditRecord(
                    actor="orchestrator", action=CHANGED, target=ABOUT, change=ABOUT, result=result, body=body
                )
                append(tx, record, self.clock)
        self._noted = now

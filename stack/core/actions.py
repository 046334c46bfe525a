"""Everything that can be done to a stack, and how risky a thing can be. The one list that policies must cover.

A route, a command or a playbook that is not one of these does not exist; an action without a class in the policies is
denied. Rules of evolution: actions are added, never renamed or reused for something else: policies and audit
records name them.
"""

from __future__ import annotations

from enum import StrEnum


class Risk(StrEnum):
    """R0 reads. R1 can be undone at once. R2 changes what clients get. R3 changes who may do what, or destroys."""

    R0 = "R0"
    R1 = "R1"
    R2 = "R2"
    R3 = "R3"


class Action(StrEnum):
    """``noun.verb``, as in policies and audit records."""

    READ = "stack.read"
    """Look: status, plans, rollouts, models, changes, reports."""
    READ_AUDIT = "audit.read"
    """Read, prove and export the audit log."""
    CHECK_HOST = "host.check"
    """Ask a host what it is and has, through Ansible; changes nothing."""
    SIMULATE = "rollout.simulate"
    """A dry run: Ansible's check mode."""
    DEPLOY = "rollout.deploy"
    """Bring a release into a service."""
    ROLLBACK = "rollout.rollback"
    """Go back to the last known good."""
    RESUME = "rollout.resume"
    """Let a paused rollout ask its rung again."""
    ABORT = "rollout.abort"
    """Stop a rollout; traffic goes back."""
    RESTORE_REPLICA = "replica.restore"
    """Start a replica of a release that serves already (after a restart of its host)."""
    REGISTER = "model.register"
    """Admit a model version to the content store."""
    VERIFY = "model.verify"
    """Read every byte again."""
    REPAIR = "model.repair"
    """Scrub the content store and repair it from a second copy."""
    APPROVE = "change.approve"
    """Hand in a signature. Whose approval it is, the signature says."""
    REJECT = "change.reject"
    """Refuse a change that waits."""
    REVOKE = "change.revoke"
    """Take back an approval that is not used yet."""
    CREATE_TOKEN = "token.create"  # noqa: S105
    """Give somebody access to the admin API."""
    REVOKE_TOKEN = "token.revoke"  # noqa: S105
    """Take it away."""
    ACKNOWLEDGE = "alert.acknowledge"
    """Say that an alert was seen."""
    RUN = "process.run"
    """Start and stop the processes of this machine's stack."""

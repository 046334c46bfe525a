"""Which action each command asks for, as policies call it. The control plane decides; nothing here permits anything.

A command that is not in this table does not exist: a test walks the commands. ``deploy --dry-run`` asks for
``rollout.simulate`` instead.
"""

from __future__ import annotations

from collections.abc import Mapping

from stack.core.actions import Action

COMMAND_ACTIONS: Mapping[str, Action] = {
    "up": Action.RUN,
    "down": Action.RUN,
    "serve": Action.RUN,
    "gateway": Action.RUN,
    "deploy": Action.DEPLOY,
    "rollback": Action.ROLLBACK,
    "plan": Action.READ,
    "status": Action.READ,
    "diff": Action.READ,
    "doctor": Action.READ,
    "rollout list": Action.READ,
    "rollout show": Action.READ,
    "rollout watch": Action.READ,
    "rollout resume": Action.RESUME,
    "rollout abort": Action.ABORT,
    "model register": Action.REGISTER,
    "model list": Action.READ,
    "model show": Action.READ,
    "model verify": Action.VERIFY,
    "model scrub": Action.REPAIR,
    "eval run": Action.READ,
    "eval compare": Action.READ,
    "audit tail": Action.READ_AUDIT,
    "audit show": Action.READ_AUDIT,
    "audit verify": Action.READ_AUDIT,
    "audit head": Action.READ_AUDIT,
    "audit export": Action.READ_AUDIT,
    "audit prove": Action.READ_AUDIT,
    "change list": Action.READ,
    "change show": Action.READ,
    "change approve": Action.APPROVE,
    "change reject": Action.REJECT,
    "change revoke": Action.REVOKE,
    "change report": Action.READ,
    "token create": Action.CREATE_TOKEN,
    "token list": Action.READ,
    "token revoke": Action.REVOKE_TOKEN,
    "host list": Action.READ,
    "host check": Action.CHECK_HOST,
    "database show": Action.READ,
    "database copy": Action.RUN,
    "alert list": Action.READ,
    "alert ack": Action.ACKNOWLEDGE,
}

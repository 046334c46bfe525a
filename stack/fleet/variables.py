"""Which variables a playbook takes, and of what type. Pure.

Ansible treats the *values* of extra variables as trusted templates and lets ``ansible_*`` keys change how it connects.
So keys are on a list per playbook, each value has a type and a form, and ``render`` marks every string as unsafe, which
Ansible never templates. Nothing else may be handed to a playbook.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from stack.core.actions import Action
from stack.core.digest import Digest
from stack.core.errors import InvalidInput
from stack.core.names import OperationId, ReplicaId
from stack.fleet.values import Variables

Check = Callable[[Any], bool]
MOST_PEERS = 3
"""More are not worth measuring."""
_ENVIRONMENT = re.compile(r"[a-z0-9][A-Za-z0-9._+-]{0,119}\Z")
_SERVED = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}\Z")
_ADDRESS = re.compile(r"[0-9A-Fa-f.:]{2,45}\Z")


class VariableRefused(InvalidInput):
    """Playbook {playbook} was given wrong variables: {problem}."""

    hint = "See stack/fleet/variables.py for what each playbook takes."


def _typed(kind: type[str]) -> Check:
    def check(value: Any) -> bool:
        try:
            return isinstance(value, str) and bool(kind(value))
        except InvalidInput:
            return False

    return check


def _form(pattern: re.Pattern[str]) -> Check:
    return lambda value: isinstance(value, str) and bool(pattern.match(value)) and ".." not in value


def _whole(low: int, high: int) -> Check:
    return lambda value: type(value) is int and low <= value <= high


def _directory(value: Any) -> bool:
    plain = isinstance(value, str) and value.startswith("/") and len(value) <= 1000
    return plain and value.isprintable() and ".." not in value.split("/")


_OPERATION: dict[str, Check] = {"op_id": _typed(OperationId), "epoch": _whole(0, 2**53)}
_LAUNCH: dict[str, Check] = {
    **_OPERATION,
    "release_digest": _typed(Digest),
    "runtime_environment": _form(_ENVIRONMENT),
    "runtime_engine": lambda value: value in ("llamacpp", "vllm", "ollama"),
    "runtime_distribution": _form(_ENVIRONMENT),
    "lock_digest": _typed(Digest),
    "artifact_digest": _typed(Digest),
    "artifact_source": _directory,
    "replica_id": _typed(ReplicaId),
    "port": _whole(1, 65535),
    "bind_address": _form(_ADDRESS),
    "served_model": _form(_SERVED),
    "context": _whole(1, 10_000_000),
    "parallel": _whole(1, 4096),
    "threads": _whole(1, 1024),
}
_PEER = re.compile(
    r"[a-z0-9][a-z0-9._-]{0,119} [A-Za-z0-9][A-Za-z0-9.:-]{0,254} [0-9A-Fa-f.:]{2,45} [0-9]{1,5}"
    r" (-|[a-z_][a-z0-9_-]{0,31})"
    r" /[^\x00-\x20\x7f{}'\"\\$`;|&<>*?]{0,900} (python3(\.[0-9]{1,2})?|/[^\x00-\x20\x7f{}'\"\\$`;|&<>*?]{0,900})\Z"
)
_PEERS: dict[str, Check] = {
    "peers": lambda value: (
        isinstance(value, list)
        and len(value) <= MOST_PEERS
        and all(isinstance(line, str) and _PEER.match(line) for line in value)
    )
}
_SERVER: dict[str, Check] = {"runtime_version": _form(_ENVIRONMENT)}
_SPREAD: dict[str, Check] = {"tensor_parallel": _whole(1, 64)}
_GRACE: dict[str, Check] = {"grace_s": _whole(0, 3600)}
_DRAIN: dict[str, Check] = {**_OPERATION, "replica_id": _typed(ReplicaId)}

# playbook -> (needed, optional)
PLAYBOOKS: Mapping[str, tuple[Mapping[str, Check], Mapping[str, Check]]] = {
    "deploy.yml": (_LAUNCH, {**_SPREAD, **_GRACE, **_SERVER, **_PEERS}),
    "rollback.yml": (_LAUNCH, {**_SPREAD, **_GRACE, **_SERVER, **_PEERS}),
    "place.yml": (_LAUNCH, {**_SPREAD, **_GRACE, **_SERVER, **_PEERS}),
    "drain.yml": (_DRAIN, _GRACE),
    "observe.yml": ({}, {**_OPERATION, "measure": lambda value: value is True}),
    "facts.yml": ({}, _OPERATION),
}

PLAYBOOK_ACTIONS: Mapping[str, Action] = {
    "deploy.yml": Action.DEPLOY,
    "place.yml": Action.DEPLOY,
    "rollback.yml": Action.ROLLBACK,
    "drain.yml": Action.DEPLOY,
    "observe.yml": Action.READ,
    "facts.yml": Action.CHECK_HOST,
}
"""What a playbook is for, as policies call it; a playbook without an action does not exist."""


def checked(playbook: str, variables: Variables) -> dict[str, Any]:
    """The variables, if they are exactly what the playbook takes; every mistake at once otherwise."""
    if playbook not in PLAYBOOKS:
        raise VariableRefused(playbook=repr(playbook)[:60], problem="there is no such playbook")
    needed, optional = PLAYBOOKS[playbook]
    rules = {**needed, **optional}
    problems = [f"{key!r:.60} is not taken" for key in variables if key not in rules]
    problems += [f"{key} is missing" for key in needed if key not in variables]
    problems += [f"{k} can't be {v!r:.80}" for k, v in variables.items() if k in rules and not rules[k](v)]
    if problems:
        raise VariableRefused(playbook=playbook, problem="; ".join(problems))
    return dict(variables)

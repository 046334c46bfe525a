"""Ansible's event stream read as events of ours, and as an account of one run. Pure.

The account holds what the *host* reported through the play (the ``stack`` statistics) and which task failed. It never
says that something was done because Ansible said ``ok``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from stack.fleet.said import plain
from stack.fleet.values import EventKind, HostEvent

_KINDS: Mapping[str, EventKind] = {
    "runner_on_skipped": "skipped",
    "runner_on_failed": "failed",
    "runner_item_on_failed": "failed",
    "runner_on_unreachable": "unreachable",
}
_FENCED_RC = 75


@dataclass(frozen=True, kw_only=True)
class Account:
    """What a run's events say."""

    report: Mapping[str, Any] = field(default_factory=dict)
    failed_task: str = ""
    message: str = ""
    fenced: bool = False
    unreachable: bool = False
    last_progress: str = ""


def read(account: Account, event: Mapping[str, Any]) -> tuple[Account, HostEvent | None]:
    """Take in one runner event: the account after it, and what to tell the caller, if anything."""
    name, data = str(event.get("event", "")), event.get("event_data") or {}
    if name == "playbook_on_stats":
        report = (data.get("artifact_data") or {}).get("stack")
        return (replace(account, report=report) if isinstance(report, dict) else account), None
    if name == "playbook_on_task_start":
        return account, _event("task", data)
    if name == "runner_retry":
        return _progress(account, data)
    if name == "runner_on_ok":
        return account, _event("changed" if (data.get("res") or {}).get("changed") else "ok", data)
    if name not in _KINDS or data.get("ignore_errors"):
        return account, None
    kind, text = _KINDS[name], ""
    if kind in ("failed", "unreachable"):
        account, text = _failure(account, kind, data)
    return account, _event(kind, data, text)


def _event(kind: EventKind, data: Mapping[str, Any], text: str = "") -> HostEvent:
    return HostEvent(kind=kind, host=str(data.get("host", "")), task=_task(data), text=text)


def _task(data: Mapping[str, Any]) -> str:
    return str(data.get("task") or data.get("name") or "").rpartition(" : ")[2]


def _progress(account: Account, data: Mapping[str, Any]) -> tuple[Account, HostEvent | None]:
    line = plain(str(_parsed(data).get("line", "")), 1)
    if not line or line == account.last_progress:
        return account, None
    return replace(account, last_progress=line), _event("progress", data, line)


def _parsed(data: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON that our tools print, empty if it is something else."""
    try:
        value = json.loads((data.get("res") or {}).get("stdout") or "{}")
    except (ValueError, TypeError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _failure(account: Account, kind: EventKind, data: Mapping[str, Any]) -> tuple[Account, str]:
    if account.failed_task:
        return account, account.message
    result = data.get("res") or {}
    text = failure_text(result, _parsed(data))
    fenced = result.get("rc") == _FENCED_RC or "FENCED" in text.split("\n")[-1]
    task = _task(data)
    return replace(account, failed_task=task, message=text, fenced=fenced, unreachable=kind == "unreachable"), text


def failure_text(result: Mapping[str, Any], parsed: Mapping[str, Any]) -> str:
    """What went wrong, in the tool's own words: the log's last lines, else its output, else Ansible's message."""
    tail = parsed.get("tail")
    if isinstance(tail, list) and tail:
        return plain("\n".join(str(line) for line in tail))
    parts = [str(result.get(key) or "").strip() for key in ("stdout", "stderr")]
    return plain("\n".join(part for part in parts if part) or str(result.get("msg") or "no reason was given"))

"""What requests for approval, tokens and alerts look like as text. Pure: values in, lines out.

What others wrote (reasons, names, models) is shown without control characters: it could paint over what is approved.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

from stack.cli.tables import columns, short
from stack.core.clock import unstamp

Json = dict[str, Any]


def clean(value: object) -> str:
    """Printable text on one line; ``-`` for nothing."""
    text = "".join(c if c.isprintable() else "?" for c in str("" if value is None else value))
    return text or "-"


def span(seconds: float) -> str:
    """A duration for people."""
    if seconds < 90:
        return f"{max(0, seconds):.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.0f} days"


def until(stamped: object, now: datetime) -> str:
    """When that is, and how far away."""
    try:
        moment = unstamp(str(stamped))
    except ValueError:
        return clean(stamped)
    left = (moment - now).total_seconds()
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC ({f'in {span(left)}' if left > 0 else 'over'})"


def request_table(requests: Iterable[Json], now: datetime) -> str:
    """One line per request."""
    headers = ("change", "request", "action", "target", "environment", "gate", "risk", "state", "plan", "expires")
    rows = [
        [
            *(clean(r.get(k)) for k in ("change", "request", "action", "target", "environment", "gate", "risk")),
            clean(r.get("state")),
            short(r.get("plan")),
            until(r.get("expires_at"), now) if r.get("state") == "open" else "-",
        ]
        for r in requests
    ]
    return columns(headers, rows) if rows else "no requests for approval"


def queue_line(queue: Json) -> str:
    """How the approval queue is: ``2 wait, oldest 3 h, 1 expires within 1 h``."""
    waiting, soon = int(queue.get("waiting") or 0), int(queue.get("expiring_soon") or 0)
    if not waiting:
        return "none wait"
    oldest = queue.get("oldest_s")
    parts = [f"{waiting} wait{'s' if waiting == 1 else ''}"]
    parts += [f"oldest {span(float(oldest))}"] if isinstance(oldest, (int, float)) else []
    parts += [f"{soon} expire{'s' if soon == 1 else ''} within 1 h"] if soon else []
    return ", ".join(parts)


def alert_line(alerts: Json) -> str:
    """``1 open (INC-04)``."""
    count = int(alerts.get("open") or 0)
    codes = ", ".join(clean(code) for code in alerts.get("codes") or [])
    return f"{count} open ({codes})" if count and codes else f"{count} open" if count else "none open"


def audit_line(log: Json) -> str:
    """``1204 records, 1200 signed; local: 1200 (not off this host)``; what fails is said first."""
    parts = [f"{log.get('records')} records, {log.get('signed')} signed"]
    if log.get("error"):
        parts.insert(0, f"NOT SIGNED: {clean(log['error'])}")
    for sink in log.get("sinks") or []:
        where = "" if sink.get("off_host") else " (not off this host)"
        failed = f" FAILS: {clean(sink['error'])}" if sink.get("error") else ""
        parts.append(f"{clean(sink.get('sink'))}: {sink.get('size')}{where}{failed}")
    return "; ".join(parts)


def request_screen(request: Json, plan: Json, now: datetime) -> str:
    """Everything that one should have read before signing."""
    release = plan.get("release") if isinstance(plan.get("release"), dict) else {}
    assert isinstance(release, dict)
    facts: list[tuple[str, str]] = [
        ("change", clean(request.get("change"))),
        ("request", clean(request.get("request"))),
        ("action", f"{clean(request.get('action'))} on {clean(request.get('target'))}"),
        ("environment", clean(request.get("environment"))),
        ("gate", gate_words(request.get("gate"))),
        ("risk", clean(request.get("risk"))),
        ("requester", clean(request.get("requester"))),
        ("expires", until(request.get("expires_at"), now)),
        ("plan", clean(request.get("plan"))),
        ("policies", clean(request.get("policy"))),
    ]
    if release:
        facts += list(_release(plan, release))
    elif plan:
        facts += [(clean(k), clean(v)) for k, v in _flat(plan.get("body", plan))]
    facts += list(_votes(request))
    return _aligned(facts)


def gate_words(gate: object) -> str:
    """``start``, or before how much traffic."""
    return f"before {clean(gate)} % of traffic" if str(gate).isdigit() else clean(gate)


def _release(plan: Json, release: Json) -> Iterator[tuple[str, str]]:
    runtime = release.get("runtime")
    named = f" on {runtime.get('engine')}/{runtime.get('distribution')}" if isinstance(runtime, dict) else ""
    yield "service", clean(plan.get("service"))
    yield "model", clean(f"{release.get('model')}{named}")
    yield "from -> to", f"{short(plan.get('stable') or 'nothing')} -> {short(plan.get('release_digest'))}"
    yield "hosts", clean(", ".join(map(str, plan.get("hosts") or [])))
    yield "traffic", clean(" -> ".join(f"{rung} %" for rung in plan.get("ladder") or []))


def _votes(request: Json) -> Iterator[tuple[str, str]]:
    for vote in request.get("approvals") or []:
        back = ", taken back" if vote.get("revoked_at") else ""
        roles = ", ".join(map(str, vote.get("roles") or []))
        yield (
            "approved by",
            clean(f"{vote.get('person')} ({roles}) {vote.get('fingerprint', '')} {vote.get('at')}{back}"),
        )
    for text in request.get("refusals") or []:
        yield "does not count", clean(text)
    for text in request.get("missing") or []:
        yield "missing", clean(text)


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _flat(item, f"{path}.{key}" if path else str(key))
    else:
        yield path or "plan", ", ".join(map(str, value)) if isinstance(value, list) else value


def _aligned(facts: list[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in facts)
    return "\n".join(f"  {name.ljust(width)}  {text}" for name, text in facts)


def needed(facts: Any) -> list[str]:
    """What an answer that waits for approval says, a line each: plan, what is missing, who may, the command."""
    names = (("plan", "plan"), ("request", "request"), ("change", "change"), ("expires", "expires_at"))
    lines = [(shown, clean(facts[name])) for shown, name in names if facts.get(name)]
    lines += [("missing", clean(text)) for text in facts.get("missing") or []]
    lines += [("does not count", clean(text)) for text in facts.get("refusals") or []]
    who = facts.get("who") or []
    if "who" in facts:
        lines.append(("may approve", clean(", ".join(map(str, who))) if who else "nobody: see policies/people.yaml"))
    if facts.get("command"):
        lines.append(("to approve", clean(facts["command"])))
    return _aligned(lines).splitlines() if lines else []


def token_table(tokens: Iterable[Json], now: datetime) -> str:
    """One line per token; never the token."""
    rows = [
        [
            clean(t.get("id")),
            clean(t.get("name")),
            clean(", ".join(t.get("roles") or [])),
            clean(t.get("created_at")),
            "never" if t.get("expires_at") is None else until(t["expires_at"], now),
            clean(t.get("revoked_at")),
        ]
        for t in tokens
    ]
    headers = ("id", "name", "roles", "created", "expires", "revoked")
    return columns(headers, rows) if rows else "no tokens but the shared one: stackctl token create"


def alert_table(alerts: Iterable[Json]) -> str:
    """One line per alert."""
    keys = ("id", "code", "severity", "count", "last_at", "title", "closed_by")
    rows = [[clean(alert.get(key)) for key in keys] for alert in alerts]
    return columns(("id", "code", "severity", "count", "last", "what", "closed by"), rows) if rows else "no alerts"

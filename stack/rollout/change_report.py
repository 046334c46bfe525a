"""The post-change report: what was planned, who allowed it, what was seen, how it ended. JSON and Markdown.

Its digest is written into the audit log when a rollout of the change ends. Asked for later it is made anew from the
same rows, up to that record, so whoever reads it sees whether it still is what was recorded then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stack.audit.append import append
from stack.audit.record import AuditRecord, plain
from stack.core.clock import Clock, stamp
from stack.core.digest import Digest
from stack.core.errors import InvalidInput
from stack.policy.statement import statement
from stack.rollout.state import Phase, RolloutState
from stack.store.approval_rows import RequestRow
from stack.store.rows import AuditRow, RolloutRow
from stack.store.store import Reading, Store, Transaction

Json = dict[str, Any]
RECORD = "change.report"
_OVER = tuple(f"rollout.{phase}" for phase in Phase if phase.final)
_TOLD = ("verdict", "comparison", "fit", "warm-up", "smoke", "smoke-stable", "operation", "health", "left-out")


class UnknownChangeReport(InvalidInput):
    """Nothing was done under {change}, so there is nothing to report."""

    hint = "Name a change (CHG-1) or a rollout (ro-...): `stackctl rollout list`."


@dataclass(frozen=True, kw_only=True)
class ChangeReporter:
    """Makes reports, and puts their digests on record."""

    store: Store
    clock: Clock

    def record(self, tx: Transaction, state: RolloutState) -> None:
        """The rollout's last step is in this transaction: what is reported of its change goes on record with it."""
        name = state.change or str(state.id)
        last = tx.last_audit()
        until = last.seq if last else 0
        body = {"rollout": str(state.id), "digest": str(_digest(_gathered(tx, name, until))), "until": until}
        record = AuditRecord(
            actor="orchestrator",
            action=RECORD,
            target=str(state.service),
            change=name,
            result=str(state.phase),
            body=body,
        )
        append(tx, record, self.clock)

    def report(self, change: str) -> Json:
        """``{"change", "report", "markdown", "digest", "recorded": seq | null, "matches": bool | null}``."""
        with self.store.reading() as tx:
            recorded = [row for row in tx.audit_of(change) if row.action == RECORD]
            until = int(recorded[-1].body["until"]) if recorded else None
            body = _gathered(tx, change, until)
        if not body["rollouts"] and not body["requests"]:
            raise UnknownChangeReport(change=repr(change)[:90])
        digest = str(_digest(body))
        last = recorded[-1] if recorded else None
        return {
            "change": change,
            "report": body,
            "markdown": markdown(body, digest, last),
            "digest": digest,
            "recorded": last.seq if last else None,
            "matches": last.body["digest"] == digest if last else None,
        }


def _digest(body: Json) -> Digest:
    return Digest.of_value(body)


def _gathered(tx: Reading, change: str, until: int | None) -> Json:
    """Everything of a change in the order it happened. With ``until``, of the rollouts that were over by that record,
    and what they used up: rows that do not change any more."""
    rows = [r for r in tx.audit_of(change) if until is None or r.seq <= until]
    rollouts = [r for r in reversed(tx.rollouts(limit=10_000)) if change in (r.state.get("change"), r.id)]
    requests = tx.requests(change=change, limit=1000) if change else ()
    if until is not None:
        over = {row.body.get("rollout") for row in rows if row.action in _OVER}
        rollouts = [r for r in rollouts if r.id in over]
        requests = tuple(r for r in requests if r.used_by in over)
    plans = {r.state["plan"] for r in rollouts} | {str(r.plan) for r in requests}
    return dict(
        plain(
            {
                "change": change,
                "plans": {digest: tx.plan(digest) for digest in sorted(plans)},
                "requests": [_request(tx, r) for r in reversed(requests)],
                "rollouts": [_rollout(tx, r) for r in rollouts],
                "timeline": [_moment(row) for row in rows],
            }
        )
    )


def _request(tx: Reading, row: RequestRow) -> Json:
    return {
        "request": str(row.id),
        "gate": row.gate,
        "environment": row.environment,
        "risk": row.risk.value,
        "requester": row.requester,
        "plan": str(row.plan),
        "policy": str(row.policy),
        "state": row.state.value,
        "reason": row.reason,
        "used_by": row.used_by,
        "asked_at": stamp(row.created_at),
        "statement": statement(row).decode(),
        "approvals": [
            {
                "person": a.person,
                "fingerprint": a.fingerprint,
                "signature": a.signature,
                "at": stamp(a.created_at),
                "taken_back_at": stamp(a.revoked_at) if a.revoked_at else None,
            }
            for a in tx.approvals(row.id)
        ],
    }


def _rollout(tx: Reading, row: RolloutRow) -> Json:
    state = RolloutState.from_json(dict(row.state))
    evidence = [e for e in tx.evidence(row.id) if e.kind in _TOLD]
    return {
        "rollout": str(row.id),
        "kind": row.kind,
        "service": str(row.service),
        "environment": state.environment,
        "requester": state.requester,
        "approval": state.approval,
        "plan": str(state.plan),
        "release": str(state.release),
        "stable_before": str(state.stable) if state.stable else None,
        "ended": str(state.phase),
        "verdict": str(state.verdict) if state.verdict else None,
        "reason": state.reason,
        "notes": list(state.notes),
        "rollback": rollback_status(state),
        "began_at": stamp(row.created_at),
        "ended_at": stamp(row.updated_at) if row.closed else None,
        "verdicts": [e.body for e in evidence if e.kind == "verdict"],
        **_memory([e.body for e in evidence if e.kind == "fit"]),
        "evidence": [
            {"phase": e.phase, "kind": e.kind, "at": stamp(e.created_at), "digest": str(Digest.of_value(plain(e.body)))}
            for e in evidence
        ],
    }


def _memory(fits: Sequence[Mapping[str, Any]]) -> Json:
    """What each replica took beside what was predicted; nothing for rollouts of releases that did not measure it."""
    names = ("replica", "host", "memory", "predicted_bytes", "measured_bytes", "overhead_source")
    rows = [{name: fit.get(name) for name in names} for fit in fits if "measured_bytes" in fit]
    return {"memory": rows} if rows else {}


def rollback_status(state: RolloutState) -> str:
    """Whether it went back, and where one could go back to."""
    if state.phase is Phase.PROMOTED:
        return f"not needed; {state.stable.short} stays warm" if state.stable else "not needed; nothing to go back to"
    if state.phase is Phase.ROLLED_BACK and state.kind == "deploy":
        return f"done: {state.stable.short} serves" if state.stable else "done: nothing serves, as before"
    if state.phase is Phase.ROLLED_BACK:
        return f"done by hand: {state.release.short} serves"
    return f"FAILED: {state.reason}" if state.phase is Phase.FAILED else "not over"


def _moment(row: AuditRow) -> Json:
    return {"seq": row.seq, "at": row.time, "actor": row.actor, "action": row.action, "result": row.result}


def markdown(body: Json, digest: str, recorded: AuditRow | None) -> str:
    """The same for people."""
    lines = [f"# Change {body['change']}", "", f"- report: {digest}"]
    if recorded is None:
        lines.append("- not on record yet: no rollout of this change is over")
    else:
        same = "matches" if recorded.body["digest"] == digest else "DOES NOT MATCH"
        lines.append(f"- {same} audit record {recorded.seq} ({recorded.body['digest']})")
    for rollout in body["rollouts"]:
        lines += _rollout_lines(rollout, body["plans"].get(rollout["plan"]) or {})
    lines += ["", "## Approvals", "", *_approval_lines(body["requests"])]
    lines += ["", "## Timeline", ""]
    lines += [f"- {m['at']} {m['actor']}: {m['action']}: {m['result']} (record {m['seq']})" for m in body["timeline"]]
    return "\n".join(lines) + "\n"


def _rollout_lines(rollout: Json, plan: Json) -> list[str]:
    release = plan.get("release", {})
    runtime = release.get("runtime", {})
    lines = [
        "",
        f"## {rollout['kind'].capitalize()} {rollout['rollout']}: {rollout['ended']}",
        "",
        f"- service: {rollout['service']} in {rollout['environment'] or 'dev'}, asked for by {rollout['requester']}",
        f"- release: {release.get('model')} on {runtime.get('distribution')} {runtime.get('version')}",
        f"- plan: {rollout['plan']}",
        f"- approval: {rollout['approval'] or 'the policies want none'}",
        f"- verdict: {rollout['verdict'] or 'none'}: {rollout['reason'] or '-'}",
        f"- rollback: {rollout['rollback']}",
        f"- from {rollout['began_at']} to {rollout['ended_at'] or 'now'}",
        *(f"- note: {note}" for note in rollout["notes"]),
    ]
    lines += [
        f"- {m['replica']} on {m['host']}: {_mib(m['predicted_bytes'])} of {m['memory']} memory predicted"
        f" ({m['overhead_source']}), {_mib(m['measured_bytes'])} measured"
        for m in rollout.get("memory", ())
    ]
    return lines + [f"- at {v.get('percent')} %: {v.get('verdict')}: {v.get('reason')}" for v in rollout["verdicts"]]


def _mib(size: int | None) -> str:
    return "unknown" if size is None else f"{size >> 20} MiB"


def _approval_lines(requests: Sequence[Json]) -> list[str]:
    if not requests:
        return ["- none were asked for"]
    lines = []
    for request in requests:
        gate = "to begin" if request["gate"] == "start" else f"before {request['gate']} %"
        lines.append(
            f"- {request['request']} {gate}: {request['risk']}, {request['state']} {request['reason']}".rstrip()
        )
        lines += [
            f"  - {given['person']} ({given['fingerprint']}) at {given['at']}"
            + (f", taken back at {given['taken_back_at']}" if given["taken_back_at"] else "")
            for given in request["approvals"]
        ]
    return lines

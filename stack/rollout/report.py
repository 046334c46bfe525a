"""Writes what is to be kept of a rollout: ``evidence.json`` and ``report.md`` in its evidence directory."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stack.core.clock import stamp
from stack.rollout.state import RolloutState
from stack.store.rows import EventRow, EvidenceRow
from stack.store.store import Store

log = logging.getLogger(__name__)
_SHOWN_CASES = 20


@dataclass(frozen=True, kw_only=True)
class Reporter:
    """A Finisher. ``root`` holds one directory for each rollout; writing twice gives the same files."""

    store: Store
    root: Path

    def directory(self, rollout: str) -> Path:
        """Where a rollout's evidence lies."""
        return self.root / rollout

    def finished(self, state: RolloutState) -> None:
        """Write both files, each whole or not at all. A full disk is said in the log; the store has it all."""
        try:
            self._write(state)
        except OSError as error:
            log.warning("the report of %s could not be written: %s", state.id, error)

    def _write(self, state: RolloutState) -> None:
        with self.store.reading() as tx:
            plan = tx.plan(state.plan)
            evidence = tx.evidence(state.id)
            events = tx.events(state.id, after=0, limit=100_000)
        place = self.directory(state.id)
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        body = {
            "rollout": state.to_json(),
            "plan": plan,
            "evidence": [
                {"at": stamp(e.created_at), "phase": e.phase, "kind": e.kind, "body": e.body} for e in evidence
            ],
            "events": [{"seq": e.seq, "at": stamp(e.created_at), "kind": e.kind, "text": e.text} for e in events],
        }
        _write(place / "evidence.json", json.dumps(body, indent=1, sort_keys=True, default=str))
        _write(place / "report.md", markdown(state, plan, evidence, events))


def _write(path: Path, text: str) -> None:
    partial = path.with_suffix(path.suffix + ".partial")
    partial.write_text(text)
    partial.replace(path)


def markdown(
    state: RolloutState, plan: Mapping[str, Any] | None, evidence: Iterable[EvidenceRow], events: Iterable[EventRow]
) -> str:
    """The report for people: outcome, verdicts with their figures, failing cases, timeline."""
    release = (plan or {}).get("release", {})
    runtime = release.get("runtime", {})
    lines = [
        f"# Rollout {state.id}: {state.phase}",
        "",
        f"- service: {state.service}, {state.kind}",
        f"- release: {state.release} ({release.get('model')}, {runtime.get('distribution')} {runtime.get('version')})",
        f"- stable when it began: {state.stable or 'none'}",
        f"- plan: {state.plan}",
        f"- verdict: {state.verdict or 'none'}: {state.reason or '-'}",
        *(f"- note: {note}" for note in state.notes),
    ]
    for item in evidence:
        lines += _section(item)
    lines += ["", "## Timeline", ""]
    lines += [f"- {stamp(e.created_at)} {e.text}" for e in events if e.kind != "progress"]
    return "\n".join(lines) + "\n"


def _section(item: EvidenceRow) -> list[str]:
    body = item.body
    if item.kind == "verdict":
        rows = [
            f"| {m['name']} | {_figure(m['value'])} | {_figure(m['low'])} | {_figure(m['high'])} "
            f"| {_figure(m['limit'])} | {m['n']} |"
            for m in body["measures"]
        ]
        head = ["", "| measure | value | low | high | limit | n |", "|---|---|---|---|---|---|"]
        return ["", f"## At {body['percent']} %: {body['verdict']}", "", body["reason"], *head, *rows]
    if item.kind == "pause":
        figures = f"{body['measured_s']:g} s; predicted {body['predicted_s']:g} s, allowed {body['longest_s']:g} s"
        return ["", f"## Pause until {body['served_by']} served: {figures}"]
    if item.kind == "comparison":
        cases = [
            f"- `{c['test']}` {c['prompt']!r}: stable {c['baseline_output']!r}, candidate {c['candidate_output']!r}"
            for c in body["failing"][:_SHOWN_CASES]
        ]
        rest = len(body["failing"]) - _SHOWN_CASES
        cases += [f"- and {rest} more in evidence.json"] if rest > 0 else []
        return ["", f"## Eval before traffic: {body['outcome']}", "", *body["reasons"], "", *cases]
    return []


def _figure(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)

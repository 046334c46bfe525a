"""What the answers look like as text. Pure: values in, lines out. What is missing is shown as ``-`` or ``unknown``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

Json = dict[str, Any]
_LONG_LIST = 70
_ROLES = ("stable", "candidate", "lkg")


def columns(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Left-aligned columns, two spaces apart."""
    lines = [tuple(headers), *(tuple("-" if cell is None else str(cell) for cell in row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(headers))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def short(digest: object) -> str:
    """The first 12 digits of a digest, for people."""
    text = str(digest or "unknown")
    return text[:19] if text.startswith("sha256:") else text


def size(count: object) -> str:
    """Bytes for people."""
    if not isinstance(count, (int, float)):
        return "-"
    number = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


def status_screen(status: Json, *, rollouts: int = 5) -> str:
    """Everything on one screen."""
    parts = [service_block(service) for service in status.get("services", [])] or ["no services yet: make deploy"]
    parts.append(processes_block(status) + "".join(f"\n{line}" for line in _desk_lines(status)))
    recent = status.get("rollouts", [])[:rollouts]
    if recent:
        parts.append(rollout_table(recent))
    return "\n\n".join(parts)


def _desk_lines(status: Json) -> Iterable[str]:
    """What waits for people; nothing where the control plane does not say."""
    from stack.cli.change_screens import alert_line, audit_line, queue_line

    if isinstance(status.get("approvals"), dict):
        yield f"approvals      {queue_line(status['approvals'])}"
    if isinstance(status.get("alerts"), dict):
        yield f"alerts         {alert_line(status['alerts'])}"
    if isinstance(status.get("audit"), dict):
        yield f"audit log      {audit_line(status['audit'])}"


def service_block(service: Json) -> str:
    """Releases by role with their weight, then the replicas."""
    weights = service.get("weights")
    rows = [_role_row(role, service.get(role), weights) for role in _ROLES]
    table = columns(("service " + str(service.get("name")), "model", "runtime", "release", "traffic"), rows)
    replicas = [_replica_line(replica) for replica in service.get("replicas") or []]
    return table + "\n" + "\n".join(replicas or ["  no replicas"])


def _role_row(role: str, release: Json | None, weights: Json | None) -> tuple[object, ...]:
    if not release:
        return (f"  {role}", None, None, None, None)
    share = "unknown" if weights is None else f"{weights.get(role, 0)} %"
    return (f"  {role}", release.get("model"), release.get("runtime"), short(release.get("release")), share)


def _replica_line(replica: Json) -> str:
    """A release is named when it is what was wanted; anything else stands out."""
    wanted, observed = replica.get("release"), replica.get("observed_digest")
    seen = "not observed" if not observed else "observed" if observed == wanted else f"BUT RUNS {short(observed)}"
    return f"  replica on {replica.get('host')}: {replica.get('state')}, {short(wanted)} {seen}{_memory(replica)}"


def _memory(replica: Json) -> str:
    """What it takes beside what was predicted; nothing where it was not measured."""
    sizes = replica.get("memory") or {}
    took, predicted = sizes.get("measured_bytes"), sizes.get("predicted_bytes")
    if type(took) is not int or type(predicted) is not int:
        return ""
    return f", takes {took >> 20} MiB ({predicted >> 20} predicted)"


def processes_block(status: Json) -> str:
    """The two processes."""
    gateway, control = status.get("gateway") or {}, status.get("control_plane") or {}
    health = "healthy" if gateway.get("healthy") is True else "NOT HEALTHY"
    table = f"table {gateway.get('table_version', 'unknown')}"
    return (
        f"gateway        {gateway.get('url')}  {health}, {table}, pid {gateway.get('pid')}\n"
        f"control plane  {control.get('url')}  pid {control.get('pid')}"
    )


def rollout_table(rollouts: Iterable[Json]) -> str:
    """One line per rollout."""
    rows = [[r.get(key) for key in ("id", "service", "kind", "state", "verdict", "reason")] for r in rollouts]
    return columns(("rollout", "service", "kind", "state", "verdict", "reason"), rows)


def plan_screen(body: Json) -> str:
    """What would be done and what it still needs, in a few lines; then the plan itself, whole."""
    plan = body.get("body")
    if not isinstance(plan, dict) or not isinstance(plan.get("release"), dict):
        return plan_text(body)
    release, approvals = plan["release"], body.get("approvals") or {}
    runtime = release.get("runtime") or {}
    engine = f"{runtime.get('engine')}/{runtime.get('distribution')} {runtime.get('version')}"
    facts = [
        ("from", short(plan["stable"]) if plan.get("stable") else "nothing"),
        ("to", f"{release.get('model')} on {engine}, {short(plan.get('release_digest'))}"),
        ("hosts", ", ".join(map(str, plan.get("hosts") or []))),
        ("risk", f"{body.get('risk', 'unknown')} in {plan.get('environment')}"),
        *(("way", f"{host}: {way}") for host, way in (body.get("ways") or {}).items()),
        ("plan", body.get("digest")),
        *(("missing", text) for text in approvals.get("missing") or []),
    ]
    head = "nothing to do: " if body.get("nothing_to_do") else ""
    lines = [f"{head}{plan.get('kind')} {plan.get('service')} in {plan.get('environment')}"]
    lines += [f"  {name:<8} {value}" for name, value in facts]
    lines += ["", "steps", *(f"  {number}. {step}" for number, step in enumerate(body.get("steps") or [], start=1))]
    return "\n".join([*lines, "", "the plan, whole (its digest is of this)", *_facts(plan, "  ")])


def plan_text(plan: Json) -> str:
    """A plan's facts, one per line; nested ones indented."""
    return "\n".join(_facts(plan, ""))


def _facts(value: Json, indent: str) -> Iterable[str]:
    for key, item in value.items():
        if isinstance(item, dict):
            yield f"{indent}{key}:"
            yield from _facts(item, indent + "  ")
        elif isinstance(item, list) and (any(isinstance(one, dict) for one in item) or len(str(item)) > _LONG_LIST):
            yield f"{indent}{key}:"
            yield from (f"{indent}  - {_one_line(one)}" for one in item)
        else:
            shown = ", ".join(map(str, item)) if isinstance(item, list) else item
            yield f"{indent}{key}: {'-' if shown in (None, '') else shown}"


def _one_line(value: object) -> str:
    return ", ".join(f"{key} {item}" for key, item in value.items()) if isinstance(value, dict) else str(value)


def model_table(models: Iterable[Json]) -> str:
    """One line per registered version."""
    rows = [[m.get("ref"), m.get("format"), size(m.get("bytes")), short(m.get("digest"))] for m in models]
    return columns(("model", "format", "size", "digest"), rows) if rows else "no models registered"


def diff_text(diff: Json) -> str:
    """The drift, or that there is none."""
    if diff.get("in_sync") is True:
        return "in sync: what runs is what stack.yaml says"
    rows = [[d.get("what"), d.get("desired"), d.get("observed")] for d in diff.get("differences", [])]
    return columns(("what", "desired", "observed"), rows)

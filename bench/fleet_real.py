"""Rollouts over 1, 3 and 10 real SSH hosts of this machine (``demo.hosts``), with the real Ansible and engine.

A first release and a canary for each number of hosts, on fresh hosts: seconds by phase from the rollout's own events,
and the CPU that the control plane and the ansible-playbook processes that it started used. The hosts' own work (runtime
install, engine load, answers) is done by this one machine too, so walls grow with hosts here that would not elsewhere;
the control side's CPU is not mixed with it.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.figures import Figure
from bench.stage import BenchFailed, Stage, free_ports
from bench.timeline import spent
from demo.fleet import prepare, stack_yaml
from demo.hosts import HostGroup, HostsImpossible, down, up

COUNTS = (1, 3, 10)
QUICK = (1,)
HOLD = ("min_requests: 60, min_seconds: 2,", "min_requests: 60, min_seconds: 1,")
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, kw_only=True)
class Used:
    """CPU seconds of the control plane so far: its own, and of the processes that it started and that have ended."""

    own: float
    started: float


def used(pid: int) -> Used:
    """From the kernel; ssh's kept connections, which have left the process tree, are not in it."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    own, started = sum(map(int, words[11:13])), sum(map(int, words[13:15]))
    return Used(own=own / _TICK, started=started / _TICK)


def measure(*, quick: bool) -> tuple[list[Figure], dict[str, Any]]:
    """Every count on hosts of its own; nothing, and a word why, where this machine permits no hosts."""
    found: dict[int, dict[str, Any]] = {}
    for count in QUICK if quick else COUNTS:
        try:
            found[count] = _one(count)
        except HostsImpossible as error:
            print(f"no real hosts here: {error}", file=sys.stderr)
            return [Figure(name="rollout over real SSH hosts", unit="s", values=(), note=str(error))], {}
        print(f"{count} real hosts: {found[count]}", file=sys.stderr, flush=True)
    figures = [figure for count, seen in found.items() for figure in _figures(count, seen)]
    return figures, {str(count): seen for count, seen in found.items()}


def _figures(count: int, seen: Mapping[str, Any]) -> list[Figure]:
    def figure(name: str, value: float, unit: str = "s") -> Figure:
        return Figure(name=name, unit=unit, values=(value,))

    hosts = f"{count} SSH host{'s' if count > 1 else ''}"
    rows = []
    for name, one in seen.items():
        rows += [
            figure(f"{name} over {hosts}", one["seconds"]),
            figure("  start on the hosts, without the runtime's install", one["phases"].get("placing", 0.0)),
            figure("  Ansible's CPU, for each host", one["ansible_cpu_s"] / count, "CPU s"),
            figure("  control plane's CPU, for each host", one["own_cpu_s"] / count, "CPU s"),
        ]
    return rows


def _one(count: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="sb-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with _hosts(folder / "hosts", count) as group:
            prepare(group, folder)
            return _both(group, folder)


def _both(group: HostGroup, folder: Path) -> dict[str, Any]:
    """First release, then canary, over these hosts."""
    (folder / "stack.yaml").write_text(stack_yaml(group).replace(*HOLD))
    one, two = free_ports(2)
    where = Stage(home=folder / "home", gateway_port=one, admin_port=two, patience_s=900.0)
    try:
        where.stackctl("up", "--stack", str(folder / "stack.yaml"))
        first = _rollout(where, "tiny-1.0")
        return {"first release": first, "canary": _rollout(where, "tiny-1.1")}
    finally:
        where.stackctl("down", codes=tuple(range(8)))


def _rollout(where: Stage, model: str) -> dict[str, Any]:
    pid = where.pids()["control-plane"]
    before = used(pid)
    ran = where.stackctl("deploy", "--model", f"models/{model}.yaml")
    after = used(pid)
    evidence = where.evidence()
    if evidence["rollout"]["phase"] != "promoted":
        raise BenchFailed(f"{model} was not promoted: {evidence['rollout']['reason']}")
    return {
        "seconds": ran.seconds,
        "phases": dict(spent(evidence["events"]).phases),
        "own_cpu_s": after.own - before.own,
        "ansible_cpu_s": after.started - before.started,
    }


@contextmanager
def _hosts(folder: Path, count: int) -> Iterator[HostGroup]:
    group = up(folder, count=count, tell=lambda line: print(line, file=sys.stderr, flush=True))
    try:
        yield group
    finally:
        down(folder)

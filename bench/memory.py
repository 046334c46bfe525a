"""What the two processes cost while nothing happens, and how long the command line takes to say anything.

Memory is read from /proc/PID/smaps_rollup after a first release was deployed and nothing was asked for a while. PSS is
the figure (pages shared with other processes are counted by share); RSS is shown beside it.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from bench.figures import Figure, Report
from bench.stage import BenchFailed, Stage, stage

TARGET_MB = 200.0
TARGET_HELP_S = 0.3


def rollup(pid: int) -> dict[str, float]:
    """PSS and RSS of a process in megabytes (10^6 bytes)."""
    found = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, value = line.split()[:2]
        if name in ("Rss:", "Pss:"):
            found[name.rstrip(":").lower()] = int(value) * 1024 / 1e6
    return found


def both(pids: dict[str, int]) -> dict[str, Any]:
    """Each process and their sum; refuses a sum of one process."""
    if set(pids) != {"gateway", "control-plane"}:
        raise BenchFailed(f"two processes should run, there are: {sorted(pids)}")
    each = {name: rollup(pid) for name, pid in sorted(pids.items())}
    return {**each, "together": {kind: sum(one[kind] for one in each.values()) for kind in ("pss", "rss")}}


def help_seconds(where: Stage, rounds: int) -> list[float]:
    """``stackctl --help``, process start to end; the first run, which reads from disk, is not counted."""
    where.stackctl("--help")
    return [where.stackctl("--help").seconds for _ in range(rounds)]


def measure(*, quick: bool) -> Report:
    """Deploy, sit still, look."""
    idle_s, looks = (2, 1) if quick else (10, 3)
    with stage() as where:
        took = help_seconds(where, 3 if quick else 10)
        before = _before_deploy(where, idle_s)
        where.stackctl("deploy")
        seen = []
        for _ in range(looks):
            time.sleep(idle_s)
            seen.append(both(where.pids()))
            print(f"memory: {_words(seen[-1])}", file=sys.stderr, flush=True)
    figures = (
        _figure("idle memory, control plane + gateway", seen, "together", "pss", TARGET_MB),
        _figure("  control plane", seen, "control-plane", "pss"),
        _figure("  gateway", seen, "gateway", "pss"),
        _figure("  the same as RSS, together", seen, "together", "rss"),
        Figure(name="stackctl --help", unit="s", values=tuple(took), target=TARGET_HELP_S),
    )
    return Report(bench="memory", figures=figures, details={"looks": seen, "before_deploy": before, "idle_s": idle_s})


def _before_deploy(where: Stage, idle_s: float) -> dict[str, Any]:
    where.stackctl("up")
    time.sleep(idle_s)
    return both(where.pids())


def _figure(name: str, seen: list[dict[str, Any]], who: str, kind: str, target: float | None = None) -> Figure:
    return Figure(name=name, unit="MB", values=tuple(look[who][kind] for look in seen), target=target)


def _words(look: dict[str, Any]) -> str:
    return ", ".join(f"{name} {one['pss']:.0f} MB" for name, one in look.items())

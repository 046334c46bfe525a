"""``python -m bench [NAME|all] [--quick]``: measures one bench or all of them (``BENCHES``) and prints one table.

What was found is kept in bench/out/*.json. Ends with 0 whenever it could measure: figures are not tests, and what is
over its target says OVER.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import audit, fit, fleet, memory, rollout, takeover, transfer
from bench.figures import OUT, Figure, Report, machine, table
from bench.stage import ROOT, BenchFailed

BENCHES = ("registry", "gateway", "rollout", "memory", "audit", "fit", "fleet", "takeover", "transfer")


def main(argv: list[str] | None = None) -> int:
    """Run what was asked for, one after the other, so that none disturbs another."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("what", nargs="?", choices=(*BENCHES, "all"), default="all")
    parser.add_argument("--quick", action="store_true", help="fewer and smaller rounds: does it work, roughly how fast")
    parser.add_argument("--out", type=Path, default=OUT, help="where JSON is kept (bench/out)")
    given = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is taken down
    run: dict[str, Callable[[], Report]] = {
        "registry": lambda: registry(quick=given.quick),
        "gateway": lambda: gateway(quick=given.quick),
        "rollout": lambda: rollout.measure(quick=given.quick),
        "memory": lambda: memory.measure(quick=given.quick),
        "audit": lambda: audit.measure(quick=given.quick),
        "fit": lambda: fit.measure(quick=given.quick),
        "fleet": lambda: fleet.measure(quick=given.quick),
        "takeover": lambda: takeover.measure(quick=given.quick),
        "transfer": lambda: transfer.measure(quick=given.quick),
    }
    failed = 0
    figures: list[Figure] = []
    lines: list[str] = []
    for name in BENCHES if given.what == "all" else (given.what,):
        print(f"== {name}", file=sys.stderr, flush=True)
        before = machine()
        try:
            report = run[name]()
        except (BenchFailed, subprocess.SubprocessError) as error:
            print(f"bench: {name} could not be measured: {error}", file=sys.stderr)
            failed += 1
            continue
        after = machine()
        report.keep(given.out, {"before": before, "after": after})
        figures += report.figures
        lines += [*report.lines, _doing(name, before, after)]
    print("\n".join(lines))
    print()
    print(table(figures))
    print(f"\nkept in {given.out}")
    return 1 if failed else 0


def _doing(name: str, before: dict[str, Any], after: dict[str, Any]) -> str:
    loads = [", ".join(str(x) for x in seen["load_1_5_15_min"]) for seen in (before, after)]
    return f"{name}: {after['cores']} cores, load average before {loads[0]}, after {loads[1]}"


def _script(name: str, *words: str) -> dict[str, Any]:
    """Run a bench that is a script; what it wrote."""
    out = OUT / f"{name}.json"
    out.unlink(missing_ok=True)
    subprocess.run(
        [sys.executable, str(ROOT / "bench" / f"{name}.py"), *words], cwd=ROOT, check=True, stdout=sys.stderr
    )
    return dict(json.loads(Path(out).read_text()))


def registry(*, quick: bool) -> Report:
    """``bench/registry.py``: ratios to ``cp`` and ``sha256sum``, each of one round's own times."""
    body = _script("registry", "--size", "128MiB" if quick else "1GiB", "--rounds", "1" if quick else "3")
    figures = [
        Figure(name=name, unit="", values=(ratio["low"], ratio["median"], ratio["high"]), target=ratio["target"])
        for name, ratio in body["ratios"].items()
    ]
    figures += [
        Figure(
            name=f"memory for registering {name}, beyond the imports", unit="MiB", values=(m["peak"] - m["imports"],)
        )
        for name, m in body["memory_mib"].items()
    ]
    return Report(bench="registry", figures=tuple(figures), details=body)


def gateway(*, quick: bool) -> Report:
    """``bench/gateway.py``: CPU time per request and per streamed event; ratios to nginx where it is installed."""
    sizes = ("--rounds", "2", "--requests", "2000", "--streams", "16") if quick else ("--rounds", "5")
    body = _script("gateway", *sizes)
    figures = []
    for kind in ("request", "event"):
        for proxy, rows in body["rounds"].items():
            figures.append(Figure(name=f"{proxy}: CPU per {kind}", unit="us", values=tuple(rows[kind])))
        ratio = body.get(f"ratio_{kind}")
        values = () if ratio is None else (float(ratio),)
        note = "ratio of medians" if values else "nginx is not installed"
        name = f"CPU per {kind}, gateway / nginx"
        figures.append(Figure(name=name, unit="", values=values, target=float(body["target_ratio"]), note=note))
    return Report(bench="gateway", figures=tuple(figures), details=body)


if __name__ == "__main__":
    sys.exit(main())

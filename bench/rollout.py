"""How long a rollout takes beside what it must wait for, and how long the way back takes.

With the real ``stackctl``, engine and Ansible on the local host, in a state directory of its own:

- **overhead**: from the start of the command to its end, minus what any rollout waits for: the runtime's install, the
  engine's load and warm-up, smoke prompts, evals and holds. Left are preflight, Ansible, routing tables, records, and
  the command line. The phases come from the events that the rollout itself recorded.
- **canary**: 1.0 -> 1.1 through all rungs, from the start of the command to its end.
- **nothing to do**: the same deploy once more.
- **rollback to a warm last known good**: from the start of ``stackctl rollback`` to the first of at least fifty
  answers, each on a connection of its own, after which none came from another release; and to the command's end. A
  client asks all the while, and an answer that is not 200 is counted.

How long a breach takes to be answered is in ``bench/breach.py``.
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from bench import breach
from bench.figures import Figure, Report, number
from bench.stage import BenchFailed, Ran, Stage, stage
from bench.timeline import WAITED_FOR, Spent, spent

ONE, TWO = "models/tiny-1.0.yaml", "models/tiny-1.1.yaml"
IN_A_ROW = 50
QUESTION = json.dumps({"model": "tiny", "max_tokens": 1, "messages": [{"role": "user", "content": "Hello"}]})


@dataclass(kw_only=True)
class Watch:
    """A client that asks one question after the other and remembers who answered when."""

    where: Stage
    answers: list[tuple[float, int, str]] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Watch:
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(timeout=30)

    def switched(self, release: str) -> float:
        """When the answers that are all from ``release`` began (monotonic seconds)."""
        since = 0
        for number_, (_, status, from_) in enumerate(self.answers):
            if status != 200 or from_ != release:
                since = number_ + 1
        if len(self.answers) - since < IN_A_ROW:
            raise BenchFailed(f"only {len(self.answers) - since} of the last answers are from {release}")
        return self.answers[since][0]

    @property
    def failed(self) -> int:
        """Answers that are not 200."""
        return sum(status != 200 for _, status, _ in self.answers)

    def _ask(self) -> None:
        while not self._over.is_set():
            status, release = _one(self.where)
            self.answers.append((time.perf_counter(), status, release))
            time.sleep(0.005)


def _one(where: Stage) -> tuple[int, str]:
    wire = http.client.HTTPConnection("127.0.0.1", where.gateway_port, timeout=30)
    head = {"authorization": f"Bearer {where.key()}", "content-type": "application/json"}
    try:
        wire.request("POST", "/v1/chat/completions", QUESTION, head)
        answer = wire.getresponse()
        answer.read()
        return answer.status, answer.getheader("x-stack-release", "")
    except (OSError, http.client.HTTPException):
        return 0, ""
    finally:
        wire.close()


@dataclass(kw_only=True)
class Measured:
    """What the rounds gave."""

    first: list[float] = field(default_factory=list)
    overhead: list[float] = field(default_factory=list)
    canary: list[float] = field(default_factory=list)
    nothing: list[float] = field(default_factory=list)
    switched: list[float] = field(default_factory=list)
    rolled_back: list[float] = field(default_factory=list)
    failed: list[float] = field(default_factory=list)
    phases: list[dict[str, float]] = field(default_factory=list)


def deploy(where: Stage, manifest: str) -> tuple[Ran, Spent]:
    """One deploy to its end."""
    ran = where.stackctl("deploy", "--model", manifest)
    return ran, spent(where.evidence()["events"])


def outside(ran: Ran, inside: Spent) -> float:
    """The command's seconds that are not between the rollout's first and last event."""
    return ran.seconds - (inside.ended - inside.began)


def back(where: Stage, found: Measured) -> None:
    """One rollback under a client's eyes."""
    lkg = where.json("status")["services"][0]["lkg"]["release"]
    with Watch(where=where) as watch:
        time.sleep(0.2)
        begun = time.perf_counter()
        ran = where.stackctl("rollback")
        time.sleep(0.5)
    found.switched.append(watch.switched(lkg) - begun)
    found.rolled_back.append(ran.seconds)
    found.failed.append(float(watch.failed))


def one_round(where: Stage, found: Measured) -> None:
    """Canary to 1.1, the same once more, and back to 1.0."""
    ran, inside = deploy(where, TWO)
    extra = outside(ran, inside)
    found.canary.append(ran.seconds)
    found.overhead.append(inside.overhead + extra)
    found.phases.append({**inside.phases, "command line": extra})
    again = where.stackctl("deploy", "--model", TWO)
    if "nothing to do" not in again.out:
        raise BenchFailed(f"a second deploy did something:\n{again.out[-1000:]}")
    found.nothing.append(again.seconds)
    back(where, found)
    print(f"canary {ran.seconds:.1f} s, back {found.switched[-1]:.2f} s", file=sys.stderr, flush=True)


def measure(*, quick: bool) -> Report:
    """The first release, then the rounds; then breaches."""
    rounds = 1 if quick else 5
    found = Measured()
    with stage() as where:
        where.stackctl("up")
        ran, inside = deploy(where, ONE)
        found.first.append(inside.overhead + outside(ran, inside))
        first_phases = {**inside.phases, "command line": outside(ran, inside)}
        for _ in range(rounds):
            one_round(where, found)
    breaches = breach.measure(rounds=2 if quick else 20)
    details: dict[str, Any] = {"first": first_phases, "canaries": found.phases, "breaches": breaches.details}
    figures = (*_figures(found), *breaches.figures)
    lines = (*breakdown("first release 1.0", [first_phases]), *breakdown("canary 1.0 -> 1.1", found.phases))
    return Report(bench="rollout", figures=figures, details=details, lines=lines)


def _figures(found: Measured) -> tuple[Figure, ...]:
    def seconds(name: str, values: list[float], target: float | None = None) -> Figure:
        return Figure(name=name, unit="s", values=tuple(values), target=target)

    return (
        seconds("rollout overhead, first release", found.first, 10.0),
        seconds("rollout overhead, canary", found.overhead, 10.0),
        seconds("canary 1.0 -> 1.1, whole command", found.canary, 90.0),
        seconds("deploy with nothing to do", found.nothing),
        seconds("rollback to warm LKG: all answers from it", found.switched, 5.0),
        seconds("rollback to warm LKG: end of the command", found.rolled_back, 5.0),
        Figure(name="failed answers during a rollback", unit="", values=tuple(found.failed), target=0.0),
    )


def breakdown(title: str, rounds: list[dict[str, float]]) -> list[str]:
    """Mean seconds of each phase; a star marks what is waited for and so no overhead."""
    names = list(dict.fromkeys(name for one in rounds for name in one))
    lines = [f"{title}: seconds by phase, mean of {len(rounds)} (* is no overhead)"]
    for name in names:
        mean = sum(one.get(name, 0.0) for one in rounds) / len(rounds)
        lines.append(f"  {name + (' *' if name in WAITED_FOR else ''):20}{number(mean):>8}")
    return lines

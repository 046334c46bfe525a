"""Makes the databases of an older release in every phase of a rollout, from a checkout of that release.

    git worktree add /tmp/older 7617985
    PYTHONPATH=/tmp/older:/tmp/older/tests/faults python tests/upgrade/make_fixtures.py /tmp/older

The older code runs: its control plane in this process, its gateway in one of its own, and small servers that stand in
for engines. Whenever a phase begins its effect the database is copied as it is then: what a SIGKILL at that moment
leaves. The copies go to ``fixtures/databases.tar.xz`` as ``<scenario>-<phase>.sql``; beside it lie the stack file and
the suites of the plans, without the paths of the machine.
"""

from __future__ import annotations

import io
import shutil
import socket
import sqlite3
import sys
import tarfile
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import stand_in
import yaml
from running_stack import MODELS, until

from stack.app import wiring
from stack.rollout.machine import Failed, Judged, Observation
from stack.rollout.performer import RolloutPerformer
from stack.rollout.state import Phase, RolloutState, Verdict
from stack.rollout.worker import Context

FIXTURES = Path(__file__).parent / "fixtures"
PATIENT = {
    "thresholds": {"max_latency_p95_s": 20.0, "max_ttft_p95_s": 20.0},
    "timeouts": {"ready_s": 30, "warm_s": 30},
}
RUNGS = (Phase.SHIFTING, Phase.HOLDING)
KEPT = {
    "first": ("planned", "placing", "evaluating", "shifting", "holding", "promoting", "retiring"),
    "deploy": ("",),
    "back": ("",),
    "worse": ("reverting", "confirming", "cleaning"),
    "early": ("cleaning",),
    "unsure": ("paused",),
    "quiet": ("paused",),
    "cold": ("checking", "placing", "warming", "switching", "confirming"),
    "coldfail": ("cleaning",),
}
"""By scenario, how the phases begin that it is kept for: others are there already."""


@dataclass
class Camera:
    """A performer that copies the database before each effect; ``forced``: what it reports instead of doing it."""

    inner: RolloutPerformer
    database: Path
    scenario: str = ""
    forced: dict[tuple[Phase, int], Observation] = field(default_factory=dict)
    taken: dict[str, str] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def perform(self, state: RolloutState, context: Context) -> Observation:
        rung = f"-{state.ladder[state.rung]}" if state.phase in RUNGS else ""
        self.take(f"{state.phase}{rung}")
        return self.forced.pop((state.phase, state.rung), None) or self.inner.perform(state, context)

    def take(self, name: str) -> None:
        with self.lock:
            if self.scenario and name.startswith(KEPT[self.scenario]):
                self.taken.setdefault(f"{self.scenario}-{name}", dump(self.database))


def dump(database: Path) -> str:
    copy = sqlite3.connect(":memory:")
    source = sqlite3.connect(database, timeout=20)
    source.backup(copy)
    source.close()
    text = "\n".join(copy.iterdump()) + "\n"
    return text.replace(str(database.parent), "/srv/stack").replace(socket.gethostname(), "older")


def story(made: stand_in.StandInStack, camera: Camera) -> None:
    """Every scenario, one after the other, on one stack."""
    silence = Judged(verdict=Verdict.INCONCLUSIVE, reason="too little was seen")
    worse = Judged(verdict=Verdict.ROLLBACK, reason="it answers worse")

    def run(scenario: str, begin: Callable[[], str], *ends: str, **forced: Any) -> str:
        camera.scenario, camera.forced = scenario, dict(forced.get("forced", {}))
        rollout = begin()
        until(lambda: made.phase(rollout) in ends, 120)
        if made.phase(rollout) == "paused":
            camera.take("paused")
            made.operator.abort(rollout, "enough", "ann")
            camera.scenario = ""
            until(lambda: made.phase(rollout) == "rolled_back", 120)
        print(scenario, made.phase(rollout), flush=True)
        camera.scenario = ""
        return rollout

    def deploy(model: str) -> Callable[[], str]:
        return lambda: made.begin(model)

    def back() -> str:
        return str(made.operator.rollback({})["rollout"])

    run("first", deploy("1.0"), "promoted")
    run("deploy", deploy("1.1"), "promoted")
    run("back", back, "rolled_back")
    run("worse", deploy("1.1"), "rolled_back", forced={(Phase.HOLDING, 1): worse})
    run("early", deploy("1.1"), "rolled_back", forced={(Phase.WARMING, 0): Failed(reason="it does not load")})
    run("unsure", deploy("1.1"), "paused", forced={(Phase.EVALUATING, 0): silence})
    run("quiet", deploy("1.1"), "paused", forced={(Phase.HOLDING, 1): silence})
    run("", deploy("1.1"), "promoted")
    end_last_known_good(made)
    run("coldfail", back, "failed", forced={(Phase.WARMING, 0): Failed(reason="it does not load")})
    run("cold", back, "rolled_back")


def end_last_known_good(made: stand_in.StandInStack) -> None:
    """So that the way back has to start it first."""
    for row in made.files.rows("select id from replicas where slice = 'lkg' and state = 'ready'"):
        made.host.end(row["id"])


def write(taken: dict[str, str], stack_yaml: Path) -> None:
    """Beside this file; the stack file without the paths of this machine."""
    FIXTURES.mkdir(exist_ok=True)
    with tarfile.open(FIXTURES / "databases.tar.xz", "w:xz", preset=9) as archive:
        for name, text in sorted(taken.items()):
            member = tarfile.TarInfo(f"{name}.sql")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    settings = yaml.safe_load(stack_yaml.read_text(encoding="utf-8"))
    service = settings["services"][0]
    for name in ("smoke", "eval"):
        shutil.copy(service["suites"][name], FIXTURES / f"{name}.yaml")
        service["suites"][name] = f"{name}.yaml"
    service["model"] = "@MODELS@/tiny-1.0.yaml"
    settings.pop("policies", None)
    text = yaml.safe_dump(settings, sort_keys=False)
    assert str(MODELS) not in text
    (FIXTURES / "stack.yaml").write_text(text, encoding="utf-8")


def main() -> int:
    """Needs about half a minute."""
    assert Path(wiring.__file__).is_relative_to(Path(sys.argv[1]).resolve()), "PYTHONPATH names another checkout"
    patch = pytest.MonkeyPatch()
    cameras: list[Camera] = []

    def camera_for(**parts: Any) -> Camera:
        inner = RolloutPerformer(**parts)
        cameras.append(Camera(inner, database=Path(folder, "s", "home", "state.db")))
        return cameras[0]

    with tempfile.TemporaryDirectory() as folder:
        patch.setattr(wiring, "RolloutPerformer", camera_for)
        with stand_in.stand_in_stack(Path(folder, "s"), patch, PATIENT) as made:
            assert cameras[0].database == made.files.home / "state.db", "moved"
            story(made, cameras[0])
            write(cameras[0].taken, made.files.stack_yaml)
    patch.undo()
    print(f"{len(cameras[0].taken)} databases in {FIXTURES}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

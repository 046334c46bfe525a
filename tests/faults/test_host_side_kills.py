"""kill -9 of what does the work on an SSH host, at random moments: the operation, asked for again, finds or makes what
is true, or it has failed and says so. It is never taken for done unless its effect is seen on the host.

STACK_TEST_HOST_KILLS sets how many kills (6; the kinds come in turns); STACK_TEST_SEED repeats a run.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from fleet_stack import lines_of, ssh_hosts
from host_victims import Killer, Victim, Words, ended, processes
from running_stack import MODELS, REPOSITORY, digest_of, until

from demo.hosts import HostGroup, TestHost
from stack.core.names import HostName, OperationId
from stack.fleet import AnsibleDoor, Host, Operation, OperationResult
from tests.fleet.conftest_fleet import artifact_digest, launch_variables

pytestmark = [pytest.mark.faults, pytest.mark.hosts, pytest.mark.timeout(6000)]
KILLS = int(os.environ.get("STACK_TEST_HOST_KILLS") or 6)
MODEL = MODELS / "tiny-1.0" / "gguf"
ROOT = "/opt/stack"
Doing = Literal["deploy", "drain", "install"]


def tool(name: str, verb: str) -> Callable[[Words], bool]:
    return lambda words: len(words) > 2 and words[1] == f"{ROOT}/bin/{name}" and words[2] == verb


def fence(step: str) -> Callable[[Words], bool]:
    return lambda words: tool("fence.py", "step")(words) and words[5].startswith(step)


def pip(words: Words) -> bool:
    return "pip" in words and "install" in words and "--require-hashes" in words


def engine(words: Words) -> bool:
    return len(words) > 1 and any(word.startswith(f"{ROOT}/bin/launch") for word in words[:4])


def supervisord(words: Words) -> bool:
    return len(words) > 1 and words[1].startswith(f"{ROOT}/runtimes/") and words[1].endswith("/supervisord")


def session(words: Words) -> bool:
    return words[0].startswith(("sshd: root", "sshd-session: root")) and "[listener]" not in words[0]


VICTIMS: tuple[tuple[Doing, str, Victim], ...] = (
    ("deploy", "start", Victim(name="fence.py step start", which=fence("start"), within_s=0.8)),
    ("install", "runtime.", Victim(name="runtime.py install", which=tool("runtime.py", "install"), within_s=3.0)),
    ("deploy", "start", Victim(name="replica.py start", which=tool("replica.py", "start"), within_s=0.6)),
    ("deploy", "place", Victim(name="artifact.py place", which=tool("artifact.py", "place"), within_s=0.1)),
    (
        "deploy",
        "start",
        Victim(name="supervisord", which=supervisord, within_s=0.8, after=tool("replica.py", "start")),
    ),
    ("drain", "stop", Victim(name="replica.py stop", which=tool("replica.py", "stop"), within_s=0.5)),
    ("deploy", "start", Victim(name="sshd session", which=session, within_s=0.8, after=tool("fence.py", "step"))),
    ("deploy", "start", Victim(name="engine", which=engine, within_s=1.0)),
    ("drain", "stop", Victim(name="fence.py step stop", which=fence("stop"), within_s=0.5)),
    ("install", "runtime.", Victim(name="pip", which=pip, within_s=2.0)),
    ("deploy", "place", Victim(name="fence.py step place", which=fence("place"), within_s=0.2)),
    ("install", "runtime.", Victim(name="fence.py step runtime", which=fence("runtime."), within_s=3.0)),
)


@dataclass(frozen=True, kw_only=True)
class Target:
    """One host with the door to it."""

    group: HostGroup
    made: TestHost
    door: AnsibleDoor

    @property
    def root(self) -> Path:
        return self.group.machine(self.made).root / ROOT.lstrip("/")

    def run(self, name: str, playbook: str, epoch: int, variables: dict[str, Any]) -> OperationResult:
        host = Host(name=HostName(self.made.name), connection="ssh", address=self.made.address, user="root", root=ROOT)
        return self.door.run(
            Operation(
                op_id=OperationId(name), epoch=epoch, host=host, playbook=playbook, variables=variables, timeout_s=180
            )
        )

    def variables(self, replica: str, port: int) -> dict[str, Any]:
        values = launch_variables(MODEL, port)
        return {**values, "bind_address": self.made.address, "replica_id": replica}

    def engines(self, replica: str) -> list[int]:
        folder = f"{ROOT}/replicas/{replica}"
        return [p.pid for p in processes(self.group, self.made) if engine(p.words) and folder in p.words]

    def answers(self, port: int) -> bool:
        wire = http.client.HTTPConnection(self.made.address, port, timeout=20)
        body = json.dumps({"prompt": "a b c", "max_tokens": 4, "temperature": 0})
        try:
            wire.request("POST", "/v1/completions", body, {"content-type": "application/json"})
            answer = wire.getresponse()
            return answer.status == 200 and bool(json.loads(answer.read())["choices"][0]["text"])
        except (OSError, http.client.HTTPException, ValueError, KeyError, IndexError):
            return False
        finally:
            wire.close()

    def recorded(self, operation: str, step: str) -> str:
        """What the fence says of a step: its state, or nothing."""
        try:
            steps = json.loads((self.root / "fence" / "ops" / f"{operation}.json").read_text())["steps"]
        except FileNotFoundError:
            return ""
        return next((str(known["state"]) for name, known in steps.items() if name.startswith(step)), "")

    def last_event(self, operation: str, step: str) -> str:
        """The last that the fence wrote down of a step."""
        lines = lines_of(self.root / "fence" / "journal.jsonl")
        said = [line["event"] for line in lines if line["op"] == operation and line["step"].startswith(step)]
        return str(said[-1]) if said else ""

    def without_supervisor(self) -> None:
        """As on a host where supervisord was never installed."""
        for process in processes(self.group, self.made):
            if supervisord(process.words):
                os.kill(process.pid, 9)
        until(lambda: ended(self.group, self.made, supervisord))
        for folder in (self.root / "runtimes").glob("supervisor-*"):
            shutil.rmtree(folder) if folder.is_dir() else folder.unlink()


@pytest.fixture
def targets(tmp_path: Path) -> Iterator[list[Target]]:
    """Three hosts; for few kills one, whose engine is installed sooner."""
    with ssh_hosts(3 if KILLS > 12 else 1) as group:
        door = AnsibleDoor(
            project=REPOSITORY / "playbooks",
            runner_dir=tmp_path / "runner",
            known_hosts=group.known_hosts,
            identity=group.key,
        )
        yield [Target(group=group, made=host, door=door) for host in group.hosts]


def is_served(target: Target, replica: str, port: int) -> bool:
    """The effect of a deploy, seen from outside: one engine from this replica's folder, on the right bytes, answers."""
    placed = target.root / "artifacts" / artifact_digest(MODEL)[7:]
    right = [digest_of(path) for path in sorted(MODEL.rglob("*")) if path.is_file()]
    there = [digest_of(path) for path in sorted(placed.rglob("*")) if path.is_file()]
    return there == right and until(lambda: target.answers(port), 60) and len(target.engines(replica)) >= 1


def claims(result: OperationResult, doing: Doing, replica: str) -> bool:
    """Would a rollout go on after this? It asks for the outcome and for the replica as the host shows it."""
    row = result.replica(replica)
    shown = row is not None and row["state"] in ("starting", "running")
    return result.succeeded and (shown or doing == "drain")


def is_true(target: Target, doing: Doing, replica: str, port: int) -> bool:
    return not target.engines(replica) if doing == "drain" else is_served(target, replica, port)


def test_what_died_on_a_host_is_never_taken_for_done(
    targets: list[Target], chance: random.Random, counted: Callable[[str], None]
) -> None:
    outcomes: dict[str, Counter[str]] = {victim.name: Counter() for _, _, victim in VICTIMS}
    missed: Counter[str] = Counter()
    number = 0
    while (kills := sum(map(Counter.total, outcomes.values()))) < KILLS:
        number += 1
        doing, step, victim = VICTIMS[(kills + missed.total()) % len(VICTIMS)]
        end = _one_kill(targets[number % len(targets)], number, doing, step, victim, chance)
        if end:
            outcomes[victim.name][end] += 1
        else:
            missed[victim.name] += 1
            assert missed.total() <= KILLS, f"they end before they can be killed: {missed}"
    total = sum(outcomes.values(), Counter())
    counted(f"{total.total()} kills on {len(targets)} SSH hosts: " + ", ".join(f"{n} {e}" for e, n in total.items()))
    counted("  never done without its effect: 0 of those; " + f"{missed.total()} victims ended before they were hit")
    for name, ends in outcomes.items():
        if ends:
            counted(f"  {name}: " + ", ".join(f"{times} {end}" for end, times in ends.items()))


def _one_kill(target: Target, number: int, doing: Doing, step: str, victim: Victim, chance: random.Random) -> str:
    """How one operation ended whose worker was killed; nothing if nobody was hit."""
    replica, port = f"r{number}", 21000 + number
    epoch, operation = number * 10, f"op-{number}"
    wanted = target.variables(replica, port)
    playbook = "deploy.yml"
    if doing == "install":
        target.without_supervisor()
    if doing == "drain":
        assert target.run(f"before-{number}", "deploy.yml", epoch, wanted).status == "done"
        playbook, wanted = "drain.yml", {"replica_id": replica, "grace_s": 5}
    with Killer(target.group, target.made, victim, chance) as killer:
        result = target.run(operation, playbook, epoch, wanted)
    word = _settled(target, number, doing, step, playbook, wanted, result) if killer.killed else ""
    cleaned = target.run(f"after-{number}", "drain.yml", epoch + 9, {"replica_id": replica, "grace_s": 5})
    assert cleaned.succeeded, cleaned
    assert not target.engines(replica)
    return word


def _settled(
    target: Target,
    number: int,
    doing: Doing,
    step: str,
    playbook: str,
    wanted: dict[str, Any],
    result: OperationResult,
) -> str:
    """Ask again, as an orchestrator does that took over, until it is there; a halted one needs another operation."""
    replica, port, operation = f"r{number}", 21000 + number, f"op-{number}"
    if claims(result, doing, replica):
        assert is_true(target, doing, replica, port), result
        return "went on by themselves"
    assert result.message or result.status == "unreachable" or result.succeeded, result
    for attempt in (1, 2, 3):
        result = target.run(operation, playbook, number * 10 + attempt, wanted)
        if claims(result, doing, replica):
            assert is_true(target, doing, replica, port), result
            told = {"reconciled": "reconciled by what was seen", "already": "had been done", "done": "done again"}
            if doing == "install":  # the installer went on; the environment was seen, no step was needed
                told["begin"] = told["reconciled"]
            return told[target.last_event(operation, step)]
    fresh = target.run(f"fresh-{number}", playbook, number * 10 + 8, wanted)
    assert claims(fresh, doing, replica), (result, fresh)
    assert is_true(target, doing, replica, port), fresh
    return "halted until another operation"

"""The fence under concurrent runners and kill -9: each step's effect exactly once, never for an outdated epoch."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest_fleet import install_tools, lines, tool

FENCE = tool("fence", "fence.py")
ROUNDS = 40
# The effect is one appended line: a second one would show. It is not idempotent on purpose; `observe` looks for it.
COMMAND = """
import os, sys, time
log, step, epoch, pause = sys.argv[1:]
def say(text):
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, (text + "\\n").encode())
    os.close(descriptor)
say(f"begin {step} {epoch}")
time.sleep(float(pause))
say(f"effect {step} {epoch}")
time.sleep(float(pause) / 2)
"""
OBSERVE = "import sys; sys.exit(f'effect {sys.argv[2]} ' not in open(sys.argv[1]).read())"


def step_command(root: Path, step: str, epoch: int, pause: float, op: str = "op") -> list[str]:
    log = str(root / "effects.log")
    observe = json.dumps([sys.executable, "-c", OBSERVE, log, step])
    own = [sys.executable, "-c", COMMAND, log, step, str(epoch), f"{pause:.3f}"]
    head = [sys.executable, str(FENCE), "--root", str(root / "fence"), "step", op, str(epoch), step]
    return [*head, "--observe", observe, "--wait", "30", "--", *own]


def start(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


def kill_some(runners: list[subprocess.Popen[str]], chance: random.Random) -> int:
    """kill -9 of a runner alone (its command lives on) or of both, at a random moment."""
    killed = 0
    for runner in chance.sample(runners, k=len(runners) - 1):
        time.sleep(chance.uniform(0.0, 0.08))
        if runner.poll() is None:
            target = runner.pid if chance.random() < 0.5 else -runner.pid
            os.kill(target, signal.SIGKILL)
            killed += 1
    return killed


def one_round(root: Path, chance: random.Random) -> int:
    root.mkdir()
    (root / "effects.log").touch()
    killed, epoch = 0, 1
    for step in ("place", "start"):
        runners = []
        for _ in range(3):
            runners.append(start(step_command(root, step, max(0, epoch - chance.choice((0, 0, 1))), 0.04)))
            epoch += chance.choice((0, 1))
        killed += kill_some(runners, chance)
        for runner in runners:
            runner.communicate(timeout=60)
        last = run(step_command(root, step, epoch, 0.0))
        assert last.returncode == 0, last.stdout + last.stderr
    return killed


def check_round(root: Path) -> None:
    said = [line.split() for line in (root / "effects.log").read_text().splitlines()]
    for step in ("place", "start"):
        assert sum(1 for word, name, _ in said if (word, name) == ("effect", step)) == 1, said
    highest = 0
    for row in lines(root / "fence" / "journal.jsonl"):
        if row["event"] == "begin":
            assert row["epoch"] >= highest, "a lower epoch was let in"
            highest = row["epoch"]
        if row["event"] == "refused":
            assert row["epoch"] < int((root / "fence" / "epoch").read_text())
    begun = [int(epoch) for word, _, epoch in said if word == "begin"]
    assert begun == sorted(begun), "a command of a lower epoch ran after a higher one"
    steps = json.loads((root / "fence" / "ops" / "op.json").read_text())["steps"]
    assert {name: state["state"] for name, state in steps.items()} == {"place": "done", "start": "done"}


@pytest.mark.faults
def test_each_effect_happens_once_whatever_is_killed(tmp_path: Path) -> None:
    chance, killed = random.Random(20), 0
    for number in range(ROUNDS):
        root = tmp_path / str(number)
        killed += one_round(root, chance)
        check_round(root)
    print(f"{ROUNDS} rounds, {killed} kill -9, {2 * ROUNDS} effects, each exactly once")
    assert killed >= ROUNDS // 2


def test_lower_epoch_is_refused_and_does_not_run(tmp_path: Path) -> None:
    assert run(step_command(tmp_path, "place", 7, 0.0)).stdout.splitlines()[-1] == "DONE place"
    refused = run(step_command(tmp_path, "start", 6, 0.0))
    assert refused.returncode == 75
    assert refused.stdout.startswith("FENCED start")
    assert "start" not in (tmp_path / "effects.log").read_text()
    assert (tmp_path / "fence" / "epoch").read_text() == "7\n"


def test_a_done_step_is_not_run_again(tmp_path: Path) -> None:
    run(step_command(tmp_path, "place", 1, 0.0))
    again = run(step_command(tmp_path, "place", 2, 0.0))
    assert (again.returncode, again.stdout) == (0, "ALREADY place\n")
    assert [row["event"] for row in lines(tmp_path / "fence" / "journal.jsonl")] == ["begin", "done", "already"]


def test_a_failed_step_passes_its_status_on_and_may_be_tried_again(tmp_path: Path) -> None:
    head = [sys.executable, str(FENCE), "--root", str(tmp_path / "fence"), "step", "op", "1", "place", "--"]
    failed = run([*head, "sh", "-c", "exit 9"])
    assert (failed.returncode, failed.stdout) == (9, "FAILED place: exit 9\n")
    assert run([*head, "true"]).stdout == "DONE place\n"


def test_a_step_waits_for_a_command_that_outlived_its_runner(tmp_path: Path) -> None:
    (tmp_path / "effects.log").touch()
    runner = start(step_command(tmp_path, "place", 1, 0.6))
    while "begin" not in (tmp_path / "effects.log").read_text():
        time.sleep(0.01)
    runner.kill()
    runner.communicate()
    second = run(step_command(tmp_path, "place", 2, 0.0))
    assert second.stdout == "RECONCILED place\n"
    assert (tmp_path / "effects.log").read_text().split() == ["begin", "place", "1", "effect", "place", "1"]


def test_a_held_subject_is_reported_when_the_wait_ends(tmp_path: Path) -> None:
    (tmp_path / "effects.log").touch()
    holder = start(step_command(tmp_path, "place", 1, 1.0))
    while "begin" not in (tmp_path / "effects.log").read_text():
        time.sleep(0.01)
    command = step_command(tmp_path, "start", 1, 0.0)
    command[command.index("--wait") + 1] = "0.1"
    busy = run(command)
    holder.communicate()
    assert busy.returncode == 74
    assert busy.stdout.startswith("BUSY start")


@pytest.mark.parametrize(
    ("op", "epoch", "step"),
    [("../x", "1", "place"), ("op", "-1", "place"), ("op", "1.5", "place"), ("op", "1", "a/b"), ("OP", "1", "place")],
)
def test_hostile_arguments_are_refused(tmp_path: Path, op: str, epoch: str, step: str) -> None:
    done = run([sys.executable, str(FENCE), "--root", str(tmp_path / "fence"), "step", op, epoch, step, "--", "true"])
    assert done.returncode == 2
    assert not (tmp_path / "fence" / "journal.jsonl").exists()


def test_a_torn_journal_line_does_not_swallow_the_next(tmp_path: Path) -> None:
    run(step_command(tmp_path, "place", 1, 0.0))
    journal = tmp_path / "fence" / "journal.jsonl"
    journal.write_bytes(journal.read_bytes() + b'{"op": "o')
    run(step_command(tmp_path, "start", 1, 0.0))
    assert json.loads(journal.read_text().splitlines()[-1])["event"] == "done"


INSTALLING = """
import sys
sys.path.insert(0, sys.argv[1])
import runtime
runtime.run([sys.executable, "-c", "import os, time; print(os.getpid(), os.getppid(), flush=True); time.sleep(99)"], {})
"""


def test_what_a_killed_installer_left_running_still_holds_its_step(tmp_path: Path) -> None:
    """pip goes on when the installer dies: a second installer beside it would remove the files under its hands."""
    head = [sys.executable, str(FENCE), "--root", str(tmp_path / "fence"), "step", "op", "1", "runtime.x"]
    tools = str(install_tools(tmp_path))
    first = start([*head, "--", sys.executable, "-c", INSTALLING, tools])
    assert first.stdout is not None
    pip, installer = map(int, first.stdout.readline().split())
    try:
        for pid in (first.pid, installer):
            os.kill(pid, signal.SIGKILL)
        assert run([*head, "--wait", "0", "--", "true"]).returncode == 74
    finally:
        os.kill(pip, signal.SIGKILL)
    assert run([*head, "--wait", "30", "--", "true"]).stdout == "DONE runtime.x\n"
    first.communicate()

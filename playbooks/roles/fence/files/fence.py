#!/usr/bin/env python3
"""The host's fence: every change on a host is a step of an operation, run once, never for an outdated orchestrator.

    fence.py step OP EPOCH STEP [--subject NAME] [--observe JSON_ARGV] [--wait SECONDS] -- COMMAND...

What it promises, under kill -9 of anything at any moment:

1. Steps on one subject run one after another. The lock is inherited by the command, so a command that outlived its
   runner still holds it.
2. An epoch lower than the highest ever seen here is refused (exit 75, ``FENCED``).
3. A step that is done is not run again (``ALREADY``).
4. A step that was begun and never finished is reconciled: ``--observe`` says whether it is in place (``RECONCILED``);
   otherwise the command runs again, which steps are written for.
5. A command that fails is recorded as failed, and its exit status is passed on; the step may be tried again.

Standard library only, Python 3.9 or newer. State: ``fence/epoch``, ``fence/ops/<op>.json`` (what counts) and
``fence/journal.jsonl`` (what happened). It knows nothing about runtimes or replicas.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

FENCED, BUSY, USAGE = 75, 74, 64
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,119}\Z")


class Busy(Exception):
    """Another runner holds the subject and did not finish in time."""


def write_durably(path: Path, text: str) -> None:
    """Replace ``path`` by ``text`` so that a crash leaves the old file or the new one."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with open(partial, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    directory = os.open(path.parent, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)


class Fence:
    """The fence's files below one directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for part in ("ops", "locks"):
            (root / part).mkdir(parents=True, exist_ok=True)

    @contextmanager
    def holding(self, name: str, wait: float) -> Iterator[int]:
        """Hold the lock ``name``; yields its file descriptor. Raises Busy after ``wait`` seconds."""
        descriptor = os.open(self.root / "locks" / name, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            self._take(descriptor, name, wait)
            yield descriptor
        finally:
            os.close(descriptor)

    @staticmethod
    def _take(descriptor: int, name: str, wait: float) -> None:
        deadline = time.monotonic() + wait
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise Busy(name) from None
                time.sleep(0.02)

    def epoch(self) -> int:
        """The highest epoch seen, 0 at first."""
        try:
            return int((self.root / "epoch").read_text())
        except FileNotFoundError:
            return 0

    def record(self, op: str) -> Dict[str, Any]:
        """What is known of an operation."""
        try:
            return dict(json.loads((self.root / "ops" / f"{op}.json").read_text()))
        except FileNotFoundError:
            return {"op": op, "steps": {}}

    def note(self, op: str, step: str, epoch: int, event: str) -> None:
        """Append to the journal and fsync. The caller holds the gate."""
        moment = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")  # noqa: TID251 - Python 3.9, a host
        line = {"op": op, "step": step, "epoch": epoch, "event": event, "time": moment, "pid": os.getpid()}
        with open(self.root / "journal.jsonl", "a+b") as file:
            if file.tell() and not self._ends_clean(file):
                file.write(b"\n")
            file.write(json.dumps(line, sort_keys=True).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    @staticmethod
    def _ends_clean(file: Any) -> bool:
        file.seek(-1, os.SEEK_END)
        return bool(file.read(1) == b"\n")

    def mark(self, op: str, step: str, epoch: int, state: str) -> None:
        """Record a step's state. The caller holds the gate."""
        record = self.record(op)
        record["epoch"] = epoch
        record["steps"][step] = {"state": state, "epoch": epoch}
        write_durably(self.root / "ops" / f"{op}.json", json.dumps(record, sort_keys=True))

    def enter(self, op: str, step: str, epoch: int) -> str:
        """Decide under the gate: ``fenced``, ``already``, ``reconcile`` or ``run``; records what it decided."""
        with self.holding(".gate", 60):
            highest = self.epoch()
            if epoch < highest:
                self.note(op, step, epoch, "refused")
                return "fenced"
            if epoch > highest:
                write_durably(self.root / "epoch", f"{epoch}\n")
            state = self.record(op)["steps"].get(step, {}).get("state")
            if state == "done":
                self.note(op, step, epoch, "already")
                return "already"
            self.note(op, step, epoch, "begin")
            self.mark(op, step, epoch, "begun")
            return "reconcile" if state == "begun" else "run"

    def leave(self, op: str, step: str, epoch: int, event: str) -> None:
        """Record how a step ended: event ``done``, ``reconciled`` or ``failed``."""
        with self.holding(".gate", 60):
            self.mark(op, step, epoch, "failed" if event == "failed" else "done")
            self.note(op, step, epoch, event)


def run_step(fence: Fence, arguments: argparse.Namespace) -> int:
    """Run one step by the rules in the module's docstring; prints the outcome as the last line."""
    op, step, epoch = arguments.op, arguments.step, arguments.epoch
    subject = "subject-" + hashlib.sha256(arguments.subject.encode()).hexdigest()[:24]
    with fence.holding(subject, arguments.wait) as lock:
        decision = fence.enter(op, step, epoch)
        if decision == "fenced":
            print(f"FENCED {step}: epoch {epoch} is lower than {fence.epoch()}: another orchestrator took over")
            return FENCED
        if decision == "already":
            print(f"ALREADY {step}")
            return 0
        if decision == "reconcile" and arguments.observe and _call(arguments.observe, lock) == 0:
            fence.leave(op, step, epoch, "reconciled")
            print(f"RECONCILED {step}")
            return 0
        code = _call(arguments.command, lock)
        fence.leave(op, step, epoch, "failed" if code else "done")
        print(f"FAILED {step}: exit {code}" if code else f"DONE {step}")
        return code


def _call(command: List[str], lock: int) -> int:
    sys.stdout.flush()
    try:
        return subprocess.call(command, pass_fds=(lock,), stdin=subprocess.DEVNULL)
    except OSError as error:
        print(f"{command[0]}: {error}", file=sys.stderr)
        return 127


def _name(text: str) -> str:
    if not _NAME.match(text) or ".." in text:
        raise argparse.ArgumentTypeError("use a-z, 0-9, '.', '_' and '-'")
    return text


def _argv(text: str) -> List[str]:
    value = json.loads(text)
    if not isinstance(value, list) or not value or not all(isinstance(part, str) for part in value):
        raise argparse.ArgumentTypeError("a JSON list of strings is needed")
    return value


def _epoch(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError("a whole number, 0 or more")
    return int(text)


def parse(arguments: List[str]) -> argparse.Namespace:
    """Read the command line; the step's command stands after ``--``."""
    if "--" not in arguments:
        raise SystemExit(USAGE)
    cut = arguments.index("--")
    parser = argparse.ArgumentParser(prog="fence.py", description="Run a step of an operation at most once.")
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parent.parent / "fence")
    parser.add_argument("verb", choices=["step"])
    parser.add_argument("op", type=_name)
    parser.add_argument("epoch", type=_epoch)
    parser.add_argument("step", type=_name)
    parser.add_argument("--subject", default="host")
    parser.add_argument("--observe", type=_argv)
    parser.add_argument("--wait", type=float, default=600.0)
    known = parser.parse_args(arguments[:cut])
    known.command = arguments[cut + 1 :]
    if not known.command:
        parser.error("a command is needed after --")
    return known


def main(arguments: Optional[List[str]] = None) -> int:
    """The command."""
    known = parse(sys.argv[1:] if arguments is None else arguments)
    try:
        return run_step(Fence(known.root), known)
    except Busy as busy:
        print(f"BUSY {known.step}: {busy} is held by a running step")
        return BUSY


if __name__ == "__main__":
    sys.exit(main())

"""Send files to a host in checked chunks, going on where the last transfer ended. Runs on the controller.

The host's end is ``receive.py``; its docstring has the rules. The line is Ansible's own SSH connection: the command is
the one that its plugin builds, so host keys, identity and ControlPersist are as configured.

One run of the task sends for about two seconds and says how far it is (``state`` is then ``sending``): the task repeats
it with ``until``, and each repetition is a line of progress. A line that breaks is taken up again a few times. Nothing
is decided here about whether the files are right.
"""

from __future__ import annotations

import hashlib
import json
import os
import select
import shlex
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible.plugins.action import ActionBase

TURN_S, STALL_S, LINES = 2.0, 30.0, 3
SMALLEST, LARGEST = 1 << 20, 16 << 20
LOST = (255, 137, 2)  # ssh's own when there is no connection (any more), a killed receiver's, a silent line's
File = Tuple[str, Path, int]


class LineLost(Exception):
    """The connection broke; the text is ssh's."""


class Line:
    """A receiver at the other end of an SSH session."""

    def __init__(self, command: List[bytes]) -> None:
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the line
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, bufsize=0
        )
        self.into, self.out = self.process.stdin.fileno(), self.process.stdout.fileno()  # type: ignore[union-attr]
        os.set_blocking(self.into, False)
        self.kept = b""

    def send(self, *parts: bytes) -> bool:
        """Write everything; False when the receiver does not listen any more and should be heard."""
        for part in parts:
            view = memoryview(part)
            while view:
                if not select.select([], [self.into], [], STALL_S)[1]:
                    raise LineLost(f"nothing could be sent for {STALL_S:.0f} s")
                try:
                    view = view[os.write(self.into, view) :]
                except BlockingIOError:
                    continue
                except BrokenPipeError:
                    return False
        return True

    def message(self, value: Dict[str, Any], content: bytes = b"") -> bool:
        """One message, with the bytes that belong to it."""
        text = json.dumps(value).encode()
        return self.send(len(text).to_bytes(4, "big") + text, content)

    def answer(self) -> Dict[str, Any]:
        """The receiver's next line."""
        while b"\n" not in self.kept:
            ready = select.select([self.out], [], [], 20 * STALL_S)[0]
            read = os.read(self.out, 65536) if ready else b""
            if not read:
                raise self.broken()
            self.kept += read
        line, _, self.kept = self.kept.partition(b"\n")
        try:
            return dict(json.loads(line))
        except ValueError:
            raise AnsibleActionFail(f"the receiver said {line[:300]!r}") from None

    def broken(self) -> Exception:
        """Why there is no answer."""
        self.close()
        self.errors.seek(0)
        text = self.errors.read().decode("utf-8", "replace").strip()[-2000:]
        if self.process.returncode in LOST or self.process.returncode < 0:
            return LineLost(text or "the connection was closed")
        return AnsibleActionFail(text or f"the receiver ended with {self.process.returncode}")

    def close(self) -> None:
        """End the session, whatever it is doing."""
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe and not pipe.closed:
                pipe.close()
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def files_of(source: Path) -> List[File]:
    """(path below the source, where it is, size) of what to send, in a fixed order."""
    if source.is_file():
        return [(source.name, source, source.stat().st_size)]
    paths = sorted(path for path in source.rglob("*") if path.is_file())
    if not paths:
        raise AnsibleActionFail(f"there is nothing to send in {source}")
    return [(path.relative_to(source).as_posix(), path, path.stat().st_size) for path in paths]


def chunk_size(total: int) -> int:
    """Small enough to lose one, large enough that the notes of a large artifact stay short."""
    return min(LARGEST, max(SMALLEST, total // 2000))


def chunks(files: List[File], have: List[int]) -> Iterator[Tuple[Dict[str, Any], bytes]]:
    """What is missing on the host, piece by piece."""
    step = chunk_size(sum(size for _, _, size in files))
    for index, (name, path, size) in enumerate(files):
        with open(path, "rb", buffering=0) as file:
            file.seek(have[index])
            for offset in range(have[index], size, step):
                content = file.read(min(step, size - offset))
                if len(content) != min(step, size - offset):
                    raise AnsibleActionFail(f"{name} changed while it was sent")
                digest = hashlib.sha256(content).hexdigest()
                yield {"file": index, "offset": offset, "length": len(content), "sha256": digest}, content


def progress(have: int, total: int, rate: float) -> str:
    """How far it is, for people."""
    return f"sending {have >> 20} of {total >> 20} MiB, {rate / (1 << 20):.0f} MiB/s"


class ActionModule(ActionBase):
    """The task ``send``. Arguments: ``python``, ``root``, ``source``, and what a plan of receive.py has."""

    _VALID_ARGS = frozenset({"python", "root", "source", "into", "mark", "unless", "final", "digest"})

    def run(self, tmp: Any = None, task_vars: Any = None) -> Dict[str, Any]:
        """One turn."""
        result: Dict[str, Any] = super().run(tmp, task_vars)
        if self._task.check_mode:
            return {**result, "skipped": True}
        left_over = set(self._task.args) - self._VALID_ARGS
        if left_over:
            raise AnsibleActionFail(f"send does not take {', '.join(sorted(left_over))}")
        files = files_of(Path(str(self._task.args["source"])))
        for left in reversed(range(LINES)):
            try:
                return {**result, **self._turn(files)}
            except LineLost as error:
                self._connection.reset()
                if not left:
                    raise AnsibleConnectionFailure(f"the connection broke {LINES} times: {error}") from error
                time.sleep(1)
        raise AssertionError("unreachable")

    def _turn(self, files: List[File]) -> Dict[str, Any]:
        began, line = time.monotonic(), Line(self._command())
        try:
            line.message(self._plan(files))
            first = line.answer()
            if first["state"] != "ready":
                return self._told(first, files, 0, 1.0)
            for chunk, content in chunks(files, first["have"]):
                if not line.message(chunk, content) or time.monotonic() > began + TURN_S:
                    break
            line.process.stdin.close()  # type: ignore[union-attr]
            last = line.answer()
            sent = sum(last.get("have", first["have"])) - sum(first["have"])
            return self._told(last, files, sent, time.monotonic() - began)
        finally:
            line.close()

    def _plan(self, files: List[File]) -> Dict[str, Any]:
        given = self._task.args
        plan = {key: given[key] for key in ("into", "mark", "unless", "final", "digest") if given.get(key)}
        return {**plan, "files": [[name, size] for name, _, size in files]}

    def _command(self) -> List[bytes]:
        """The command that Ansible's SSH plugin would run, without a terminal."""
        connection, given = self._connection, self._task.args
        if connection.transport != "ssh":
            raise AnsibleActionFail("files are sent over SSH only")
        connection.host = connection.get_option("host") or self._play_context.remote_addr
        words = [str(given["python"]), f"{given['root']}/bin/receive.py", str(given["root"])]
        built = connection._build_command(
            connection.get_option("ssh_executable"), "ssh", connection.host, shlex.join(words)
        )
        return [bytes(word) if isinstance(word, bytes) else str(word).encode() for word in built]

    def _told(self, answer: Dict[str, Any], files: List[File], sent: int, seconds: float) -> Dict[str, Any]:
        state, total = answer["state"], sum(size for _, _, size in files)
        if state == "failed":
            return {"failed": True, "state": state, "msg": str(answer["error"])}
        if state in ("complete", "needless"):
            return {"changed": state == "complete", "state": state}
        line = "waiting: another operation sends the same files"
        if state == "partial":
            line = progress(sum(answer["have"]), total, sent / max(seconds, 0.001))
        return {"changed": True, "state": "sending", "stdout": json.dumps({"state": "sending", "line": line})}

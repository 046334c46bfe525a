"""Send files to a host in checked chunks, going on where the last transfer ended. Runs on the controller.

The host's end is ``receive.py``; its docstring has the rules. The line is Ansible's own SSH connection: the command is
the one that its plugin builds, so host keys, identity and ControlPersist are as configured.

One run of the task sends for about two seconds and says how far it is (``state`` is then ``sending``): the task repeats
it with ``until``, and each repetition is a line of progress. A line that breaks is taken up again a few times. Nothing
is decided here about whether the files are right.

With ``peers`` (other hosts that have the files, one line each: name, SSH's name for it, address, port, user or ``-``,
root, python) the first turns measure each source for a moment, and the fastest goes on. A peer listens only while a
turn lasts: with a certificate and a token made here for that turn, given to both hosts on standard input. The bytes of
a chunk come from the peer, its digest from here.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import select
import shlex
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Tuple

from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure, AnsibleError
from ansible.plugins.action import ActionBase
from ansible.plugins.loader import connection_loader
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

TURN_S, STALL_S, LINES = 2.0, 30.0, 3
SMALLEST, LARGEST, PIPE = 1 << 20, 16 << 20, 1 << 20
LOST = (255, 137, 2)  # ssh's own when there is no connection (any more), a killed receiver's, a silent line's
MEASURED_S, WORTH_IT, AHEAD = 0.5, 32 << 20, 4
File = Tuple[str, Path, int]


class Peer(NamedTuple):
    """A host that has the files."""

    name: str
    reached: str
    address: str
    port: str
    user: str
    root: str
    python: str


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
        with suppress(OSError, AttributeError):  # beyond what a user may have, or before Python 3.10
            fcntl.fcntl(self.into, fcntl.F_SETPIPE_SZ, PIPE)
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

    def answer(self, patience: float = 20 * STALL_S) -> Dict[str, Any]:
        """The next line from there."""
        while b"\n" not in self.kept:
            ready = select.select([self.out], [], [], patience)[0]
            read = os.read(self.out, 65536) if ready else b""
            if not read:
                raise self.broken()
            self.kept += read
        line, _, self.kept = self.kept.partition(b"\n")
        try:
            return dict(json.loads(line))
        except ValueError:
            raise AnsibleActionFail(f"the receiver said {line[:300]!r}") from None

    def last_answer(self) -> Dict[str, Any]:
        """Nothing more is sent: how it ended."""
        if self.process.stdin and not self.process.stdin.closed:
            self.process.stdin.close()
        while "state" not in (answer := self.answer()):
            continue
        return answer

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


@contextmanager
def opened(command: List[bytes]) -> Iterator[Line]:
    """A line for as long as it is needed."""
    line = Line(command)
    try:
        yield line
    finally:
        line.close()


def ssh_command(connection: Any, words: List[str]) -> List[bytes]:
    """What Ansible's SSH plugin runs for this command."""
    connection.host = connection.get_option("host")
    program = connection.get_option("ssh_executable")
    built = connection._build_command(program, "ssh", connection.host, shlex.join(words))
    return [word if isinstance(word, bytes) else str(word).encode() for word in built]


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


def read_ahead(pieces: Iterator[Tuple[Dict[str, Any], bytes]]) -> Iterator[Tuple[Dict[str, Any], bytes]]:
    """The same pieces; the next one is read and hashed while this one is sent."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        coming = pool.submit(next, pieces, None)
        while (piece := coming.result()) is not None:
            coming = pool.submit(next, pieces, None)
            yield piece


def fed(line: Line, files: List[File], have: List[int], until: float) -> Dict[str, Any]:
    """Name chunk after chunk, a few ahead, that the receiver fetches from its peer."""
    ahead = 0
    for chunk, _ in chunks(files, have):
        if not line.message(chunk):
            break
        ahead += 1
        if ahead >= AHEAD:
            answer = line.answer()
            if "state" in answer:
                return answer
            ahead -= 1
        if time.monotonic() > until:
            break
    return line.last_answer()


def progress(have: int, total: int, rate: float, source: str) -> str:
    """How far it is, for people."""
    by = f" from {source}" if source else ""
    return f"sending {have >> 20} of {total >> 20} MiB, {rate / (1 << 20):.0f} MiB/s{by}"


def chosen(rates: Dict[str, float], peers: List[str], missing: int) -> Tuple[str, float]:
    """The source of this turn (empty: from here) and how long the turn is.

    1. For little that is missing nothing is measured: from here.
    2. A source that was not measured yet is measured, this machine first.
    3. The fastest by its last turn. One that failed has no rate and is not asked again.
    """
    if not peers or (missing < WORTH_IT and not rates):
        return "", TURN_S
    for name in ("", *peers):
        if name not in rates:
            return name, MEASURED_S
    return max(("", *peers), key=lambda name: rates[name]), TURN_S


def credentials() -> Dict[str, str]:
    """A key, its certificate and a token, for one turn. Clocks may differ by a day."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "inference-stack transfer")])
    now = datetime.now(timezone.utc)  # noqa: TID251 - no clock of ours in a plugin
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(x509.random_serial_number())
    made = made.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    constraints = x509.BasicConstraints(ca=True, path_length=0)
    certificate = made.add_extension(constraints, critical=True).sign(key, hashes.SHA256())
    pem, encoding = serialization.PrivateFormat.PKCS8, serialization.Encoding.PEM
    return {
        "key": key.private_bytes(encoding, pem, serialization.NoEncryption()).decode(),
        "certificate": certificate.public_bytes(encoding).decode(),
        "token": secrets.token_hex(32),
    }


class ActionModule(ActionBase):
    """The task ``send``. Arguments: ``python``, ``root``, ``source``, and what a plan of receive.py has."""

    _VALID_ARGS = frozenset({"python", "root", "source", "into", "mark", "unless", "final", "digest", "peers"})

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
        with opened(self._command(self._connection, "receive.py")) as line:
            line.message(self._plan(files))
            first = line.answer()
            if first["state"] != "ready":
                return self._told(first, files, 0.0, "")
            peers = {peer.name: peer for peer in self._peers()}
            missing = sum(size for _, _, size in files) - sum(first["have"])
            source, seconds = chosen(first["sources"], list(peers), missing)
            began = time.monotonic()
            if source:
                last = self._by_way_of(peers[source], line, files, first["have"], seconds)
            else:
                for chunk, content in read_ahead(chunks(files, first["have"])):
                    if not line.message(chunk, content) or time.monotonic() > began + seconds:
                        break
                last = line.last_answer()
            got = sum(last.get("have", first["have"])) - sum(first["have"])
            return self._told(last, files, got / max(time.monotonic() - began, 0.001), source)

    def _by_way_of(self, peer: Peer, line: Line, files: List[File], have: List[int], seconds: float) -> Dict[str, Any]:
        """A turn in which the bytes come from a peer. Whatever is wrong with that, the next turn goes without it."""
        given, giving = credentials(), None
        artifact = Path(str(self._task.args["into"])).name.partition(".")[0]
        try:
            try:
                giving = Line(self._peer_command(peer, artifact))
                giving.message(given)
                port = int(giving.answer(patience=STALL_S)["port"])
            except (LineLost, AnsibleError, KeyError) as error:
                self._display.vv(f"{peer.name} gives nothing: {error}")
                line.message({"failed": peer.name})
                return line.last_answer()
            told = {"name": peer.name, "address": peer.address, "port": port}
            line.message({"source": {**told, "certificate": given["certificate"], "token": given["token"]}})
            return fed(line, files, have, time.monotonic() + seconds)
        finally:
            if giving is not None:
                giving.close()

    def _peers(self) -> List[Peer]:
        return [Peer(*str(text).split(" ")) for text in self._task.args.get("peers") or ()]

    def _plan(self, files: List[File]) -> Dict[str, Any]:
        given = self._task.args
        plan = {key: given[key] for key in ("into", "mark", "unless", "final", "digest") if given.get(key)}
        return {**plan, "files": [[name, size] for name, _, size in files]}

    def _command(self, connection: Any, tool: str) -> List[bytes]:
        """The command that Ansible's SSH plugin would run, without a terminal."""
        given = self._task.args
        if connection.transport != "ssh":
            raise AnsibleActionFail("files are sent over SSH only")
        return ssh_command(connection, [str(given["python"]), f"{given['root']}/bin/{tool}", str(given["root"])])

    def _peer_command(self, peer: Peer, artifact: str) -> List[bytes]:
        """The same to a peer: another address, all else as configured."""
        connection = connection_loader.get("ansible.builtin.ssh", self._play_context)
        asked = {"ansible_host": peer.reached, "ansible_port": peer.port}
        connection.set_options(var_options={**asked, **({} if peer.user == "-" else {"ansible_user": peer.user})})
        words = [peer.python, f"{peer.root}/bin/serve.py", peer.root, artifact, peer.address]
        return ssh_command(connection, words)

    def _told(self, answer: Dict[str, Any], files: List[File], rate: float, source: str) -> Dict[str, Any]:
        state, total = answer["state"], sum(size for _, _, size in files)
        if state == "failed":
            return {"failed": True, "state": state, "msg": str(answer["error"])}
        if state in ("complete", "needless"):
            return {"changed": state == "complete", "state": state}
        line = "waiting: another operation sends the same files"
        if state == "partial":
            line = progress(sum(answer["have"]), total, rate, source)
        return {"changed": True, "state": "sending", "stdout": json.dumps({"state": "sending", "line": line})}

"""For tests of sending: an artifact of a wanted size, a door that is killed at a wanted moment, bytes on the wire."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from conftest_fleet import REPOSITORY, artifact_digest
from conftest_hosts import Reached

from stack.fleet import HostEvent

MIB = 1 << 20
_RUN = """\
import json, sys
from pathlib import Path
sys.path[:0] = {path!r}
from stack.core.names import HostName, OperationId
from stack.fleet import AnsibleDoor, Host, Operation
given = json.loads(sys.argv[1])
door = AnsibleDoor(**{{name: Path(value) for name, value in given["door"].items()}})
host = Host(**given["host"])
name, variables = OperationId(given["op"]), given["variables"]
operation = Operation(op_id=name, epoch=1, host=host, playbook="place.yml", variables=variables)
print(door.run(operation, on_event=lambda event: print(event.kind, event.task, event.text, flush=True)))
"""


def big_artifact(folder: Path, size: int, seed: int = 7) -> Path:
    """Two files of random bytes, one in a folder, and an empty one."""
    rng = random.Random(seed)
    (folder / "deeper").mkdir(parents=True)
    (folder / "model.gguf").write_bytes(rng.randbytes(size - size // 8))
    (folder / "deeper" / "more.bin").write_bytes(rng.randbytes(size // 8))
    (folder / "empty").write_bytes(b"")
    return folder


def launch(host: Reached, source: Path, port: int) -> dict[str, Any]:
    """Variables of place.yml for that artifact; its runtime looks installed: only the artifact is done."""
    variables = {**host.launch(port), "artifact_digest": str(artifact_digest(source)), "artifact_source": str(source)}
    seem_installed(host, variables)
    return variables


def seem_installed(host: Reached, variables: dict[str, Any]) -> None:
    """Environments on the host that look installed."""
    names = (variables["runtime_environment"], supervisor_environment())
    folders = " ".join(f"{host.host.root}/runtimes/{name}" for name in names)
    host.shell(f"mkdir -p {folders}; for one in {folders}; do touch $one/INSTALLED; done")


def supervisor_environment() -> str:
    """Its name, as the playbooks derive it."""
    lock = (REPOSITORY / "playbooks/roles/runtime/files/locks/supervisor.txt").read_bytes()
    version = lock.decode().partition("supervisor==")[2].split()[0]
    return f"supervisor-{version}-{hashlib.sha256(lock).hexdigest()[:12]}"


def in_a_process(host: Reached, name: str, variables: dict[str, Any]) -> subprocess.Popen[str]:
    """The same operation by a control plane of its own, which may be killed with all below it."""
    path = [str(REPOSITORY), str(REPOSITORY / "tests" / "fleet")]
    door = {"project": host.door.project, "runner_dir": host.door.runner_dir, "known_hosts": host.door.known_hosts}
    door["identity"] = host.group.key
    described = {"name": host.host.name, "connection": "ssh", "address": host.host.address, "user": "root"}
    given = {
        "door": {key: str(value) for key, value in door.items()},
        "host": {**described, "root": host.host.root},
        "op": name,
        "variables": variables,
    }
    command = [sys.executable, "-c", _RUN.format(path=path), json.dumps(given)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)


def kill_all_below(pid: int) -> None:
    """kill -9 of a process and everything that it started."""
    for one in [pid, *descendants(pid)]:
        try:
            os.kill(one, signal.SIGKILL)
        except ProcessLookupError:
            continue


def descendants(pid: int) -> list[int]:
    """Every process below, the deepest last."""
    found: list[int] = []
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        for task in tasks:
            for child in map(int, (task / "children").read_text().split()):
                found += [child, *descendants(child)]
    except OSError:
        pass
    return found


def wire(host: Reached) -> int:
    """Bytes that went to the host so far, by its own network interface's count."""
    return int(host.shell("cat /proc/net/dev").partition("eth0:")[2].split()[0])


def stored(host: Reached, variables: dict[str, Any]) -> int:
    """Bytes of the artifact's partial files on the host now."""
    folder = host.file(f"{host.host.root}/artifacts/{variables['artifact_digest'][7:]}.partial")
    size = 0
    for path in folder.rglob("*"):
        try:
            size += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return size


def placed(host: Reached, variables: dict[str, Any]) -> Path:
    """Where the artifact is once it is verified."""
    return host.file(f"{host.host.root}/artifacts/{variables['artifact_digest'][7:]}")


def processes(host: Reached, words: bytes) -> list[int]:
    """The host's processes whose command line has these words, by their pids here."""
    namespace = host.group.network.namespace(host.made.number)
    listed = subprocess.run(["ip", "netns", "pids", namespace], check=True, capture_output=True, text=True).stdout
    found = []
    for pid in map(int, listed.split()):
        try:
            if words in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
        except OSError:
            continue
    return found


@contextmanager
def slowed(interface: str, mbit: int = 120) -> Iterator[None]:
    """A line that is slow enough for something to happen in the middle."""
    limit = ["tbf", "rate", f"{mbit}mbit", "burst", "256k", "latency", "50ms"]
    subprocess.run(["tc", "qdisc", "add", "dev", interface, "root", *limit], check=True)
    try:
        yield
    finally:
        subprocess.run(["tc", "qdisc", "del", "dev", interface, "root"], check=True)


def progress(events: list[HostEvent]) -> list[str]:
    """The lines about the artifact."""
    return [e.text for e in events if e.kind == "progress" and e.task.startswith("Send")]

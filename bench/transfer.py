"""How fast an artifact is sent to an SSH host, against a plain ``ssh cat`` of the same bytes to the same host.

The host is one of the project's own test hosts, so both pay for SSH on this machine's cores and for no real network.
Sending is the whole of the playbook's task: turns, chunks, digests on both sides. The pair of each round is measured
one after the other; the ratio is of one round's own times.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from bench.figures import Figure, Report
from bench.stage import ROOT, BenchFailed
from demo.hosts import HostGroup, HostsFailed, down, up
from stack.core.digest import Digest
from stack.core.names import HostName, OperationId
from stack.fleet import AnsibleDoor, Host, HostEvent, Operation

MIB = 1 << 20
TARGET = 2.0
LOCKS = ROOT / "playbooks/roles/runtime/files/locks"


def measure(*, quick: bool) -> Report:
    """Rounds of both, on one host."""
    size, rounds = (64, 1) if quick else (512, 3)
    with tempfile.TemporaryDirectory(prefix="stack-bench-hosts-") as name, ExitStack() as held:
        place = Path(name)
        try:
            group = up(place / "hosts", count=1, tell=lambda _: None)
        except HostsFailed as error:
            raise BenchFailed(f"no test host: {error}") from error
        held.callback(down, place / "hosts")
        source = place / "artifact"
        source.mkdir()
        with (source / "model.gguf").open("wb") as file:
            for _ in range(size):
                file.write(os.urandom(MIB))
        pairs = [(_plain(group, source), _sent(group, source, place, number)) for number in range(rounds)]
    plain, sent = [size / p for p, _ in pairs], [size / s for _, s in pairs]
    figures = (
        Figure(name=f"plain ssh cat of {size} MiB to a host", unit="MiB/s", values=tuple(plain)),
        Figure(name="  the same as an artifact, checked and resumable", unit="MiB/s", values=tuple(sent)),
        Figure(name="  time, artifact / ssh cat", unit="", values=tuple(s / p for p, s in pairs), target=TARGET),
    )
    return Report(bench="transfer", figures=figures, details={"size_mib": size, "seconds": pairs})


def _ssh(group: HostGroup) -> list[str]:
    options = ["BatchMode=yes", "IdentitiesOnly=yes", f"UserKnownHostsFile={group.known_hosts}"]
    words = [word for option in options for word in ("-o", option)]
    return ["ssh", "-F", "none", "-i", str(group.key), *words, f"root@{group.hosts[0].address}"]


def _plain(group: HostGroup, source: Path) -> float:
    """Seconds of sending the file through one SSH session."""
    began = time.perf_counter()
    with (source / "model.gguf").open("rb") as file:
        subprocess.run([*_ssh(group), "cat > /srv/plain"], stdin=file, check=True, timeout=600)
    took = time.perf_counter() - began
    subprocess.run([*_ssh(group), "rm /srv/plain"], check=True, timeout=60)
    return took


def _sent(group: HostGroup, source: Path, place: Path, number: int) -> float:
    """Seconds between the beginning of the task that sends and the beginning of the one that verifies."""
    door = AnsibleDoor(
        project=ROOT / "playbooks", runner_dir=place / "run", known_hosts=group.known_hosts, identity=group.key
    )
    address, root = group.hosts[0].address, f"/srv/round{number}"
    host = Host(name=HostName("h1"), connection="ssh", address=address, user="root", root=root)
    marks: dict[str, float] = {}

    def seen(event: HostEvent) -> None:
        if event.kind == "task":
            marks.setdefault(event.task, time.perf_counter())

    variables = _variables(source, address)
    made = "; ".join(f"mkdir -p {root}/runtimes/{name}; touch {root}/runtimes/{name}/INSTALLED" for name in _names())
    subprocess.run([*_ssh(group), made], check=True, timeout=60)
    operation = Operation(
        op_id=OperationId(f"bench-{number}"), epoch=1, host=host, playbook="place.yml", variables=variables
    )
    result = door.run(operation, on_event=seen)
    subprocess.run([*_ssh(group), f"rm -rf {root}"], check=True, timeout=60)
    if result.status != "done":
        raise BenchFailed(f"place.yml {result.status}: {result.message}")
    return marks["Place the artifact"] - marks["Send the artifact"]


def _names() -> tuple[str, str]:
    """The environments that place.yml would install: the engine's stands in, only the artifact is measured."""
    lock = (LOCKS / "supervisor.txt").read_bytes()
    version = lock.decode().partition("supervisor==")[2].split()[0]
    return "llamacpp-bench", f"supervisor-{version}-{Digest.of(lock).removeprefix('sha256:')[:12]}"


def _variables(source: Path, address: str) -> dict[str, str | int]:
    model = source / "model.gguf"
    done = subprocess.run(["sha256sum", str(model)], check=True, capture_output=True, text=True, timeout=600)
    row = {"path": model.name, "sha256": done.stdout.split()[0], "size": model.stat().st_size}
    return {
        "release_digest": "sha256:" + "b" * 64,
        "runtime_environment": _names()[0],
        "runtime_engine": "llamacpp",
        "runtime_distribution": "xllamacpp",
        "lock_digest": "sha256:" + "b" * 64,
        "artifact_digest": str(Digest.of(json.dumps([row], sort_keys=True, separators=(",", ":")).encode())),
        "artifact_source": str(source),
        "replica_id": "r1",
        "port": 21001,
        "bind_address": address,
        "served_model": "bench",
        "context": 1024,
        "parallel": 1,
        "threads": 1,
    }

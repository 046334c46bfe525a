"""What the fleet's tests share: the host's tools as files to run, a door, a host in a temporary directory."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from stack.core.digest import Digest
from stack.core.names import HostName, OperationId
from stack.fleet import AnsibleDoor, Host, Operation

REPOSITORY = Path(__file__).resolve().parents[2]
PLAYBOOKS = REPOSITORY / "playbooks"
LOCKS = PLAYBOOKS / "roles" / "runtime" / "files" / "locks"


def tool(role: str, name: str) -> Path:
    """One of the tools that a role puts on hosts."""
    return PLAYBOOKS / "roles" / role / "files" / name


def install_tools(root: Path) -> Path:
    """All tools in ``root/bin``, as the role puts them there."""
    (root / "bin").mkdir(parents=True)
    for source in PLAYBOOKS.glob("roles/*/files/*.py"):
        (root / "bin" / source.name).write_bytes(source.read_bytes())
    return root / "bin"


def tree(root: Path) -> dict[str, str]:
    """Every path below ``root`` with what it holds: equal trees hold the same."""
    if not root.exists():
        return {}
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "directory"
        for path in sorted(root.rglob("*"))
    }


def artifact_digest(folder: Path) -> str:
    """The digest of the files in a folder, computed apart from the product's host tool."""
    rows = [
        {
            "path": path.relative_to(folder).as_posix(),
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "size": path.stat().st_size,
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
    return Digest.of_value(rows)


def launch_variables(source: Path, port: int, distribution: str = "xllamacpp") -> dict[str, Any]:
    """Variables of deploy.yml for a real locked runtime."""
    lock = (LOCKS / f"llamacpp-{distribution}.txt").read_bytes()
    version = lock.decode().partition(f"{distribution}==")[2].split()[0]
    digest = Digest.of(lock)
    return {
        "release_digest": "sha256:" + "a" * 64,
        "runtime_environment": f"llamacpp-{distribution}-{version}-{digest.short}",
        "runtime_engine": "llamacpp",
        "runtime_distribution": distribution,
        "lock_digest": str(digest),
        "artifact_digest": str(artifact_digest(source)),
        "artifact_source": str(source),
        "replica_id": "r1",
        "port": port,
        "bind_address": "127.0.0.1",
        "served_model": "tiny-abc",
        "context": 1024,
        "parallel": 2,
        "threads": 1,
    }


@dataclass(frozen=True, kw_only=True)
class Local:
    """A local host in a temporary directory and the door to it."""

    door: AnsibleDoor
    host: Host

    @property
    def root(self) -> Path:
        return Path(self.host.root)

    def operation(self, name: str, playbook: str, variables: Mapping[str, Any], epoch: int = 1) -> Operation:
        return Operation(
            op_id=OperationId(name), epoch=epoch, host=self.host, playbook=playbook, variables=dict(variables)
        )


@pytest.fixture
def local(tmp_path: Path) -> Local:
    door = AnsibleDoor(project=PLAYBOOKS, runner_dir=tmp_path / "runner", known_hosts=tmp_path / "known_hosts")
    host = Host(name=HostName("local"), root=str(tmp_path / "host"), service_manager="supervisord")
    return Local(door=door, host=host)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """An artifact that no engine could open, for tests that never get so far."""
    folder = tmp_path / "artifact"
    folder.mkdir()
    (folder / "model.gguf").write_bytes(b"GGUF" + bytes(range(256)) * 40)
    return folder


@pytest.fixture
def run_tool() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a tool with this Python; returns the finished process."""

    def run(path: Path, *words: object, **more: Any) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(path), *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, check=False, **more)

    return run


def fake_installed(root: Path, *environments: str) -> None:
    """Environments that look installed; their ``python`` says that it was started."""
    for name in environments:
        binaries = root / "runtimes" / name / "bin"
        binaries.mkdir(parents=True)
        script = binaries / "python"
        script.write_text('#!/bin/sh\necho "engine started" $$ "$@"\n')
        script.chmod(0o755)
        (binaries.parent / "INSTALLED").write_text("{}")


def lines(path: Path) -> list[dict[str, Any]]:
    """A JSON-lines file."""
    return [json.loads(line) for line in path.read_text().splitlines() if line]


def alive(pid: int) -> bool:
    """Is the process there?"""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True

"""A whole stack over SSH hosts that this machine makes of namespaces, and what its hosts wrote down. Also the ways to
kill: the control plane alone, or with the playbooks that it runs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from running_stack import Json, RunningStack, alive, free_ports, stack_file, until

from demo.hosts import HostGroup, HostsFailed, TestHost, down, up

ROOT = "opt/stack"


@contextmanager
def ssh_hosts(count: int) -> Iterator[HostGroup]:
    """Real SSH hosts, ended and removed at the end. Where they are not permitted the test fails and says why."""
    if os.environ.get("STACK_NO_HOSTS") == "1":
        pytest.xfail("STACK_NO_HOSTS=1: NOTHING OVER SSH WAS TESTED")
    with tempfile.TemporaryDirectory(prefix="stack-killed-") as folder:
        try:
            group = up(Path(folder), count=count)
        except HostsFailed as error:
            pytest.fail(f"no test hosts ({error}). Where they can't be had: STACK_NO_HOSTS=1", pytrace=False)
        try:
            yield group
        finally:
            down(Path(folder))


@dataclass
class FleetStack(RunningStack):
    """A stack whose hosts are all of the group."""

    group: HostGroup

    @classmethod
    def over(cls, folder: Path, group: HostGroup, rollout: Json | None = None) -> FleetStack:
        """One that may reach the hosts; nothing of it runs yet."""
        secrets = folder / "home" / "secrets"
        secrets.mkdir(mode=0o700, parents=True)
        shutil.copy(group.known_hosts, folder / "home" / "known_hosts")
        shutil.copy(group.key, secrets / "ssh.key")
        (secrets / "ssh.key").chmod(0o600)
        names = [host.name for host in group.hosts]
        path = stack_file(folder, rollout or {}, {"hosts": names})
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
        settings["hosts"] = [
            {"name": h.name, "connection": "ssh", "address": h.address, "user": "root", "group": "cpu"}
            for h in group.hosts
        ]
        path.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
        one, two = free_ports(2)
        return cls(folder / "home", path, one, two, group)

    def on(self, host: TestHost) -> Path:
        """Everything of ours on a host, as seen from here."""
        return self.group.machine(host).root / ROOT

    def journals(self) -> dict[str, list[Json]]:
        """What each host's fence wrote down."""
        return {host.name: lines_of(self.on(host) / "fence" / "journal.jsonl") for host in self.group.hosts}

    def left_open(self) -> list[str]:
        """Steps that were begun on a host and never ended."""
        return [
            f"{host.name} {path.stem} {step}"
            for host in self.group.hosts
            for path in sorted((self.on(host) / "fence" / "ops").glob("*.json"))
            for step, known in json.loads(path.read_text(encoding="utf-8"))["steps"].items()
            if known["state"] == "begun"
        ]

    def starts(self) -> dict[tuple[str, str], int]:
        """(host, replica) -> how often an engine opened its model there, by what the engines' own launcher wrote."""
        return {
            (host.name, path.parent.name): int(json.loads(path.read_text(encoding="utf-8"))["starts"])
            for host in self.group.hosts
            for path in (self.on(host) / "replicas").glob("*/observed.json")
        }

    def configured(self) -> dict[str, set[str]]:
        """The replicas that each host's supervisor is to run."""
        folders = {host.name: self.on(host) / "supervisor" / "conf.d" for host in self.group.hosts}
        return {name: {path.stem for path in folder.glob("*.conf")} for name, folder in folders.items()}

    def playbooks(self) -> list[int]:
        """The process groups of the control plane's playbooks that run now."""
        try:
            family = descendants(self.pid("control-plane"))
        except (OSError, ValueError, IndexError):
            return []
        found = set()
        for pid in family:
            with suppress(OSError):
                if b"ansible-playbook" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.add(os.getpgid(pid))
        return sorted(found - {os.getpgid(0), os.getpgid(self.pid("control-plane"))})

    def kill_with_playbooks(self) -> int:
        """The control plane and every playbook that it runs; how many those were."""
        groups = self.playbooks()
        pid = self.pid("control-plane")
        os.kill(pid, signal.SIGKILL)
        for group in groups:
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        until(lambda: not alive(pid), 20)
        return len(groups)


def descendants(of: int) -> set[int]:
    """The processes below this one."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found = {of}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {of}


def lines_of(path: Path) -> list[Json]:
    """A file of JSON lines; none when it is not there."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]

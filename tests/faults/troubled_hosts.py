"""A stack over three SSH hosts with two services on each, one that puts up with a host that fails and one that does
not; and the ways in which the third host gets into trouble."""

from __future__ import annotations

import copy
import itertools
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from fleet_stack import FleetStack
from host_victims import Process, processes
from running_stack import MODELS, REPOSITORY, Json, until

from demo.hosts import HostGroup, TestHost
from stack.core.names import HostName, OperationId
from stack.fleet import AnsibleDoor, Host, Operation
from tests.fleet.conftest_fleet import launch_variables

STRICT, LENIENT = SERVICES = ("strict", "lenient")
ROOM_MIB = 900
LATER = ("smoking", "evaluating", "shifting", "holding", "promoting", "retiring", "promoted")


@dataclass
class TwoServices(FleetStack):
    """``ask`` takes the services in turn, and ``answered_by`` is which replicas answered."""

    answered_by: list[str] = field(default_factory=list)
    turns: Iterator[str] = field(default_factory=lambda: itertools.cycle(SERVICES))

    @classmethod
    def on_three(cls, folder: Path, group: HostGroup) -> TwoServices:
        """Nothing of it runs yet. The third host's disk is a small one of its own."""
        made = cls.over(folder, group, {"ladder": [100], "timeouts": {"ready_s": 45}})
        assert isinstance(made, TwoServices)
        settings = yaml.safe_load(made.stack_yaml.read_text(encoding="utf-8"))
        (tiny,) = settings["services"]
        settings["services"] = [copy.deepcopy(tiny) for _ in SERVICES]
        for service, name in zip(settings["services"], SERVICES, strict=True):
            service["name"], service["rollout"]["tolerate_hosts"] = name, SERVICES.index(name)
        made.stack_yaml.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
        for host in group.hosts:
            made.on(host).mkdir(exist_ok=True)
        made.inside("mount", "-t", "tmpfs", "-o", f"mode=755,size={ROOM_MIB}m", "tmpfs", "/opt/stack")
        return made

    def install_once(self) -> None:
        """The engine, on one host; the others get a copy of what pip made there."""
        one, *others = self.group.hosts
        door = AnsibleDoor(
            project=REPOSITORY / "playbooks",
            runner_dir=self.home.parent / "runner",
            known_hosts=self.group.known_hosts,
            identity=self.group.key,
        )
        host = Host(name=HostName(one.name), connection="ssh", address=one.address, user="root", root="/opt/stack")
        values = launch_variables(MODELS / "tiny-1.0" / "gguf", 21000)
        done = door.run(
            Operation(op_id=OperationId("once"), epoch=0, host=host, playbook="place.yml", variables=values)
        )
        assert done.succeeded, done
        for other in others:
            copied = ["cp", "-a", str(self.on(one) / "runtimes"), str(self.on(other))]
            subprocess.run(copied, check=True, capture_output=True, timeout=120)

    # models and rollouts -------------------------------------------------------------------------------------

    def model(self, version: str, of: str) -> Path:
        """A manifest of one more version with the files of another."""
        folder = self.home.parent / "models"
        folder.mkdir(exist_ok=True)
        shutil.copytree(MODELS / f"tiny-{of}", folder / f"tiny-{of}", dirs_exist_ok=True)
        manifest = yaml.safe_load((MODELS / f"tiny-{of}.yaml").read_text(encoding="utf-8"))
        path = folder / f"tiny-{version}.yaml"
        path.write_text(yaml.safe_dump({**manifest, "version": version}, sort_keys=False), encoding="utf-8")
        return path

    def begin_on(self, service: str, manifest: Path) -> str:
        """Begin a deploy; the rollout's id."""
        words = ("deploy", "--model", str(manifest), "--service", service, "--no-wait")
        return str(self.must(*words)["rollout"])

    def watched(self, rollout: str) -> subprocess.CompletedProcess[str]:
        """What ``stackctl`` says of it until its end, and leaves with."""
        return self.ctl("rollout", "watch", rollout)

    def lines(self, rollout: str) -> list[str]:
        """What people were told of it."""
        return [
            str(row["text"]) for row in self.rows("select text from events where rollout = ? order by seq", rollout)
        ]

    def places(self, rollout: str) -> list[str]:
        """The hosts that it goes on with."""
        return sorted(place["host"] for place in self.row(rollout)["placements"])

    def routed(self) -> dict[str, str]:
        """Replica -> service, of everything that the gateway routes to."""
        table = self.control.table()
        assert table is not None
        return {t["id"]: s["name"] for s in table.to_json()["services"] for t in s["targets"]}

    def ask(self, prompt: str = "Hello", timeout: float = 120.0, model: str = "") -> tuple[int, dict[str, str], Json]:
        answer = super().ask(prompt, timeout, model or next(self.turns))
        self.answered_by.append(answer[1].get("x-stack-replica", ""))
        return answer

    # the third host ------------------------------------------------------------------------------------------

    @property
    def third(self) -> TestHost:
        return self.group.hosts[2]

    def on(self, host: TestHost) -> Path:
        """As the host itself sees it: mounts are its own."""
        (one, *_) = self.servers(host)
        return Path(f"/proc/{one.pid}/root/opt/stack")

    def servers(self, host: TestHost) -> list[Process]:
        """The SSH servers, the one that listens first."""
        found = [p for p in processes(self.group, host) if "sshd" in p.words[0]]
        return sorted(found, key=lambda process: "listener" not in process.words[0])

    def inside(self, *words: str) -> None:
        """Run something on the third host, whatever its network does."""
        (server, *_) = self.servers(self.third)
        command = ["nsenter", "-t", str(server.pid), "-m", "-p", "-r", *words]
        subprocess.run(command, check=True, capture_output=True, timeout=60)

    def tell(self, number: signal.Signals, *targets: Process) -> None:
        for process in targets:
            with suppress(ProcessLookupError):
                os.kill(process.pid, number)

    def link(self, way: str) -> None:
        """The third host's network."""
        interface = self.group.network.interface(self.third.number)
        subprocess.run(["ip", "link", "set", interface, way], check=True, capture_output=True, timeout=60)

    def disconnected(self) -> None:
        """Nobody is logged in there any more."""
        self.tell(signal.SIGKILL, *self.servers(self.third)[1:])

    def launched(self) -> set[str]:
        """The replicas whose processes run on the third host."""
        base = "/opt/stack/replicas/"
        words = {word for p in processes(self.group, self.third) for word in p.words if "launch" in " ".join(p.words)}
        return {word.removeprefix(base).split("/")[0] for word in words if word.startswith(base)}


Trouble = Callable[[TwoServices], AbstractContextManager[None]]


@contextmanager
def unreachable(fleet: TwoServices) -> Iterator[None]:
    """Its network is down, and those who were logged in were thrown out before."""
    fleet.disconnected()
    fleet.link("down")
    try:
        yield
    finally:
        fleet.link("up")


@contextmanager
def slow(fleet: TwoServices) -> Iterator[None]:
    """Its SSH server takes connections and says nothing."""
    fleet.disconnected()
    stopped = fleet.servers(fleet.third)
    fleet.tell(signal.SIGSTOP, *stopped)
    try:
        yield
    finally:
        fleet.tell(signal.SIGCONT, *stopped)


@contextmanager
def full(fleet: TwoServices) -> Iterator[None]:
    """Of its disk 20 MiB are free."""
    disk = os.statvfs(fleet.on(fleet.third))
    ballast = (disk.f_bavail * disk.f_frsize >> 20) - 20
    fleet.inside("fallocate", "-l", f"{ballast}M", "/opt/stack/ballast")
    try:
        yield
    finally:
        fleet.inside("rm", "/opt/stack/ballast")


@contextmanager
def stands_still(fleet: TwoServices) -> Iterator[None]:
    """Nothing runs on it, though its network does."""
    stopped = list(processes(fleet.group, fleet.third))
    fleet.tell(signal.SIGSTOP, *stopped)
    try:
        yield
    finally:
        fleet.tell(signal.SIGCONT, *stopped)


def half_deployed(fleet: TwoServices, artifact: str) -> None:
    """As a run leaves it that was killed: a tool is missing, and of an artifact some wrong bytes are there."""
    root, digest = fleet.on(fleet.third), artifact.removeprefix("sha256:")
    (root / "bin" / "artifact.py").unlink()
    fleet.inside("rm", "-rf", f"/opt/stack/artifacts/{digest}")
    partial = root / "artifacts" / f"{digest}.partial"
    partial.mkdir(parents=True)
    (partial / "model.gguf").write_bytes(os.urandom(100_000))
    (root / "artifacts" / f"{digest}.partial.chunks").write_text("nonsense\n", encoding="ascii")


def answers_again(fleet: TwoServices) -> None:
    """Wait until SSH does."""
    made = fleet.third
    ssh = ["ssh", "-F", "none", "-i", str(fleet.group.key), "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes"]
    ssh += ["-o", f"UserKnownHostsFile={fleet.group.known_hosts}", "-o", "ConnectTimeout=5", f"root@{made.address}"]
    until(lambda: subprocess.run([*ssh, "true"], check=False, capture_output=True).returncode == 0, 120, 0.2)

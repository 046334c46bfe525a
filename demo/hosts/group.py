"""A group of test hosts in one directory: bring it up, ask how it is, take it down.

``ROOT/hosts.json`` records what was started (with start times, so that nothing else is ever ended) and is written
before anything is started; ``down`` works from it alone, also after a crash in the middle of ``up``.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from demo.hosts.base import base_root
from demo.hosts.commands import require_namespaces, run, started, wait_for
from demo.hosts.errors import HostsFailed
from demo.hosts.machine import Init, Machine, answers, boot, build, shut
from demo.hosts.network import Network, connect, make_network, mark_of, remove_network

_READY_S = {"supervisord": 30.0, "systemd": 90.0}


@dataclass(frozen=True, kw_only=True)
class TestHost:
    """A host that can be reached over SSH as root, and as ``deploy``, who may do nothing special."""

    __test__ = False
    name: str
    number: int
    init: Init
    address: str
    host_key: str = ""
    pid: int = 0
    began: int = 0


@dataclass(frozen=True, kw_only=True)
class HostGroup:
    """What is up. ``key`` opens all its hosts, ``known_hosts`` names their keys."""

    folder: Path
    network: Network
    hosts: tuple[TestHost, ...]

    @property
    def key(self) -> Path:
        """The private key that all hosts let in."""
        return self.folder / "id"

    @property
    def known_hosts(self) -> Path:
        """For strict checking of host keys."""
        return self.folder / "known_hosts"

    def machine(self, host: TestHost) -> Machine:
        """Where the host lives here: its root directory, its console, its network namespace."""
        return Machine(
            name=host.name,
            folder=self.folder / host.name,
            init=host.init,
            namespace=self.network.namespace(host.number),
        )


def up(folder: Path, *, count: int, systemd: bool = False, tell: Callable[[str], None] = print) -> HostGroup:
    """``count`` supervisord hosts h1, h2, ... and with ``systemd`` one more of real systemd; ready when SSH answers."""
    require_namespaces()
    if not 0 < count + systemd <= 200:
        raise HostsFailed("between 1 and 200 hosts")
    base = base_root(tell)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if _record(folder).exists():
        raise HostsFailed(f"{folder} has hosts already: python -m demo.hosts down --root {folder}")
    inits: list[Init] = ["supervisord" for _ in range(count)]
    inits += ["systemd"] if systemd else []
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "inference-stack test hosts", "-f", folder / "id")
    _write(_record(folder), json.dumps({"count": len(inits), "hosts": []}))
    with _undone_on_failure(folder):
        group = _raise(folder, inits, base)
        _await(group)
    return group


@contextmanager
def _undone_on_failure(folder: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        down(folder)
        raise


def _raise(folder: Path, inits: list[Init], base: Path) -> HostGroup:
    network = make_network(folder)
    public = (folder / "id.pub").read_text()
    hosts = [
        TestHost(name=f"h{n}", number=n, init=init, address=network.address(n)) for n, init in enumerate(inits, start=1)
    ]
    group = HostGroup(folder=folder, network=network, hosts=tuple(hosts))
    for index, host in enumerate(hosts):
        connect(network, host.number)
        host_key = build(group.machine(host), base, public)
        pid, began = boot(group.machine(host))
        hosts[index] = replace(host, host_key=host_key, pid=pid, began=began)
        group = replace(group, hosts=tuple(hosts))
        _save(group)
    _write(group.known_hosts, "".join(f"{host.address} {host.host_key}\n" for host in hosts))
    return group


def _await(group: HostGroup) -> None:
    def ready(host: TestHost) -> None:
        machine = group.machine(host)

        def up_or_over() -> bool:
            over = started(host.pid) != host.began
            return over or answers(machine, host.address, group.key, group.known_hosts)

        complaint = f"{host.name} does not answer over SSH; see {machine.folder / 'console.log'}"
        wait_for(_READY_S[host.init], up_or_over, complaint)
        if started(host.pid) != host.began:
            raise HostsFailed(f"{host.name} ended: {_last_line(machine.folder / 'console.log')}")

    with ThreadPoolExecutor(max_workers=8) as pool:
        list(pool.map(ready, group.hosts))


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").split("\n") if path.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


def status(folder: Path) -> HostGroup | None:
    """What is recorded as up in this directory; None when there is nothing."""
    try:
        saved = json.loads(_record(folder).read_text())
    except FileNotFoundError:
        return None
    if "subnet" not in saved:
        return None
    network = Network(mark=saved["mark"], subnet=ipaddress.IPv4Network(saved["subnet"]))
    return HostGroup(folder=folder, network=network, hosts=tuple(TestHost(**row) for row in saved["hosts"]))


def lives(host: TestHost) -> bool:
    """Is the process that stands for the host still the one that was started?"""
    return bool(host.began) and started(host.pid) == host.began


def down(folder: Path) -> bool:
    """End what ``up`` started, unmount and remove it. False when there was nothing."""
    if not _record(folder).exists():
        return False
    count = int(json.loads(_record(folder).read_text())["count"])
    group, mark = status(folder), mark_of(folder)
    known = {host.number: host for host in group.hosts} if group else {}
    for number in range(1, count + 1):
        name, host = f"h{number}", known.get(number)
        machine = Machine(name=name, folder=folder / name, init="supervisord", namespace=f"{mark}-{name}")
        shut(machine, host.pid if host else 0, host.began if host else 0)
    remove_network(mark, range(1, count + 1))
    for name in ("id", "id.pub", "known_hosts", "hosts.json"):
        (folder / name).unlink(missing_ok=True)
    return True


def _save(group: HostGroup) -> None:
    rows = [asdict(host) for host in group.hosts]
    text = {"mark": group.network.mark, "subnet": str(group.network.subnet), "count": len(rows), "hosts": rows}
    _write(_record(group.folder), json.dumps(text, indent=1))


def _record(folder: Path) -> Path:
    return folder / "hosts.json"


def _write(path: Path, text: str) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(text)
    partial.replace(path)

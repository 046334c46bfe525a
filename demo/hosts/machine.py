"""One test host: its root on the base, its keys, its PID 1 (supervisord or systemd), and how it ends."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from demo.hosts.base import USER
from demo.hosts.commands import children, end, require, run, started, try_run, wait_for

Init = Literal["supervisord", "systemd"]
_REPOSITORY = Path(__file__).resolve().parents[2]
_CGROUPS = (Path("/sys/fs/cgroup/systemd"), Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup"))
_SUPERVISORD = """\
[unix_http_server]
file=/run/supervisor.sock
chmod=0700
[supervisord]
user=root
logfile=/var/log/supervisord.log
pidfile=/run/supervisord.pid
[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
[supervisorctl]
serverurl=unix:///run/supervisor.sock
[program:sshd]
command=/usr/sbin/sshd -D -E /var/log/sshd.log
"""
_SSHD = """\
PasswordAuthentication no
UseDNS no
LogLevel VERBOSE
MaxStartups 100
"""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where one host lives on this machine. ``namespace`` is its network namespace."""

    name: str
    folder: Path
    init: Init
    namespace: str

    @property
    def root(self) -> Path:
        """Its root directory as seen from here."""
        return self.folder / "root"

    @property
    def cgroup_name(self) -> str:
        """The control group that its systemd may arrange."""
        return self.namespace


def build(machine: Machine, base: Path, public_key: str) -> str:
    """Mount its root, let ``public_key`` in as root and as the plain user; returns its host key for known_hosts."""
    root = machine.root
    for part in ("upper", "work", "root"):
        (machine.folder / part).mkdir(parents=True, exist_ok=True)
    layers = f"lowerdir={base},upperdir={machine.folder / 'upper'},workdir={machine.folder / 'work'}"
    run("mount", "-t", "overlay", "overlay", "-o", layers, root)
    (root / "etc/hostname").write_text(f"{machine.name}\n")
    (root / "etc/hosts").write_text(f"127.0.0.1 localhost\n127.0.1.1 {machine.name}\n")
    (root / "etc/machine-id").write_text("")
    owner = (root / "home" / USER).stat()
    for home, uid, gid in ((root / "root", 0, 0), (root / "home" / USER, owner.st_uid, owner.st_gid)):
        _let_in(home, uid, gid, public_key)
    key = root / "etc/ssh/ssh_host_ed25519_key"
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", machine.name, "-f", key)
    (root / "etc/ssh/sshd_config.d/test-host.conf").write_text(_SSHD)
    (_systemd if machine.init == "systemd" else _supervisord)(root)
    return " ".join(key.with_suffix(".pub").read_text().split()[:2])


def _let_in(home: Path, uid: int, gid: int, public_key: str) -> None:
    folder = home / ".ssh"
    folder.mkdir(mode=0o700, exist_ok=True)
    (folder / "authorized_keys").write_text(public_key)
    for path in (folder, folder / "authorized_keys"):
        os.chown(path, uid, gid)


def _supervisord(root: Path) -> None:
    (root / "etc/supervisor/supervisord.conf").write_text(_SUPERVISORD)


def _systemd(root: Path) -> None:
    units = root / "etc/systemd/system"
    (units / "multi-user.target.wants").mkdir(exist_ok=True)
    ssh = units / "multi-user.target.wants/ssh.service"
    if not ssh.is_symlink():
        ssh.symlink_to("/lib/systemd/system/ssh.service")
    for unit in ("supervisor", "systemd-resolved", "systemd-networkd", "systemd-timesyncd"):
        (units / f"{unit}.service").unlink(missing_ok=True)
        (units / f"{unit}.service").symlink_to("/dev/null")


def boot(machine: Machine) -> tuple[int, int]:
    """Start its PID 1; returns the process here that stands for it, with its start time."""
    command = _nspawn(machine) if machine.init == "systemd" else _unshare(machine)
    with open(machine.folder / "console.log", "ab") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd=_REPOSITORY
        )
    return process.pid, started(process.pid)


def _unshare(machine: Machine) -> list[str]:
    inside = [sys.executable, "-m", "demo.hosts.inside", str(machine.root), machine.name]
    spaces = ["--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child=KILL"]
    return ["nsenter", f"--net=/run/netns/{machine.namespace}", "unshare", *spaces, *inside]


def _nspawn(machine: Machine) -> list[str]:
    require({"systemd-nspawn": "systemd-container"})
    spawn = ["systemd-nspawn", "--quiet", f"--directory={machine.root}", "--boot", "--register=no", "--keep-unit"]
    spawn += [f"--network-namespace-path=/run/netns/{machine.namespace}", f"--machine={machine.namespace}"]
    spawn += [f"--hostname={machine.name}", "--console=pipe"]
    script = []
    for group in cgroups(machine.cgroup_name):
        group.mkdir(exist_ok=True)
        script.append(f'echo $$ > "{group}/cgroup.procs"')
    return ["/bin/sh", "-c", "; ".join([*script, 'exec "$@"']), "sh", *spawn]


def cgroups(name: str) -> tuple[Path, ...]:
    """The host's control group in the hierarchy that systemd uses here: v1's own one, or the unified one."""
    parent = next((c for c in _CGROUPS if (c / "cgroup.procs").is_file()), None)
    return () if parent is None else (parent / name,)


def answers(machine: Machine, address: str, key: Path, known_hosts: Path) -> bool:
    """Does its SSH server let us in, with the host key that was given to it?"""
    options = ["BatchMode=yes", "ConnectTimeout=2", "StrictHostKeyChecking=yes", "IdentitiesOnly=yes"]
    options += [f"UserKnownHostsFile={known_hosts}", "GlobalKnownHostsFile=/dev/null", "ControlPath=none"]
    words = [word for option in options for word in ("-o", option)]
    return try_run("ssh", "-F", "none", "-i", key, *words, f"root@{address}", "true")


def shut(machine: Machine, pid: int, began: int) -> None:
    """End exactly what was started for it and leave nothing mounted. The inner PID 1 takes all of its own with it."""
    if began and started(pid) == began:
        inner = [(child, started(child)) for child in children(pid)]
        for child, since in inner:
            end(child, since)
        end(pid, began)
    for left in in_namespace(machine.namespace):  # of an ``up`` that was killed before it could record them
        end(left, started(left))
    _unmount(machine)
    for group in cgroups(machine.cgroup_name):
        for path in [*sorted((p for p in group.rglob("*") if p.is_dir()), reverse=True), group]:
            with suppress(OSError):
                path.rmdir()
    shutil.rmtree(machine.folder, ignore_errors=True)


def in_namespace(name: str) -> tuple[int, ...]:
    """The processes in a network namespace; the oldest first, which is the one that all others end with."""
    listed = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False).stdout
    return tuple(sorted(map(int, listed.split())))


def _unmount(machine: Machine) -> None:
    def gone() -> bool:
        if mounted(machine.folder):
            try_run("umount", "--recursive", machine.root)
        return not mounted(machine.folder)

    wait_for(10, gone, f"{machine.root} stays mounted: something still uses it")


def mounted(folder: Path) -> tuple[str, ...]:
    """Mount points at or below the folder."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return tuple(p for p in points if p == str(folder) or p.startswith(f"{folder}/"))

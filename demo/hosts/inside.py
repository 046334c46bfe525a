"""The last steps before a supervisord host's PID 1, run in its new namespaces: mounts, devices, chroot, exec.

    python -m demo.hosts.inside ROOT NAME     (by unshare --mount --pid --uts --ipc --fork)

Everything mounted here ends with the mount namespace, which ends with the host's last process.
"""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

_DEVICES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}
_SUPERVISORD = ["/usr/bin/supervisord", "-n", "-c", "/etc/supervisor/supervisord.conf"]


def _mount(kind: str, target: Path, options: str) -> None:
    target.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", kind, "-o", options, kind, str(target)], check=True)


def furnish(root: Path) -> None:
    """A /proc of this PID namespace, an empty /run, a /dev with terminals of its own."""
    _mount("proc", root / "proc", "nosuid,noexec,nodev")
    _mount("tmpfs", root / "run", "mode=0755,nosuid,nodev")
    (root / "run/sshd").mkdir()
    dev = root / "dev"
    _mount("tmpfs", dev, "mode=0755,nosuid")
    _mount("devpts", dev / "pts", "newinstance,ptmxmode=0666,mode=0620,gid=5")
    _mount("tmpfs", dev / "shm", "mode=1777,nosuid,nodev")
    for name, (major, minor) in _DEVICES.items():
        os.mknod(dev / name, stat.S_IFCHR | 0o666, os.makedev(major, minor))
        (dev / name).chmod(0o666)
    (dev / "ptmx").symlink_to("pts/ptmx")
    for name, target in (("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        (dev / name).symlink_to(target)


def main() -> None:
    """The command; becomes supervisord."""
    root, name = Path(sys.argv[1]), sys.argv[2]
    socket.sethostname(name)
    furnish(root)
    os.chroot(root)
    os.chdir("/")
    environment = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "LANG": "C.UTF-8",
    }
    os.execve(_SUPERVISORD[0], _SUPERVISORD, environment)  # noqa: S606 - that is the point


if __name__ == "__main__":
    main()

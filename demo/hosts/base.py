"""The root file system that every test host stands on: made once by debootstrap, kept in the user's cache."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from demo.hosts import mirror
from demo.hosts.commands import require, run

PACKAGES = (
    *("systemd", "systemd-sysv", "dbus", "openssh-server", "python3", "python3-venv", "supervisor"),
    *("iproute2", "procps", "ca-certificates", "libgomp1"),
)
USER = "deploy"
"""A user without any privilege, for hosts that are not given root."""
_RECIPE = 1


def base_root(tell: Callable[[str], None], cache: Path | None = None) -> Path:
    """The base, made now if it is not there. Two that ask at once: one makes it, the other waits."""
    require({"debootstrap": "debootstrap"})
    source = mirror.here()
    key = hashlib.sha256(json.dumps([_RECIPE, source.suite, PACKAGES]).encode()).hexdigest()[:16]
    folder = (cache or _cache()) / f"base-{key}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            _make(folder, source, tell)
    return folder


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "inference-stack"


def _make(folder: Path, source: mirror.Source, tell: Callable[[str], None]) -> None:
    partial = folder.with_suffix(".partial")
    if partial.exists():
        shutil.rmtree(partial)
    tell(f"making the base root with debootstrap ({source.suite}, {len(PACKAGES)} packages and what they need), once")
    with tempfile.TemporaryDirectory() as home:
        credentials = Path(home) / ".netrc"
        credentials.touch(0o600)
        credentials.write_text(mirror.netrc())
        environment = {**os.environ, **mirror.proxies(), "HOME": home, "DEBIAN_FRONTEND": "noninteractive"}
        words = ["unshare", "--mount", "debootstrap"]  # what it mounts is gone when it ends, however it ends
        run(*words, *_options(source), source.suite, str(partial), source.uri, environment=environment)
    _finish(partial)
    partial.rename(folder)


def _options(source: mirror.Source) -> list[str]:
    options = ["--variant=minbase", f"--include={','.join(PACKAGES)}", f"--components={','.join(source.components)}"]
    if source.trusted:
        options.append("--no-check-gpg")
    elif source.signed_by:
        options.append(f"--keyring={source.signed_by}")
    return options


def _finish(root: Path) -> None:
    """No address of a mirror, no host keys, no package files: each host makes what is its own."""
    (root / "etc/apt/sources.list").unlink(missing_ok=True)
    for path in [*root.glob("etc/ssh/ssh_host_*"), *root.glob("var/cache/apt/archives/*.deb")]:
        path.unlink()
    shutil.rmtree(root / "var/lib/apt/lists", ignore_errors=True)
    for log in ("var/log/bootstrap.log", "var/log/apt/history.log", "var/log/apt/term.log"):
        (root / log).unlink(missing_ok=True)
    run("chroot", root, "useradd", "--create-home", "--shell", "/bin/bash", USER)
    run("chroot", root, "usermod", "--password", "*", USER)
    for user_wants in root.glob("etc/systemd/system/*.wants/systemd-timesyncd.service"):
        user_wants.unlink()

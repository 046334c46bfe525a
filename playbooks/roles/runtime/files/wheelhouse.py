#!/usr/bin/env python3
"""Fetch the wheels of locked environments on the controller, for hosts that are reached over SSH.

    wheelhouse.py CACHE PYTHON MACHINE LIBC       # standard input: [{"name", "text", "digest"}]
                                                  # prints [{"name", "archive"}] of those that can be sent

One archive for each lock and kind of host stands in CACHE and is used for every host. pip is told the host's Python,
machine and libc, takes wheels only, and only those that the lock's hashes name; the host checks the same hashes again.
A lock with something in it that is built from source is left out: that host needs an index of its own. This is the
only tool here that runs on the controller.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any, Dict, List

from lockfile import SOURCE_BUILDS, lock_blocks

_LEGACY = {5: "manylinux1", 12: "manylinux2010", 17: "manylinux2014"}


class NotFetched(Exception):
    """The wheels could not be had; the text says why."""


def platforms(machine: str, libc: str) -> List[str]:
    """The platform tags that such a host takes, newest first."""
    match = re.match(r"glibc 2\.(\d{1,2})\Z", libc)
    if match is None:
        raise NotFetched(f"wheels can be fetched for hosts with glibc 2.x only, not {libc[:40] or 'an unknown libc'!r}")
    if not re.match(r"[a-z0-9_]{1,20}\Z", machine):
        raise NotFetched(f"there is no machine {machine[:40]!r}")
    tags = []
    for minor in range(int(match.group(1)), 4, -1):
        tags.append(f"manylinux_2_{minor}_{machine}")
        tags += [f"{_LEGACY[minor]}_{machine}"] if minor in _LEGACY else []
    return [*tags, f"linux_{machine}"]


def archive_of(cache: Path, row: Dict[str, str], python: str, machine: str, libc: str) -> Path:
    """The name says for which lock and which hosts it is."""
    kind = hashlib.sha256(json.dumps([row["digest"], python, machine, libc]).encode()).hexdigest()[:12]
    return cache / f"{row['name']}-{kind}.tar"


def fetch(archive: Path, text: str, python: str, machine: str, libc: str) -> None:
    """Make the archive, if it is not there; complete or not at all."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{archive}.lock", "w") as lock, tempfile.TemporaryDirectory(dir=archive.parent) as work:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if archive.is_file():
            return
        if not re.match(r"3\.\d{1,2}\Z", python):
            raise NotFetched(f"there is no Python {python[:40]!r}")
        requirements, wheels = Path(work) / "lock.txt", Path(work) / "wheels"
        requirements.write_text(text, encoding="utf-8")
        tags = [word for tag in platforms(machine, libc) for word in ("--platform", tag)]
        pip = [sys.executable, "-m", "pip", "download", "--require-hashes", "--no-deps", "--only-binary", ":all:"]
        pip += ["--implementation", "cp", "--python-version", python, *tags, "--no-input", "--progress-bar", "off"]
        pip += ["--disable-pip-version-check", "--dest", str(wheels), "-r", str(requirements)]
        done = subprocess.run(pip, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        if done.returncode:
            raise NotFetched("pip download: " + "\n".join((done.stderr or done.stdout).strip().splitlines()[-4:]))
        partial = Path(work) / "archive.tar"
        with tarfile.open(partial, "w", format=tarfile.PAX_FORMAT) as tar:
            for wheel in sorted(wheels.iterdir()):
                tar.add(wheel, arcname=wheel.name, filter=_plain)
        os.replace(partial, archive)


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mtime, member.mode = 0, 0o644
    return member


def main() -> int:
    """The command."""
    cache, (python, machine, libc) = Path(sys.argv[1]), sys.argv[2:5]
    wanted: List[Dict[str, Any]] = json.load(sys.stdin)
    found = []
    try:
        for row in wanted:
            if not SOURCE_BUILDS.keys() & lock_blocks(row["text"]).keys():
                archive = archive_of(cache, row, python, machine, libc)
                fetch(archive, row["text"], python, machine, libc)
                found.append({"name": row["name"], "archive": str(archive)})
    except (NotFetched, OSError) as error:
        print(f"wheels not fetched: {error}")
        return 1
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Fetch the wheels of locked environments on the controller, for hosts that are reached over SSH.

    wheelhouse.py CACHE ASKER PYTHON MACHINE LIBC       # standard input: [{"name", "text", "digest"}]
                                           # JSON: {"state", "line", "wheels": [{"name", "archive", "sha256"}]}
    wheelhouse.py fetch ARCHIVE ASKER PYTHON MACHINE LIBC                      # what the first one runs, detached

One archive for each lock and kind of host stands in CACHE and is used for every host. pip is told the host's Python,
machine and libc, takes wheels only, and only those that the lock's hashes name; the host checks the same hashes again.
A lock with something in it that is built from source is left out: that host needs an index of its own. This is the
only tool here that runs on the controller.

A call waits about two seconds for what is fetched; while ``state`` is ``fetching`` it is called again, and ``line``
says how far it is. Ending the caller does not end a download. One that failed is told once, to the ASKER that began it;
any other asker begins anew.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Dict, List, Optional

from lockfile import SOURCE_BUILDS, lock_blocks

TURN_S = 2.0
_LEGACY = {5: "manylinux1", 12: "manylinux2010", 17: "manylinux2014"}


class NotFetched(Exception):
    """The wheels could not be had; the text says why."""


def platforms(machine: str, libc: str) -> List[str]:
    """The platform tags that such a host takes, newest first."""
    match = re.match(r"glibc 2\.(\d+)\Z", libc)
    if match is None:
        raise NotFetched(f"wheels can be fetched for hosts with glibc 2.x only, not {libc or 'an unknown libc'!r}")
    tags = []
    for minor in range(int(match.group(1)), 4, -1):
        tags.append(f"manylinux_2_{minor}_{machine}")
        tags += [f"{_LEGACY[minor]}_{machine}"] if minor in _LEGACY else []
    return [*tags, f"linux_{machine}"]


def archive_of(cache: Path, row: Dict[str, str], python: str, machine: str, libc: str) -> Path:
    """The name says for which lock and which hosts it is."""
    kind = hashlib.sha256(json.dumps([row["digest"], python, machine, libc]).encode()).hexdigest()[:12]
    return cache / f"{row['name']}-{kind}.tar"


def beside(archive: Path, what: str) -> Path:
    """Where something about an archive stands."""
    return archive.with_name(f"{archive.name}.{what}")


def ready(archive: Path) -> Optional[str]:
    """The archive's SHA-256 as it was when it was made; None while there is none."""
    try:
        size, digest = beside(archive, "sha256").read_text(encoding="ascii").split()
        return digest if archive.stat().st_size == int(size) else None
    except (OSError, ValueError):
        return None


def begin(archive: Path, text: str, asker: str, target: List[str]) -> None:
    """Start a fetcher if the archive needs one and none lives. Raises NotFetched if the asker's own has failed."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(beside(archive, "lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if ready(archive):
            return
        if take(beside(archive, "failed")) == asker:
            raise NotFetched("\n".join(log_lines(archive)[-5:]))
        beside(archive, "txt").write_text(text, encoding="utf-8")
        command = [sys.executable, str(Path(__file__).resolve()), "fetch", str(archive), asker, *target]
        with open(beside(archive, "log"), "wb") as log:
            subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, pass_fds=(lock,)
            )
    except BlockingIOError:
        pass
    finally:
        os.close(lock)


def take(path: Path) -> Optional[str]:
    """The text of a file that is read once; None when there is none."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        return None
    path.unlink()
    return text


def fetch(archive: Path, asker: str, target: List[str]) -> None:
    """Make the archive, complete or not at all; leave word when it fails."""
    for left in archive.parent.glob(f".{archive.name}.*"):
        shutil.rmtree(left, ignore_errors=True)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{archive.name}.", dir=archive.parent) as work:
            partial = archive if archive.is_file() and not beside(archive, "sha256").exists() else Path(work) / "tar"
            if partial != archive:
                download(Path(work), beside(archive, "txt"), target)
                pack(partial, Path(work) / "wheels")
            row = f"{partial.stat().st_size} {digest_of(partial)}\n"
            beside(archive, "sha256").unlink(missing_ok=True)
            os.replace(partial, archive)
            beside(archive, "sha256").write_text(row, encoding="ascii")
    except (NotFetched, OSError):
        beside(archive, "failed").write_text(asker, encoding="utf-8")
        raise


def download(work: Path, wanted: Path, target: List[str]) -> None:
    """The wheels that a lock file names, for hosts of this kind."""
    python, machine, libc = target
    tags = [word for tag in platforms(machine, libc) for word in ("--platform", tag)]
    pip = [sys.executable, "-m", "pip", "download", "--require-hashes", "--no-deps", "--only-binary", ":all:"]
    pip += ["--implementation", "cp", "--python-version", python, *tags, "--no-input", "--progress-bar", "off"]
    pip += ["--disable-pip-version-check", "--dest", str(work / "wheels"), "-r", str(wanted)]
    code = subprocess.call(
        pip, env={**os.environ, "TMPDIR": str(work), "PYTHONUNBUFFERED": "1"}, stdin=subprocess.DEVNULL
    )
    if code:
        raise NotFetched(f"pip download ended with {code}")


def pack(archive: Path, wheels: Path) -> None:
    """One archive of them, the same bytes each time."""
    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as tar:
        for wheel in sorted(wheels.iterdir()):
            tar.add(wheel, arcname=wheel.name, filter=_plain)


def digest_of(path: Path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mtime, member.mode = 0, 0o644
    return member


def progress(archive: Path, count: int) -> str:
    """How far a fetcher is: which of its wheels, and how much is on the disk."""
    lines = log_lines(archive)
    begun = sum(line.startswith("Collecting ") for line in lines)
    size = 0
    for folder in archive.parent.glob(f".{archive.name}.*"):
        for path in folder.rglob("*"):
            with suppress(OSError):
                size += path.stat().st_size if path.is_file() else 0
    last = next((line for line in reversed(lines) if line.startswith(("Collecting ", "Downloading "))), "beginning")
    return f"fetching wheels, {begun} of {count}, {size >> 20} MiB here: {last[:120]}"


def log_lines(archive: Path) -> List[str]:
    """What pip said, without blanks."""
    try:
        text = beside(archive, "log").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return [line.strip() for line in text.splitlines() if line.strip()]


def look(rows: List[Dict[str, Any]]) -> Optional[Dict[str, Any]]:
    """What is being fetched; None when all is here."""
    for row in rows:
        if not ready(row["archive"]):
            return {"state": "fetching", "line": progress(row["archive"], row["count"]), "wheels": []}
    return None


def damaged(archive: Path) -> bool:
    """Is it not what it was when it was made? Then it is taken away."""
    if digest_of(archive) == ready(archive):
        return False
    archive.unlink()
    beside(archive, "sha256").unlink(missing_ok=True)
    return True


def ask(cache: Path, asker: str, target: List[str], wanted: List[Dict[str, Any]]) -> Dict[str, Any]:
    """Start what is missing and wait a turn for it."""
    platforms(target[1], target[2])
    rows = []
    for row in wanted:
        blocks = lock_blocks(row["text"])
        if not SOURCE_BUILDS.keys() & blocks.keys():
            rows.append({**row, "archive": archive_of(cache, row, *target), "count": len(blocks)})
    deadline = time.monotonic() + TURN_S
    while True:
        for row in rows:
            begin(row["archive"], row["text"], asker, target)
        found = look(rows)
        if found and time.monotonic() > deadline:
            return found
        if not found and not [row for row in rows if damaged(row["archive"])]:
            break
        time.sleep(0.1)
    wheels = [{"name": r["name"], "archive": str(r["archive"]), "sha256": ready(r["archive"])} for r in rows]
    return {"state": "fetched", "line": "fetched", "wheels": wheels}


def main() -> int:
    """The command."""
    try:
        if sys.argv[1] == "fetch":
            fetch(Path(sys.argv[2]), sys.argv[3], sys.argv[4:7])
        else:
            print(json.dumps(ask(Path(sys.argv[1]), sys.argv[2], sys.argv[3:6], json.load(sys.stdin))))
    except (NotFetched, OSError) as error:
        print(f"wheels not fetched: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Fetch the wheels of locked environments on the controller, for hosts that are reached over SSH.

    wheelhouse.py CACHE PYTHON MACHINE LIBC       # standard input: [{"name", "text", "digest"}]
                                                  # JSON: {"state", "line", "wheels": [{"name", "archive", "sha256"}]}
    wheelhouse.py fetch ARCHIVE PYTHON MACHINE LIBC LOCKFILE                   # what the first one runs, detached

One archive for each lock and kind of host stands in CACHE and is used for every host. pip is told the host's Python,
machine and libc, takes wheels only, and only those that the lock's hashes name; the host checks the same hashes again.
A lock with something in it that is built from source is left out: that host needs an index of its own. This is the
only tool here that runs on the controller.

A call waits about two seconds for what is fetched; while ``state`` is ``fetching`` it is called again, and ``line`` says
how far it is. Ending the caller does not end a download.
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


def begin(archive: Path, text: str, target: List[str]) -> bool:
    """Start a fetcher, unless one lives; False if the archive needs none."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(beside(archive, "lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if ready(archive):
            return False
        wanted = beside(archive, "txt")
        wanted.write_text(text, encoding="utf-8")
        command = [sys.executable, str(Path(__file__).resolve()), "fetch", str(archive), *target, str(wanted)]
        with open(beside(archive, "log"), "wb") as log:
            subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, pass_fds=(lock,)
            )
    except BlockingIOError:
        pass
    finally:
        os.close(lock)
    return True


def alive(archive: Path) -> bool:
    """Does a fetcher of it live? It and its children hold the lock."""
    with open(beside(archive, "lock"), "ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def fetch(archive: Path, python: str, machine: str, libc: str, wanted: Path) -> None:
    """Make the archive; complete or not at all."""
    for left in archive.parent.glob(f".{archive.name}.*"):
        subprocess.run(["rm", "-rf", str(left)], check=False)
    with tempfile.TemporaryDirectory(prefix=f".{archive.name}.", dir=archive.parent) as work:
        wheels, partial = Path(work) / "wheels", Path(work) / "archive.tar"
        tags = [word for tag in platforms(machine, libc) for word in ("--platform", tag)]
        pip = [sys.executable, "-m", "pip", "download", "--require-hashes", "--no-deps", "--only-binary", ":all:"]
        pip += ["--implementation", "cp", "--python-version", python, *tags, "--no-input", "--progress-bar", "off"]
        pip += ["--disable-pip-version-check", "--dest", str(wheels), "-r", str(wanted)]
        environment = {**os.environ, "TMPDIR": work, "PYTHONUNBUFFERED": "1"}
        code = subprocess.call(pip, env=environment, stdin=subprocess.DEVNULL)
        if code:
            raise NotFetched(f"pip download ended with {code}")
        with tarfile.open(partial, "w", format=tarfile.PAX_FORMAT) as tar:
            for wheel in sorted(wheels.iterdir()):
                tar.add(wheel, arcname=wheel.name, filter=_plain)
        row = f"{partial.stat().st_size} {digest_of(partial)}\n"
        os.replace(partial, archive)
        beside(archive, "sha256").write_text(row, encoding="ascii")


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


def look(rows: List[Dict[str, Any]], started: List[Dict[str, Any]]) -> Dict[str, Any]:
    """How far everything is. Raises NotFetched with what pip said."""
    for row in started:
        if ready(row["archive"]):
            continue
        if alive(row["archive"]):
            return {"state": "fetching", "line": progress(row["archive"], row["count"]), "wheels": []}
        if not ready(row["archive"]):
            raise NotFetched(f"{row['name']}: " + "\n".join(log_lines(row["archive"])[-5:]))
    wheels = [{"name": r["name"], "archive": str(r["archive"]), "sha256": ready(r["archive"])} for r in rows]
    return {"state": "fetched", "line": "fetched", "wheels": wheels}


def ask(cache: Path, target: List[str], wanted: List[Dict[str, Any]]) -> Dict[str, Any]:
    """Start what is missing and wait a turn for it."""
    platforms(target[1], target[2])
    rows = []
    for row in wanted:
        blocks = lock_blocks(row["text"])
        if not SOURCE_BUILDS.keys() & blocks.keys():
            rows.append({**row, "archive": archive_of(cache, row, *target), "count": len(blocks)})
    started = [row for row in rows if begin(row["archive"], row["text"], target)]
    deadline = time.monotonic() + TURN_S
    while True:
        found = look(rows, started)
        if found["state"] != "fetching" or time.monotonic() > deadline:
            return found
        time.sleep(0.1)


def main() -> int:
    """The command."""
    try:
        if sys.argv[1] == "fetch":
            fetch(Path(sys.argv[2]), *sys.argv[3:6], Path(sys.argv[6]))
        else:
            print(json.dumps(ask(Path(sys.argv[1]), sys.argv[2:5], json.load(sys.stdin))))
    except (NotFetched, OSError) as error:
        print(f"wheels not fetched: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

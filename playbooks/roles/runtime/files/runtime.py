#!/usr/bin/env python3
"""Install locked Python environments on this host, in the background, with a log that can be followed.

    runtime.py begin ROOT OP EPOCH PYTHON         # standard input: [{"name", "text", "digest"}]; returns at once
    runtime.py install ROOT NAME LOCK PYTHON      # what begin runs, fenced and detached
    runtime.py installed ROOT NAME                # exit 0 when it is there
    runtime.py poll ROOT NAME...                  # JSON: {"state", "line", "tail"}

``runtimes/<name>/INSTALLED`` is written last; a directory without it does not count and is removed and made again.
pip takes only what the lock's hashes name: from ``wheels/<name>.tar`` when the controller put one there, and then from
nowhere else; else from wherever this host's own pip configuration points. Standard library only, Python 3.9 or newer.
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
from contextlib import suppress
from pathlib import Path
from typing import Any, Dict, List

from builds import finish, pip_options
from fence import write_durably
from lockfile import SOURCE_BUILDS, lock_blocks

FAILED = 1
IMPORTS = {"llama-cpp-python": "llama_cpp.server", "xllamacpp": "xllamacpp", "supervisor": "supervisor.supervisord"}

SYSTEM_PACKAGES = {"libgomp.so.1": "libgomp1"}  # Debian's names


class NotInstalled(Exception):
    """The environment could not be made; the text says why."""


def folder_of(root: Path, name: str) -> Path:
    """Where an environment stands."""
    return root / "runtimes" / name


def installed(root: Path, name: str) -> bool:
    """Is the environment complete?"""
    return (folder_of(root, name) / "INSTALLED").is_file()


def begin(root: Path, op: str, epoch: str, python: str, wanted: List[Dict[str, str]]) -> None:
    """Start one detached, fenced installer per environment that is missing; each writes ``runtimes/<name>.log``."""
    here = Path(__file__).resolve().parent
    for row in wanted:
        name = row["name"]
        if installed(root, name):  # by an installer that outlived an earlier run: nobody needs the archive
            drop_wheels(root, name)
            continue
        lock_file = keep_lock(root, row)
        own = [python, str(here / "runtime.py")]
        step = [python, str(here / "fence.py"), "step", op, epoch, f"runtime.{name}", "--subject", name]
        observe = ["--observe", json.dumps([*own, "installed", str(root), name])]
        command = [*step, *observe, "--", *own, "install", str(root), name, str(lock_file), python]
        log = folder_of(root, name).with_name(f"{name}.log")
        log.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(f"{folder_of(root, name)}.running", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: held while any installer of it lives
            with open(log, "ab") as out:
                subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True, pass_fds=(lock,)
                )
        finally:
            os.close(lock)


def keep_lock(root: Path, row: Dict[str, str]) -> Path:
    """Write the lock file, if it is the one that the release names."""
    found = "sha256:" + hashlib.sha256(row["text"].encode()).hexdigest()
    if found != row["digest"]:
        raise NotInstalled(f"the lock file of {row['name']} is {found}, the release names {row['digest']}")
    folder = root / "runtimes" / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    write_durably(folder / f"{row['name']}.txt", row["text"])
    return folder / f"{row['name']}.txt"


def install(root: Path, name: str, lock: Path, python: str) -> None:
    """Make the environment from nothing; anything half-made is removed, before and after."""
    folder = folder_of(root, name)
    if installed(root, name):
        return
    shutil.rmtree(folder, ignore_errors=True)
    try:
        _fill(folder, lock, python, unpacked(wheels_of(root, name), folder / "wheels"))
        shutil.rmtree(folder / "wheels", ignore_errors=True)
        write_durably(folder / "INSTALLED", json.dumps({"lock": hashlib.sha256(lock.read_bytes()).hexdigest()}))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    drop_wheels(root, name)


def drop_wheels(root: Path, name: str) -> None:
    """The archive of an environment that stands is not needed any more."""
    with suppress(OSError):
        wheels_of(root, name).unlink()


def wheels_of(root: Path, name: str) -> Path:
    """Where the controller puts the wheels of an environment, if it does."""
    return root / "wheels" / f"{name}.tar"


def unpacked(archive: Path, folder: Path) -> List[str]:
    """pip's options for taking the archive's wheels and nothing else; none without an archive."""
    if not archive.is_file():
        return []
    folder.mkdir(parents=True)
    with tarfile.open(archive, "r:") as tar:
        for member in tar:
            if not member.isfile() or not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+!-]*\.whl", member.name):
                raise NotInstalled(f"{archive} holds {member.name!r}, which is no wheel")
            with open(folder / member.name, "wb") as file:
                shutil.copyfileobj(tar.extractfile(member), file)  # type: ignore[arg-type]
    say(f"Taking {len(list(folder.iterdir()))} wheels that the controller sent")
    return ["--no-index", "--find-links", str(folder)]


def _fill(folder: Path, lock: Path, python: str, sent: List[str]) -> None:
    own_pip = subprocess.run([python, "-m", "pip", "--version"], capture_output=True, text=True, check=False)
    version = re.match(r"pip (\d+)", own_pip.stdout)
    borrowed = bool(version and int(version.group(1)) >= 23)
    say(f"Creating {folder.name}")
    run([python, "-m", "venv", *(["--without-pip"] if borrowed else []), str(folder)], {})
    inside = str(folder / "bin" / "python")
    pip = [python, "-m", "pip", "--python", inside] if borrowed else [inside, "-m", "pip"]
    pip += ["install", "--require-hashes", "--no-input", "--progress-bar", "off"]
    blocks = lock_blocks(lock.read_text(encoding="utf-8"))
    source = [name for name in blocks if name in SOURCE_BUILDS]
    rest = folder / "wheels.txt"
    rest.write_text("".join(text for name, text in blocks.items() if name not in source), encoding="utf-8")
    run([*pip, *sent, *pip_options(blocks), "--only-binary", ":all:", "-r", str(rest)], {})
    for name in source:
        path = {"PATH": f"{folder / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}
        run([*pip, "-v", "--no-build-isolation", "--no-deps", "-r", str(lock)], {**SOURCE_BUILDS[name], **path})
    finish(folder, blocks, run)
    for name in blocks:
        if name in IMPORTS:
            prove_importable(inside, name)


def prove_importable(python: str, name: str) -> None:
    """The engine loads here; a wheel cannot bring every library of the system that it needs."""
    command = [python, "-c", f"import {IMPORTS[name]}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if not done.returncode:
        return
    say(done.stderr.strip())
    library = re.search(r"(lib[\w+.-]+): cannot open shared object file", done.stderr)
    if library is None:
        raise NotInstalled(f"{name} can't be imported on this host")
    package = SYSTEM_PACKAGES.get(library.group(1), f"that has {library.group(1)}")
    raise NotInstalled(f"this host lacks {library.group(1)}, which {name} needs: install the package {package}")


def say(text: str) -> None:
    """One line of progress."""
    print(text, flush=True)


def run(command: List[str], extra: Dict[str, str]) -> None:
    """Run one command, its output into our log. It inherits the fence's lock: outliving us, it still holds it."""
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PYTHONUNBUFFERED": "1", **extra}
    environment.pop("PYTHONPATH", None)
    code = subprocess.call(command, env=environment, stdin=subprocess.DEVNULL, close_fds=False)
    if code:
        raise NotInstalled(f"{' '.join(command[:5])} ... ended with {code}")


def poll(root: Path, name: str) -> Dict[str, Any]:
    """How far one environment is."""
    log = folder_of(root, name).with_name(f"{name}.log")
    lines = tail(log, 20)
    if installed(root, name):
        return {"name": name, "state": "installed", "line": "installed", "tail": []}
    busy = is_busy(folder_of(root, name).with_name(f"{name}.running"))
    state = "installing" if busy else "installed" if installed(root, name) else "failed"
    return {
        "name": name,
        "state": state,
        "line": next((x for x in reversed(lines) if x and not x.startswith("WARNING")), ""),
        "tail": lines,
    }


def is_busy(lock: Path) -> bool:
    """Does an installer live? It and its children hold this lock, shared."""
    try:
        descriptor = os.open(lock, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)


def tail(path: Path, count: int) -> List[str]:
    """The last lines of a log."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - 16384))
            return [shorter(x.strip()) for x in file.read().decode("utf-8", "replace").splitlines()[-count:]]
    except OSError:
        return []


def shorter(line: str) -> str:
    """A line that a person can read: of a compiler's command line only the count and the file stay."""
    compiling = re.match(r"(\[\d+/\d+\]) .* -c (\S+)$", line)
    return f"{compiling.group(1)} Building {Path(compiling.group(2)).name}" if compiling else line[:300]


def summary(rows: List[Dict[str, Any]]) -> Dict[str, Any]:
    """One state for several environments: failed if any failed, else installing if any is."""
    for state in ("failed", "installing"):
        for row in rows:
            if row["state"] == state:
                return {"state": state, "line": f"{row['name'].split('-')[0]}: {row['line']}", "tail": row["tail"]}
    return {"state": "installed", "line": "installed", "tail": []}


def main() -> int:
    """The command."""
    verb, root, rest = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
    try:
        if verb == "begin":
            begin(root, rest[0], rest[1], rest[2], json.load(sys.stdin))
        elif verb == "install":
            install(root, rest[0], Path(rest[1]), rest[2])
        elif verb == "installed":
            return 0 if installed(root, rest[0]) else FAILED
        elif verb == "poll":
            print(json.dumps(summary([poll(root, name) for name in rest])))
    except (NotInstalled, OSError) as error:
        print(f"not installed: {error}", flush=True)
        return FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())

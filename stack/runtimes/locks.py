"""Which exact runtime a lock file pins: version and digest. The role installs from the same file, by hash.

`<engine>-<distribution>.txt` is the default; other versions stand beside it as `<engine>-<distribution>@<version>.txt`.
A server that hosts bring themselves has no file: its version is named, and that one line is what is locked.
"""

from __future__ import annotations

import re
from pathlib import Path

from stack.core.digest import Digest
from stack.core.errors import InvalidInput
from stack.core.release import RuntimeVersion
from stack.runtimes.driver import driver_for

LOCKS_DIR = Path(__file__).resolve().parents[2] / "playbooks" / "roles" / "runtime" / "files" / "locks"
VERSION = r"[A-Za-z0-9][A-Za-z0-9.+!_-]{0,63}"
_PIN = re.compile(rf"([A-Za-z0-9][A-Za-z0-9._-]*)==({VERSION})")
_MAX_BYTES = 4 << 20


class NotLocked(InvalidInput):
    """The runtime {runtime} is not locked: {detail}."""

    hint = "A lock file pins every distribution with == and at least one --hash=sha256:; see the runtime role's locks."


class VersionNotNamed(InvalidInput):
    """The hosts bring {runtime} themselves, so its version must be named: {runtime}@VERSION."""

    hint = "The server says its version (`ollama --version`); in stack.yaml it is the service's runtime.version."


def locked_runtime(
    engine: str, distribution: str, version: str | None = None, *, locks_dir: Path = LOCKS_DIR
) -> RuntimeVersion:
    """The runtime of this version, or the default one; raises `NotLocked` or `VersionNotNamed`."""
    driver = driver_for(engine)
    traits = driver.traits(distribution)
    runtime = f"{engine}/{distribution}"
    if version is not None and not re.fullmatch(VERSION, version):
        raise NotLocked(f"{version[:60]!r} is no version", runtime=runtime)
    if traits.provided:
        if version is None:
            raise VersionNotNamed(runtime=runtime)
        data = f"{distribution}=={version}\n".encode()
        return RuntimeVersion(engine=driver.engine, distribution=distribution, version=version, lock=Digest.of(data))
    path = locks_dir / f"{engine}-{distribution}.txt"
    beside = locks_dir / f"{engine}-{distribution}@{version}.txt"
    found, lock = _read(beside if version is not None and beside.is_file() else path, distribution, runtime)
    if version is not None and found != version:
        there = ", ".join(versions(engine, distribution, locks_dir=locks_dir))
        raise NotLocked(f"there is no lock of version {version}; there are: {there}", runtime=runtime)
    return RuntimeVersion(engine=driver.engine, distribution=distribution, version=found, lock=lock)


def versions(engine: str, distribution: str, *, locks_dir: Path = LOCKS_DIR) -> tuple[str, ...]:
    """The versions that are locked, the default one first; raises `NotLocked` for a file that is no lock."""
    name, runtime = f"{engine}-{distribution}", f"{engine}/{distribution}"
    paths = [locks_dir / f"{name}.txt", *sorted(locks_dir.glob(f"{name}@*.txt"))]
    return tuple(_read(path, distribution, runtime)[0] for path in paths)


def _read(path: Path, distribution: str, runtime: str) -> tuple[str, Digest]:
    try:
        data = path.read_bytes()
        text = data[:_MAX_BYTES].decode("utf-8")
    except OSError as error:
        raise NotLocked(f"its lock file can't be read: {error.strerror}", runtime=runtime) from error
    except UnicodeDecodeError as error:
        raise NotLocked("its lock file is not text", runtime=runtime) from error
    if len(data) > _MAX_BYTES:
        raise NotLocked("its lock file is too large to be one", runtime=runtime)
    return pinned_version(text, distribution, runtime), Digest.of(data)


def pinned_version(text: str, distribution: str, runtime: str) -> str:
    """The one version that a hash-locked requirements text pins for `distribution`. Every line must be pinned."""
    versions = set()
    for line in _logical_lines(text):
        if line.startswith("--"):
            raise NotLocked(f"options are not allowed in a lock: {line[:60]}", runtime=runtime)
        pin = _PIN.match(line)
        if pin is None or "--hash=sha256:" not in line:
            raise NotLocked(f"not pinned by version and hash: {line[:60]}", runtime=runtime)
        if _normal(pin[1]) == _normal(distribution):
            versions.add(pin[2])
    if len(versions) != 1:
        found = "no version" if not versions else "several versions"
        raise NotLocked(f"the lock pins {found} of {distribution}", runtime=runtime)
    return versions.pop()


def _logical_lines(text: str) -> list[str]:
    joined = re.sub(r"\\\r?\n", " ", text)
    lines = (re.sub(r"(^|\s)#.*", "", line).strip() for line in joined.splitlines())
    return [line for line in lines if line]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()

"""Which exact runtime a lock file pins: version and digest. The role installs from the same file, by hash."""

from __future__ import annotations

import re
from pathlib import Path

from stack.core.digest import Digest
from stack.core.errors import InvalidInput
from stack.core.release import RuntimeVersion
from stack.runtimes.driver import driver_for

LOCKS_DIR = Path(__file__).resolve().parents[2] / "playbooks" / "roles" / "runtime" / "files" / "locks"
_PIN = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([A-Za-z0-9][A-Za-z0-9.+!_-]*)")
_MAX_BYTES = 4 << 20


class NotLocked(InvalidInput):
    """The runtime {runtime} is not locked: {detail}."""

    hint = "A lock file pins every distribution with == and at least one --hash=sha256:; see the runtime role's locks."


def locked_runtime(engine: str, distribution: str, *, locks_dir: Path = LOCKS_DIR) -> RuntimeVersion:
    """The runtime that `<locks_dir>/<engine>-<distribution>.txt` pins; raises `NotLocked`."""
    driver = driver_for(engine)
    driver.traits(distribution)
    runtime = f"{engine}/{distribution}"
    try:
        data = (locks_dir / f"{engine}-{distribution}.txt").read_bytes()
        text = data[:_MAX_BYTES].decode("utf-8")
    except OSError as error:
        raise NotLocked(f"its lock file can't be read: {error.strerror}", runtime=runtime) from error
    except UnicodeDecodeError as error:
        raise NotLocked("its lock file is not text", runtime=runtime) from error
    if len(data) > _MAX_BYTES:
        raise NotLocked("its lock file is too large to be one", runtime=runtime)
    version = pinned_version(text, distribution, runtime)
    return RuntimeVersion(engine=driver.engine, distribution=distribution, version=version, lock=Digest.of(data))


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

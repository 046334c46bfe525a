"""What is known of a host's machine: gathered by ``facts.yml``, kept in a file per host, checked against what we need.

Values only; who gathers and when is for the room above. What a host did not say is None, and None meets no requirement.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from stack.core.clock import stamp, unstamp
from stack.core.errors import Unavailable

OLDEST_PYTHON = (3, 9)
MOST_SKEW_S = 30.0
LEAST_DISK = 256 << 20
LEAST_FILES = 1024


class FactsUnreadable(Unavailable):
    """What host {host} said of itself can't be read: {detail}."""

    hint = "stackctl host check HOST gathers it again."


@dataclass(frozen=True, kw_only=True)
class Accelerator:
    """One device; sizes in bytes. ``free`` is None where it can't be had as a whole (MIG) or is not told."""

    name: str
    total: int | None
    free: int | None
    driver: str
    id: str


@dataclass(frozen=True, kw_only=True)
class Facts:
    """One host at one moment; sizes in bytes. ``skew_s``: how far its clock is ahead of ours, seconds.

    ``environments``: its Python can make them. ``open_files``: as many as one process may have. ``after_reboot``: what
    starts its replicas then. Facts that an older release kept have none of these.
    """

    memory_total: int | None
    memory_available: int | None
    disk_free: int | None
    disk_writable: bool | None
    accelerators: tuple[Accelerator, ...] | None
    cpus: int | None
    architecture: str
    system: str
    python: str
    service_manager: str
    user: int | None
    skew_s: float | None
    gathered_at: datetime
    libc: str = ""
    environments: bool | None = None
    open_files: int | None = None
    after_reboot: str = ""

    def to_json(self) -> dict[str, Any]:
        """``Facts.from_json(f.to_json()) == f``."""
        return {**asdict(self), "gathered_at": stamp(self.gathered_at)}

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Facts:
        """Inverse of ``to_json``; also of its JSON text."""
        found = body["accelerators"]
        devices = None if found is None else tuple(Accelerator(**device) for device in found)
        return cls(**{**body, "accelerators": devices, "gathered_at": unstamp(body["gathered_at"])})


def read_facts(host: str, observed: Mapping[str, Any], now: datetime) -> Facts:
    """From what ``facts.yml`` brought back. Raises FactsUnreadable: a host that says nonsense says nothing."""
    said = observed.get("facts")
    if not isinstance(said, Mapping):
        raise FactsUnreadable("it said nothing", host=host)
    try:
        memory, disk, clock = said["memory"], said["disk"], said["clock_s"]
        devices = said["accelerators"]
        return Facts(
            memory_total=_size(memory["total"]),
            memory_available=_size(memory["available"]),
            disk_free=_size(disk["free"]),
            disk_writable=None if disk["writable"] is None else bool(disk["writable"]),
            accelerators=None if devices is None else tuple(_device(device) for device in devices),
            cpus=_size(said["cpus"]),
            architecture=str(said["architecture"])[:60],
            system=str(said["system"])[:200],
            python=str(said["python"])[:30],
            service_manager=str(said["service_manager"])[:30],
            user=_size(said["user"]),
            skew_s=round(float(clock) - now.timestamp(), 3) if math.isfinite(float(clock)) else None,
            gathered_at=now,
            libc=str(said["libc"])[:40],
            environments=None if said["environments"] is None else bool(said["environments"]),
            open_files=_size(said["open_files"]),
            after_reboot=str(said["after_reboot"])[:30],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise FactsUnreadable(f"{type(error).__name__}: {error}", host=host) from error


def _device(said: Mapping[str, Any]) -> Accelerator:
    words = {name: str(said[name])[:100] for name in ("name", "driver", "id")}
    return Accelerator(total=_size(said["total"]), free=_size(said["free"]), **words)


def _size(value: Any) -> int | None:
    if value is None:
        return None
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r:.40} is no size")
    return value


def problems(facts: Facts, group: str) -> tuple[str, ...]:
    """Why this host can't carry replicas, in words; nothing means that everything needed was shown."""
    return tuple(text for text in _checks(facts, group) if text)


def _checks(facts: Facts, group: str) -> tuple[str, ...]:
    python = tuple(int(part) for part in facts.python.split(".")[:2] if part.isdigit())
    return (
        "" if facts.memory_available else "it does not say how much memory is free",
        _disk(facts),
        "" if python >= OLDEST_PYTHON else f"Python {facts.python} is older than 3.9",
        "" if facts.environments else "its Python can't make environments: install python3-venv",
        "" if facts.libc.startswith("glibc 2.") else f"wheels are for glibc 2.x, and it has {facts.libc or 'another'}",
        _files(facts.open_files),
        "" if group != "gpu" else _devices(facts),
        _clock(facts.skew_s),
    )


def _disk(facts: Facts) -> str:
    if facts.disk_free is None or facts.disk_writable is None:
        return "it does not say how much disk is free"
    if not facts.disk_writable:
        return "its directory can't be written"
    return "" if facts.disk_free >= LEAST_DISK else f"only {facts.disk_free >> 20} MiB of disk are free"


def _files(count: int | None) -> str:
    if count is None:
        return "it does not say how many files a process may open"
    return (
        "" if count >= LEAST_FILES else f"a process may open only {count} files (ulimit -n); {LEAST_FILES} are needed"
    )


def notes(facts: Facts) -> tuple[str, ...]:
    """What people should know before they rely on this host, though it can carry replicas."""
    after = {
        "systemd": "",
        "cron": "",
        "nothing": "after a reboot nothing on it starts its replicas; the control plane does, when it sees that",
    }
    return tuple(text for text in (after.get(facts.after_reboot, ""),) if text)


def _devices(facts: Facts) -> str:
    if facts.accelerators is None:
        return "its accelerators can't be listed: nvidia-smi fails there"
    if not facts.accelerators:
        return "it is in group gpu and has no accelerator"
    told = any(device.free is not None for device in facts.accelerators)
    return "" if told else "none of its accelerators says what it has free, or all are cut by MIG"


def _clock(skew_s: float | None) -> str:
    if skew_s is None:
        return "it does not say what time it is"
    return "" if abs(skew_s) <= MOST_SKEW_S else f"its clock is {skew_s:+.0f} s off"


class FactsFiles:
    """The last facts of every host, a file each: known before anybody asks, and after a restart."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def put(self, host: str, facts: Facts) -> None:
        """Whole or not at all."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._directory / f"{host}.json"
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(facts.to_json(), indent=1, sort_keys=True), encoding="utf-8")
        partial.replace(path)

    def get(self, host: str) -> Facts | None:
        """What was last known; None if nothing is, or it can't be read any more."""
        try:
            return Facts.from_json(json.loads((self._directory / f"{host}.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError):
            return None

"""What goes to a host and what comes back: frozen values, checked where they are made. No I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from stack.core.errors import InvalidInput
from stack.core.names import HostName, OperationId

Scalar = str | int | float | bool
Variables = Mapping[str, Scalar | list[Scalar]]
Status = Literal["done", "already", "fenced", "failed", "unreachable"]
EventKind = Literal["task", "progress", "ok", "changed", "skipped", "failed", "unreachable"]
ServiceManager = Literal["auto", "systemd", "supervisord"]

_ADDRESS = re.compile(r"[A-Za-z0-9][A-Za-z0-9.:-]{0,254}\Z")
_SERVER = re.compile(r"[A-Za-z0-9.:\[\]-]{1,280}\Z")
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}\Z")
_PATH = re.compile(r"/[^\x00-\x1f\x7f{}'\"\\$`;|&<>*?]{0,900}\Z")
_PYTHON = re.compile(r"python3(\.[0-9]{1,2})?\Z")
_GROUP = re.compile(r"[a-z][a-z0-9_]{0,31}\Z")


class HostNotDescribed(InvalidInput):
    """Host {host}: {problem}."""

    hint = "Correct the host in stack.yaml."


@dataclass(frozen=True, kw_only=True)
class Host:
    """A machine of the inventory. ``root`` is where everything of ours stands on it; an empty ``python`` means the
    control plane's own on a local host and ``python3`` elsewhere; an empty ``ollama`` that server's usual address.
    ``known_as``: the name that SSH uses, where ``address`` was found for one. ``shares``: whether other hosts may take
    artifacts from it."""

    name: HostName
    root: str
    connection: Literal["local", "ssh"] = "local"
    address: str = "127.0.0.1"
    user: str = ""
    port: int = 22
    python: str = ""
    group: str = "cpu"
    service_manager: ServiceManager = "auto"
    ollama: str = ""
    known_as: str = ""
    shares: bool = False

    def __post_init__(self) -> None:
        checks = {
            "connection is local or ssh": self.connection in ("local", "ssh"),
            "address is a host name or an IP address": bool(_ADDRESS.match(self.address)),
            "user is a POSIX user name": not self.user or bool(_USER.match(self.user)),
            "port is 1-65535": type(self.port) is int and 0 < self.port < 65536,
            "root is an absolute path without quotes, braces or shell characters": bool(_PATH.match(self.root)),
            "python is python3 or an absolute path": not self.python
            or bool(_PYTHON.match(self.python) or _PATH.match(self.python)),
            "known_as is a host name": not self.known_as or bool(_ADDRESS.match(self.known_as)),
            "ollama is host:port": not self.ollama or bool(_SERVER.match(self.ollama)),
            "group is a-z, 0-9 and _": bool(_GROUP.match(self.group)),
            "service_manager is auto, systemd or supervisord": self.service_manager
            in ("auto", "systemd", "supervisord"),
        }
        wrong = [rule for rule, holds in checks.items() if not holds]
        if wrong:
            raise HostNotDescribed(host=self.name, problem="; ".join(wrong))


def peer_line(host: Host) -> str:
    """How a playbook is told of a host that has the artifact too."""
    ways = f"{host.known_as or host.address} {host.address} {host.port}"
    return f"{host.name} {ways} {host.user or '-'} {host.root} {host.python or 'python3'}"


def can_be_told(host: Host) -> bool:
    """Whether its line can be read again: nothing in it has a blank of its own."""
    return peer_line(host).count(" ") == 6


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One playbook on one host. The id is the operation's name on the host: the same id is never done twice there.

    ``timeout_s`` is for the whole playbook.
    """

    op_id: OperationId
    epoch: int
    host: Host
    playbook: str
    variables: Variables = field(default_factory=dict)
    timeout_s: int = 3600


@dataclass(frozen=True, kw_only=True)
class HostEvent:
    """Something happened: a task began or ended, or a long one says how far it is (``progress``)."""

    kind: EventKind
    host: str
    task: str
    text: str = ""


@dataclass(frozen=True, kw_only=True)
class OperationResult:
    """How an operation ended. ``observed`` is what the host itself says; empty when it could not be asked."""

    status: Status
    observed: Mapping[str, Any] = field(default_factory=dict)
    failed_task: str = ""
    message: str = ""
    seconds: float = 0.0
    would: tuple[str, ...] = ()

    @property
    def succeeded(self) -> bool:
        """Done now or before."""
        return self.status in ("done", "already")

    def replica(self, replica_id: str) -> Mapping[str, Any] | None:
        """The observed row of one replica, if the host has one."""
        rows = self.observed.get("replicas", [])
        return next((row for row in rows if row["id"] == replica_id), None)

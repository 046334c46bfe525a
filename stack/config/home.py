"""Where things lie: the state directory, its modes, and the two ports. Reads no settings file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stack.core.errors import InvalidInput, Unavailable

DEFAULT_HOME = ".stack"
_PORT = re.compile(r"[0-9]{1,5}\Z", re.ASCII)


class BadPort(InvalidInput):
    """{variable}={text} is no port: write a number from 1 to 65535."""


class SamePort(InvalidInput):
    """The gateway and the control plane can't both listen on port {port}."""

    hint = "Set STACK_GATEWAY_PORT and STACK_ADMIN_PORT to different ports."


class BadHome(InvalidInput):
    """STACK_HOME={text} is no directory name."""


class HomeUnusable(Unavailable):
    """The state directory {path} can't be used: {detail}"""

    hint = "Give it to this user, or set STACK_HOME to a directory that can be written."


@dataclass(frozen=True)
class Home:
    """The state directory (STACK_HOME). Properties are paths; nothing is made before ``create``."""

    root: Path

    @property
    def database(self) -> Path:
        """The store."""
        return self.root / "state.db"

    @property
    def content(self) -> Path:
        """The content store of the registry."""
        return self.root / "store"

    @property
    def run(self) -> Path:
        """Pid files and sockets."""
        return self.root / "run"

    @property
    def gateway_socket(self) -> Path:
        """The gateway's control socket."""
        return self.run / "gateway.sock"

    @property
    def logs(self) -> Path:
        """Logs of both processes."""
        return self.root / "logs"

    @property
    def gateway(self) -> Path:
        """What the gateway keeps."""
        return self.root / "gateway"

    @property
    def gateway_table(self) -> Path:
        """The last routing table that the gateway acknowledged."""
        return self.gateway / "table.json"

    @property
    def evidence(self) -> Path:
        """One directory per rollout."""
        return self.root / "evidence"

    @property
    def secrets(self) -> Path:
        """Files with mode 0600."""
        return self.root / "secrets"

    @property
    def runner(self) -> Path:
        """Private data of single Ansible runs."""
        return self.root / "runner"

    @property
    def hosts(self) -> Path:
        """The roots of hosts whose connection is local."""
        return self.root / "hosts"

    def secret(self, name: str) -> Path:
        """The file of one secret."""
        return self.secrets / name

    def host_root(self, name: str) -> Path:
        """Where Ansible puts what belongs to a local host."""
        return self.hosts / name

    def create(self) -> None:
        """Make what is missing, each directory for its owner only (0700), the root too if it was there with more."""
        parts = (self.content, self.run, self.logs, self.gateway, self.evidence, self.secrets, self.runner, self.hosts)
        try:
            for directory in (self.root, *parts):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                if directory.stat().st_mode & 0o077:
                    directory.chmod(0o700)
        except OSError as error:
            raise HomeUnusable(error.strerror or str(error), path=str(self.root)) from error


@dataclass(frozen=True)
class Ports:
    """TCP ports on this machine."""

    gateway: int = 8317
    admin: int = 8000


def home_from_environment(environ: Mapping[str, str]) -> Home:
    """``STACK_HOME``, or ``.stack`` in the current directory; absolute."""
    text = environ.get("STACK_HOME") or DEFAULT_HOME
    if "\x00" in text or text != text.strip():
        raise BadHome(text=repr(text)[:90])
    return Home(Path(text).expanduser().absolute())


def ports_from_environment(environ: Mapping[str, str]) -> Ports:
    """``STACK_GATEWAY_PORT`` and ``STACK_ADMIN_PORT``, each checked."""
    gateway = _port(environ, "STACK_GATEWAY_PORT", Ports.gateway)
    admin = _port(environ, "STACK_ADMIN_PORT", Ports.admin)
    if gateway == admin:
        raise SamePort(port=gateway)
    return Ports(gateway=gateway, admin=admin)


def _port(environ: Mapping[str, str], variable: str, default: int) -> int:
    text = environ.get(variable, "")
    if not text:
        return default
    if not _PORT.match(text) or not 1 <= int(text) <= 65535:
        raise BadPort(variable=variable, text=repr(text)[:40])
    return int(text)

"""A real PostgreSQL server of the tests' own: made, started, stopped gently or not, and frozen.

It refuses to run as root, so under root it runs as an account without rights; its files lie outside pytest's
directories, which that account can't enter. It is durable like a real one (fsync on).
"""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from stack.core.clock import SystemClock

CLOCK = SystemClock()
SETTINGS = {
    "fsync": "on",
    "max_connections": "60",
    "shared_buffers": "16MB",
    "listen_addresses": "127.0.0.1",
    "wal_level": "replica",
    "max_wal_senders": "3",
    "autovacuum_naptime": "1h",
    "log_min_messages": "warning",
    "lc_messages": "C",
}


def binaries() -> Path:
    """The newest installed server's programs. Not there: an error, never a skip."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda p: int(p.parts[-3]))
    named = shutil.which("postgres")
    places = [p.parent for p in found] or ([Path(named).resolve().parent] if named else [])
    if not places:
        raise RuntimeError("these tests need a PostgreSQL server: apt-get install postgresql")
    return places[-1]


def account() -> dict[str, Any]:
    """What ``subprocess`` needs to run the server as; nothing unless this is root."""
    if os.getuid() != 0:
        return {}
    entry = pwd.getpwnam("nobody")
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """One data directory and, while it runs, its postmaster."""

    def __init__(self, directory: Path | None = None) -> None:
        self.root = directory or Path(tempfile.mkdtemp(prefix="stack-pg-"))
        self.account = account()
        self.data = self.root / "data"
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.settings = dict(SETTINGS)
        if self.account:
            os.chown(self.root, self.account["user"], self.account["group"])
        self.root.chmod(0o755)

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [str(binaries() / program), *arguments],
            check=True,
            capture_output=True,
            cwd=self.root,
            env=self._environment(),
            **self.account,
        )

    def _environment(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "HOME": str(self.root)}

    def create(self) -> Server:
        """Without a password on the socket, with one over TCP; collation as wherever people are."""
        self._run("initdb", "-D", str(self.data), "-U", "stack", "-A", "trust", "-E", "UTF8", "-k", "--no-instructions")
        (self.data / "pg_hba.conf").write_text(
            "local all all trust\nlocal replication all trust\nhost all all 127.0.0.1/32 scram-sha-256\n"
        )
        return self

    def copy(self) -> Server:
        """A standby of this one."""
        other = Server()
        self._run(
            "pg_basebackup",
            "-h",
            str(self.root),
            "-p",
            str(self.port),
            "-U",
            "stack",
            "-D",
            str(other.data),
            "-R",
            "-c",
            "fast",
        )
        return other

    def launch(self) -> None:
        """Without waiting until it answers."""
        self.settings |= {"port": str(self.port), "unix_socket_directories": str(self.root)}
        options = [word for key, value in self.settings.items() for word in ("-c", f"{key}={value}")]
        with (self.root / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [str(binaries() / "postgres"), "-D", str(self.data), *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.root,
                env=self._environment(),
                **self.account,
            )

    def start(self) -> Server:
        """Until it answers."""
        self.launch()
        for _ in range(600):
            assert self.process is not None
            if self.process.poll() is not None:
                raise RuntimeError((self.root / "log").read_text()[-2000:])
            with contextlib.suppress(Exception):
                self.execute("SELECT 1")
                return self
            CLOCK.sleep(0.05)
        raise RuntimeError("the server does not answer")

    def stop(self, how: str = "fast") -> None:
        """fast: transactions are undone; immediate: as if it crashed; kill: SIGKILL to it and its children."""
        process, self.process = self.process, None
        if process is None:
            return
        if how == "kill":
            children = self._children(process.pid)
            for pid in (process.pid, *children):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()
            while any(Path(f"/proc/{pid}/stat").exists() and _state(pid) not in "ZX" for pid in children):
                CLOCK.sleep(0.01)
            (self.data / "postmaster.pid").unlink(missing_ok=True)
            return
        process.send_signal({"fast": signal.SIGINT, "immediate": signal.SIGQUIT, "smart": signal.SIGTERM}[how])
        process.wait(timeout=60)

    def freeze(self, frozen: bool) -> None:
        """Everything of it stands still, sockets stay open."""
        assert self.process is not None
        for pid in (self.process.pid, *self._children(self.process.pid)):
            os.kill(pid, signal.SIGSTOP if frozen else signal.SIGCONT)

    @staticmethod
    def _children(pid: int) -> list[int]:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        return [int(word) for word in text.split()]

    def execute(self, statement: str, database: str = "postgres", *values: object) -> list[tuple[Any, ...]]:
        """As the superuser, outside of any transaction."""
        import psycopg  # here: those who test SQLite alone need no driver

        words = {"host": str(self.root), "port": self.port, "user": "stack", "dbname": database}
        with psycopg.connect(**words, autocommit=True, connect_timeout=5) as connection:  # type: ignore[arg-type]
            cursor = connection.execute(statement.encode(), values or None)
            return cursor.fetchall() if cursor.description else []

    def new_database(self) -> str:
        """A fresh, empty one; its name."""
        name = f"t{secrets.token_hex(6)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE template0")
        return name

    def url(self, database: str, **more: str) -> str:
        """Over the socket."""
        query = "".join(f"&{key}={value}" for key, value in more.items())
        return f"postgresql://stack@/{database}?host={self.root}&port={self.port}{query}"

    def remove(self) -> None:
        """Stop it and delete all of it."""
        self.stop("immediate")
        shutil.rmtree(self.root, ignore_errors=True)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"

#!/usr/bin/env python3
"""Start and stop supervised replicas on this host, by supervisord or systemd.

    replica.py supervisor ROOT ENVIRONMENT        # make sure supervisord runs (nothing to do under systemd)
    replica.py start ROOT MANAGER PYTHON JSON     # write launch.json, start, wait until the bytes are verified
    replica.py running ROOT MANAGER JSON          # exit 0 when exactly this launch runs
    replica.py stop ROOT MANAGER ID GRACE         # drain, then end the whole process group

Every command may be repeated. Whether a replica may take traffic is not decided here: that takes a health check and
an answer. Standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import xmlrpc.client
from contextlib import suppress
from pathlib import Path
from typing import Any, Dict, Optional, Tuple

import ollama
from artifact import WrongArtifact, verify
from fence import write_durably
from observe import alive, read_json, socket_path, supervised, supervisor, units

FAILED, REFUSED, BUSY_PORT = 1, 78, 69
START_LIMIT = 600.0


class NotStarted(Exception):
    """A replica or supervisord did not come up; the text says why."""

    def __init__(self, text: str, code: int = FAILED) -> None:
        super().__init__(text)
        self.code = code


def log_tail(path: Path, lines: int = 12) -> str:
    """The last lines of a log, for a message."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - 8192))
            return "\n".join(file.read().decode("utf-8", "replace").splitlines()[-lines:])
    except OSError:
        return "(no log)"


def wait_for(seconds: float, ready: Any) -> bool:
    """Poll ``ready()`` until it is true or the time is over."""
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.03)
    return True


# supervisord -----------------------------------------------------------------------------------------------------


def supervisord_conf(root: Path) -> str:
    """supervisord.conf: its own log, a private socket, one file per replica."""
    base, sock = root / "supervisor", socket_path(root)
    return (
        f"[unix_http_server]\nfile={_escaped(sock)}\nchmod=0700\n\n"
        f"[supervisord]\nlogfile={_escaped(base)}/supervisord.log\nlogfile_maxbytes=5MB\nlogfile_backups=1\n"
        f"pidfile={_escaped(base)}/supervisord.pid\nchilddir={_escaped(base)}\nnodaemon=false\nminfds=1024\n"
        "[rpcinterface:supervisor]\nsupervisor.rpcinterface_factory = "
        "supervisor.rpcinterface:make_main_rpcinterface\n\n"
        f"[include]\nfiles = {_escaped(base)}/conf.d/*.conf\n"
    ).replace("childdir", "childlogdir")


def _escaped(value: object) -> str:
    return str(value).replace("%", "%%")


def program_conf(root: Path, replica: str, python: str, grace: float) -> str:
    """One replica: restarted when it ends unasked, with a growing pause; never when its bytes were refused.

    One that hangs when it is to stop is killed a little after ``grace``, the launch's own time for running streams; so
    a supervisord that ends is not kept by it, and a longer drain is cut to that.
    """
    folder = root / "replicas" / replica
    command = " ".join(_quoted(part) for part in (python, str(root / "bin" / "launch.py"), str(folder)))
    return (
        f"[program:{replica}]\ncommand={command}\ndirectory={_escaped(folder)}\n"
        f"autostart=true\nautorestart=unexpected\nexitcodes={REFUSED}\nstartsecs=1\nstartretries=20\n"
        f"stopsignal=TERM\nstopwaitsecs={int(grace) + 5}\nstopasgroup=false\nkillasgroup=true\nredirect_stderr=true\n"
        f"stdout_logfile={_escaped(folder)}/engine.log\nstdout_logfile_maxbytes=10MB\nstdout_logfile_backups=2\n"
    )


def _quoted(part: str) -> str:
    return '"' + _escaped(part).replace("\\", "\\\\").replace('"', '\\"') + '"'


def ensure_supervisor(root: Path, environment: str) -> None:
    """supervisord runs, in a session of its own, without what this process has in its environment."""
    if supervised(root) is not None:
        return
    base = root / "supervisor"
    (base / "conf.d").mkdir(parents=True, exist_ok=True)
    sock = socket_path(root)
    sock.parent.mkdir(mode=0o700, exist_ok=True)
    if sock.parent.stat().st_uid != os.getuid() or sock.parent.is_symlink():
        raise NotStarted(f"{sock.parent} belongs to somebody else")
    end_orphans(root)
    write_durably(base / "supervisord.conf", supervisord_conf(root))
    binary = root / "runtimes" / environment / "bin"
    command = [str(binary / "python"), str(binary / "supervisord"), "-c", str(base / "supervisord.conf")]
    kept = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG", "TZ", "USER", "LOGNAME")}
    done = subprocess.run(
        command, env=kept, cwd=base, capture_output=True, text=True, start_new_session=True, check=False
    )
    if done.returncode or not wait_for(10, lambda: supervised(root) is not None):
        raise NotStarted(f"supervisord did not start: {done.stderr.strip() or log_tail(base / 'supervisord.log')}")


def end_orphans(root: Path) -> None:
    """Replicas that outlived a killed supervisord would hold their ports against their successors: end them."""
    for observed in (root / "replicas").glob("*/observed.json"):
        pid = read_json(observed).get("pid")
        if is_ours(pid, observed.parent):
            end_group(int(str(pid)), 5.0)


def is_ours(pid: Any, folder: Path) -> bool:
    """Is this live process a replica started from ``folder``? Pids are used again; this one must name the folder."""
    try:
        words = Path(f"/proc/{int(pid)}/cmdline").read_bytes().split(b"\0")
        cwd = Path(f"/proc/{int(pid)}/cwd").resolve()
    except (OSError, ValueError, TypeError):
        return False
    return alive(int(pid)) and (os.fsencode(folder) in words or cwd == folder.resolve())


def group_lives(group: int) -> bool:
    """Is anyone left in the process group (zombies count until reaped)?"""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def end_group(group: int, grace: float) -> None:
    """SIGTERM to the leader, time to finish, then SIGKILL to all that is left of the group."""
    with suppress(ProcessLookupError):
        os.kill(group, signal.SIGTERM)
    wait_for(grace, lambda: not alive(group))
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
    wait_for(5.0, lambda: not group_lives(group))


# one replica -----------------------------------------------------------------------------------------------------


def status(root: Path, manager: str, replica: str) -> Tuple[str, Optional[int]]:
    """(state, pid) by the manager."""
    known = units([replica]) if manager == "systemd" else (supervised(root) or {})
    return known.get(replica, ("stopped", None))


def launch_values(root: Path, wanted: Dict[str, Any]) -> Dict[str, Any]:
    """What launch.json holds: the request, the directories, and the artifact's file list as hashed on this host."""
    folder = root / "artifacts" / wanted["artifact_digest"][7:]
    environment = root / "runtimes" / wanted["environment"]
    if wanted["engine"] == "ollama":
        check_server(wanted)
    elif not (environment / "INSTALLED").is_file():
        raise NotStarted(f"the runtime {wanted['environment']} is not installed on this host")
    files = verify(folder, wanted["artifact_digest"])
    return {**wanted, "artifact_dir": str(folder), "environment_dir": str(environment), "files": files}


def check_server(wanted: Dict[str, Any]) -> None:
    """The server that this host brings answers, and is of the release's version; raises NotStarted."""
    try:
        problem = ollama.wrong_version(ollama.Server(wanted["ollama"]), wanted["version"])
    except (ollama.Unreachable, ollama.Wrong, ollama.NoSuchModel) as error:
        raise NotStarted(str(error)) from error
    if problem:
        raise NotStarted(problem, REFUSED)


def leave_server(root: Path, replica: str) -> None:
    """Take a stopped replica's model out of this host's Ollama, unless another replica of the release still runs."""
    launch = read_json(root / "replicas" / replica / "launch.json")
    if launch.get("engine") != "ollama":
        return
    for other in (root / "replicas").glob("*/observed.json"):
        seen = read_json(other)
        same = seen.get("release_digest") == launch["release_digest"] and other.parent.name != replica
        if same and is_ours(seen.get("pid"), other.parent):
            return
    try:
        ollama.withdraw(ollama.Server(launch["ollama"]), launch["served_model"])
    except (ollama.Unreachable, ollama.Wrong, ollama.NoSuchModel) as error:
        raise NotStarted(f"{replica} is stopped, but its model may still be in Ollama's memory: {error}") from error


def running(root: Path, manager: str, wanted: Dict[str, Any]) -> bool:
    """Does exactly this launch run, on bytes that it verified itself?"""
    folder = root / "replicas" / wanted["replica_id"]
    launch, observed = read_json(folder / "launch.json"), read_json(folder / "observed.json")
    state, pid = status(root, manager, wanted["replica_id"])
    same = all(launch.get(key) == value for key, value in wanted.items())
    return same and state in ("running", "starting") and pid is not None and observed.get("pid") == pid


def start(root: Path, manager: str, python: str, wanted: Dict[str, Any]) -> None:
    """Make this launch run; the same launch that already runs is left alone."""
    if running(root, manager, wanted):
        print("already running")
        return
    replica, folder = wanted["replica_id"], root / "replicas" / wanted["replica_id"]
    launch = launch_values(root, wanted)
    stop(root, manager, replica, 5.0)
    free_port(wanted["bind_address"], wanted["port"])
    folder.mkdir(parents=True, exist_ok=True)
    for stale in ("observed.json", "drain.json"):
        (folder / stale).unlink(missing_ok=True)
    write_durably(folder / "launch.json", json.dumps(launch, sort_keys=True))
    if manager == "systemd":
        systemctl("enable", "--now", unit(replica))
    else:
        conf = program_conf(root, replica, python, float(wanted.get("grace_s", 30)))
        write_durably(root / "supervisor" / "conf.d" / f"{replica}.conf", conf)
        _load(root, replica)
    await_verified(root, manager, replica, folder)


def _load(root: Path, replica: str) -> None:
    rpc = supervisor(root)
    rpc.reloadConfig()
    rpc.addProcessGroup(replica)


def await_verified(root: Path, manager: str, replica: str, folder: Path) -> None:
    """Wait until the process has verified its bytes and is about to open them, or has failed."""

    def settled() -> bool:
        state, pid = status(root, manager, replica)
        return state in ("failed", "backoff", "stopped") or (pid is not None and observed_pid(folder) == pid)

    wait_for(START_LIMIT, settled)
    state, pid = status(root, manager, replica)
    if pid is None or observed_pid(folder) != pid:
        raise NotStarted(f"replica {replica} is {state}: {log_tail(folder / 'engine.log')}")


def observed_pid(folder: Path) -> Optional[int]:
    """The pid that wrote observed.json."""
    return read_json(folder / "observed.json").get("pid")


def free_port(address: str, port: int) -> None:
    """Raise NotStarted when the port can't be had: engines say so late, or not at all."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            raise NotStarted(f"port {port} on {address} can't be used: {error.strerror}", BUSY_PORT) from error


def stop(root: Path, manager: str, replica: str, grace: float) -> None:
    """Drain the replica within ``grace`` seconds, then make sure that nobody of its group is left."""
    folder = root / "replicas" / replica
    _, pid = status(root, manager, replica)
    if folder.is_dir():
        write_durably(folder / "drain.json", json.dumps({"grace_s": grace}))
    group = pid or (observed_pid(folder) if is_ours(observed_pid(folder), folder) else None)
    if manager == "systemd":
        systemctl("disable", unit(replica), check=False)
        systemctl("stop", "--no-block", unit(replica), check=False)
    else:
        _supervisor_stop(root, replica)
    if group:
        wait_for(grace + 1.0, lambda: not alive(group))
        end_group(group, 0.0)
    if manager != "systemd":
        _unload(root, replica)
    leave_server(root, replica)


def _supervisor_stop(root: Path, replica: str) -> None:
    (root / "supervisor" / "conf.d" / f"{replica}.conf").unlink(missing_ok=True)
    try:
        supervisor(root).stopProcessGroup(replica, False)
    except (xmlrpc.client.Fault, OSError, http.client.HTTPException):
        return


def _unload(root: Path, replica: str) -> None:
    def removed() -> bool:
        try:
            return bool(supervisor(root).removeProcessGroup(replica))
        except xmlrpc.client.Fault as fault:
            return fault.faultCode == 10  # BAD_NAME: it is not there; 91, STILL_RUNNING, is waited for
        except (OSError, http.client.HTTPException):
            return True

    if not wait_for(10.0, removed):
        raise NotStarted(f"supervisord still runs {replica}")


# systemd ---------------------------------------------------------------------------------------------------------


def unit(replica: str) -> str:
    """The unit of a replica."""
    return f"inference-replica@{replica}.service"


def systemctl(*words: str, check: bool = True) -> None:
    """Run systemctl; its complaint becomes the message."""
    done = subprocess.run(["systemctl", *words], capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise NotStarted(f"systemctl {' '.join(words)}: {done.stderr.strip()}")


def main() -> int:
    """The command."""
    verb, root, rest = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
    try:
        if verb == "supervisor":
            ensure_supervisor(root, rest[0])
        elif verb == "start":
            start(root, rest[0], rest[1] if os.path.isabs(rest[1]) else str(shutil.which(rest[1])), json.loads(rest[2]))
        elif verb == "running":
            return 0 if running(root, rest[0], json.loads(rest[1])) else FAILED
        elif verb == "stop":
            stop(root, rest[0], rest[1], float(rest[2]))
    except NotStarted as error:
        print(error)
        return error.code
    except WrongArtifact as error:
        print(f"refused: {error}")
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main())

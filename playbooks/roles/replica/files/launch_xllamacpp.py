"""Run llama.cpp's own server inside this process (distribution ``xllamacpp``); started by ``launch.py``.

SIGTERM drains: nobody is let in any more, running streams finish (bounded by the grace in ``drain.json``), then the
process leaves by ``os._exit``, because the server's destructor waits up to 30 s for open connections.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from xllamacpp import CommonParams, Server


def parameters(launch: dict[str, Any]) -> CommonParams:
    """What ``llama-server`` would get on its command line."""
    params = CommonParams()
    params.model.path = str(sorted(Path(launch["artifact_dir"]).rglob("*.gguf"))[0])
    params.model_alias = {launch["served_model"]}
    if hasattr(params, "hostnames"):
        params.hostnames = [launch["bind_address"]]
    else:  # before 2026.10
        params.hostname = launch["bind_address"]
    params.port = launch["port"]
    params.n_parallel = launch["parallel"]
    params.n_ctx = launch["context"] * launch["parallel"]
    params.cpuparams.n_threads = launch["threads"]
    params.cpuparams_batch.n_threads = launch["threads"]
    params.endpoint_metrics = params.endpoint_slots = params.use_jinja = True
    params.ui = params.fit_params = False
    params.kv_unified = False
    params.cache_ram_mib = 64
    return params


def sockets(port: int) -> tuple[set[int], int]:
    """This process's listening descriptors on ``port``, and the number of its open connections there."""
    listening, connected = set(), 0
    for number in map(int, os.listdir("/proc/self/fd")):
        try:
            if not stat.S_ISSOCK(os.fstat(number).st_mode):
                continue
            with socket.socket(fileno=os.dup(number)) as copy:
                if copy.family not in (socket.AF_INET, socket.AF_INET6) or copy.getsockname()[1] != port:
                    continue
                if copy.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    listening.add(number)
                else:
                    connected += 1
        except OSError:  # closed by another thread meanwhile
            continue
    return listening, connected


def stop_accepting(address: str, port: int) -> None:
    """Let nobody in any more, without the server noticing: it cuts running streams when its listener is shut.

    A socket that nobody can reach takes the listener's descriptor; one last connection wakes the thread that still
    waits on the old one. After that the kernel refuses connections to the port.
    """
    for listener in sockets(port)[0]:
        with socket.socket(socket.AF_UNIX) as nobody:
            nobody.bind("")  # a fresh abstract name
            nobody.listen(1)
            os.dup2(nobody.fileno(), listener, inheritable=False)
        with suppress(OSError):
            socket.create_connection((address, port), timeout=1).close()


def at_rest(server: Server, port: int) -> bool:
    """No open connection, or only idle ones."""
    if not sockets(port)[1]:
        return True
    values = dict(line.rsplit(" ", 1) for line in server.handle_metrics().splitlines() if not line.startswith("#"))
    return all(float(values.get(f"llamacpp:requests_{kind}", 1)) == 0 for kind in ("processing", "deferred"))


def grace(folder: Path, default: float) -> float:
    """How long running streams may take: what the drain asked for, else the launch's own."""
    try:
        return float(json.loads((folder / "drain.json").read_text())["grace_s"])
    except (OSError, ValueError, KeyError, TypeError):
        return default


def main() -> None:
    """The command."""
    folder = Path(sys.argv[1])
    launch = json.loads((folder / "launch.json").read_text(encoding="utf-8"))
    ending = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ending.set())
    server = Server(parameters(launch))
    print(f"listening on {server.listening_address}", flush=True)
    while not ending.wait(0.1):
        pass
    deadline = time.monotonic() + grace(folder, launch["grace_s"])
    stop_accepting(launch["bind_address"], launch["port"])
    resting = 0  # looks in a row: a request may stand between its connection and a slot, or its last bytes after it
    while resting < 4 and time.monotonic() < deadline:
        resting = resting + 1 if at_rest(server, launch["port"]) else 0
        time.sleep(0.05)
    print("drained" if resting else "left with requests running", flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()

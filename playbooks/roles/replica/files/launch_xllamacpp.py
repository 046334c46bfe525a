"""Run llama.cpp's own server inside this process (distribution ``xllamacpp``); started by ``launch.py``.

SIGTERM drains: the listening socket is shut, running streams finish (bounded by the grace in ``drain.json``), then the
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
from pathlib import Path
from typing import Any

from xllamacpp import CommonParams, Server


def parameters(launch: dict[str, Any]) -> CommonParams:
    """What ``llama-server`` would get on its command line."""
    params = CommonParams()
    params.model.path = str(sorted(Path(launch["artifact_dir"]).rglob("*.gguf"))[0])
    params.model_alias = {launch["served_model"]}
    params.hostnames = [launch["bind_address"]]
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


def sockets(port: int) -> tuple[list[socket.socket], int]:
    """This process's listening sockets on ``port`` (duplicated), and the number of its open connections there."""
    listening, connected = [], 0
    for name in os.listdir("/proc/self/fd"):
        try:
            if not stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                continue
            copy = socket.socket(fileno=os.dup(int(name)))
        except OSError:  # closed by another thread meanwhile
            continue
        with_port = copy.family in (socket.AF_INET, socket.AF_INET6) and copy.getsockname()[1] == port
        if with_port and copy.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            listening.append(copy)
            continue
        connected += with_port
        copy.close()
    return listening, connected


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
    while not ending.wait(0.2):
        pass
    deadline = time.monotonic() + grace(folder, launch["grace_s"])
    for listener in sockets(launch["port"])[0]:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
    while (left := sockets(launch["port"])[1]) and time.monotonic() < deadline:
        time.sleep(0.05)
    print(f"left {left} connections open" if left else "drained", flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()

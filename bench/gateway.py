"""What the gateway costs: CPU microseconds per request and per streamed event, against nginx as a plain proxy.

    python bench/gateway.py [--rounds N] [--requests N] [--streams N]

Same replica, same load, interleaved rounds, the proxies in turn first; CPU time (user + system, in nanoseconds, from
/proc/PID/task/*/schedstat) of the proxy's whole process tree, so that a busy machine disturbs it less than wall time.
What a busy machine adds falls on both, but unevenly: the ratio is the median of the rounds' ratios, beside that of
the best rounds. nginx has one worker and keeps its connections to the replica; it only passes bytes, while the gateway
checks the key, parses the body, picks a replica, watches the stream, counts usage. Without nginx (Debian: apt-get
install nginx-light) only the gateway's own figures are printed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from stack.gateway.control import GatewayControl
from stack.gateway.errors import GatewayUnavailable
from stack.gateway.table import RoutingTable

HERE = Path(__file__).parent
OUT = HERE / "out" / "gateway.json"
TARGET_RATIO = 2.5
NGINX = """
daemon off; worker_processes 1; pid {dir}/nginx.pid; error_log {dir}/error.log;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 10000000;
  client_body_temp_path {dir}/b; proxy_temp_path {dir}/p; fastcgi_temp_path {dir}/f;
  uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;
  upstream replica {{ server 127.0.0.1:{upstream}; keepalive 128; keepalive_requests 10000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    location / {{
      proxy_pass http://replica; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_buffering off; proxy_request_buffering on;
    }}
  }}
}}
"""


def free_port() -> int:
    with socket.socket() as wire:
        wire.bind(("127.0.0.1", 0))
        return int(wire.getsockname()[1])


@contextmanager
def running(command: list[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(command, text=True, cwd=HERE.parent, **options)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def wait_for(port: int) -> None:
    for _ in range(500):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except ConnectionRefusedError:
            time.sleep(0.02)
    raise SystemExit(f"nothing listens on port {port}")


def tree(pid: int) -> list[int]:
    """The process and its descendants."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(p for child in children for p in tree(int(child)))]


def cpu_seconds(pid: int) -> float:
    """What all threads of the process tree have run so far."""
    threads = [t for one in tree(pid) for t in Path(f"/proc/{one}/task").iterdir()]
    return sum(int((t / "schedstat").read_text().split()[0]) for t in threads) / 1e9


def push_table(home: Path, upstream: int, key: str) -> None:
    target = {
        "id": "bench-1", "slice": "stable", "release": "sha256:" + "0" * 64, "model": "bench@1", "host": "127.0.0.1",
        "port": upstream, "served_model": "bench-model",
    }  # fmt: skip
    service = {"name": "bench", "aliases": [], "weights": {"stable": 100}, "targets": [target]}
    keys = [{"id": "bench", "sha256": hashlib.sha256(key.encode()).hexdigest(), "models": None, "may_pin": False}]
    table = RoutingTable.from_json({"version": 1, "services": [service], "keys": keys, "limits": {}})
    control = GatewayControl(home / "run" / "gateway.sock")
    for _ in range(500):
        try:
            control.put_table(table)
            return
        except GatewayUnavailable:
            time.sleep(0.02)
    raise SystemExit("the gateway does not answer on its control socket")


def load(port: int, requests: int, connections: int, stream: bool) -> dict[str, Any]:
    command = [sys.executable, str(HERE / "gateway_load.py"), "--port", str(port), "--requests", str(requests)]
    command += ["--connections", str(connections), *(["--stream"] if stream else [])]
    seen = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    if seen["answers"] != requests or seen["failed"]:
        raise SystemExit(f"port {port}: the load saw failures: {seen}")
    return dict(seen)


def measure(pid: int, port: int, given: argparse.Namespace, stream: bool) -> dict[str, float]:
    """CPU microseconds of this proxy per request, or per event of a stream."""
    before = cpu_seconds(pid)
    seen = load(port, given.streams if stream else given.requests, 16 if stream else 32, stream)
    spent = cpu_seconds(pid) - before
    return {"us": 1e6 * spent / (seen["events"] if stream else seen["answers"]), "p50_us": seen["p50_us"]}


def rounds(proxies: dict[str, tuple[int, int]], given: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {name: {"request": [], "event": [], "p50_us": []} for name in proxies}
    for _, port in proxies.values():
        load(port, 500, 32, stream=False)
    for number in range(given.rounds):
        order = list(proxies.items())
        for name, (pid, port) in order[:: -1 if number % 2 else 1]:
            plain = measure(pid, port, given, stream=False)
            found[name]["request"].append(plain["us"])
            found[name]["p50_us"].append(plain["p50_us"])
            found[name]["event"].append(measure(pid, port, given, stream=True)["us"])
        print(f"round {number + 1}/{given.rounds}", file=sys.stderr, flush=True)
    return found


def report(found: dict[str, Any], given: argparse.Namespace) -> dict[str, Any]:
    result: dict[str, Any] = {"cpus": os.cpu_count(), "load_average": os.getloadavg(), "target_ratio": TARGET_RATIO}
    result["settings"] = vars(given)
    result["rounds"] = found
    print(f"{'CPU us (median, best of rounds)':34}{'per request':>18}{'per event':>18}{'p50 us (wall)':>16}")
    for name, rows in found.items():
        cells = [f"{statistics.median(rows[k]):.1f} ({min(rows[k]):.1f})" for k in ("request", "event")]
        print(f"{name:34}{cells[0]:>18}{cells[1]:>18}{statistics.median(rows['p50_us']):>16.0f}")
    if "nginx" in found:
        for kind in ("request", "event"):
            ours, plain = found["gateway"][kind], found["nginx"][kind]
            ratio = statistics.median(a / b for a, b in zip(ours, plain, strict=True))
            best = min(ours) / min(plain)
            result[f"ratio_{kind}"], result[f"ratio_{kind}_best"] = round(ratio, 2), round(best, 2)
            print(f"ratio gateway / nginx per {kind}: {ratio:.2f}, best rounds {best:.2f} (at most {TARGET_RATIO})")
    else:
        print("nginx is not installed (Debian: apt-get install nginx-light): no ratio")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--streams", type=int, default=64)
    given = parser.parse_args()
    upstream, gateway_port, nginx_port = free_port(), free_port(), free_port()
    with ExitStack() as stack:
        where = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(running([sys.executable, str(HERE / "gateway_upstream.py"), "--port", str(upstream)],
                                    stdout=subprocess.DEVNULL))  # fmt: skip
        command = [sys.executable, "-m", "stack.gateway", "--home", str(where), "--port", str(gateway_port)]
        gateway = stack.enter_context(running(command, stderr=subprocess.DEVNULL))
        wait_for(upstream)
        push_table(where, upstream, "sk-bench")
        proxies = {"gateway": (gateway.pid, gateway_port)}
        nginx = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
        if nginx:
            (where / "nginx.conf").write_text(NGINX.format(dir=where, port=nginx_port, upstream=upstream))
            plain = stack.enter_context(running([nginx, "-p", str(where), "-c", str(where / "nginx.conf")],
                                                stderr=subprocess.DEVNULL))  # fmt: skip
            proxies["nginx"] = (plain.pid, nginx_port)
        for _, port in proxies.values():
            wait_for(port)
        result = report(rounds(proxies, given), given)
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written: {OUT.relative_to(HERE.parent)}")


if __name__ == "__main__":
    main()

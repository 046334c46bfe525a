"""The bench's load: many connections, each asking again as soon as it has its answer. Prints what it saw as JSON.

python bench/gateway_load.py --port N --requests N --connections N [--stream] [--key KEY]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from typing import Any

import httptools
import uvloop


class Asker(asyncio.Protocol):
    """One connection."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self._ask()

    def _ask(self) -> None:
        if self.run.begun < self.run.requests:
            self.run.begun += 1
            self.parser = httptools.HttpResponseParser(self)
            self.t0 = time.perf_counter()
            self.transport.write(self.run.question)
        else:
            self.transport.close()

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self.run.events += body.count(b"data: ")
        self.run.size += len(body)

    def on_message_complete(self) -> None:
        if self.parser.get_status_code() != 200:
            self.run.failed += 1
        self.run.latencies.append(time.perf_counter() - self.t0)
        asyncio.get_running_loop().call_soon(self._ask)

    def connection_lost(self, exc: Exception | None) -> None:
        self.run.open -= 1
        if self.run.open == 0:
            self.run.over.set()


class Run:
    """One run's counters."""

    def __init__(self, question: bytes, requests: int, connections: int) -> None:
        self.question, self.requests, self.open = question, requests, connections
        self.begun = self.failed = self.events = self.size = 0
        self.latencies: list[float] = []
        self.over = asyncio.Event()


async def main() -> None:
    """Ask, then report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--key", default="sk-bench")
    given = parser.parse_args()
    body = b'{"messages":[{"role":"user","content":"%s"}],"model":"bench"' % (b"word " * 40)
    body += b',"stream":true}' if given.stream else b"}"
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {given.key}\r\n"
    head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    run = Run(head.encode() + body, given.requests, given.connections)
    loop = asyncio.get_running_loop()
    for _ in range(given.connections):
        await loop.create_connection(lambda: Asker(run), "127.0.0.1", given.port)
    await run.over.wait()
    times = sorted(run.latencies)
    seen = {"answers": len(times), "failed": run.failed, "events": run.events, "size": run.size}
    print(json.dumps({**seen, "p50_us": round(1e6 * times[len(times) // 2])}))


if __name__ == "__main__":
    uvloop.run(main())

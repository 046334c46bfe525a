"""Clients that ask the gateway at a steady pace until SIGTERM; then prints {"answers", "failed"}. Key in BENCH_KEY.

python bench/steady_load.py --port N [--clients N] [--pause S]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal

QUESTION = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "hello"}]}).encode()


class Load:
    """Counts of all clients."""

    def __init__(self, port: int, pause: float) -> None:
        self.port, self.pause = port, pause
        self.answers = 0
        self.failed = 0
        self.over = asyncio.Event()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {os.environ['BENCH_KEY']}\r\n"
        )
        self.question = (
            f"{head}content-type: application/json\r\ncontent-length: {len(QUESTION)}\r\n\r\n".encode() + QUESTION
        )

    async def client(self) -> None:
        """One connection, kept as long as it works."""
        while not self.over.is_set():
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                while not self.over.is_set():
                    await self.one(reader, writer)
                    await asyncio.sleep(self.pause)
                writer.close()
            except (OSError, ValueError, asyncio.IncompleteReadError):
                self.failed += 1
                await asyncio.sleep(self.pause)

    async def one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Ask, and read the whole answer."""
        writer.write(self.question)
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        size = int(head.split("content-length:")[1].split("\r\n")[0])
        await reader.readexactly(size)
        self.answers += 1
        if not head.startswith("http/1.1 200 "):
            self.failed += 1


async def main() -> None:
    """Run until told to stop."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument("--pause", type=float, default=0.12)
    given = parser.parse_args()
    load = Load(given.port, given.pause)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, load.over.set)
    await asyncio.gather(*(load.client() for _ in range(given.clients)))
    print(json.dumps({"answers": load.answers, "failed": load.failed}))


if __name__ == "__main__":
    asyncio.run(main())

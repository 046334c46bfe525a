"""Many stand-in replicas in one process: ``tests/gateway/faulty_server.py``'s server on as many addresses as asked for.

Commands are JSON lines on standard input, answers JSON lines on standard output: ``{"op": "start", "host": ..,
"port": .., "model": .., "text": ..}``, ``{"op": "stop", "host": .., "port": ..}``.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from bench.stage import ROOT

sys.path.insert(0, str(ROOT / "tests" / "gateway"))

from faulty_server import Replica  # type: ignore[import-not-found]


async def main() -> None:
    """Until standard input ends."""
    servers: dict[tuple[str, int], asyncio.Server] = {}
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        said: dict[str, Any] = json.loads(line)
        place = (said["host"], said["port"])
        if said["op"] == "start" and place not in servers:
            replica = Replica(said["model"], "none", 0.0, 1, said["text"])
            servers[place] = await asyncio.start_server(replica.serve, *place, backlog=64)
        elif said["op"] == "stop" and place in servers:
            servers.pop(place).close()
        print(json.dumps({"ok": True}), flush=True)


if __name__ == "__main__":
    asyncio.run(main())

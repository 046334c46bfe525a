"""Asks replicas that look down, about once a second, whether they are back."""

from __future__ import annotations

import asyncio

from stack.gateway.core import GatewayCore
from stack.gateway.table import Target

EVERY_S = 1.0
_ASK = b"GET /v1/models HTTP/1.1\r\nhost: replica\r\nconnection: close\r\n\r\n"


async def keep_probing(core: GatewayCore) -> None:
    """Until cancelled."""
    while True:
        await asyncio.sleep(EVERY_S)
        if core.health.down and core.table is not None:
            targets = [t for s in core.table.services for t in s.targets if t.id in core.health.down]
            answered = await asyncio.gather(*(answers(t) for t in targets))
            for target, alive in zip(targets, answered, strict=True):
                if alive:
                    core.health.probed(target.id)


async def answers(target: Target) -> bool:
    """Whether the replica says 200 to a question for its models within a second."""
    try:
        async with asyncio.timeout(EVERY_S):
            reader, writer = await asyncio.open_connection(target.host, target.port)
            try:
                writer.write(_ASK)
                line = await reader.readline()
            finally:
                writer.transport.abort()
    except (OSError, ValueError):
        return False
    return line.startswith((b"HTTP/1.1 200", b"HTTP/1.0 200"))

"""The gateway process: wires the parts, listens, drains on SIGTERM. Leaves every decision to them."""

from __future__ import annotations

import asyncio
import gc
import random
import secrets
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import uvloop

from stack.core.clock import SystemClock
from stack.gateway.control_server import ControlServer
from stack.gateway.core import GatewayCore
from stack.gateway.downstream import Downstream
from stack.gateway.errors import InvalidTable, PortInUse
from stack.gateway.paths import handle
from stack.gateway.probe import keep_probing
from stack.gateway.table_file import load_table

TICK_S = 0.1


@dataclass(frozen=True, kw_only=True)
class GatewaySettings:
    """Where the gateway lives and listens; ``drain_s`` bounds how long SIGTERM waits for answers under way."""

    home: Path
    host: str = "127.0.0.1"
    port: int = 8317
    drain_s: float = 30.0

    @property
    def socket(self) -> Path:
        """The control socket."""
        return self.home / "run" / "gateway.sock"

    @property
    def table(self) -> Path:
        """The last routing table."""
        return self.home / "gateway" / "table.json"


def run(settings: GatewaySettings) -> None:
    """Serve until SIGTERM or SIGINT; ``GatewayRunning`` or ``PortInUse`` if that can't begin."""
    uvloop.run(serve(settings))


async def serve(settings: GatewaySettings) -> None:
    """The same, inside an event loop."""
    core = GatewayCore(now=SystemClock().monotonic, roll=random.random, boot_id=secrets.token_hex(8))
    clients: set[Downstream] = set()
    control = ControlServer(core, settings.socket, settings.table)
    control.claim()
    try:
        _restore(core, settings.table)
        server = await _listen(core, clients, settings)
        await control.start()
        await _until_told(core, server, clients, settings)
    finally:
        control.close()
        core.big_bodies.close()


def _restore(core: GatewayCore, path: Path) -> None:
    try:
        table = load_table(path)
    except InvalidTable as error:
        _say(f"starts without a routing table: {error.message}")
        return
    if table is not None:
        core.use(table)


async def _listen(core: GatewayCore, clients: set[Downstream], settings: GatewaySettings) -> asyncio.Server:
    try:
        return await core.loop.create_server(
            lambda: Downstream(core, clients, handle), settings.host, settings.port, backlog=1024
        )
    except OSError as error:
        raise PortInUse(str(error), host=settings.host, port=settings.port) from error


async def _until_told(
    core: GatewayCore, server: asyncio.Server, clients: set[Downstream], settings: GatewaySettings
) -> None:
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        core.loop.add_signal_handler(number, told.set)
    gc.collect()
    gc.set_threshold(50_000, 20, 20)  # a request leaves no cycles behind
    gc.freeze()  # what is there now stays: no need to look at it again
    tasks = [core.loop.create_task(_keep_time(core, clients)), core.loop.create_task(keep_probing(core))]
    _say(f"listens on {settings.host} port {settings.port}, routing table version {core.version}")
    await told.wait()
    server.close()
    await _drain(core, clients, settings.drain_s)
    for task in tasks:
        task.cancel()
    _say("has stopped")


async def _keep_time(core: GatewayCore, clients: set[Downstream]) -> None:
    """Tell every connection that time passes; a timer per request would cost more than the request."""
    while True:
        await asyncio.sleep(TICK_S)
        now = core.now()
        for client in list(clients):
            client.tick(now)
        core.let_go()


async def _drain(core: GatewayCore, clients: set[Downstream], within_s: float) -> None:
    """Let the answers under way come to their end; idle connections are closed at once."""
    core.draining = True
    deadline = core.now() + within_s
    while clients and core.now() < deadline:
        for client in list(clients):
            client.close_if_idle()
        await asyncio.sleep(TICK_S / 2)
    for client in list(clients):
        client.transport.abort()
    await asyncio.sleep(0)


def _say(text: str) -> None:
    print(f"gateway {text}", file=sys.stderr, flush=True)

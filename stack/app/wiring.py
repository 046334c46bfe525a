"""The one place where the parts are wired together."""

from __future__ import annotations

import fcntl
import hashlib
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stack.app.operator import StackOperator
from stack.app.sources import build_source
from stack.config.home import Home, Ports
from stack.config.stack_yaml import HostSettings, StackSettings, load_stack
from stack.core.clock import Clock, SystemClock
from stack.core.errors import Conflict
from stack.fleet.door import AnsibleDoor
from stack.fleet.values import Host
from stack.gateway.control import GatewayControl
from stack.registry.store import ContentStore
from stack.rollout.gates import Gates, GatewayAccess
from stack.rollout.holding import Holding
from stack.rollout.hosts import Hosts
from stack.rollout.observing import Observer
from stack.rollout.performer import RolloutPerformer
from stack.rollout.planner import Planner
from stack.rollout.reconcile import Reconciler
from stack.rollout.report import Reporter
from stack.rollout.routing_push import RoutePusher
from stack.rollout.worker import Worker
from stack.runtimes.locks import LOCKS_DIR
from stack.secrets.handover import taken_over
from stack.secrets.source import SecretSource
from stack.store.store import Store

PLAYBOOKS = Path(__file__).resolve().parents[2] / "playbooks"
Json = dict[str, Any]


class AlreadyServed(Conflict):
    """Another control plane works on the state directory {path}."""

    hint = "`stackctl status` shows it; `stackctl down` ends it."


@contextmanager
def open_operator(home: Home, stack_yaml: Path, ports: Ports) -> Iterator[StackOperator]:
    """The control plane over this home and stack file, ready to be started; closed at the end."""
    clock = SystemClock()
    settings = load_stack(stack_yaml)
    values = taken_over(settings.secret_variables, os.environ)  # starts this program again where there are any
    source = build_source(settings, home, values, clock)
    home.create()
    with _alone(home):
        store = Store.open(home.database, clock)
        try:
            yield _wired(home, settings, ports, store, clock, source)
        finally:
            store.close()


@contextmanager
def _alone(home: Home) -> Iterator[None]:
    """One control plane for a state directory: the kernel drops the lock with the process, however it ends."""
    with (home.run / "control-plane.lock").open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyServed(path=str(home.root)) from None
        yield


def _wired(
    home: Home, settings: StackSettings, ports: Ports, store: Store, clock: Clock, source: SecretSource
) -> StackOperator:
    inventory = {h.name: _host(h, home) for h in settings.hosts.values()}
    content = ContentStore(home.content)
    content.prepare()
    control = GatewayControl(home.gateway_socket)
    door = AnsibleDoor(project=PLAYBOOKS, runner_dir=home.runner, known_hosts=home.root / "known_hosts", clock=clock)
    hosts = Hosts(store=store, door=door, content=content, services=settings.services, inventory=inventory, clock=clock)
    url = f"http://{settings.gateway.host}:{ports.gateway}"
    access = GatewayAccess(base_url=f"{url}/v1", key=source.read("probe.key").reveal())
    routes = RoutePusher(
        store=store,
        control=control,
        keys=_keys(source),
        limits=_gateway_limits(settings),
        addresses={name: host.address for name, host in inventory.items()},
    )
    performer = RolloutPerformer(
        hosts=hosts,
        gates=Gates(store=store, services=settings.services, access=access, inventory=inventory, clock=clock),
        holding=Holding(store=store, services=settings.services, access=access, control=control, clock=clock),
        routes=routes,
        clock=clock,
    )
    reporter = Reporter(store=store, root=home.evidence)
    holder = f"{socket.gethostname()}/{home.root}"
    return StackOperator(
        home=home,
        ports=ports,
        settings=settings,
        store=store,
        content=content,
        planner=Planner(settings=settings, store=store, content=content, playbooks=PLAYBOOKS, locks=LOCKS_DIR),
        observer=Observer(store=store, control=control, hosts=hosts, inventory=inventory, gateway_url=url, clock=clock),
        reporter=reporter,
        worker=Worker(store, performer, reporter, clock, holder=holder),
        reconciler=Reconciler(store=store, hosts=hosts, routes=routes, inventory=inventory, clock=clock),
        clock=clock,
    )


def _host(described: HostSettings, home: Home) -> Host:
    local = described.connection == "local"
    return Host(
        name=described.name,
        root=str(home.host_root(described.name) if local else described.root or "/opt/stack"),
        python=str(described.python or ""),
        connection=described.connection,
        address="127.0.0.1" if local else described.address,
        user=described.user or "",
        port=described.port,
        group=described.group,
    )


def _keys(source: SecretSource) -> list[Json]:
    """The gateway gets hashes only. The probe key is the orchestrator's own and may choose its slice."""
    client, probe = (hashlib.sha256(source.read(n).reveal().encode()).hexdigest() for n in ("client.key", "probe.key"))
    return [
        {"id": "client", "sha256": client, "models": None, "may_pin": False},
        {"id": "probe", "sha256": probe, "models": None, "may_pin": True},
    ]


def _gateway_limits(settings: StackSettings) -> Json:
    """Only what the stack file sets; the gateway's defaults hold for the rest."""
    gateway = settings.gateway
    return {"max_body": gateway.max_body_mb << 20, "first_byte_timeout_s": gateway.first_byte_timeout_s}

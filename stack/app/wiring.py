"""The one place where the parts are wired together."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from stack.app.access import AccessDesk, check_shared
from stack.app.changes import ChangeDesk
from stack.app.database import holder_of, open_store
from stack.app.machines import MachineDesk
from stack.app.models import ModelDesk
from stack.app.operator import StackOperator
from stack.app.permission import Permission
from stack.app.policy_watch import PolicyWatch
from stack.app.records import RecordsDesk
from stack.app.sources import build_source
from stack.audit.checkpointer import Checkpointer
from stack.audit.keys import DEFAULT_LOG, PUBLIC_FILE, publish, signer_from
from stack.audit.sinks import make_sinks
from stack.config.home import Home, Ports
from stack.config.policies import load_policies
from stack.config.policy_values import Policies
from stack.config.settings import OLLAMA
from stack.config.stack_yaml import HostSettings, StackSettings, load_stack
from stack.core.clock import Clock, SystemClock
from stack.core.errors import Conflict
from stack.fleet.addresses import ip_of
from stack.fleet.door import AnsibleDoor
from stack.fleet.facts import FactsFiles
from stack.fleet.inventory import InventoryUnreadable, read_inventory
from stack.fleet.values import Host
from stack.gateway.control import GatewayControl
from stack.registry.store import ContentStore
from stack.rollout.authority import Authority
from stack.rollout.change_report import ChangeReporter
from stack.rollout.gatekeeper import Gatekeeper, Refusals
from stack.rollout.gates import Gates, GatewayAccess
from stack.rollout.holding import Holding
from stack.rollout.hosts import Hosts
from stack.rollout.monitor import Monitor
from stack.rollout.observing import Observer
from stack.rollout.performer import RolloutPerformer
from stack.rollout.planner import Planner
from stack.rollout.reconcile import Reconciler
from stack.rollout.report import Reporter
from stack.rollout.routing_push import RoutePusher
from stack.rollout.swapping import Swapping
from stack.rollout.waiting import Waiting
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
    settings = with_inventory(load_stack(stack_yaml))
    values = taken_over(settings.secret_variables, os.environ)  # starts this program again where there are any
    source = build_source(settings, home, values, clock)
    home.create()
    with _alone(home):
        store = open_store(settings, home, os.environ, source, clock)
        try:
            yield _wired(home, settings, ports, store, clock, source)
        finally:
            store.close()


def with_inventory(settings: StackSettings) -> StackSettings:
    """The settings with the hosts of the Ansible inventory that they name; a host may stand in one of the two only."""
    if settings.inventory is None:
        return settings
    added = {host.name: host for host in read_inventory(settings.inventory)}
    twice = sorted(set(added) & set(settings.hosts))
    known = {**settings.hosts, **added}
    missing = sorted({str(h) for s in settings.services.values() for h in s.hosts if h not in known})
    if twice or missing:
        words = [f"{name} stands in stack.yaml too" for name in twice]
        words += [f"a service wants {name}, which is in neither" for name in missing]
        raise InventoryUnreadable("; ".join(words), path=settings.inventory)
    return replace(settings, hosts=known)


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
    door = _door(home, clock)
    hosts = Hosts(
        store=store,
        door=door,
        content=content,
        services=settings.services,
        inventory=inventory,
        clock=clock,
        memory={host.name: host.memory_mb << 20 for host in settings.hosts.values() if host.memory_mb},
    )
    url = f"http://{settings.gateway.host}:{ports.gateway}"
    access = GatewayAccess(base_url=f"{url}/v1", key=source.read("probe.key").reveal())
    routes = RoutePusher(
        store=store,
        control=control,
        keys=_keys(source),
        limits=_gateway_limits(settings),
        addresses={name: host.address for name, host in inventory.items()},
    )
    policies = partial(load_policies, settings.policies)
    planner = Planner(
        settings=settings,
        store=store,
        content=content,
        inventory=inventory,
        policies=policies,
        playbooks=PLAYBOOKS,
        locks=LOCKS_DIR,
    )
    permission, changes, authority = _gates(settings, store, policies, clock)
    swapping = Swapping(
        store=store, hosts=hosts, services=settings.services, control=control, routes=routes, clock=clock
    )
    performer = RolloutPerformer(
        hosts=hosts,
        swapping=swapping,
        gates=Gates(store=store, services=settings.services, access=access, inventory=inventory, clock=clock),
        holding=Holding(store=store, services=settings.services, access=access, control=control, clock=clock),
        waiting=Waiting(store=store, control=control, services=settings.services, authority=authority, clock=clock),
        planner=planner,
        routes=routes,
        clock=clock,
    )
    reporter = Reporter(store=store, root=home.evidence)
    records, checkpointer = _log(home, settings, store, source, clock)
    observer = Observer(
        store=store,
        control=control,
        hosts=hosts,
        swapping=swapping,
        inventory=inventory,
        gateway_url=url,
        clock=clock,
    )
    holder = holder_of(home)
    return StackOperator(
        home=home,
        ports=ports,
        settings=settings,
        store=store,
        content=content,
        planner=planner,
        observer=observer,
        reporter=reporter,
        worker=Worker(store, performer, authority, reporter, clock, holder=holder),
        reconciler=Reconciler(
            store=store, hosts=hosts, routes=routes, authority=authority, inventory=inventory, clock=clock
        ),
        monitor=Monitor(store=store, control=control, hosts=hosts, authority=authority, clock=clock),
        access=AccessDesk(
            store=store,
            shared=_shared_token(settings, source),
            policies=policies,
            refusals=permission.refusals,
            permitted=permission.permitted,
            clock=clock,
        ),
        changes=changes,
        records=records,
        library=ModelDesk(store=store, content=content, observer=observer, permission=permission, clock=clock),
        machines=MachineDesk(
            store=store, inventory=inventory, door=door, known=FactsFiles(home.root / "facts"), clock=clock
        ),
        permission=permission,
        refusals=permission.refusals,
        checkpointer=checkpointer,
        policy_watch=PolicyWatch(store, policies, clock),
        clock=clock,
    )


def _door(home: Home, clock: Clock) -> AnsibleDoor:
    """The one way to hosts, with this state directory's known hosts and key."""
    return AnsibleDoor(
        project=PLAYBOOKS,
        runner_dir=home.runner,
        known_hosts=home.root / "known_hosts",
        identity=home.secrets / "ssh.key",
        clock=clock,
    )


def _gates(
    settings: StackSettings, store: Store, policies: Callable[[], Policies], clock: Clock
) -> tuple[Permission, ChangeDesk, Authority]:
    """Everything that asks the policies."""
    gatekeeper = Gatekeeper(policies=policies, clock=clock)
    reports = ChangeReporter(store=store, clock=clock)
    refusals = Refusals(store=store, clock=clock)
    permission = Permission(
        store=store,
        gatekeeper=gatekeeper,
        refusals=refusals,
        policies=policies,
        environment_of_stack=settings.environment,
        clock=clock,
    )
    changes = ChangeDesk(
        store=store,
        gatekeeper=gatekeeper,
        refusals=refusals,
        policies=policies,
        report_of=reports.report,
        clock=clock,
    )
    return (
        permission,
        changes,
        Authority(gatekeeper=gatekeeper, reports=reports, environment_of_stack=settings.environment, clock=clock),
    )


def _log(
    home: Home, settings: StackSettings, store: Store, source: SecretSource, clock: Clock
) -> tuple[RecordsDesk, Checkpointer]:
    """What makes the audit log something that others can check."""
    kept = settings.audit.checkpoints
    signer = signer_from(source.read("checkpoint.key").reveal(), "checkpoint.key")
    publish(home.root / PUBLIC_FILE, signer.key)
    sinks = make_sinks(kept, home.root / DEFAULT_LOG, os.environ)
    checkpointer = Checkpointer(store, signer, sinks, clock, every_s=kept.every_s, every_records=kept.every_records)
    return RecordsDesk(store, signer.key, sinks), checkpointer


def _host(described: HostSettings, home: Home) -> Host:
    local = described.connection == "local"
    reached = "127.0.0.1" if local else described.address
    address = ip_of(reached)
    return Host(
        name=described.name,
        root=str(home.host_root(described.name) if local else described.root or "/opt/stack"),
        python=str(described.python or ""),
        connection=described.connection,
        address=address,
        known_as=reached if reached != address else "",
        user=described.user or "",
        port=described.port,
        group=described.group,
        shares=described.share == "artifacts" and not local,
        ollama=described.ollama if described.ollama != OLLAMA else "",
    )


def _shared_token(settings: StackSettings, source: SecretSource) -> Callable[[], str]:
    """Read anew each time, so that its file can be replaced while everything runs; from a Vault once, at the start."""
    check_shared(source.read("admin.token").reveal())
    if any(found.name == "admin.token" and found.origin == "vault" for found in settings.secrets):
        kept = source.read("admin.token")
        return kept.reveal
    return lambda: source.read("admin.token").reveal()


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

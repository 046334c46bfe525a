"""``host list | check``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import click

from stack.cli.change_screens import clean
from stack.cli.client import AdminClient
from stack.cli.command import answer, command, place
from stack.cli.screen import patiently
from stack.cli.tables import columns, size

Json = dict[str, Any]
_CANT = 4


@command("list", examples="stackctl host list\nstackctl host list --json")
def list_(as_json: bool) -> None:
    """Every host of the inventory, and what it last said of itself. Asks nobody."""
    body = AdminClient(place()).get("/hosts")
    answer(body, host_table(body.get("hosts", [])), as_json=as_json)


@command(
    "check",
    examples="stackctl host check\nstackctl host check gpu1 --json",
    codes="\b\n  0 every host that was asked can carry replicas   4 one can't, or does not answer",
)
@click.argument("host", required=False)
@click.pass_context
def check(ctx: click.Context, host: str | None, as_json: bool) -> None:
    """Ask hosts now, through Ansible, for all that a first deploy depends on. Changes nothing.

    Memory, disk, accelerators, Python and its C library, clock, open files, and what starts replicas after a reboot.
    """
    client = AdminClient(place())
    body = patiently(lambda: client.post("/hosts/check", {"host": host}), "the hosts to answer")
    hosts = body.get("hosts", [])
    wrong = [f"{clean(h.get('name'))}: {clean(text)}" for h in hosts for text in h.get("problems") or []]
    wrong += [f"{clean(h.get('name'))}: note: {clean(text)}" for h in hosts for text in h.get("notes") or []]
    human = host_table(hosts) + "".join(f"\n  {line}" for line in [*wrong, *(told(host) for host in hosts)] if line)
    answer(body, human, as_json=as_json)
    ctx.exit(0 if body.get("ok") is True else _CANT)


def told(host: Json) -> str:
    """The rest of what a host said, in a line; empty when it said nothing."""
    facts = host.get("facts")
    if not facts:
        return ""
    skew, devices = facts.get("skew_s"), facts.get("accelerators")
    said = [
        f"Python {facts.get('python')}",
        f"{facts.get('architecture')} with {facts.get('libc') or 'an unknown libc'}",
        f"clock {skew:+.1f} s" if isinstance(skew, int | float) else "clock unknown",
        f"open files {facts.get('open_files') or 'unknown'}",
        "accelerators unknown" if devices is None else f"accelerator memory {size(sum(d['total'] for d in devices))}",
        f"after a reboot: {facts.get('after_reboot') or 'unknown'}",
    ]
    return clean(f"{host.get('name')}: {', '.join(said)}")


def host_table(hosts: Iterable[Json]) -> str:
    """One line per host; what it did not say is ``-``."""
    rows = []
    for host in hosts:
        facts = host.get("facts") or {}
        devices = facts.get("accelerators")
        names = ", ".join(clean(d.get("name")) for d in devices or []) or ("none" if devices == [] else None)
        rows.append(
            [
                clean(host.get("name")),
                clean(host.get("group")),
                clean(f"{host.get('connection')} {host.get('address')}"),
                host.get("replicas"),
                facts.get("cpus"),
                size(facts.get("memory_available")),
                size(facts.get("disk_free")),
                names,
                facts.get("service_manager"),
                "no" if host.get("problems") else "yes",
            ]
        )
    headers = (
        "host",
        "group",
        "reached by",
        "replicas",
        "cpus",
        "memory free",
        "disk free",
        "accelerators",
        "services",
    )
    return columns((*headers, "usable"), rows) if rows else "no hosts"

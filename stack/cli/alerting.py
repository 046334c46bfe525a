"""``alert list | ack``."""

from __future__ import annotations

import click

from stack.cli.change_screens import alert_table
from stack.cli.client import AdminClient
from stack.cli.command import actor, answer, command, place


@command("list", examples="stackctl alert list\nstackctl alert list --all --json")
@click.option("--all", "all_", is_flag=True, help="Also those that were acknowledged.")
def list_(all_: bool, as_json: bool) -> None:
    """What people must know, newest first."""
    body = AdminClient(place()).get("/alerts", open="false" if all_ else "true")
    answer(body, alert_table(body.get("alerts", [])), as_json=as_json)


@command("ack", examples="stackctl alert ack 3")
@click.argument("alert_id", metavar="ID", type=click.IntRange(0, 2**53 - 1))
def ack(alert_id: int, as_json: bool) -> None:
    """Say that you have seen to it. The next of its kind is a new alert."""
    body = AdminClient(place()).post(f"/alerts/{alert_id}/acknowledge", {"claimed": actor()})
    left = body.get("alerts", [])
    answer(body, f"acknowledged: {alert_id}; {len(left)} still open", as_json=as_json)

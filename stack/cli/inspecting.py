"""``status`` and ``diff``."""

from __future__ import annotations

import click

from stack.cli.client import AdminClient
from stack.cli.command import answer, command, place
from stack.cli.tables import diff_text, status_screen

_DRIFTED = 5


@command("status", examples="stackctl status\nstackctl status --json")
def status(as_json: bool) -> None:
    """What is true now: services, releases, traffic, replicas, rollouts, processes.

    The JSON is a stable interface: fields are added, never renamed.
    """
    body = AdminClient(place()).get("/status")
    answer(body, status_screen(body), as_json=as_json)


@command("diff", examples="stackctl diff\nstackctl diff --json", codes="\b\n  0 in sync   5 something differs")
@click.pass_context
def diff(ctx: click.Context, as_json: bool) -> None:
    """Desired state (stack.yaml) against observed state (what really runs)."""
    body = AdminClient(place()).get("/diff")
    answer(body, diff_text(body), as_json=as_json)
    ctx.exit(0 if body.get("in_sync") is True else _DRIFTED)

"""``rollout list | show | watch | resume | abort``."""

from __future__ import annotations

import click

from stack.cli.client import AdminClient, segment
from stack.cli.command import actor, answer, command, place
from stack.cli.ending import follow
from stack.cli.tables import plan_text, rollout_table
from stack.cli.watch import EXIT_CODES, Aim, last_event
from stack.core.errors import InvalidInput


class NoRollout(InvalidInput):
    """There has been no rollout yet."""

    hint = "Begin one: stackctl deploy"


@command("list", examples="stackctl rollout list\nstackctl rollout list --limit 50 --json")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
def list_(limit: int, as_json: bool) -> None:
    """Rollouts, newest first."""
    body = AdminClient(place()).get("/rollouts", limit=limit)
    rollouts = body.get("rollouts", [])
    answer(body, rollout_table(rollouts) if rollouts else "no rollouts yet", as_json=as_json)


@command("show", examples="stackctl rollout show ro-abcdefghjk\nstackctl rollout show --json")
@click.argument("rollout_id", metavar="[ID]", required=False)
def show(rollout_id: str | None, as_json: bool) -> None:
    """One rollout with its plan and evidence; default: the newest."""
    client = AdminClient(place())
    body = client.get(f"/rollouts/{segment(rollout_id or newest(client))}")
    answer(body, plan_text(body), as_json=as_json)


@command("watch", examples="stackctl rollout watch\nstackctl rollout watch ro-abcdefghjk", codes=EXIT_CODES)
@click.argument("rollout_id", metavar="[ID]", required=False)
@click.pass_context
def watch_(ctx: click.Context, rollout_id: str | None, as_json: bool) -> None:
    """Follow a rollout until it ends or pauses; default: the newest."""
    where = place()
    client = AdminClient(where)
    follow(ctx, where, client, Aim(rollout=rollout_id or newest(client)), as_json=as_json)


@command(
    "resume", examples="stackctl rollout resume ro-abcdefghjk\nstackctl rollout resume ID --no-wait", codes=EXIT_CODES
)
@click.argument("rollout_id", metavar="ID")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Watch until it ends.")
@click.pass_context
def resume(ctx: click.Context, rollout_id: str, wait: bool, as_json: bool) -> None:
    """Let a paused rollout go on: the same step again."""
    _steer(ctx, rollout_id, "resume", {"claimed": actor()}, wait=wait, as_json=as_json)


@command("abort", examples='stackctl rollout abort ro-abcdefghjk --reason "wrong model"', codes=EXIT_CODES)
@click.argument("rollout_id", metavar="ID")
@click.option("--reason", default="by hand", show_default=True, help="For the audit log.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Watch until it ends.")
@click.pass_context
def abort(ctx: click.Context, rollout_id: str, reason: str, wait: bool, as_json: bool) -> None:
    """Stop a rollout and put traffic back."""
    _steer(ctx, rollout_id, "abort", {"claimed": actor(), "reason": reason}, wait=wait, as_json=as_json)


def _steer(ctx: click.Context, rollout_id: str, what: str, body: dict[str, str], *, wait: bool, as_json: bool) -> None:
    where = place()
    client = AdminClient(where)
    seen = last_event(client, rollout_id)
    answered = client.post(f"/rollouts/{segment(rollout_id)}/{what}", body)
    if wait:
        aim = Aim(rollout=rollout_id, after=seen, steered=True, back=what == "abort")
        follow(ctx, where, client, aim, as_json=as_json)
    answer(answered, f"{what}: {rollout_id} is {answered.get('state')}", as_json=as_json)


def newest(client: AdminClient) -> str:
    """The id of the newest rollout."""
    rollouts = client.get("/rollouts", limit=1).get("rollouts", [])
    if not rollouts:
        raise NoRollout()
    return str(rollouts[0]["id"])

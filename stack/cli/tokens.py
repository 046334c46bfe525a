"""``token create | list | revoke``."""

from __future__ import annotations

from pathlib import Path

import click

from stack.cli.change_screens import clean, token_table
from stack.cli.client import AdminClient, Garbled, segment
from stack.cli.command import actor, answer, command, place
from stack.cli.writing import fill, reserve
from stack.core.clock import SystemClock
from stack.core.errors import StackError

change_option = click.option("--change", help="The change this belongs to, where the policies ask for one.")


@command(
    "create",
    examples="stackctl token create anna --role operator --output anna.token\n"
    "stackctl token create ci --role viewer --days 30 --json",
)
@click.argument("name")
@click.option("--role", "roles", multiple=True, required=True, help="A role of policies/risk.yaml; may be repeated.")
@click.option("--days", type=click.IntRange(1, 3650), default=90, show_default=True, help="How long it is good.")
@click.option(
    "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write it to this new file (0600) instead."
)
@change_option
def create(
    name: str, roles: tuple[str, ...], days: int, output: Path | None, change: str | None, as_json: bool
) -> None:
    """Give somebody access to the admin API. The token is shown this once; only its hash is kept.

    NAME is the person as in policies/people.yaml, so that it is known who asks. Use it with STACK_TOKEN_FILE=FILE.
    """
    request = {"name": name, "roles": list(roles), "days": days, "change": change or None, "claimed": actor()}
    client = AdminClient(place())
    if output is None:
        body = client.post("/tokens", request)
        told = f"{_token(body)}\n{_about(body)}; it is not shown again"
        answer(body, told, as_json=as_json)
        return
    reserve(output)
    try:
        body = client.post("/tokens", request)
        fill(output, f"{_token(body)}\n".encode())
    except StackError:
        output.unlink(missing_ok=True)
        raise
    shown = {key: value for key, value in body.items() if key != "token"} | {"file": str(output)}
    answer(shown, f"{_about(body)}\nuse it: STACK_TOKEN_FILE={output} stackctl status", as_json=as_json)


def _token(body: dict[str, object]) -> str:
    token = body.get("token")
    if not isinstance(token, str) or not token:
        raise Garbled("a new token without the token")
    return token


def _about(body: dict[str, object]) -> str:
    roles = body.get("roles")
    shown = ", ".join(map(str, roles)) if isinstance(roles, list) else "-"
    return clean(f"{body.get('id')} of {body.get('name')} ({shown}), good until {body.get('expires_at')}")


@command("list", examples="stackctl token list\nstackctl token list --json")
def list_(as_json: bool) -> None:
    """Who has access, and until when."""
    body = AdminClient(place()).get("/tokens")
    answer(body, token_table(body.get("tokens", []), SystemClock().now()), as_json=as_json)


@command("revoke", examples="stackctl token revoke tk-abcdefghjk")
@click.argument("token_id", metavar="ID")
@change_option
def revoke(token_id: str, change: str | None, as_json: bool) -> None:
    """Take access away, at once."""
    request = {"change": change or None, "claimed": actor()}
    body = AdminClient(place()).post(f"/tokens/{segment(token_id)}/revoke", request)
    answer(body, f"revoked: {clean(body.get('id'))} of {clean(body.get('name'))}", as_json=as_json)

"""``audit tail`` and ``audit verify``. The chain is checked here, from the records alone: not by who wrote them."""

from __future__ import annotations

from typing import Any

import click

from stack.cli.client import AdminClient
from stack.cli.command import answer, command, place
from stack.cli.tables import columns

Json = dict[str, Any]
_PAGE = 1000


@command("tail", examples="stackctl audit tail\nstackctl audit tail --limit 100 --json")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
def tail(limit: int, as_json: bool) -> None:
    """The newest records: when, who, what, and with what result."""
    body = AdminClient(place()).get("/admin/audit", limit=limit)
    keys = ("seq", "at", "actor", "action", "target", "result")
    rows = [[record.get(key) for key in keys] for record in body.get("records", [])]
    answer(body, columns(keys, rows) if rows else "no records yet", as_json=as_json)


def all_records(client: AdminClient) -> list[Json]:
    """Every record, page by page, in order."""
    records: list[Json] = []
    after = 0
    while True:
        page = client.get("/admin/audit", limit=_PAGE, after=after)
        found = page.get("records", [])
        if not found:
            return records
        records += found
        after = int(page["next"])

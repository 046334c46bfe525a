"""``audit tail`` and ``audit verify``. The chain is checked here, not by the process that wrote it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import click

from stack.cli.client import AdminClient, Garbled
from stack.cli.command import answer, command, place
from stack.cli.tables import columns

if TYPE_CHECKING:
    from stack.store.rows import AuditRow

Json = dict[str, Any]
_PAGE = 1000
_BROKEN = 3
_COLUMNS = ("seq", "time", "actor", "action", "target", "result")


@command("tail", examples="stackctl audit tail\nstackctl audit tail --limit 100 --json")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
def tail(limit: int, as_json: bool) -> None:
    """The newest records: when, who, what, and with what result."""
    body = AdminClient(place()).get("/admin/audit", limit=limit)
    rows = [[record.get(key) for key in _COLUMNS] for record in body.get("records", [])]
    answer(body, columns(_COLUMNS, rows) if rows else "no records yet", as_json=as_json)


@command(
    "verify",
    examples="stackctl audit verify\nstackctl audit verify --known-head sha256:0123 --json",
    codes="\b\n  0 every record holds   3 a record was edited, removed or reordered",
)
@click.option("--known-head", help="The hash of a record, kept elsewhere: it must still be there.")
@click.pass_context
def verify(ctx: click.Context, known_head: str | None, as_json: bool) -> None:
    """Check the hash chain of all records and name the first that does not hold."""
    from stack.audit.chain import verify as verified

    report = verified(rows_of(all_records(AdminClient(place()))), known_head=known_head)
    if report.ok:
        human = f"ok: {report.count} records, head {report.head}\nkeep the head elsewhere to see a cut tail later"
    else:
        human = f"NOT OK: record {report.first_bad}: {report.reason} ({report.count} records before it hold)"
    answer(report.to_json(), human, as_json=as_json)
    ctx.exit(0 if report.ok else _BROKEN)


def all_records(client: AdminClient) -> Iterator[Json]:
    """Every record, page by page, in order."""
    after = 0
    while found := (page := client.get("/admin/audit", limit=_PAGE, after=after)).get("records"):
        yield from found
        if int(page["next"]) <= after:
            raise Garbled("the audit log does not end")
        after = int(page["next"])


def rows_of(records: Iterable[Json]) -> Iterator[AuditRow]:
    """The rows as they were hashed."""
    from stack.store.rows import AuditRow

    names = [field.name for field in fields(AuditRow)]
    for record in records:
        if missing := [name for name in names if name not in record]:
            raise Garbled(f"an audit record without {', '.join(missing)}")
        yield AuditRow(**{name: record[name] for name in names})

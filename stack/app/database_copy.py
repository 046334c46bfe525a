"""``python -m stack.app.database_copy``: the state of ``state.db`` into an empty PostgreSQL database.

All of it in one transaction there, while the source's write lock keeps everybody else from writing. Before that
transaction commits, every table is compared with what was sent, the audit chain is hashed again on the target, and its
tree must have the source's root. The source stays as it is; that it was copied is a record on the target.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stack.app.database import BadDatabase, database, password_of
from stack.app.sources import build_source
from stack.audit.append import append, catch_up, stored_node
from stack.audit.chain import row_bytes, verify
from stack.audit.merkle import Frontier, leaf_hash, root
from stack.audit.record import AuditRecord
from stack.config.forms import database_url
from stack.config.home import Home
from stack.config.stack_yaml import load_stack
from stack.core.clock import Clock, SystemClock
from stack.core.errors import Conflict, InvalidInput, Refused, StackError
from stack.secrets.handover import taken_over
from stack.store.copying import at_leisure, copy_rows, counts
from stack.store.looking import LEASE, look
from stack.store.rows import AuditRow
from stack.store.store import Reading, Store, Transaction

Say = Callable[[str], None]
COPIED = "database.copied"
_ROWS = 1000


class StillLed(Conflict):
    """A control plane works on the state that is to be copied: {holder}."""

    hint = "stackctl down, on every machine that uses it; what was copied meanwhile would be old at once."


class NotEmpty(Refused):
    """The target {target} already holds state: {detail}"""

    hint = "Nothing was written. Name an empty database: createdb <name>"


class NothingToCopy(InvalidInput):
    """There is no state to copy: {place}"""

    hint = "Only state that is in a SQLite file is copied. Set STACK_HOME to the directory that has a state.db."


class TreeDiffers(Refused):
    """The audit log did not arrive as it was: {detail}"""

    hint = (
        "Nothing was kept. If the source itself does not verify: stackctl audit verify, docs/runbooks/audit-broken.md"
    )


def copy(source: Store, target: Store, shown: str, actor: str, clock: Clock, say: Say) -> dict[str, Any]:
    """Everything, once. A second call finds it done, as long as nobody has used the target."""
    catch_up(source)
    with source.transaction() as old, target.transaction() as new:
        at_leisure(old)
        at_leisure(new)
        _nobody_leads(old)
        if _is_copy(old, new):
            return {"copied": False, "target": shown, "reason": "it holds this very state already", **_sizes(new)}
        _empty(counts(new), shown)
        copied = copy_rows(old, new, say)
        size, head = _same_log(old, new)
        say(f"audit log: {size} records hashed again, the tree has the source's root")
        body = {"from": "state.db", "to": shown, "head": head, "rows": copied}
        append(new, AuditRecord(actor=actor, action=COPIED, target="state", change="", result="ok", body=body), clock)
        return {"copied": True, "target": shown, **_sizes(new)}


def _nobody_leads(tx: Reading) -> None:
    """By the database's clock. The lock that is held keeps everybody from taking the lead meanwhile."""
    lease = tx.lease(LEASE)
    if lease is None:
        return
    try:
        tx.check_lease(lease)
    except Conflict:
        return
    raise StillLed(holder=lease.holder)


def _is_copy(old: Reading, new: Reading) -> bool:
    """The target's last record says that it was copied from where the source still stands."""
    last, mine = new.last_audit(), old.last_audit()
    if last is None or last.action != COPIED or last.result != "ok":
        return False
    return (last.seq, last.body.get("head")) == ((mine.seq if mine else 0) + 1, mine.hash if mine else "")


def _empty(found: dict[str, int], shown: str) -> None:
    full = [f"{rows} rows in {table}" for table, rows in found.items() if rows]
    if full:
        raise NotEmpty(", ".join(full[:4]), target=shown)


def _same_log(old: Reading, new: Reading) -> tuple[int, str]:
    """The log on the target, hashed record by record: chain, tree as stored, and the source's root. Size and head."""
    tree = Frontier()

    def hashed() -> Iterator[AuditRow]:
        nonlocal tree
        for row in _records(new):
            tree = tree.add(leaf_hash(row_bytes(row)))
            yield row

    report = verify(hashed())
    if not report.ok:
        raise TreeDiffers(report.reason)
    if {_root(old), _root(new)} != {tree.root if report.count else b""}:
        raise TreeDiffers("the roots of source, target and records are not the same")
    last = new.last_audit()
    return report.count, last.hash if last else ""


def _root(tx: Reading) -> bytes:
    size = tx.leaf_count()
    return root(size, lambda level, position: stored_node(tx, level, position)) if size else b""


def _records(tx: Reading) -> Iterator[AuditRow]:
    start = 1
    while batch := tx.audit_rows(start, _ROWS):
        yield from batch
        start = batch[-1].seq + 1


def _sizes(tx: Transaction) -> dict[str, Any]:
    last = tx.last_audit()
    return {"rows": counts(tx), "audit_head": last.hash if last else ""}


def intended(source: Store, place: str, clock: Clock, password: Callable[[], str] | None) -> dict[str, Any]:
    """What a copy would do: refuses what it would refuse, and writes nothing anywhere."""
    seen = look(place, clock, password)
    with source.transaction() as old:
        _nobody_leads(old)
        rows = counts(old)
        if seen is not None and seen.schema:
            _check(old, place, clock, password)
    return {"copied": False, "dry_run": True, "target": place, "rows": rows}


def _check(old: Reading, place: str, clock: Clock, password: Callable[[], str] | None) -> None:
    """A target with tables in it: they must be empty, or hold this very state."""
    target = Store.open(place, clock, password=password)
    try:
        with target.reading() as new:
            if not _is_copy(old, new):
                _empty(counts(new), place)
    finally:
        target.close()


@contextmanager
def _source(place: str | Path, clock: Clock) -> Iterator[Store]:
    path = Path(str(place).removeprefix("sqlite:///"))
    if str(place).startswith("postgresql") or not path.is_file():
        raise NothingToCopy(place=str(place))
    store = Store.open(place, clock)
    try:
        yield store
    finally:
        store.close()


def run(given: argparse.Namespace, clock: Clock, say: Say) -> dict[str, Any]:
    """As the command line asks for it."""
    home = Home(given.home.absolute())
    settings = load_stack(given.stack.absolute())
    values = taken_over(settings.secret_variables, os.environ)
    password = password_of(settings, build_source(settings, home, values, clock))
    place = database(settings, home, os.environ)
    try:
        to = database_url(given.to)
    except ValueError as error:
        raise BadDatabase(str(error)) from error
    if to is None or not str(to).startswith("postgresql"):
        raise BadDatabase("--to takes postgresql://user@host/database")
    if str(place).startswith("postgresql"):
        place = home.database  # stack.yaml names the new place already
    with _source(place, clock) as source:
        if given.dry_run:
            return intended(source, str(to), clock, password)
        target = Store.open(to, clock, password=password, wait_s=10, say=say)
        try:
            return copy(source, target, str(to), given.actor, clock, say)
        finally:
            target.close()


def main(argv: list[str] | None = None) -> int:
    """Copy, print what was done as JSON, tell progress on stderr."""
    parser = argparse.ArgumentParser(prog="stack.app.database_copy", description=__doc__)
    for name in ("--home", "--stack"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--to", required=True)
    parser.add_argument("--actor", required=True)
    parser.add_argument("--dry-run", action="store_true")
    try:
        body = run(parser.parse_args(argv), SystemClock(), lambda line: print(line, file=sys.stderr, flush=True))
    except StackError as error:
        print(json.dumps(error.to_json()))
        return error.exit_code
    print(json.dumps(body))
    return 0


if __name__ == "__main__":
    sys.exit(main())

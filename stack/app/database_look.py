"""``python -m stack.app.database_look``: what ``doctor`` and ``database show`` say of the state database.

A process of its own, so that a database which does not answer holds up nobody, and the command line stays light.
Prints findings as JSON; changes nothing. The judgements are pure.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from stack.app.database import database, password_of
from stack.app.sources import build_source
from stack.config.home import Home
from stack.config.stack_yaml import StackSettings, load_stack
from stack.core.clock import Clock, SystemClock
from stack.core.errors import StackError
from stack.secrets.handover import taken_over
from stack.store.dialect import SQLite, dialect_for
from stack.store.looking import Look, look

CHECK_S = 10.0
_SKEW_WARN_S, _SKEW_FAIL_S = 2.0, 60.0
_LITTLE, _NOTHING = 1_000_000_000, 100_000_000
_DOCS = "docs/postgresql.md"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """As ``doctor`` shows it; ``todo`` says what to do unless it is ok."""

    name: str
    level: str
    found: str
    todo: str = ""


def findings(seen: Look, check_s: float = CHECK_S) -> Iterator[Finding]:
    """What a look means."""
    yield Finding(name="database", level="ok", found=f"{seen.kind} {seen.version}, {seen.bytes / 1e6:.1f} MB")
    yield _schema(seen)
    if seen.kind != "sqlite":
        yield _writable(seen)
        yield _clock(seen)
    yield _sound(seen, check_s)
    yield _leader(seen)


def _schema(seen: Look) -> Finding:
    text = f"{seen.schema} of {seen.known}"
    if seen.schema > seen.known:
        todo = "It was written by a newer inference-stack: run that one. See docs/upgrade.md."
        return Finding(name="database migrations", level="fail", found=text, todo=todo)
    if seen.schema < seen.known:
        todo = "The next start of the control plane brings it up to date: stackctl up"
        return Finding(name="database migrations", level="warn", found=text, todo=todo)
    return Finding(name="database migrations", level="ok", found=text)


def _writable(seen: Look) -> Finding:
    if seen.recovering:
        todo = f"Name the primary in `database`, or promote this server. See {_DOCS}."
        return Finding(name="database writable", level="fail", found="a standby, or in recovery", todo=todo)
    if seen.read_only:
        todo = "ALTER DATABASE ... RESET default_transaction_read_only"
        return Finding(name="database writable", level="fail", found="read-only by its own setting", todo=todo)
    return Finding(name="database writable", level="ok", found="primary")


def _clock(seen: Look) -> Finding:
    """Only as far as the answer's time allows to say."""
    off = max(0.0, abs(seen.skew_s) - seen.skew_within_s)
    level = "ok" if off < _SKEW_WARN_S else "warn" if off < _SKEW_FAIL_S else "fail"
    words = f"{'ahead' if seen.skew_s > 0 else 'behind'} by {abs(seen.skew_s):.1f} s" if level != "ok" else "agrees"
    todo = (
        "" if level == "ok" else "Set both clocks by NTP: leases go by the database's, approvals and records by ours."
    )
    return Finding(name="database clock", level=level, found=f"{words} (within {seen.skew_within_s:.2f} s)", todo=todo)


def _sound(seen: Look, check_s: float) -> Finding:
    if seen.sound == "ok":
        more = "" if seen.checksums else "; the server keeps no data checksums"
        return Finding(name="database integrity", level="ok", found=f"ok{more}")
    if not seen.sound:
        found = f"not read through within {check_s:g} s; nothing wrong until then"
        return Finding(name="database integrity", level="ok", found=found)
    todo = "Stop everything, keep it for inspection, and restore from a backup set: docs/state.md"
    return Finding(name="database integrity", level="fail", found=seen.sound, todo=todo)


def _leader(seen: Look) -> Finding:
    if seen.lease is None:
        return Finding(name="database lease", level="warn", found="nobody has led yet", todo="stackctl up")
    who = f"{seen.lease.holder}, epoch {seen.lease.epoch}"
    if seen.lease_left_s > 0:
        return Finding(name="database lease", level="ok", found=f"{who}, {seen.lease_left_s:.1f} s left")
    if seen.lease.expires_at.timestamp() <= 0:
        return Finding(name="database lease", level="warn", found=f"given back by {who}", todo="stackctl up")
    found = f"ran out {-seen.lease_left_s:.0f} s ago: {who}"
    return Finding(name="database lease", level="warn", found=found, todo="No control plane leads: stackctl up")


def volume(path: Path) -> Finding:
    """Room for a SQLite file to grow."""
    free = shutil.disk_usage(path.parent).free
    level = "ok" if free >= _LITTLE else "warn" if free >= _NOTHING else "fail"
    todo = "" if level == "ok" else f"Make room on the file system of {path.parent}: a full disk stops every change."
    return Finding(name="database disk", level=level, found=f"{free / 1e9:.1f} GB free at {path.parent}", todo=todo)


def all_findings(settings: StackSettings, home: Home, values: Mapping[str, str], clock: Clock) -> Iterator[Finding]:
    """Of the database that the control plane would use."""
    place = database(settings, home, os.environ)
    dialect = dialect_for(place)
    try:
        seen = look(place, clock, password_of(settings, build_source(settings, home, values, clock)), check_s=CHECK_S)
    except StackError as error:
        yield Finding(name="database", level="fail", found=error.message, todo=error.advice or f"See {_DOCS}.")
        return
    if seen is None:
        yield Finding(name="database", level="warn", found=f"{place} is not made yet", todo="stackctl up")
        return
    yield from findings(seen)
    if isinstance(dialect, SQLite):
        yield volume(dialect.path)


def main(argv: list[str] | None = None) -> int:
    """Print the findings; the exit code of the error, if any."""
    parser = argparse.ArgumentParser(prog="stack.app.database_look", description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--stack", type=Path, required=True)
    given = parser.parse_args(argv)
    try:
        settings = load_stack(given.stack.absolute())
        values = taken_over(settings.secret_variables, os.environ)
        found = [asdict(one) for one in all_findings(settings, Home(given.home.absolute()), values, SystemClock())]
    except StackError as error:
        print(json.dumps(error.to_json()))
        return error.exit_code
    print(json.dumps({"findings": found}))
    return 0


if __name__ == "__main__":
    sys.exit(main())

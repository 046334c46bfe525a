"""Databases that the release before this one left behind, in every phase of a rollout (see ``make_fixtures.py``)."""

from __future__ import annotations

import json
import re
import socket
import sqlite3
import tarfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

FIXTURES = Path(__file__).parent / "fixtures"
Json = dict[str, Any]
Rows = dict[str, list[dict[str, Any]]]


@cache
def dumps() -> Mapping[str, str]:
    """Name (``<scenario>-<phase>``) -> SQL."""
    with tarfile.open(FIXTURES / "databases.tar.xz") as archive:
        found = {m.name: archive.extractfile(m) for m in archive.getmembers()}
        return {name.removesuffix(".sql"): file.read().decode() for name, file in found.items() if file}


def restore(name: str, path: Path) -> Path:
    """That database as a file. Replicas get ports that are free here; the killed program's lease has run out."""
    wire = sqlite3.connect(path)
    wire.executescript(dumps()[name])
    wire.execute("update leases set expires_s = 0")
    ports = [row[0] for row in wire.execute("select distinct port from replicas")]
    for old, new in zip(ports, free(len(ports)), strict=True):
        wire.execute("update replicas set port = ? where port = ?", (new, old))
        for table, key, column in (("rollouts", "id", "state"), ("routing_tables", "version", "body")):
            for row_key, body in wire.execute(f"select {key}, {column} from {table}").fetchall():
                moved = re.sub(rf'"port": ?{old}\b', f'"port":{new}', body)
                wire.execute(f"update {table} set {column} = ? where {key} = ?", (moved, row_key))
    wire.commit()
    wire.close()
    return path


def free(count: int) -> list[int]:
    wires = [socket.socket() for _ in range(count)]
    try:
        for wire in wires:
            wire.bind(("127.0.0.1", 0))
        return [int(wire.getsockname()[1]) for wire in wires]
    finally:
        for wire in wires:
            wire.close()


def rows(path: Path) -> Rows:
    """Everything in a database, by table."""
    wire = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    wire.row_factory = sqlite3.Row
    try:
        tables = [r[0] for r in wire.execute("select name from sqlite_master where type = 'table' order by name")]
        return {t: [dict(r) for r in wire.execute(f"select * from {t} order by rowid")] for t in tables}
    finally:
        wire.close()


def open_rollout(found: Rows) -> Json:
    """The state of the one rollout that is not over."""
    (row,) = [r for r in found["rollouts"] if not r["closed"]]
    return dict(json.loads(row["state"]))

"""The table on disk, so that the gateway serves on after a restart without the control plane. Written atomically."""

from __future__ import annotations

import os
from pathlib import Path

import orjson

from stack.core.canonical import canonical
from stack.gateway.errors import InvalidTable
from stack.gateway.table import RoutingTable


def save_table(path: Path, table: RoutingTable) -> None:
    """Durable before it returns: file, rename, directory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as sink:
        sink.write(canonical(table.to_json()))
        sink.flush()
        os.fsync(sink.fileno())
    beside.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def load_table(path: Path) -> RoutingTable | None:
    """The last table, None if there was never one, ``InvalidTable`` if the file can't be used."""
    try:
        body = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InvalidTable(f"{path}: {error}") from error
    try:
        return RoutingTable.from_json(orjson.loads(body))
    except orjson.JSONDecodeError as error:
        raise InvalidTable(f"{path} is not JSON: {error}") from error

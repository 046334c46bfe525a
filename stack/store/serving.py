"""What is served: releases, services, replicas, and the routing tables made of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import func, select

from stack.core.clock import stamp
from stack.core.digest import Digest
from stack.core.release import Release
from stack.store.errors import NoPort, OldTable, StoreCorrupt, UnknownRelease, UnknownService
from stack.store.rows import LIVE_STATES, ReplicaRow, ServiceRow
from stack.store.schema import counters, releases, replicas, routing_tables, services
from stack.store.session import Session, as_json, as_text

_TABLES_KEPT = 200


class ServingReads(Session):
    """Looking at what is served."""

    def release(self, digest: str) -> Release:
        """The release of this name; one whose content does not give its name is damage."""
        row = self._first(select(releases.c.body).where(releases.c.digest == as_text(str(digest))))
        if row is None:
            raise UnknownRelease(release=str(digest)[:90])
        found = Release.from_json(json.loads(row["body"]))
        if found.digest != digest:
            raise StoreCorrupt(f"release {digest} has the content of {found.digest}")
        return found

    def service(self, name: str) -> ServiceRow:
        """The service of this name; raises UnknownService."""
        row = self._first(select(services).where(services.c.name == as_text(str(name))))
        if row is None:
            raise UnknownService(service=str(name)[:90])
        return ServiceRow.from_row(row)

    def services(self) -> tuple[ServiceRow, ...]:
        """All, by name."""
        return tuple(sorted((ServiceRow.from_row(row) for row in self._all(select(services))), key=lambda r: r.name))

    def replicas(self, service: str | None = None, live_only: bool = False) -> tuple[ReplicaRow, ...]:
        """By id; ``live_only`` leaves out those that are stopped or failed.

        Sorted here, as databases collate differently.
        """
        query = select(replicas)
        if service is not None:
            query = query.where(replicas.c.service == as_text(str(service)))
        if live_only:
            query = query.where(replicas.c.state.in_(LIVE_STATES))
        return tuple(sorted((ReplicaRow.from_row(row) for row in self._all(query)), key=lambda row: row.id))

    def live_ids(self, service: str) -> frozenset[str]:
        """The ids of a service's replicas that are not stopped or failed: for those who look several times a second."""
        query = select(replicas.c.id).where(
            replicas.c.service == as_text(str(service)), replicas.c.state.in_(LIVE_STATES)
        )
        return frozenset(row["id"] for row in self._all(query))

    def replica(self, replica_id: str) -> ReplicaRow | None:
        """The replica of this id, if there is one."""
        row = self._first(select(replicas).where(replicas.c.id == as_text(str(replica_id))))
        return None if row is None else ReplicaRow.from_row(row)

    def free_port(self, host: str, low: int, high: int) -> int:
        """The lowest port from ``low`` to ``high`` that no live replica of this host has."""
        taken = {row.port for row in self.replicas(live_only=True) if row.host == host}
        for port in range(low, high + 1):
            if port not in taken:
                return port
        raise NoPort(low=low, high=high, host=host)

    def latest_table(self) -> dict[str, Any] | None:
        """The newest routing table, or None before the first."""
        row = self._first(select(routing_tables.c.body).order_by(routing_tables.c.version.desc()).limit(1))
        return None if row is None else dict(json.loads(row["body"]))


class ServingWrites(ServingReads):
    """Changing what is served."""

    def put_release(self, release: Release) -> Digest:
        """Keep it under its digest; twice is fine. Releases never change."""
        digest = release.digest
        if self._first(select(releases.c.digest).where(releases.c.digest == str(digest))) is None:
            body = as_json(release.to_json())
            self._write(releases.insert().values(digest=str(digest), body=body, created_at=self._stamp()))
        return digest

    def put_service(self, row: ServiceRow) -> None:
        """Insert or replace. The releases it names must be stored."""
        roles = {"stable": row.stable, "candidate": row.candidate, "lkg": row.lkg}
        values = {role: None if digest is None else str(digest) for role, digest in roles.items()}
        fixed = {"name": str(row.name), "weights": as_json(dict(row.weights)), "updated_at": stamp(row.updated_at)}
        self._put(services, "name", {**fixed, **values, "environment": row.environment})

    def put_replica(self, row: ReplicaRow) -> None:
        """Insert or replace. Its release must be stored."""
        values = {
            "id": str(row.id),
            "service": str(row.service),
            "release": str(row.release),
            "host": str(row.host),
            "port": row.port,
            "state": row.state,
            "slice": row.slice,
            "observed_digest": None if row.observed_digest is None else str(row.observed_digest),
            "updated_at": stamp(row.updated_at),
        }
        self._put(replicas, "id", values)

    def next_table_version(self, above: int = 0) -> int:
        """Higher than ``above``, and than every version given out by a committed transaction before."""
        name = "routing_table"
        given = self._connection.execute(select(counters.c.value).where(counters.c.name == name)).scalar()
        version = max(int(given or 0), above) + 1
        if not self._write(counters.update().where(counters.c.name == name).values(value=version)):
            self._write(counters.insert().values(name=name, value=version))
        return version

    def put_table(self, version: int, body: Mapping[str, Any]) -> None:
        """Keep a newer table; of the older ones the last 200 stay."""
        latest = self._connection.execute(select(func.max(routing_tables.c.version))).scalar()
        if latest is not None and version <= latest:
            raise OldTable(version=version, latest=latest)
        self._write(routing_tables.insert().values(version=version, body=as_json(body), created_at=self._stamp()))
        self._write(routing_tables.delete().where(routing_tables.c.version <= version - _TABLES_KEPT))

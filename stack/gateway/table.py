"""The routing table: everything the gateway needs to know, as one frozen value.

``RoutingTable.from_json(t.to_json()) == t``; ``from_json`` is strict and reports every mistake at once.
Who may push a table, and in which order, is the control server's business; picking a target is ``routing``'s.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeVar, get_args

from stack.core.digest import Digest
from stack.core.errors import InvalidInput
from stack.core.names import ReplicaId
from stack.gateway.errors import InvalidTable

Slice = Literal["stable", "candidate", "lkg"]
SLICES: tuple[Slice, ...] = get_args(Slice)
HOLD_MAX_S = 300

_Text = TypeVar("_Text", bound=str)
_PUBLIC = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,127}\Z")
_HOST = re.compile(r"[A-Za-z0-9:][A-Za-z0-9.:_-]{0,252}\Z")
_HEX = re.compile(r"[0-9a-f]{64}\Z")
_PRINTABLE = re.compile(r"[\x20-\x7e]{1,256}\Z")


@dataclass(frozen=True, kw_only=True)
class Target:
    """One replica that requests can be sent to."""

    id: ReplicaId
    slice: Slice
    release: Digest
    model: str
    host: str
    port: int
    served_model: str

    def __hash__(self) -> int:
        """Of the id alone, which one table has once: every request looks its target up."""
        return hash(self.id)


@dataclass(frozen=True, kw_only=True)
class Service:
    """A public model name: its aliases, the slices' weights (integers, sum 100) and its replicas.

    ``hold_s``: how long a request waits for a replica while there is none; 0: it is refused at once.
    """

    name: str
    aliases: tuple[str, ...] = ()
    weights: dict[Slice, int]
    targets: tuple[Target, ...] = ()
    hold_s: float = 0


@dataclass(frozen=True, kw_only=True)
class Key:
    """One API key, known by the SHA-256 of its text; ``models`` None means every service."""

    id: str
    sha256: str
    models: tuple[str, ...] | None = None
    may_pin: bool = False


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one client connection may cost; sizes in bytes, times in seconds."""

    max_body: int = 33_554_432
    max_head: int = 65_536
    head_timeout_s: float = 10
    body_timeout_s: float = 60
    first_byte_timeout_s: float = 60
    idle_timeout_s: float = 75
    stall_timeout_s: float = 60


@dataclass(frozen=True, kw_only=True)
class RoutingTable:
    """All services, keys and limits at one version."""

    version: int
    services: tuple[Service, ...] = ()
    keys: tuple[Key, ...] = ()
    limits: Limits = field(default_factory=Limits)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; ``from_json`` is the inverse."""
        return {
            "version": self.version,
            "services": [_service_json(s) for s in self.services],
            "keys": [{**vars(k), "models": None if k.models is None else list(k.models)} for k in self.keys],
            "limits": dict(vars(self.limits)),
        }

    @classmethod
    def from_json(cls, body: Any) -> RoutingTable:
        """The table this JSON value says, or ``InvalidTable`` with every problem in it."""
        reader = _Reader()
        row = reader.record(body, "table", {"version", "services", "keys"}, {"limits"})
        table = cls(
            version=reader.integer(row, "version", "table", 1, 2**53 - 1),
            services=tuple(_service(reader, s, f"services[{i}]") for i, s in enumerate(reader.rows(row, "services"))),
            keys=tuple(_key(reader, k, f"keys[{i}]") for i, k in enumerate(reader.rows(row, "keys"))),
            limits=_limits(reader, row.get("limits", {})),
        )
        if not reader.problems:
            reader.problems += _collisions(table)
        if reader.problems:
            raise InvalidTable("; ".join(reader.problems[:20]), problems=reader.problems)
        return table


def _service_json(service: Service) -> dict[str, Any]:
    held = {"hold_s": service.hold_s} if service.hold_s else {}  # gateways that know no waiting read all other tables
    return {
        **held,
        "name": service.name,
        "aliases": list(service.aliases),
        "weights": dict(service.weights),
        "targets": [{**vars(t), "id": str(t.id), "release": str(t.release)} for t in service.targets],
    }


class _Reader:
    """Reads JSON values and collects problems; a bad value yields a harmless stand-in."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def problem(self, where: str, what: str) -> None:
        self.problems.append(f"{where}: {what}")

    def record(self, value: Any, where: str, required: set[str], optional: set[str]) -> dict[str, Any]:
        if not isinstance(value, dict):
            self.problem(where, "must be an object")
            return {}
        self.problems += [f"{where}: unknown key {k!r}" for k in value if k not in required | optional]
        self.problems += [f"{where}: {k} is missing" for k in sorted(required - value.keys())]
        return value

    def rows(self, row: dict[str, Any], name: str, where: str = "table") -> list[Any]:
        value = row.get(name, [])
        if isinstance(value, list):
            return value
        self.problem(where, f"{name} must be a list")
        return []

    def integer(self, row: dict[str, Any], name: str, where: str, low: int, high: int) -> int:
        value = row.get(name, low)
        if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
            return value
        self.problem(where, f"{name} must be an integer from {low} to {high}")
        return low

    def text(self, value: Any, where: str, form: re.Pattern[str]) -> str:
        if isinstance(value, str) and form.match(value):
            return value
        self.problem(where, f"{repr(value)[:60]} is not acceptable here")
        return "x"

    def texts(self, row: dict[str, Any], name: str, where: str) -> tuple[str, ...]:
        return tuple(self.text(v, f"{where}.{name}", _PUBLIC) for v in self.rows(row, name, where))


def _service(reader: _Reader, value: Any, where: str) -> Service:
    row = reader.record(value, where, {"name", "weights", "targets"}, {"aliases", "hold_s"})
    hold = row.get("hold_s", 0)
    if not isinstance(hold, int | float) or isinstance(hold, bool) or not 0 <= hold <= HOLD_MAX_S:
        reader.problem(where, f"hold_s must be a number of seconds from 0 to {HOLD_MAX_S}")
        hold = 0
    return Service(
        name=reader.text(row.get("name", "x"), f"{where}.name", _PUBLIC),
        aliases=reader.texts(row, "aliases", where),
        weights=_weights(reader, row.get("weights", {"stable": 100}), f"{where}.weights"),
        targets=tuple(
            _target(reader, t, f"{where}.targets[{i}]") for i, t in enumerate(reader.rows(row, "targets", where))
        ),
        hold_s=hold,
    )


def _weights(reader: _Reader, value: Any, where: str) -> dict[Slice, int]:
    row = reader.record(value, where, set(), set(SLICES))
    weights = {name: reader.integer(row, name, where, 0, 100) for name in SLICES if name in row}
    if sum(weights.values()) != 100:
        reader.problem(where, "must sum to 100")
    return weights


def _target(reader: _Reader, value: Any, where: str) -> Target:
    names = {f.name for f in fields(Target)}
    row = reader.record(value, where, names, set())
    chosen = row.get("slice")
    if chosen not in SLICES:
        reader.problem(where, f"slice must be one of {', '.join(SLICES)}")
    return Target(
        id=_typed(reader, ReplicaId, row.get("id"), where, ReplicaId("x")),
        slice=chosen if chosen in SLICES else "stable",
        release=_typed(reader, Digest, row.get("release"), where, Digest.of(b"")),
        model=reader.text(row.get("model"), f"{where}.model", _PRINTABLE),
        host=reader.text(row.get("host"), f"{where}.host", _HOST),
        port=reader.integer(row, "port", where, 1, 65535),
        served_model=reader.text(row.get("served_model"), f"{where}.served_model", _PRINTABLE),
    )


def _typed(reader: _Reader, kind: type[_Text], value: Any, where: str, instead: _Text) -> _Text:
    if not isinstance(value, str):
        reader.problem(where, f"{kind.__name__} must be a string")
        return instead
    try:
        return kind(value)
    except InvalidInput as error:
        reader.problem(where, error.message)
        return instead


def _key(reader: _Reader, value: Any, where: str) -> Key:
    row = reader.record(value, where, {"id", "sha256"}, {"models", "may_pin"})
    may_pin = row.get("may_pin", False)
    if not isinstance(may_pin, bool):
        reader.problem(where, "may_pin must be true or false")
    return Key(
        id=reader.text(row.get("id"), f"{where}.id", _PUBLIC),
        sha256=reader.text(row.get("sha256"), f"{where}.sha256", _HEX),
        models=None if row.get("models") is None else reader.texts(row, "models", where),
        may_pin=may_pin is True,
    )


def _limits(reader: _Reader, value: Any) -> Limits:
    row = reader.record(value, "limits", set(), {f.name for f in fields(Limits)})
    given: dict[str, Any] = {}
    for name, limit in row.items():
        whole = name.startswith("max_")
        known = isinstance(limit, int if whole else (int, float)) and not isinstance(limit, bool)
        if not (known and 0 < limit <= 2**31):
            reader.problem("limits", f"{name} must be a {'whole ' if whole else ''}number above 0")
        elif name in Limits.__dataclass_fields__:
            given[name] = limit
    return Limits(**given)


def _collisions(table: RoutingTable) -> list[str]:
    """Names that mean two things: public names and aliases, replica ids, keys."""
    kinds: dict[str, Sequence[str]] = {
        "public name": [n for s in table.services for n in (s.name, *s.aliases)],
        "replica id": [t.id for s in table.services for t in s.targets],
        "key id": [k.id for k in table.keys],
        "key": [k.sha256 for k in table.keys],
    }
    return [f"{kind} {n[:64]} appears twice" for kind, names in kinds.items() for n in _repeated(names)]


def _repeated(names: Sequence[str]) -> list[str]:
    if len(set(names)) == len(names):
        return []
    return sorted(n for n, times in Counter(names).items() if times > 1)

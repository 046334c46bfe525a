"""What ought to be allowed, said a second time: a small model of approvals that shares no code with the product.

``Book`` is the policies as these tests mean them, and writes the files that the product reads. ``Oracle`` decides from
what really happened (who signed which bytes, what was used up already), read from the database with plain SQL.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import permutations
from pathlib import Path
from typing import Any

SHIPPED = (Path(__file__).resolve().parents[2] / "policies" / "risk.yaml").read_text()
NAMESPACE = "approval@inference-stack"
TICKET, HELD_UP = ("production",), ("R2", "R3")
NEEDED = {"R0": 0, "R1": 0, "R2": 1, "R3": 2}
ROLES = {"R2": ("owner",), "R3": ("owner", "security")}
LIFE_S = 480 * 60


@dataclass(frozen=True, kw_only=True)
class KeyLine:
    """A key in allowed_signers."""

    person: str
    after: datetime | None = None
    before: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Book:
    """The policies: those that ship, with people, keys and what a test changes."""

    people: Mapping[str, tuple[str, ...]]
    keys: Mapping[str, KeyLine]
    deploys: str = "R2"
    freezes: tuple[tuple[datetime, datetime], ...] = ()
    note: str = ""

    def but(self, **changed: Any) -> Book:
        """With something else."""
        return replace(self, **changed)

    def files(self, lines: Mapping[str, str]) -> Mapping[str, bytes]:
        """The three files; ``lines`` are the public keys by their names here."""
        before = "{dev: R1, staging: R1, production: R2}"
        assert SHIPPED.count(before) == 1
        risk = SHIPPED.replace(before, f"{{dev: R1, staging: R2, production: {self.deploys}}}")
        frozen = "".join(
            f'  - {{name: f{n}, environments: [production], from: "{a.isoformat()}", until: "{b.isoformat()}"}}\n'
            for n, (a, b) in enumerate(self.freezes)
        )
        risk = risk.replace("\nfreezes:\n", f"\nfreezes:\n{frozen}")
        people = "".join(f"  - {{name: {name}, roles: [{', '.join(held)}]}}\n" for name, held in self.people.items())
        signers = "".join(f"{line.person} {_options(line)} {lines[name]}\n" for name, line in self.keys.items())
        said = {"risk.yaml": risk + self.note, "people.yaml": f'schema: "1"\npeople:\n{people}'}
        return {name: text.encode() for name, text in {**said, "allowed_signers": signers}.items()}

    def risk(self, action: str, environment: str) -> str | None:
        """The class of what these tests ask for."""
        table = {
            "rollout.deploy": {"dev": "R1", "staging": "R2", "production": self.deploys},
            "rollout.rollback": {"dev": "R1", "staging": "R1", "production": "R1"},
            "token.create": {"dev": "R1", "staging": "R1", "production": "R3"},
        }
        return table[action].get(environment)

    def satisfied(self, risk: str, people: Iterable[str], requester: str) -> bool:
        """Whether these people are enough, and stay enough if an unknown requester was one of them."""
        wanted = NEEDED[risk]
        able = {p for p in people if set(self.people.get(p, ())) & set(ROLES[risk])} if wanted else set()
        able -= {p for p in able if p.casefold() == requester.casefold()}
        if not wanted:
            return True
        if requester.casefold() in {p.casefold() for p in self.people}:
            return self._enough(risk, able)
        return bool(able) and all(self._enough(risk, able - {one}) for one in able)

    def _enough(self, risk: str, people: set[str]) -> bool:
        if risk == "R2":
            return len(people) >= 1
        return any("owner" in self.people[a] and "security" in self.people[b] for a, b in permutations(people, 2))


def _options(line: KeyLine) -> str:
    said = [f'namespaces="{NAMESPACE}"']
    said += [f'valid-after="{line.after:%Y%m%d%H%M%S}Z"'] if line.after else []
    said += [f'valid-before="{line.before:%Y%m%d%H%M%S}Z"'] if line.before else []
    return ",".join(said)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What somebody tries to do, as plain text; the names are those of the columns of ``requests``."""

    action: str
    target: str
    environment: str
    plan: str
    change: str
    gate: str = "start"


@dataclass
class Oracle:
    """``signed``: who really signed what: armored text -> (key, bytes, namespace). ``over``: requests that are used up
    or closed. ``made_under``: the policies' bytes when a request was made. ``taken_back``: (request, person)."""

    database: sqlite3.Connection
    signed: dict[str, tuple[str, bytes, str]] = field(default_factory=dict)
    over: set[str] = field(default_factory=set)
    made_under: dict[str, Mapping[str, bytes]] = field(default_factory=dict)
    taken_back: set[tuple[str, str]] = field(default_factory=set)

    def allows(self, book: Book, files: Mapping[str, bytes], wanted: Wanted, request: str, now: datetime) -> bool:
        """Whether the approval that the risk demands is there."""
        risk = book.risk(wanted.action, wanted.environment)
        if risk is None or wanted.gate != "start":
            return False
        if wanted.environment in TICKET and risk in HELD_UP and not wanted.change.startswith("CHG-"):
            return False
        if risk in HELD_UP and wanted.environment == "production" and any(a <= now < b for a, b in book.freezes):
            return False
        if not NEEDED[risk]:
            return True
        row = self.row(request)
        if row is None or request in self.over or self.made_under.get(request) != files:
            return False
        same = all(row[name] == getattr(wanted, name) for name in Wanted.__dataclass_fields__)
        alive = _stamp(now) < row["expires_at"] and row["risk"] == risk
        return same and alive and book.satisfied(risk, self.agreed(book, row, now), row["requester"])

    def agreed(self, book: Book, row: Mapping[str, Any], now: datetime) -> set[str]:
        """Who signed exactly this, with a key that is theirs now."""
        found = self.database.execute("select signature from approvals where request = ?", (row["id"],)).fetchall()
        people = set()
        for (signature,) in found:
            key, said, namespace = self.signed.get(signature.rstrip("\n"), ("", b"", ""))
            line = book.keys.get(key)
            if line is None or (said, namespace) != (said_of(row), NAMESPACE):
                continue
            begun = line.after is None or line.after <= now
            if (
                begun
                and (line.before is None or now <= line.before)
                and (row["id"], line.person) not in self.taken_back
            ):
                people.add(line.person)
        return people

    def row(self, request: str) -> dict[str, Any] | None:
        """The request as the database has it."""
        cursor = self.database.execute("select * from requests where id = ?", (request,))
        row = cursor.fetchone()
        return None if row is None else dict(zip((c[0] for c in cursor.description), row, strict=True))


def said_of(row: Mapping[str, Any]) -> bytes:
    """What an approver of this request must have signed."""
    names = ("action", "change", "environment", "expires_at", "gate", "plan", "policy", "requester", "risk", "target")
    said: dict[str, Any] = {name: row[name] for name in names}
    said |= {"kind": "inference-stack approval", "request": row["id"], "v": 1}
    return json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


def _stamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")

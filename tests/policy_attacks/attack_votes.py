"""Attempts to fill the one approval that is missing with something that is none."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from attack_world import NOBODYS, OWNED, SECOND, World
from rulebook import NAMESPACE, ROLES, said_of

from stack.policy.sshsig import armor, dearmor
from stack.rollout.gatekeeper import Ask
from stack.store.approval_rows import RequestRow


@dataclass(frozen=True, kw_only=True)
class Case:
    """A situation: what is asked, its open request, who approved, and who would be the last to.

    ``older``: signatures and requests of what was asked before for the same change.
    """

    world: World
    rnd: Random
    ask: Ask
    row: RequestRow
    voters: tuple[str, ...]
    older: tuple[tuple[str, str], ...]

    @property
    def statement(self) -> bytes:
        """What an approver signs, as the model makes it."""
        row = self.world.oracle.row(str(self.row.id))
        assert row is not None
        return said_of(row)

    @property
    def last(self) -> str:
        """Who is missing."""
        return self.voters[-1]

    def good(self) -> str:
        """The signature that is missing."""
        return self.world.sign(self.last, self.statement)

    def vote(self, key: str) -> bool:
        """A good vote."""
        return self.world.hand_in(self.ask.change, self.world.sign(key, self.statement), key)


Forge = Callable[[Case], tuple[str, str]]
"""The change id to hand it in for, and the armored text."""


def _here(forge: Callable[[Case], str]) -> Forge:
    return lambda case: (case.ask.change, forge(case))


def _flipped(case: Case) -> str:
    """One byte of what is signed is another."""
    said = bytearray(case.statement)
    said[case.rnd.randrange(len(said))] ^= 1 << case.rnd.randrange(8)
    return case.world.sign(case.last, bytes(said))


def _edited(case: Case) -> str:
    """A statement that says something more convenient."""
    said = json.loads(case.statement)
    lies: dict[str, object] = {
        "risk": "R1",
        "expires_at": "2030-01-01T00:00:00.000000Z",
        "requester": "zoe",
        "environment": "dev",
    }
    lies |= {"plan": "sha256:" + "0" * 64, "request": "rq-" + "a" * 20, "v": 2, "gate": "100", "target": "other"}
    name = case.rnd.choice(sorted(lies))
    text = json.dumps(said | {name: lies[name]}, sort_keys=True, separators=(",", ":"))
    return case.world.sign(case.last, text.encode() + b"\n")


def _other_form(case: Case) -> str:
    """The same values, in other bytes."""
    said = json.loads(case.statement)
    forms = (json.dumps(said).encode() + b"\n", case.statement.rstrip(b"\n"), case.statement + b"\n", b"")
    return case.world.sign(case.last, case.rnd.choice(forms))


def _namespace(case: Case) -> str:
    names = ("file", "git", "approval@inference-stack.example", "Approval@inference-stack", NAMESPACE + " ", "approval")
    return case.world.sign(case.last, case.statement, case.rnd.choice(names))


def _truncated(case: Case) -> str:
    good = case.good()
    return good[: case.rnd.randrange(1, len(good) - 2)]


def _garbage(case: Case) -> str:
    size = case.rnd.randrange(1, 300)
    noise = bytes(case.rnd.randrange(256) for _ in range(size))
    return case.rnd.choice(
        (
            armor(noise),
            armor(b"SSHSIG" + noise),
            noise.decode("latin-1"),
            base64.b64encode(noise).decode(),
            "\x00",
            "{}",
        )
    )


def _oversized(case: Case) -> str:
    good = case.good()
    return case.rnd.choice((good + "A" * 20_000, good + "\n" * 17_000, armor(dearmor(good) + bytes(30_000)), good * 2))


def _bit_flipped(case: Case) -> str:
    """One bit of the envelope: magic, key, namespace, algorithm or signature."""
    data = bytearray(dearmor(case.good()))
    data[case.rnd.randrange(len(data))] ^= 1 << case.rnd.randrange(8)
    return armor(bytes(data))


def _respelled(case: Case) -> str:
    good = case.good()
    return case.rnd.choice((good.replace("\n", "\r\n"), " " + good, good.replace("-----B", "----- B"), good.lower()))


def _impersonated(case: Case) -> str:
    """Nobody's key signs and says that it is the one that is missing."""
    world = case.world
    return world.keys[NOBODYS].sign(case.statement, NAMESPACE, world.keys[case.last].blob)


def _nobodys(case: Case) -> str:
    return case.world.sign(NOBODYS, case.statement)


def _without_role(case: Case) -> str:
    people = case.world.book.people
    wrong = [k for k, who in OWNED.items() if not set(people[who]) & set(ROLES[case.row.risk.value])]
    return case.world.sign(case.rnd.choice(wrong), case.statement)


def _own(case: Case) -> str:
    """Who asked approves it, with either key; where nobody knows who asked, one who approved does again."""
    asked = case.row.requester.casefold()
    mine = [key for key, who in OWNED.items() if who == asked] or [k for k in OWNED if OWNED[k] in case.voters[:-1]]
    return case.world.sign(case.rnd.choice(mine or [NOBODYS]), case.statement)


def _second_key(case: Case) -> str:
    """Who approved already approves with another key; where nobody did yet, somebody who may not."""
    again = [key for key, who in SECOND.items() if who in case.voters[:-1]]
    return case.world.sign(case.rnd.choice(again or ["dan"]), case.statement)


def _again(case: Case) -> str:
    """An approval that is there is handed in once more."""
    return case.world.sign(case.rnd.choice((*case.voters[:-1], "dan")), case.statement)


def _replayed(case: Case) -> str:
    """What somebody signed for an earlier request of this change."""
    return case.rnd.choice(case.older)[1]


def _elsewhere(case: Case) -> tuple[str, str]:
    """A good signature, handed in for an earlier request or another change."""
    older = case.rnd.choice(case.older)[0]
    return older, case.good()


VOTES: dict[str, Forge] = {
    "vote: one byte of the statement is another": _here(_flipped),
    "vote: the statement says something else": _here(_edited),
    "vote: the statement in other bytes": _here(_other_form),
    "vote: signature of another namespace": _here(_namespace),
    "vote: truncated signature": _here(_truncated),
    "vote: garbage": _here(_garbage),
    "vote: oversized": _here(_oversized),
    "vote: one bit of the signature is another": _here(_bit_flipped),
    "vote: the signature spelled otherwise": _here(_respelled),
    "vote: nobody's key under the approver's name": _here(_impersonated),
    "vote: key of nobody": _here(_nobodys),
    "vote: a person without the role": _here(_without_role),
    "vote: who asked approves": _here(_own),
    "vote: one human with two keys": _here(_second_key),
    "vote: the same approval twice": _here(_again),
    "vote: signature of an earlier request": _here(_replayed),
    "vote: handed in for another request": _elsewhere,
}

"""Loads ``policies/``: three files -> frozen policies, or one error with every mistake of all files, file and line.

``policy_risk`` reads risk.yaml, ``allowed_signers`` the keys; people.yaml and what must fit together are read here.
Whoever gets an error instead of policies has to deny everything that is privileged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stack.config.allowed_signers import parse_allowed_signers
from stack.config.fields import WRONG, OneOf, Text
from stack.config.policy_fields import Fields, Made, Many, person_name, word
from stack.config.policy_risk import RiskFile, read_risk
from stack.config.policy_values import Person, Policies, Signer
from stack.core.digest import Digest
from stack.core.errors import InvalidInput
from stack.core.strict_yaml import Ledger, Limits, NotReadable, Problem, compose

__all__ = ["Mistake", "NoPolicies", "PoliciesInvalid", "load_policies", "parse_policies"]

RISK, PEOPLE, SIGNERS = "risk.yaml", "people.yaml", "allowed_signers"
FILES = (RISK, PEOPLE, SIGNERS)
LIMITS = Limits(size=256 << 10, depth=12, values=20_000)
KNOWN_ROLES = ("owner", "security")
"""Roles of approvers that are no typing mistakes even while no class names them or nobody holds them."""


@dataclass(frozen=True, kw_only=True, order=True)
class Mistake:
    """One mistake: its file, line (from 1), where it stands in there, and what is wrong."""

    file: str
    line: int
    path: str
    problem: str

    def to_json(self) -> dict[str, int | str]:
        """As it stands in the facts of an error."""
        return {"file": self.file, "line": self.line, "path": self.path, "problem": self.problem}

    def __str__(self) -> str:
        return f"{self.file} line {self.line}: {self.path + ': ' if self.path else ''}{self.problem}"


class NoPolicies(InvalidInput):
    """The policies can't be read: {path}: {detail}"""

    hint = (
        "Everything that needs permission is denied until policies/ holds risk.yaml, people.yaml and allowed_signers."
    )


class PoliciesInvalid(InvalidInput):
    """The policies in {path} have {count} mistake(s):
    {detail}"""

    hint = "Correct these lines; until then everything that needs permission is denied."

    def __init__(self, path: Path, mistakes: Sequence[Mistake]) -> None:
        errors = [mistake.to_json() for mistake in mistakes]
        super().__init__("; ".join(map(str, mistakes)), path=str(path), count=len(mistakes), errors=errors)
        self.mistakes = tuple(mistakes)


def load_policies(directory: Path) -> Policies:
    """The policies in this directory. Raises PoliciesInvalid (all mistakes at once) or NoPolicies."""
    return parse_policies({name: _bytes(directory / name) for name in FILES}, directory)


def _bytes(path: Path) -> bytes:
    try:
        if path.exists() and not path.is_file():
            raise NoPolicies("not a file", path=str(path))
        with path.open("rb") as file:
            return file.read(LIMITS.size + 1)
    except (OSError, ValueError) as error:
        raise NoPolicies(getattr(error, "strerror", None) or str(error), path=str(path)) from error


def parse_policies(files: Mapping[str, bytes], directory: Path) -> Policies:
    """The policies in these bytes, by file name; ``directory`` is for messages."""
    mistakes: list[Mistake] = []
    risk = _risk(files[RISK], mistakes)
    people = _people(files[PEOPLE], risk, mistakes)
    signers = _signers(files[SIGNERS], people, mistakes)
    if risk is not None and people is not None:
        _note(mistakes, RISK, _unheld(risk, people))
    if mistakes or risk is None or people is None:
        raise PoliciesInvalid(directory, sorted(set(mistakes)))
    return Policies(
        digest=_digest(files),
        environments=risk.environments,
        actions=risk.actions,
        classes=risk.classes,
        gates=risk.gates,
        freezes=risk.freezes,
        roles=risk.roles,
        people={person.name: person for person in people},
        signers=signers,
    )


def _digest(files: Mapping[str, bytes]) -> Digest:
    return Digest.of_value({name: str(Digest.of(files[name])) for name in FILES})


def _note(mistakes: list[Mistake], file: str, problems: Sequence[Problem]) -> None:
    mistakes += [Mistake(file=file, line=p.line, path=p.path, problem=p.problem) for p in problems]


def _risk(data: bytes, mistakes: list[Mistake]) -> RiskFile | None:
    ledger = Ledger()
    try:
        read = read_risk(compose(data, LIMITS), ledger)
    except NotReadable as unreadable:
        _note(mistakes, RISK, [unreadable.problem])
        return None
    _note(mistakes, RISK, ledger.problems)
    return read


def _people(data: bytes, risk: RiskFile | None, mistakes: list[Mistake]) -> tuple[Person, ...] | None:
    """Everybody in people.yaml; roles that nothing asks for are typing mistakes."""
    roles: Any = Text(word)
    if risk is not None:
        roles = OneOf(sorted({*KNOWN_ROLES, *(role for rule in risk.classes.values() for role in rule.roles)}))
    person = Fields(
        {"name": Text(person_name), "roles": Many(roles, 20, unlike=str), "contact": Text()}, ("name", "roles")
    )
    people = Many(Made(person, _person), 1000, unlike=lambda one: one.name.casefold())
    ledger = Ledger()
    try:
        root = compose(data, LIMITS)
    except NotReadable as unreadable:
        _note(mistakes, PEOPLE, [unreadable.problem])
        return None
    document = Fields({"schema": OneOf(("1",)), "people": people}, ("schema", "people")).read(root, "", ledger)
    _note(mistakes, PEOPLE, ledger.problems)
    return None if document is WRONG else document["people"]


def _person(read: dict[str, Any]) -> Person:
    return Person(name=read["name"], roles=frozenset(read["roles"]), contact=read.get("contact", ""))


def _unheld(risk: RiskFile, people: Sequence[Person]) -> list[Problem]:
    """Roles that classes ask for and that nobody knows: typing mistakes too."""
    known = {*KNOWN_ROLES, *(role for person in people for role in person.roles)}
    problem = f"nobody in {PEOPLE} holds this role; it is no known one either ({', '.join(KNOWN_ROLES)})"
    lines = {role: line for role, line in risk.role_lines.items() if role not in known}
    return [Problem(line=line, path=f"role {role}", problem=problem) for role, line in lines.items()]


def _signers(data: bytes, people: Sequence[Person] | None, mistakes: list[Mistake]) -> tuple[Signer, ...]:
    """The keys, one line each; the names before them are spelt as in people.yaml."""
    lines, problems = parse_allowed_signers(data)
    _note(mistakes, SIGNERS, problems)
    names = None if people is None else {person.name for person in people}
    for line, signer in lines:
        if names is not None and signer.person not in names:
            problem = f"there is nobody called {signer.person!r} in people.yaml"
            _note(mistakes, SIGNERS, [Problem(line=line, path="", problem=problem)])
    return tuple(signer for _, signer in lines)

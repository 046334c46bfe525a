"""What ``policies/`` says, as frozen values. ``policies`` reads and checks them; the policy room decides by them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, time

from stack.core.actions import Action, Risk
from stack.core.digest import Digest


@dataclass(frozen=True, kw_only=True)
class ClassRule:
    """What a risk class asks for. ``ticket``: the environments in which a change id is needed.

    ``approvers`` people, each holding one of ``roles`` (and if ``different_roles``, one role each, all different).
    ``separation``: the requester never counts. ``ttl_s``: how long a request stays good, seconds. ``frozen``: a freeze
    window holds it up.
    """

    ticket: frozenset[str] = frozenset()
    approvers: int = 0
    roles: tuple[str, ...] = ()
    different_roles: bool = False
    separation: bool = True
    ttl_s: int = 8 * 3600
    frozen: bool = False


@dataclass(frozen=True, kw_only=True)
class GateRule:
    """A question asked again on the way: before ``before`` per cent of traffic (1-100), by the rule of ``risk``."""

    environment: str
    action: Action
    before: int
    risk: Risk


@dataclass(frozen=True, kw_only=True)
class OneFreeze:
    """No changes in ``environments`` from ``begins`` until ``ends`` (aware)."""

    name: str
    environments: frozenset[str]
    begins: datetime
    ends: datetime


@dataclass(frozen=True, kw_only=True)
class WeeklyFreeze:
    """No changes on these weekdays (0: Monday) from ``begins`` until ``ends``, local time of the IANA ``timezone``.

    With ``ends`` before or at ``begins`` the window reaches into the next day.
    """

    name: str
    environments: frozenset[str]
    days: frozenset[int]
    begins: time
    ends: time
    timezone: str


@dataclass(frozen=True, kw_only=True)
class Person:
    """Somebody who may approve, by the name that tokens and ``allowed_signers`` use."""

    name: str
    roles: frozenset[str]
    contact: str = ""


@dataclass(frozen=True, kw_only=True)
class Signer:
    """A line of ``allowed_signers``: this key is this person's, between ``valid_after`` and ``valid_before``.

    ``blob`` is the public key in SSH's wire form; ``fingerprint`` is ``SHA256:`` and unpadded base64, as OpenSSH shows.
    """

    person: str
    key_type: str
    blob: bytes
    fingerprint: str
    comment: str = ""
    valid_after: datetime | None = None
    valid_before: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Policies:
    """All of it. ``digest`` is over the names and bytes of the three files."""

    digest: Digest
    environments: tuple[str, ...]
    actions: Mapping[Action, Mapping[str, Risk]]
    classes: Mapping[Risk, ClassRule]
    gates: tuple[GateRule, ...]
    freezes: tuple[OneFreeze | WeeklyFreeze, ...]
    roles: Mapping[str, frozenset[Action]]
    people: Mapping[str, Person]
    signers: tuple[Signer, ...]

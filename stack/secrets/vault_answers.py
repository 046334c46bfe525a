"""What Vault's answers mean: a login, a renewal, a secret. Pure; anything of another shape is no answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stack.secrets.source import Secret

_DAY = 86_400


class Nonsense(ValueError):
    """An answer of a shape that Vault does not give; the text says what is missing, never what was there."""


@dataclass(frozen=True, kw_only=True)
class Lease:
    """How long a token lives, in seconds from when it was asked about; 0: for ever."""

    seconds: int
    renewable: bool


@dataclass(frozen=True, kw_only=True)
class Login:
    """A token and its lease."""

    token: Secret
    lease: Lease


def part(answer: Any, name: str) -> dict[str, Any]:
    """The mapping of this name in an answer."""
    found = answer.get(name) if isinstance(answer, dict) else None
    if not isinstance(found, dict):
        raise Nonsense(f"an answer without {name!r}")
    return found


def login(answer: Any) -> Login:
    """Of ``auth/approle/login``."""
    auth = part(answer, "auth")
    token = auth.get("client_token")
    if not isinstance(token, str) or not token or not token.isprintable():
        raise Nonsense("a login without a token")
    return Login(token=Secret(token), lease=_lease(auth, "lease_duration"))


def renewed(answer: Any) -> Lease:
    """Of ``auth/token/renew-self``."""
    return _lease(part(answer, "auth"), "lease_duration")


def looked_up(answer: Any) -> Lease:
    """Of ``auth/token/lookup-self``."""
    return _lease(part(answer, "data"), "ttl")


def _lease(found: dict[str, Any], key: str) -> Lease:
    seconds, renewable = found.get(key), found.get("renewable")
    if type(seconds) is not int or not 0 <= seconds <= 366 * 100 * _DAY or not isinstance(renewable, bool):
        raise Nonsense("a token without a lease")
    return Lease(seconds=seconds, renewable=renewable)


def secret_text(answer: Any, key: str) -> str | None:
    """The field of a KV version 2 answer; None when the secret has no such field."""
    fields = part(part(answer, "data"), "data")
    metadata = part(part(answer, "data"), "metadata")
    if type(metadata.get("version")) is not int or metadata.get("destroyed") is True:
        raise Nonsense("a secret without a version")
    value = fields.get(key)
    if value is None:
        return None
    if not isinstance(value, str):
        raise Nonsense("a field that is no text")
    return value


def why_gone(answer: Any) -> str:
    """What a 404 of KV version 2 says: deleted and destroyed versions are told by their metadata."""
    try:
        metadata = part(part(answer, "data"), "metadata")
    except Nonsense:
        return "there is no such secret"
    if metadata.get("destroyed") is True:
        return "this version was destroyed"
    return "this version was deleted" if metadata.get("deletion_time") else "there is no such secret"

"""Which Vault, how we log in there, and where in it a secret stands: values. And what can go wrong, without values."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from stack.core.errors import InvalidInput, Refused, Unavailable


class VaultAddress(InvalidInput):
    """The Vault address {address} can't be used: {detail}."""

    hint = "Write https://<host>:<port>; plain http is for a Vault on 127.0.0.1 only."


class VaultMissing(Unavailable):
    """Secrets are configured to come from Vault, but the package hvac is not installed."""

    hint = "Install the control plane from its lock file: make deploy."


class VaultUnavailable(Unavailable):
    """Vault at {address} does not serve {path}: {detail}."""

    hint = "Look at `vault status` there. Nothing was changed; it is asked again at the next read."


class VaultDenied(Refused):
    """Vault at {address} refuses {path}: {detail}."""

    hint = "Look at the policy of the token or AppRole, and whether it was revoked."


class VaultHasNoSecret(Unavailable):
    """Vault at {address} has nothing usable at {path}: {detail}."""

    hint = "Write it with `vault kv put`, or correct mount, path, key and version of the secret in stack.yaml."


@dataclass(frozen=True, kw_only=True)
class VaultServer:
    """``address`` without a path; login by a token's file, or by AppRole with its two files (all of them 0600)."""

    address: str
    namespace: str = ""
    ca_file: Path | None = None
    auth: Literal["token", "approle"] = "token"
    token_file: Path | None = None
    role_id_file: Path | None = None
    secret_id_file: Path | None = None
    approle_mount: str = "approle"
    timeout_s: float = 5.0

    def __post_init__(self) -> None:
        problem = address_problem(self.address)
        if problem:
            raise VaultAddress(address=urlsplit(self.address).hostname or "", detail=problem)


@dataclass(frozen=True, kw_only=True)
class VaultPlace:
    """A field of a KV version 2 secret; the newest version, or the one given."""

    path: str
    key: str
    mount: str = "secret"
    version: int | None = None

    def __str__(self) -> str:
        return f"{self.mount}/{self.path}#{self.key}" + (f"@{self.version}" if self.version else "")


def address_problem(address: str) -> str:
    """Why this address is not one that secrets may travel to; empty when it is."""
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "it is no URL"
    if parts.scheme not in ("http", "https") or not host:
        return "it is no http(s) URL"
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        return "credentials, query or fragment in it"
    if parts.path.strip("/"):
        return "there is a path in it"
    if parts.scheme == "http" and not _loopback(host):
        return "plain http leaves this machine"
    return ""


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

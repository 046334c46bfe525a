"""Secrets from HashiCorp Vault (or OpenBao): KV version 2, read by hvac with a session that keeps itself logged in.

hvac is imported when the first secret is read, so nobody else pays for it. What it would take from the environment
(VAULT_TOKEN, ~/.vault-token, proxies, netrc) is not taken, redirects are not followed (the token would go along), and
certificates are always verified.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Any, TypeVar

from stack.core.clock import Clock
from stack.secrets import vault_answers as answers
from stack.secrets.file import read_file
from stack.secrets.source import NoSecret, Secret, usable
from stack.secrets.vault_values import (
    VaultDenied,
    VaultHasNoSecret,
    VaultMissing,
    VaultPlace,
    VaultServer,
    VaultUnavailable,
)

T = TypeVar("T")
_RENEW_AT = 1 / 3  # of the lease is left
_NOT_SERVING = {429: "it is a standby", 472: "it is a recovery secondary", 473: "it is a performance standby"}


@dataclass(frozen=True, kw_only=True)
class VaultSource:
    """``places``: secret name -> where it stands in Vault."""

    places: Mapping[str, VaultPlace]
    session: VaultSession

    def read(self, name: str) -> Secret:
        """The field's text, read anew."""
        place = self.places.get(name)
        if place is None:
            raise NoSecret(name=name, place="Vault", detail="no path is configured for it")
        return usable(self.session.read(place), name, f"Vault, {place}")


class VaultSession:
    """One login. Renews its token when a third of the lease is left, and logs in again where that does not help."""

    def __init__(self, server: VaultServer, clock: Clock) -> None:
        self._server = server
        self._clock = clock
        self._lock = Lock()
        self._client: Any = None
        self._logged_in = False
        self._lease = answers.Lease(seconds=0, renewable=False)
        self._since = 0.0

    def read(self, place: VaultPlace) -> str:
        """One field. A token that Vault no longer takes is replaced once."""
        with self._lock:
            fresh = self._ready()
            try:
                return self._read(place)
            except VaultDenied:
                if fresh:
                    raise
            self._log_in()
            return self._read(place)

    def _ready(self) -> bool:
        """A token that will live for a while; True when it was got just now."""
        if not self._logged_in:
            self._log_in()
            return True
        age, lease = self._clock.monotonic() - self._since, self._lease.seconds
        if not lease or age < lease * (1 - _RENEW_AT):
            return False
        if self._lease.renewable and age < lease and self._renew():
            return False
        self._log_in()
        return True

    def _renew(self) -> bool:
        asked = self._clock.monotonic()
        try:
            answer = self._ask("auth/token/renew-self", lambda: self._client.auth.token.renew_self())
            lease = self._understood("auth/token/renew-self", lambda: answers.renewed(answer))
        except (VaultDenied, VaultUnavailable, VaultHasNoSecret):
            return False
        grew = lease.seconds > self._lease.seconds * _RENEW_AT  # a token at its maximum is renewed by ever less
        self._lease, self._since = lease, asked
        return grew

    def _log_in(self) -> None:
        if self._client is not None:
            self._client.adapter.close()
        self._logged_in, asked = False, self._clock.monotonic()
        self._client = _client(self._server)
        if self._server.auth == "approle":
            login = self._by_role(f"auth/{self._server.approle_mount}/login")
            self._client.token, self._lease = login.token.reveal(), login.lease
        else:
            self._client.token = _file(self._server.token_file, "token_file", self._server)
            answer = self._ask("auth/token/lookup-self", lambda: self._client.auth.token.lookup_self())
            self._lease = self._understood("auth/token/lookup-self", lambda: answers.looked_up(answer))
        self._logged_in, self._since = True, asked

    def _by_role(self, path: str) -> answers.Login:
        server = self._server
        role = _file(server.role_id_file, "role_id_file", server)
        proof = _file(server.secret_id_file, "secret_id_file", server)
        approle = self._client.auth.approle
        answer = self._ask(path, lambda: approle.login(role, proof, use_token=False, mount_point=server.approle_mount))
        return self._understood(path, lambda: answers.login(answer))

    def _read(self, place: VaultPlace) -> str:
        kv = self._client.secrets.kv.v2
        answer = self._ask(
            str(place),
            lambda: kv.read_secret_version(
                place.path, version=place.version, mount_point=place.mount, raise_on_deleted_version=True
            ),
        )
        text = self._understood(str(place), lambda: answers.secret_text(answer, place.key))
        if text is None:
            detail = f"it has no field {place.key!r}"
            raise VaultHasNoSecret(address=self._server.address, path=str(place), detail=detail)
        return text

    def _understood(self, path: str, read: Callable[[], T]) -> T:
        try:
            return read()
        except answers.Nonsense as error:
            detail = f"{error}, though it said all is well"
            raise VaultUnavailable(address=self._server.address, path=path, detail=detail) from None

    def _ask(self, path: str, call: Callable[[], Any]) -> Any:
        """One request. What hvac and requests raise may hold what was sent, so nothing of it goes on."""
        import hvac.exceptions as vault
        import requests.exceptions as wire

        facts = {"address": self._server.address, "path": path}
        try:
            return call()
        except (vault.Forbidden, vault.Unauthorized):
            raise VaultDenied(**facts, detail="permission denied") from None
        except vault.InvalidPath as error:
            raise VaultHasNoSecret(**facts, detail=answers.why_gone(error.json)) from None
        except vault.InvalidRequest:
            raise VaultDenied(**facts, detail="it does not take the login or the request") from None
        except vault.VaultError:
            raise VaultUnavailable(**facts, detail=self._state()) from None
        except wire.SSLError:
            raise VaultUnavailable(**facts, detail="its certificate does not prove who it is") from None
        except wire.Timeout:
            raise VaultUnavailable(**facts, detail=f"no answer within {self._server.timeout_s:g} s") from None
        except (wire.RequestException, OSError, ValueError, TypeError, AttributeError, KeyError) as error:
            raise VaultUnavailable(**facts, detail=f"no connection ({type(error).__name__})") from None

    def _state(self) -> str:
        """What its health endpoint says after an error."""
        import hvac.exceptions as vault
        import requests.exceptions as wire

        try:
            answer = self._client.sys.read_health_status(method="GET")
        except (vault.VaultError, wire.RequestException, OSError, ValueError):
            return "an error, and no health"
        code = 200 if isinstance(answer, dict) else int(getattr(answer, "status_code", 0))
        known = {200: "an error of its own", 501: "it is not initialised", 503: "it is sealed", **_NOT_SERVING}
        return known.get(code, f"health {code}")


def _client(server: VaultServer) -> Any:
    """A client that takes nothing from the environment and goes nowhere else than told."""
    try:
        import hvac
        import requests
    except ImportError:
        raise VaultMissing() from None
    session = requests.Session()
    session.trust_env = False
    session.verify = str(server.ca_file) if server.ca_file else True
    return hvac.Client(
        url=server.address.rstrip("/"),
        token="",
        verify=session.verify,
        timeout=server.timeout_s,
        allow_redirects=False,
        session=session,
        namespace=server.namespace or None,
    )


def _file(path: Any, setting: str, server: VaultServer) -> str:
    if path is None:
        raise NoSecret(name=f"vault.{setting}", place="stack.yaml", detail=f"auth {server.auth} needs it")
    return read_file(path, f"vault.{setting}").reveal()

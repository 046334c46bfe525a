"""One way to put a secret into each kind of place, for the suite that all sources pass."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import hvac
from vault_stand_in import VaultStandIn, serving

from stack.core.clock import ManualClock
from stack.secrets.environment import EnvironmentSource
from stack.secrets.file import FileSource
from stack.secrets.source import SecretSource
from stack.secrets.vault import VaultSession, VaultSource
from stack.secrets.vault_values import VaultPlace, VaultServer

NAME = "client.key"


@dataclass(frozen=True, kw_only=True)
class PlaceOfSecret:
    source: SecretSource
    put: Callable[[str], None]
    remove: Callable[[], None]


def private(path: Path, text: str) -> Path:
    """A file with mode 0600."""
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8", newline="")
    return path


@contextmanager
def in_file(folder: Path) -> Iterator[PlaceOfSecret]:
    path = folder / "client.key"
    source = FileSource(paths={NAME: path})
    yield PlaceOfSecret(source=source, put=lambda text: void(private(path, text)), remove=lambda: path.unlink())


@contextmanager
def in_environment(folder: Path) -> Iterator[PlaceOfSecret]:
    values: dict[str, str] = {}
    source = EnvironmentSource(variables={NAME: "CLIENT_KEY"}, values=values)
    yield PlaceOfSecret(
        source=source, put=lambda text: values.update(CLIENT_KEY=text), remove=lambda: void(values.pop("CLIENT_KEY"))
    )


@contextmanager
def _in_stand_in(folder: Path, auth: str, tls: bool) -> Iterator[PlaceOfSecret]:
    with serving(VaultStandIn(clock=ManualClock(), namespace="team/a"), folder if tls else None) as vault:
        server = server_of(vault, folder, auth)
        place = VaultPlace(path="stack/client", key="value")
        source = VaultSource(places={NAME: place}, session=VaultSession(server, vault.clock))
        yield PlaceOfSecret(
            source=source,
            put=lambda text: vault.put("secret/stack/client", {"value": text, "other": "x"}),
            remove=lambda: void(vault.versions.pop("secret/stack/client")),
        )


def server_of(vault: VaultStandIn, folder: Path, auth: str = "token", timeout_s: float = 30.0) -> VaultServer:
    """How to log in to this stand-in."""
    role, proof = vault.new_role()
    return VaultServer(
        address=vault.address,
        namespace=vault.namespace,
        ca_file=folder / "ca.pem" if vault.address.startswith("https") else None,
        auth="approle" if auth == "approle" else "token",
        token_file=private(folder / "token", vault.new_token() + "\n"),
        role_id_file=private(folder / "role", role + "\n"),
        secret_id_file=private(folder / "proof", proof),
        timeout_s=timeout_s,
    )


@contextmanager
def vault_by_token(folder: Path) -> Iterator[PlaceOfSecret]:
    with _in_stand_in(folder, "token", tls=True) as place:
        yield place


@contextmanager
def vault_by_approle(folder: Path) -> Iterator[PlaceOfSecret]:
    with _in_stand_in(folder, "approle", tls=False) as place:
        yield place


@contextmanager
def real_vault(folder: Path) -> Iterator[PlaceOfSecret]:
    """A real server, by its usual variables; the suite writes below one random path and removes it."""
    address, token = os.environ["VAULT_ADDR"], os.environ["VAULT_TOKEN"]
    client = hvac.Client(url=address, token=token, namespace=os.environ.get("VAULT_NAMESPACE"))
    path = f"inference-stack-test/{secrets.token_hex(8)}"
    kv = client.secrets.kv.v2
    server = VaultServer(
        address=address,
        namespace=os.environ.get("VAULT_NAMESPACE", ""),
        ca_file=Path(os.environ["VAULT_CACERT"]) if "VAULT_CACERT" in os.environ else None,
        token_file=private(folder / "token", token),
    )
    source = VaultSource(places={NAME: VaultPlace(path=path, key="value")}, session=VaultSession(server, ManualClock()))
    with ExitStack() as after:
        after.callback(lambda: kv.delete_metadata_and_all_versions(path))
        yield PlaceOfSecret(
            source=source,
            put=lambda text: void(kv.create_or_update_secret(path, {"value": text})),
            remove=lambda: void(kv.delete_metadata_and_all_versions(path)),
        )


def void(_: object) -> None:
    """For lambdas that are called for what they do."""


PLACES = {
    "file": in_file,
    "environment": in_environment,
    "vault-token-tls": vault_by_token,
    "vault-approle": vault_by_approle,
    **({"real-vault": real_vault} if os.environ.get("VAULT_ADDR") and os.environ.get("VAULT_TOKEN") else {}),
}

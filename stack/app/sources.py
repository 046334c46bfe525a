"""From what ``stack.yaml`` says about secrets to the one source that the control plane reads them from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from stack.config.home import Home
from stack.config.settings import SECRETS, SecretSettings, StackSettings, VaultSettings
from stack.core.clock import Clock, SystemClock
from stack.core.errors import InvalidInput
from stack.secrets.chosen import ChosenSource
from stack.secrets.environment import EnvironmentSource
from stack.secrets.file import FileSource
from stack.secrets.source import SecretSource
from stack.secrets.vault import VaultSession, VaultSource
from stack.secrets.vault_values import VaultPlace, VaultServer

ANYTHING_GOES = "dev"
_USUAL = "file"


class NoVault(InvalidInput):
    """Secrets are configured to come from Vault, but nothing says which."""

    hint = "Add the section `vault` to stack.yaml."


def files_to_make(settings: StackSettings) -> tuple[str, ...]:
    """The secrets that are files of the state directory: made there when they are missing."""
    return tuple(name for name in SECRETS if name not in settings.secrets_elsewhere)


def build_source(
    settings: StackSettings, home: Home, environ: Mapping[str, str], clock: Clock | None = None
) -> SecretSource:
    """``environ``: what ``stack.secrets.handover.taken_over`` returned. Nothing is read or connected to yet.

    In every environment but dev, values that can't be real secrets are refused.
    """
    listed = {found.name: found for found in settings.secrets}
    by_kind: dict[str, SecretSource] = {
        "file": FileSource(paths={name: home.secret(name) for name in (*SECRETS, *listed)} | _paths(listed)),
        "environment": EnvironmentSource(
            variables={name: found.variable for name, found in listed.items()}, values=environ
        ),
    }
    if any(found.origin == "vault" for found in settings.secrets):
        places = {name: _place(found) for name, found in listed.items() if found.origin == "vault"}
        session = VaultSession(_server(settings.vault), clock or SystemClock())
        by_kind["vault"] = VaultSource(places=places, session=session)
    kinds = {name: listed[name].origin if name in listed else _USUAL for name in (*SECRETS, *listed)}
    return ChosenSource(
        sources={name: by_kind[kind] for name, kind in kinds.items()},
        places=kinds,
        real_only=settings.environment != ANYTHING_GOES,
    )


def _paths(listed: Mapping[str, SecretSettings]) -> dict[str, Path]:
    return {name: Path(found.path) for name, found in listed.items() if found.origin == "file" and found.path}


def _place(found: SecretSettings) -> VaultPlace:
    return VaultPlace(path=found.path, key=found.key, mount=found.mount, version=found.version or None)


def _server(vault: VaultSettings | None) -> VaultServer:
    if vault is None:
        raise NoVault()
    return VaultServer(
        address=vault.address,
        namespace=vault.namespace,
        ca_file=vault.ca_file,
        auth=vault.auth,
        token_file=vault.token_file,
        role_id_file=vault.role_id_file,
        secret_id_file=vault.secret_id_file,
        approle_mount=vault.approle_mount,
        timeout_s=vault.timeout_s,
    )

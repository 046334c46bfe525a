"""What must fit together in ``secrets`` and ``vault`` of ``stack.yaml``; files that they name lie beside it.

Reads nodes, like ``references``. Whether a secret is really there is found out where it is read.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import yaml

from stack.config.settings import SecretSettings, VaultSettings
from stack.core.strict_yaml import Ledger, at

_TAKES = {"file": ("path",), "environment": ("variable",), "vault": ("path", "key", "mount", "version")}
_NEEDS = {"file": (), "environment": ("variable",), "vault": ("path", "key")}
_LOGIN = {"token": ("token_file",), "approle": ("role_id_file", "secret_id_file")}


def check_secrets(root: yaml.Node, ledger: Ledger) -> None:
    """Note secrets named twice, fields of another kind of place, and a Vault that is asked for or not described."""
    seen: set[str] = set()
    vault, listed = _fields(root).get("vault"), _fields(root).get("secrets")
    for number, node in enumerate(listed.value if isinstance(listed, yaml.SequenceNode) else []):
        path, fields = at("secrets", number), _fields(node)
        _check_place(node, path, fields, ledger)
        name = _word(fields.get("name"))
        if name in seen:
            ledger.note(fields["name"], f"{path}.name", f"{name[:60]!r} is listed twice")
        seen.add(name or str(number))
        if _word(fields.get("from")) == "vault" and vault is None:
            ledger.note(node, f"{path}.from", "there is no section 'vault' that says where it is")
    if vault is not None:
        _check_login(vault, ledger)


def _check_place(node: yaml.Node, path: str, fields: dict[str, yaml.Node], ledger: Ledger) -> None:
    origin = _word(fields.get("from"))
    for key in _NEEDS.get(origin, ()):
        if key not in fields:
            ledger.note(node, f"{path}.{key}", f"missing: a secret from {origin} needs it")
    for key in ("path", "variable", "key", "mount", "version") if origin in _TAKES else ():
        if key in fields and key not in _TAKES[origin]:
            ledger.note(fields[key], f"{path}.{key}", f"not for a secret from {origin}")


def _check_login(vault: yaml.Node, ledger: Ledger) -> None:
    fields = _fields(vault)
    auth = _word(fields.get("auth")) or "token"
    for key in _LOGIN.get(auth, ()):
        if key not in fields:
            ledger.note(vault, f"vault.{key}", f"missing: auth {auth} needs it")


def placed_secrets(secrets: tuple[SecretSettings, ...], directory: Path) -> tuple[SecretSettings, ...]:
    """Paths of files made absolute; those of Vault stay."""
    return tuple(
        replace(found, path=str(directory / found.path)) if found.origin == "file" and found.path else found
        for found in secrets
    )


def placed_vault(vault: VaultSettings | None, directory: Path) -> VaultSettings | None:
    """Paths of files made absolute."""
    if vault is None:
        return None
    files = {name: getattr(vault, name) for name in ("ca_file", "token_file", "role_id_file", "secret_id_file")}
    return replace(vault, **{name: directory / path for name, path in files.items() if path is not None})


def _fields(node: yaml.Node | None) -> dict[str, yaml.Node]:
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    return {name.value: value for name, value in pairs if isinstance(name, yaml.ScalarNode)}


def _word(node: yaml.Node | None) -> str:
    return str(node.value) if isinstance(node, yaml.ScalarNode) else ""

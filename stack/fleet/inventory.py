"""Hosts from an Ansible inventory that people already have: INI or YAML files, with their group_vars and host_vars.

``ansible-inventory`` reads it, with nothing but the static readers enabled: an inventory is data here, never a program.
What it says of how a host is reached must be something we do too; a setting that we would leave out is refused by name.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from stack.config.settings import HostSettings
from stack.core.errors import InvalidInput
from stack.core.names import BadName, HostName
from stack.secrets.inherited import for_tools

PATIENCE_S = 60
GROUPS = ("cpu", "gpu")
_TAKEN = frozenset({"ansible_host", "ansible_port", "ansible_user", "ansible_connection", "ansible_python_interpreter"})
_HARMLESS = frozenset({"ansible_verbosity", "ansible_facts"})


class InventoryUnreadable(InvalidInput):
    """The inventory {path} can't be used: {detail}"""

    hint = "See docs/fleet.md. What Ansible itself makes of it: ansible-inventory -i FILE --list"


def read_inventory(path: Path) -> tuple[HostSettings, ...]:
    """Its hosts in group ``cpu`` or ``gpu``, by name. Raises InventoryUnreadable with every mistake at once."""
    if not path.is_file():
        raise InventoryUnreadable("there is no such file", path=path)
    if os.access(path, os.X_OK):
        raise InventoryUnreadable("it is executable, and an inventory is data here: chmod -x", path=path)
    program = Path(os.path.dirname(sys.executable)) / "ansible-inventory"  # noqa: PTH120 - the venv's, not its base's
    environ = {
        **for_tools(os.environ),
        "ANSIBLE_INVENTORY_ENABLED": "yaml,ini",
        "LC_ALL": "C.UTF-8",
        "PATH": os.defpath,
    }
    environ |= {"ANSIBLE_INVENTORY_UNPARSED_FAILED": "True", "ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "True"}
    try:
        done = subprocess.run(
            [str(program), "-i", str(path), "--list"], env=environ, capture_output=True, timeout=PATIENCE_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InventoryUnreadable(f"ansible-inventory: {error}", path=path) from error
    if done.returncode:
        words = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise InventoryUnreadable(" ".join(words[-3:])[:400] or "ansible-inventory failed", path=path)
    hosts, mistakes = hosts_in(json.loads(done.stdout))
    if mistakes:
        raise InventoryUnreadable("; ".join(mistakes), path=path)
    return hosts


def hosts_in(listed: Mapping[str, Any]) -> tuple[tuple[HostSettings, ...], tuple[str, ...]]:
    """From what ``ansible-inventory --list`` prints: the hosts, and every mistake. Pure."""
    variables = (listed.get("_meta") or {}).get("hostvars") or {}
    hosts, mistakes = [], []
    members = {group: _members(listed, group) for group in GROUPS}
    for name in sorted(members["cpu"] | members["gpu"]):
        if name in members["cpu"] and name in members["gpu"]:
            mistakes.append(f"{name} is in group cpu and in group gpu")
            continue
        try:
            hosts.append(_host(name, "gpu" if name in members["gpu"] else "cpu", variables.get(name) or {}))
        except (ValueError, BadName) as error:
            mistakes.append(f"{name}: {error.message if isinstance(error, BadName) else error}")
    if not hosts and not mistakes:
        mistakes.append("no host of it is in group cpu or gpu")
    return tuple(hosts), tuple(mistakes)


def _members(listed: Mapping[str, Any], group: str, seen: frozenset[str] = frozenset()) -> set[str]:
    """The hosts of a group and of its children."""
    if group in seen:
        return set()
    body = listed.get(group) or {}
    found = set(body.get("hosts") or ())
    for child in body.get("children") or ():
        found |= _members(listed, child, seen | {group})
    return found


def _host(name: str, group: str, said: Mapping[str, Any]) -> HostSettings:
    left_out = sorted(k for k in said if k.startswith("ansible_") and k not in _TAKEN | _HARMLESS)
    if left_out:
        raise ValueError(f"{', '.join(left_out)} would be left out: put it into ~/.ssh/config or remove it")
    connection = str(said.get("ansible_connection", "ssh"))
    if connection not in ("local", "ssh"):
        raise ValueError(f"ansible_connection {connection!r}: only local and ssh are done here")
    local = connection == "local"
    python = said.get("ansible_python_interpreter")
    root = said.get("stack_root")
    return HostSettings(
        name=HostName(name),
        connection="local" if local else "ssh",
        address="127.0.0.1" if local else str(said.get("ansible_host", name)),
        user="" if local else str(said.get("ansible_user", "")),
        port=22 if local else _port(said.get("ansible_port", 22)),
        group="gpu" if group == "gpu" else "cpu",
        root=PurePosixPath(str(root)) if root and not local else None,
        python=PurePosixPath(str(python)) if python and str(python).startswith("/") else None,
    )


def _port(value: Any) -> int:
    text = str(value)
    if not text.isdigit() or not 1 <= int(text) <= 65535:
        raise ValueError(f"ansible_port {text[:20]!r} is no port")
    return int(text)

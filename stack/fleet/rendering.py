"""Variables and inventory as the YAML that Ansible reads. Pure.

Law: whatever a string holds, Ansible gives it to a task as that same string; it never becomes a template.

A string that holds a brace (without one there is no template) is tagged ``!unsafe``. The others are only quoted:
Ansible reads the text under the tag as if it were not quoted, so that ``!unsafe "1"`` is a number, ``!unsafe ""`` null,
and ``!unsafe "*"`` an error. No text with a brace means anything but itself there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from stack.core.errors import InvalidInput
from stack.fleet.values import Host

_KEY = re.compile(r"[a-z][a-z0-9_]{0,63}\Z")


class NotRenderable(InvalidInput):
    """{problem}: a playbook can be handed strings, whole numbers, booleans, finite numbers and lists of them."""


def render_string(text: str) -> str:
    """A double-quoted YAML scalar, with the tag that keeps Ansible from templating it where it could."""
    parts = []
    for character in text:
        if 0xD800 <= ord(character) <= 0xDFFF:
            raise NotRenderable(problem="a lone surrogate")
        plain = " " <= character <= "~" and character not in '"\\'
        parts.append(character if plain else f"\\U{ord(character):08X}")
    return f'{"!unsafe " if "{" in text else ""}"{"".join(parts)}"'


def render_value(value: Any) -> str:
    """One value, in YAML's flow style."""
    if isinstance(value, str):
        return render_string(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float) and value - value == 0:
        return repr(value)
    if isinstance(value, list):
        return "[" + ", ".join(render_value(item) for item in value) + "]"
    raise NotRenderable(problem=f"{type(value).__name__} {value!r:.60}")


def render_variables(variables: Mapping[str, Any]) -> str:
    """A vars file. The keys come from the allow-list; what is no plain name can't be one."""
    if wrong := [key for key in variables if not _KEY.match(key)]:
        raise NotRenderable(problem=f"the name {wrong[0]!r:.60}")
    return "".join(f"{key}: {render_value(value)}\n" for key, value in sorted(variables.items())) or "{}\n"


def render_inventory(host: Host, own_python: str) -> str:
    """An inventory of one host in its group."""
    python = host.python or (own_python if host.connection == "local" else "python3")
    values: dict[str, Any] = {
        "ansible_connection": host.connection,
        "ansible_python_interpreter": python,
        "host_python": python,
        "stack_root": host.root,
        "service_manager": host.service_manager,
    }
    values |= {"ollama_address": host.ollama} if host.ollama else {}
    if host.connection == "ssh":
        values |= {"ansible_host": host.known_as or host.address, "ansible_port": host.port}
        values |= {"ansible_user": host.user} if host.user else {}
    lines = "".join(f"          {key}: {render_value(value)}\n" for key, value in values.items())
    return f"all:\n  children:\n    {host.group}:\n      hosts:\n        {render_string(host.name)}:\n{lines}"

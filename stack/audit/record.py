"""One audit record: who did what to what, under which change, with which result.

Rules of evolution: the fields and their meaning never change; what is new goes into ``body``, whose keys are only ever
added. Actions are ``noun.verb`` or a single verb, lower case, and never reused for something else. Nothing secret
is ever put in: a record is for third parties.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_SAFE = 2**53 - 1


@dataclass(frozen=True, kw_only=True)
class AuditRecord:
    """What is said. ``change`` names the rollout or plan (or is empty); ``result`` is ``ok`` or why not."""

    actor: str
    action: str
    target: str
    change: str
    result: str
    body: Mapping[str, Any] = field(default_factory=dict)


def plain(value: Any) -> Any:
    """``value`` as JSON that has a canonical form, whatever engines and hosts made us put in.

    Numbers that do not survive JSON (NaN, beyond 2**53) become their text, broken text gets replacement characters,
    unknown types become their ``str``: a record must not be lost for its decoration. ``plain(plain(v)) == plain(v)``.
    """
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8").replace("\x00", "\ufffd")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value) if abs(value) <= _SAFE else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) and abs(value) <= _SAFE else str(value)
    if isinstance(value, Mapping):
        return {plain(str(key)): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return plain(str(value))

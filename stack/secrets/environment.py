"""Secrets that came by environment variables. ``handover`` takes them out of the process's environment first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from stack.secrets.source import NoSecret, Secret, usable


@dataclass(frozen=True, kw_only=True)
class EnvironmentSource:
    """``variables``: secret name -> variable. ``values``: variable -> text, not shown by ``repr``."""

    variables: Mapping[str, str]
    values: Mapping[str, str] = field(repr=False)

    def read(self, name: str) -> Secret:
        """The variable's text."""
        variable = self.variables.get(name)
        if variable is None:
            raise NoSecret(name=name, place="the environment", detail="no variable is configured for it")
        place = f"the environment variable {variable}"
        if variable not in self.values:
            raise NoSecret(name=name, place=place, detail="it is not set")
        return usable(self.values[variable], name, place)

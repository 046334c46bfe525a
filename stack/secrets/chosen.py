"""One source made of several, and the refusal of values that can't be meant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from stack.secrets.dummy import why_dummy
from stack.secrets.source import DummySecret, NoSecret, Secret, SecretSource


@dataclass(frozen=True, kw_only=True)
class ChosenSource:
    """``sources``: secret name -> where it comes from. With ``real_only``, dummy values are refused."""

    sources: Mapping[str, SecretSource]
    places: Mapping[str, str]
    real_only: bool = True

    def read(self, name: str) -> Secret:
        """From the source chosen for this name."""
        source = self.sources.get(name)
        if source is None:
            raise NoSecret(name=name, place="stack.yaml", detail="no secret of this name is known")
        secret = source.read(name)
        problem = why_dummy(secret.reveal()) if self.real_only else ""
        if problem:
            raise DummySecret(name=name, place=self.places.get(name, "its source"), detail=problem)
        return secret

"""``stackctl`` in this process against a real admin API with a fake operator behind it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from click.testing import CliRunner, Result
from fake_operator import FakeOperator
from served import Served

from stack.cli.main import cli


@dataclass
class Shell:
    """A place with an operator behind its admin port."""

    operator: FakeOperator
    api: Served
    home: Path

    def run(self, *arguments: str) -> Result:
        """stackctl with these arguments."""
        environment = {"STACK_HOME": str(self.home), "STACK_ADMIN_PORT": str(self.api.port)}
        return CliRunner().invoke(cli, list(arguments), env=environment)


Open = Callable[..., Shell]

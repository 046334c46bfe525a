"""The command line against a real admin API with a fake operator behind it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

sys.path.insert(0, str(Path(__file__).parent.parent / "api"))

from fake_operator import FakeOperator
from served import TOKEN, Served, served

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


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A state directory with an admin token."""
    secrets = tmp_path / "state" / "secrets"
    secrets.mkdir(parents=True)
    (secrets / "admin.token").write_text(TOKEN + "\n")
    return tmp_path / "state"


@pytest.fixture
def shell(home: Path) -> Iterator[Open]:
    """``shell(FakeOperator(..))`` opens a Shell."""
    opened: list[Any] = []

    def open_(operator: FakeOperator | None = None) -> Shell:
        operator = operator or FakeOperator()
        context = served(operator)
        opened.append(context)
        return Shell(operator, context.__enter__(), home)

    yield open_
    for context in opened:
        context.__exit__(None, None, None)


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("STACK_")]:
        monkeypatch.delenv(name)

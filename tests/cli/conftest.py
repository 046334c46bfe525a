"""A state directory, and the command line against a real admin API. The API's fakes stand in tests/api."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "api"))

from cli_shell import Open, Shell
from fake_desks import TOKEN
from fake_operator import FakeOperator
from served import served


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A state directory with an admin token."""
    secrets = tmp_path / "state" / "secrets"
    secrets.mkdir(parents=True)
    (secrets / "admin.token").write_text(TOKEN + "\n")
    (secrets / "admin.token").chmod(0o600)
    return tmp_path / "state"


@pytest.fixture
def shell(home: Path) -> Iterator[Open]:
    """``shell(FakeOperator(..))`` opens a Shell."""
    with ExitStack() as opened:

        def open_(operator: FakeOperator | None = None) -> Shell:
            operator = operator or FakeOperator()
            return Shell(operator, opened.enter_context(served(operator)), home)

        yield open_


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("STACK_")]:
        monkeypatch.delenv(name)

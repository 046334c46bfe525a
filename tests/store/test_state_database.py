"""Where the state is kept, by what the stack file and the environment say; and who holds the lease there."""

from __future__ import annotations

from pathlib import Path

import pytest

from stack.app.database import VARIABLE, BadDatabase, database, holder_of, open_store
from stack.app.sources import build_source
from stack.config.home import Home
from stack.config.settings import StackSettings
from stack.config.stack_yaml import ConfigurationError, load_stack
from stack.core.clock import SystemClock
from stack.store.errors import StoreDenied
from tests.store.postgres_server import Server

PASSWORD = "correct-horse-9f2c"
CLOCK = SystemClock()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path / "home")
    made.create()
    return made


def settings(directory: Path, more: str = "") -> StackSettings:
    for name in ("m.yaml", "evals/s-smoke.yaml", "evals/s-eval.yaml"):
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text("x: 1\n")
    path = directory / "stack.yaml"
    path.write_text(f"schema: 1\nservices: [{{name: s, model: m.yaml}}]\n{more}")
    return load_stack(path)


def test_nothing_said_is_the_file_in_the_state_directory(tmp_path: Path, home: Home) -> None:
    assert database(settings(tmp_path), home, {}) == home.database
    assert database(settings(tmp_path), home, {VARIABLE: ""}) == home.database


def test_the_environment_goes_before_the_stack_file(tmp_path: Path, home: Home) -> None:
    said = settings(tmp_path, "database: 'postgresql://me@db/one?sslmode=verify-full'\n")
    assert database(said, home, {}) == "postgresql://me@db/one?sslmode=verify-full"
    assert database(said, home, {VARIABLE: "postgresql:///two"}) == "postgresql:///two"


@pytest.mark.parametrize("text", ["postgresql://u:pw@h/d", "postgresql://h/d?password=pw", "mysql://h/d", "x", "/x/y"])
def test_what_is_no_url_or_holds_a_password_is_refused_without_showing_it(
    tmp_path: Path, home: Home, text: str
) -> None:
    with pytest.raises(BadDatabase) as told:
        database(settings(tmp_path), home, {VARIABLE: text})
    with pytest.raises(ConfigurationError) as written:
        settings(tmp_path, f"database: '{text}'\n")
    assert "pw" not in f"{told.value.to_json()} {written.value.to_json()}"


def test_the_password_is_a_secret_that_can_be_changed_while_it_runs(tmp_path: Path, home: Home, server: Server) -> None:
    server.execute(f"CREATE USER rotated PASSWORD '{PASSWORD}'")
    server.execute("CREATE DATABASE rotated OWNER rotated TEMPLATE template0")
    url = f"postgresql://rotated@127.0.0.1:{server.port}/rotated"
    said = settings(tmp_path, f"database: {url}\nsecrets: [{{name: database.password, from: file}}]\n")
    file = home.secret("database.password")
    file.touch(mode=0o600)
    file.write_text(PASSWORD + "-old\n")
    source = build_source(said, home, {})
    with pytest.raises(StoreDenied):
        open_store(said, home, {}, source, CLOCK)
    file.write_text(PASSWORD + "\n")
    store = open_store(said, home, {}, source, CLOCK)
    with store.transaction() as tx:
        assert tx.next_table_version() == 1
    store.close()


def test_the_holder_is_the_same_after_a_restart_and_another_in_every_home(tmp_path: Path, home: Home) -> None:
    first = holder_of(home)
    assert holder_of(home) == first
    (home.run / "instance").unlink()
    assert holder_of(home) != first
    (home.run / "instance").write_text("")
    assert holder_of(home).rpartition("/")[2]

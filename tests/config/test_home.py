"""The state directory and the ports."""

from __future__ import annotations

from pathlib import Path

import pytest

from stack.config import Home, Ports, home_from_environment, ports_from_environment
from stack.config.home import BadHome, BadPort, HomeUnusable, SamePort


def test_everything_made_is_the_owners_only(tmp_path: Path) -> None:
    home = Home(tmp_path / "a" / "state")
    home.root.mkdir(parents=True, mode=0o755)
    home.create()
    home.create()
    assert {p.name: p.stat().st_mode & 0o777 for p in home.root.iterdir()} == dict.fromkeys(
        ("store", "run", "logs", "gateway", "evidence", "secrets", "runner", "hosts"), 0o700
    )
    assert home.root.stat().st_mode & 0o777 == 0o700


def test_paths() -> None:
    home = Home(Path("/x"))
    found = (
        home.database,
        home.content,
        home.gateway_socket,
        home.gateway_table,
        home.secret("k"),
        home.host_root("h"),
    )
    assert [str(p) for p in found] == [
        "/x/state.db", "/x/store", "/x/run/gateway.sock", "/x/gateway/table.json", "/x/secrets/k", "/x/hosts/h",
    ]  # fmt: skip


def test_a_home_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HomeUnusable) as told:
        Home(tmp_path / "file").create()
    assert str(tmp_path / "file") in told.value.message and "STACK_HOME" in told.value.advice


def test_home_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert home_from_environment({}) == home_from_environment({"STACK_HOME": ""}) == Home(tmp_path / ".stack")
    assert home_from_environment({"STACK_HOME": "/srv/stack"}).root == Path("/srv/stack")
    for text in ("a\x00b", " x", "x\n"):
        with pytest.raises(BadHome):
            home_from_environment({"STACK_HOME": text})


def test_ports_from_the_environment() -> None:
    assert ports_from_environment({}) == Ports(gateway=8317, admin=8000)
    assert ports_from_environment({"STACK_ADMIN_PORT": "1", "STACK_GATEWAY_PORT": "65535"}) == Ports(65535, 1)
    for text in ("0", "65536", "-1", "x", "8000.0", " 80", "8_0", "٨٠", "999999", "80\n"):
        with pytest.raises(BadPort, match="STACK_GATEWAY_PORT"):
            ports_from_environment({"STACK_GATEWAY_PORT": text})
    with pytest.raises(SamePort):
        ports_from_environment({"STACK_GATEWAY_PORT": "8000"})

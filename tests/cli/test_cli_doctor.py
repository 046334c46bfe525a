"""Doctor: nothing is changed, each trouble is found and comes with what to do."""

from __future__ import annotations

import json
import socket
from datetime import UTC, datetime
from pathlib import Path

from click.testing import CliRunner

from stack.cli import checks
from stack.cli.command import Place
from stack.cli.main import cli
from stack.cli.setup import prepare
from stack.config.home import Home, Ports
from stack.core.clock import ManualClock


def by_name(place: Place, locks: Path) -> dict[str, checks.Check]:
    clock = ManualClock(datetime(2099, 1, 1, tzinfo=UTC))
    return {check.name: check for check in checks.all_checks(place, clock, locks)}


def free_ports() -> Ports:
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        return Ports(gateway=one.getsockname()[1], admin=two.getsockname()[1])


def test_an_empty_machine_has_warnings_and_nothing_is_made(tmp_path: Path) -> None:
    (tmp_path / "locks").mkdir()
    (tmp_path / "locks" / "llamacpp-x.txt").write_text("")
    found = by_name(Place(home=Home(tmp_path / "home"), ports=free_ports()), tmp_path / "locks")
    assert {check.level for check in found.values()} <= {"ok", "warn"}
    assert found["gateway"].level == "warn"
    assert found["runtime locks"].found == "llamacpp-x"
    assert all(check.todo for check in found.values() if check.level != "ok")
    assert not (tmp_path / "home").exists()


def test_each_trouble_is_found(tmp_path: Path) -> None:
    home = tmp_path / "home"
    prepare(Home(home))
    (home / "secrets" / "client.key").chmod(0o644)
    (home / "run" / "control-plane.pid").write_text("999999999\n1\n")
    (home / "gateway" / "table.json").write_text("{}")
    ports = free_ports()
    with socket.create_server(("127.0.0.1", ports.gateway)):
        found = by_name(Place(home=Home(home), ports=ports), tmp_path / "no-locks")
    assert found["secret client.key"].level == "fail"
    assert found["secret admin.token"].level == "ok"
    assert found["gateway"].level == "fail"
    assert str(ports.gateway) in found["gateway"].found
    assert "STACK_GATEWAY_PORT" in found["gateway"].todo
    assert "stale pid file" in found["control-plane"].found
    assert found["routing table"].level == "warn"
    assert found["runtime locks"].level == "fail"


def test_a_failed_check_decides_the_exit_code(tmp_path: Path) -> None:
    home = tmp_path / "home"
    prepare(Home(home))
    (home / "secrets" / "client.key").chmod(0o644)
    result = CliRunner().invoke(cli, ["doctor", "--json"], env={"STACK_HOME": str(home)})
    assert result.exit_code == 4
    assert json.loads(result.stdout)["ok"] is False
    text = CliRunner().invoke(cli, ["doctor"], env={"STACK_HOME": str(home)})
    assert "chmod 600" in text.output

"""Starting and stopping: exactly the right process, a clear error otherwise."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stack.cli import processes, starting
from stack.cli.client import Answered
from stack.cli.command import Place
from stack.cli.setup import SECRETS, prepare
from stack.config.home import Home, Ports
from stack.core.clock import ManualClock, SystemClock

Make = Callable[[str], starting.Service]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def where(tmp_path: Path) -> Place:
    return Place(home=Home(tmp_path / "home"), ports=Ports(gateway=free_port(), admin=free_port()))


@pytest.fixture
def make(where: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Services of this test; what still runs at its end is ended."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    made: list[starting.Service] = []

    def service(behaviour: str) -> starting.Service:
        port = where.ports.admin
        made.append(
            starting.Service(
                name="small",
                module="small_service",
                port=port,
                variable="STACK_SMALL_PORT",
                grace_s=0.3,
                up_statuses=frozenset({200}),
                arguments=(behaviour, str(port)),
            )
        )
        return made[-1]

    yield service
    for one in made:
        found = processes.running(one.pid_file(where))
        if found is not None:
            processes.stop(found, "small", SystemClock(), grace_s=0.0)


def test_up_twice_starts_once_and_down_stops_it(where: Place, make: Make) -> None:
    service, said = make("serves"), list[str]()
    first = starting.ensure(service, where, SystemClock(), said.append)
    second = starting.ensure(service, where, SystemClock(), said.append)
    assert (first["started"], second["started"]) == (True, False)
    assert first["pid"] == second["pid"]
    assert "already running" in said[-1]
    assert "behaviour serves" in service.log(where).read_text()
    assert starting.halt(service, where, SystemClock()) == "stopped"
    assert starting.halt(service, where, SystemClock()) == "not running"
    assert starting.health(service.port) is None
    assert not service.pid_file(where).exists()


def test_a_child_that_dies_shows_the_end_of_its_log(where: Place, make: Make) -> None:
    with pytest.raises(starting.DiedAtStart) as caught:
        starting.ensure(make("dies"), where, SystemClock(), lambda text: None)
    assert "no: the disk is on fire" in caught.value.facts["problems"]
    assert caught.value.exit_code == 4
    assert processes.read_pid(where.root / "run" / "small.pid") is None


def test_a_child_that_explains_itself_is_quoted_with_its_exit_code(where: Place, make: Make) -> None:
    with pytest.raises(Answered) as caught:
        starting.ensure(make("explains"), where, SystemClock(), lambda text: None)
    assert (caught.value.exit_code, caught.value.message, caught.value.advice) == (2, "three mistakes", "mend it")


def test_a_child_that_never_answers_is_an_error_with_progress_meanwhile(where: Place, make: Make) -> None:
    said: list[str] = []
    with pytest.raises(starting.NotHealthy):
        starting.ensure(make("silent"), where, ManualClock(), said.append)
    assert len(said) > 10


def test_a_child_that_ignores_sigterm_is_killed(where: Place, make: Make) -> None:
    service = make("stubborn")
    starting.ensure(service, where, SystemClock(), lambda text: None)
    assert starting.halt(service, where, SystemClock()).startswith("killed")
    assert starting.health(service.port) is None


def test_a_port_in_use_names_port_and_variable(where: Place, make: Make) -> None:
    service = make("serves")
    with socket.create_server(("127.0.0.1", service.port)), pytest.raises(starting.PortTaken) as caught:
        starting.ensure(service, where, SystemClock(), lambda text: None)
    assert str(service.port) in caught.value.message
    assert "STACK_SMALL_PORT" in caught.value.advice


def test_a_reused_pid_is_not_ours(tmp_path: Path) -> None:
    """The file names this test's own pid, but a start time that is not its own."""
    file = tmp_path / "x.pid"
    processes.write_pid(file, os.getpid())
    me = processes.running(file)
    assert me is not None
    file.write_text(f"{me.pid}\n{me.started - 1}\n")
    assert processes.running(file) is None
    stranger = processes.Process(pid=me.pid, started=me.started - 1)
    assert processes.stop(stranger, "x", SystemClock(), grace_s=0.0) == "stopped"  # and this test lives on


def test_a_zombie_does_not_run() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert processes.look_up(child.pid) is None
    child.wait()


@given(st.binary(max_size=40))
def test_nonsense_in_a_pid_file_is_no_process(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = tmp_path_factory.mktemp("pid") / "x.pid"
    file.write_bytes(content)
    found = processes.read_pid(file)
    assert found is None or [found.pid, found.started] == [int(word) for word in content.split()]


def test_prepare_makes_private_secrets_once(tmp_path: Path) -> None:
    root = tmp_path / "home"
    prepare(Home(root))
    before = {name: (root / "secrets" / name).read_text() for name in SECRETS}
    prepare(Home(root))
    assert before == {name: (root / "secrets" / name).read_text() for name in SECRETS}
    assert len(set(before.values())) == len(SECRETS)
    for name in SECRETS:
        assert stat.S_IMODE((root / "secrets" / name).stat().st_mode) == 0o600
        assert len(before[name].strip()) == 64
    assert {path.name for path in (root / "secrets").iterdir()} == set(SECRETS)


def test_a_home_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(starting.Unavailable) as caught:
        prepare(Home(tmp_path / "file" / "home"))
    assert "STACK_HOME" in caught.value.advice


def test_only_this_homes_supervisors_are_found(where: Place, tmp_path: Path) -> None:
    """One supervisor of this home, and pid files that name something else."""
    base = where.root / "hosts" / "local" / "supervisor"
    base.mkdir(parents=True)
    script = tmp_path / "supervisord"
    script.write_text("import time\nprint('up', flush=True)\ntime.sleep(60)\n")
    child = subprocess.Popen(
        [sys.executable, str(script), "-c", str(base / "supervisord.conf")], stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    child.stdout.readline()
    for name, pid in (("stranger", os.getpid()), ("gone", 2**22 - 1)):
        other = where.root / "hosts" / name / "supervisor"
        other.mkdir(parents=True)
        (other / "supervisord.pid").write_text(str(pid))
    (base / "supervisord.pid").write_text(f"{child.pid}\n")
    found = list(starting.supervisors(where))
    assert [(host, process.pid) for host, process in found] == [("local", child.pid)]
    assert processes.stop(found[0][1], "local", SystemClock(), grace_s=10.0, kill=False) == "stopped"
    child.wait()
    child.stdout.close()

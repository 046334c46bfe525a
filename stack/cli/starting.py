"""Start and stop the two processes and the local supervisors. The commands around it stand in ``lifecycle``."""

from __future__ import annotations

import http.client
import itertools
import os
import socket
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from stack.cli import processes
from stack.cli.client import left_behind
from stack.cli.command import Place
from stack.core.clock import Clock
from stack.core.errors import Conflict, StackError, Unavailable
from stack.secrets import handover

Say = Callable[[str], None]
START_LIMIT_S = 60.0
LOOPBACK = "127.0.0.1"


class PortTaken(Unavailable):
    """Port {port}, which the {name} needs, is in use by another program."""


class DiedAtStart(Unavailable):
    """The {name} ended with code {code} while starting. The end of {log} follows."""


class NotHealthy(Unavailable):
    """The {name} runs (pid {pid}) but did not answer on port {port} within {limit:.0f} s."""


class OtherPort(Conflict):
    """The {name} runs already (pid {pid}), on port {port}, and port {wanted} was asked for."""

    hint = "Leave the port out or name the one it has; or stackctl down, then stackctl up with the new one."


class AlreadyRuns(Conflict):
    """The {name} runs already, with pid {pid}."""

    hint = "stackctl down stops it."


@dataclass(frozen=True, kw_only=True)
class Service:
    """One of the two processes: its pid file and log are named after it."""

    name: str
    module: str
    port: int
    variable: str
    grace_s: float
    up_statuses: frozenset[int]
    arguments: tuple[str, ...]
    address: str = LOOPBACK
    secret_variables: tuple[str, ...] = ()

    def pid_file(self, place: Place) -> Path:
        """Where its pid stands."""
        return place.home.run / f"{self.name}.pid"

    def log(self, place: Place) -> Path:
        """Where it writes."""
        return place.home.logs / f"{self.name}.log"

    @property
    def argv(self) -> list[str]:
        """The command that runs it in the foreground."""
        return processes.python_module(self.module, *self.arguments)


def gateway(place: Place, address: str = LOOPBACK) -> Service:
    """The data plane, listening on ``address``."""
    port = place.ports.gateway
    arguments = ("--home", str(place.root), "--port", str(port), "--host", address)
    return Service(
        name="gateway",
        module="stack.gateway",
        port=port,
        variable="STACK_GATEWAY_PORT",
        grace_s=40.0,
        up_statuses=frozenset({200, 503}),  # 503: it runs and has no replica to route to, as before a first deploy
        arguments=arguments,
        address=address,
    )


def control_plane(place: Place, stack: Path, secret_variables: Iterable[str] = ()) -> Service:
    """The admin API and the rollout worker. ``secret_variables``: those that ``stack.yaml`` takes secrets from."""
    arguments = ("--home", str(place.root), "--stack", str(stack.absolute()))
    return Service(
        name="control-plane",
        module="stack.api",
        port=place.ports.admin,
        variable="STACK_ADMIN_PORT",
        grace_s=20.0,
        up_statuses=frozenset({200}),
        arguments=arguments,
        secret_variables=tuple(secret_variables),
    )


def environment(place: Place, variables: Iterable[str] = ()) -> tuple[dict[str, str], list[int]]:
    """The children's environment: what they need of this one, with the place spelled out. Secrets that are configured
    to come from ``variables`` are handed to the child by a file in memory, never by its environment."""
    spelled = {
        "STACK_HOME": str(place.root),
        "STACK_GATEWAY_PORT": str(place.ports.gateway),
        "STACK_ADMIN_PORT": str(place.ports.admin),
        "PYTHONUNBUFFERED": "1",
    }
    clean, descriptors = handover.handed_on(variables, os.environ, handover.collected(variables, os.environ))
    return {**clean, **spelled}, descriptors


def health(port: int, address: str = LOOPBACK, timeout: float = 2.0) -> int | None:
    """The status of /health on this port; None without an answer in HTTP."""
    connection = http.client.HTTPConnection(address, port, timeout=timeout)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def require_free(service: Service) -> None:
    """``PortTaken`` names the variable that moves it."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", service.port))
        except OSError as error:
            advice = f"Stop that program, or choose another port: {service.variable}=<port> stackctl up"
            raise PortTaken(port=service.port, name=service.name, advice=advice) from error


def ensure(service: Service, place: Place, clock: Clock, say: Say) -> dict[str, object]:
    """Running and healthy, started if need be."""
    found = processes.running(service.pid_file(place))
    if found is not None:
        _require_port(service, found)
        _wait_healthy(service, place, found.pid, None, clock, say)
        say(f"{service.name}: already running, pid {found.pid}, port {service.port}")
        return {"pid": found.pid, "port": service.port, "started": False}
    require_free(service)
    inherited, descriptors = environment(place, service.secret_variables)
    child = processes.spawn(service.argv, log=service.log(place), environment=inherited, pass_fds=descriptors)
    for descriptor in descriptors:
        os.close(descriptor)
    processes.write_pid(service.pid_file(place), child.pid)
    _wait_healthy(service, place, child.pid, child, clock, say)
    say(f"{service.name}: started, pid {child.pid}, port {service.port}")
    return {"pid": child.pid, "port": service.port, "started": True}


def _require_port(service: Service, found: processes.Process) -> None:
    """It was started on another port: that is said at once, not after a minute without an answer."""
    port = port_of(processes.words_of(found.pid), processes.variable_of(found.pid, service.variable))
    if port is not None and port != service.port:
        raise OtherPort(name=service.name, pid=found.pid, port=port, wanted=service.port)


def port_of(words: Sequence[str], variable: str | None) -> int | None:
    """The port that a process was started with: its option, else its environment's; None where neither says."""
    for option, value in itertools.pairwise(words):
        if option == "--port" and value.isdigit():
            return int(value)
    return int(variable) if variable is not None and variable.isdigit() else None


def _wait_healthy(
    service: Service, place: Place, pid: int, child: subprocess.Popen[bytes] | None, clock: Clock, say: Say
) -> None:
    begun = said = clock.monotonic()
    asked = LOOPBACK if service.address in ("0.0.0.0", "::") else service.address  # noqa: S104
    while health(service.port, asked) not in service.up_statuses:
        code = child.poll() if child is not None else None
        if code is not None:
            raise _died(service, place, code)
        waited = clock.monotonic() - begun
        if waited > START_LIMIT_S:
            advice = f"Look at {service.log(place)}"
            raise NotHealthy(name=service.name, pid=pid, port=service.port, limit=START_LIMIT_S, advice=advice)
        if clock.monotonic() - said >= 2.0:
            said = clock.monotonic()
            say(f"{service.name}: starting, {waited:.0f} s")
        clock.sleep(0.1)


def _died(service: Service, place: Place, code: int) -> StackError:
    """The error that it left as its last line, with that error's exit code; else the end of its log."""
    service.pid_file(place).unlink(missing_ok=True)
    log = service.log(place)
    lines = processes.last_lines(log).splitlines()
    if lines and lines[-1].startswith('{"error"'):
        return left_behind(lines[-1])
    return DiedAtStart(name=service.name, code=code, log=log, problems=lines, advice=f"The whole log: {log}")


def halt(service: Service, place: Place, clock: Clock) -> str:
    """Stop it if it runs; how that went, in words."""
    path = service.pid_file(place)
    found = processes.running(path)
    ended = "not running" if found is None else processes.stop(found, service.name, clock, grace_s=service.grace_s)
    path.unlink(missing_ok=True)
    return ended


def supervisors(place: Place) -> Iterator[tuple[str, processes.Process]]:
    """The local hosts' supervisors that run now. Ending one ends its replicas."""
    for path in sorted(place.home.hosts.glob("*/supervisor/supervisord.pid")):
        try:
            pid = int(path.read_text(encoding="ascii"))
            words = Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace")
        except (OSError, ValueError):
            continue
        found = processes.look_up(pid)
        if found is not None and "supervisord" in words and str(path.parent) in words:
            yield path.parent.parent.name, found

"""``up``, ``down``, ``serve``, ``gateway``."""

from __future__ import annotations

import os
from collections.abc import Container
from pathlib import Path

import click

from stack.cli import processes, starting
from stack.cli.command import Place, answer, command, place
from stack.cli.setup import prepare
from stack.core.clock import SystemClock

stack_option = click.option(
    "--stack",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("stack.yaml"),
    show_default=True,
    help="The desired state.",
)


def say_to_stderr(text: str) -> None:
    """Progress; stdout is for the answer."""
    click.echo(text, err=True)


def start_all(where: Place, stack: Path) -> dict[str, object]:
    """Gateway first: it serves with its last table while the control plane starts.

    A wrong stack file starts nothing.
    """
    from stack.config.stack_yaml import load_stack

    clock = SystemClock()
    settings = load_stack(stack.absolute())
    prepare(where.home, settings.secrets_elsewhere)
    say_of_policies(stack)
    started: dict[str, object] = {}
    gateway_ = starting.gateway(where, settings.gateway.host)
    for service in (gateway_, starting.control_plane(where, stack, settings.secret_variables)):
        started[service.name.replace("-", "_")] = starting.ensure(service, where, clock, say_to_stderr)
    return started


def say_of_policies(stack: Path) -> None:
    """What is wrong with them is said now, not at the first deploy that they deny."""
    from stack.cli.checks import policies

    found = policies(stack)
    if found.level != "ok":
        say_to_stderr(f"policies: {found.found}\n  {found.todo}")


@command("up", examples="stackctl up\nSTACK_ADMIN_PORT=8100 STACK_GATEWAY_PORT=8417 stackctl up")
@stack_option
def up(stack: Path, as_json: bool) -> None:
    """Start gateway and control plane in the background.

    Makes the state directory and its secrets when they are missing. What runs already stays as it is.
    """
    where = place()
    started = start_all(where, stack)
    human = f"gateway        {where.gateway_url}\ncontrol plane  {where.admin_url}\nstate          {where.root}"
    answer({**started, "home": str(where.root)}, human, as_json=as_json)


@command("down", examples="stackctl down\nstackctl down --keep-replicas")
@click.option("--keep-replicas", is_flag=True, help="Leave the local engines running.")
def down(keep_replicas: bool, as_json: bool) -> None:
    """Stop gateway, control plane and the local replicas.

    Nothing is forgotten: the next up or deploy brings back what served before.
    """
    where, clock = place(), SystemClock()
    ended: dict[str, str] = {}
    for service in (starting.control_plane(where, Path("stack.yaml")), starting.gateway(where)):
        ended[service.name] = starting.halt(service, where, clock)
    for host, supervisor in [] if keep_replicas else list(starting.supervisors(where)):
        name = f"replicas on {host}"
        say_to_stderr(f"{name}: stopping")
        ended[name] = processes.stop(supervisor, name, clock, grace_s=60.0, kill=False)
    answer(ended, "\n".join(f"{name}: {how}" for name, how in ended.items()), as_json=as_json)


@command("serve", examples="stackctl serve\nstackctl serve --stack stack.yaml")
@stack_option
def serve(stack: Path, as_json: bool) -> None:
    """Run the control plane in the foreground (it logs to stderr)."""
    where = place()
    from stack.config.stack_yaml import load_stack

    settings = load_stack(stack.absolute())
    _become(starting.control_plane(where, stack, settings.secret_variables), where, settings.secrets_elsewhere)


@command("gateway", examples="stackctl gateway\nSTACK_GATEWAY_PORT=8417 stackctl gateway --host 127.0.0.1")
@click.option("--host", default="127.0.0.1", show_default=True, help="The IP address to listen on.")
def gateway(host: str, as_json: bool) -> None:
    """Run the gateway in the foreground (it logs to stderr). It needs its last routing table and nothing else."""
    where = place()
    _become(starting.gateway(where, host), where)


def _become(service: starting.Service, where: Place, elsewhere: Container[str] = ()) -> None:
    """Replace this process: same pid, no memory spent on the command line."""
    prepare(where.home, elsewhere)
    found = processes.running(service.pid_file(where))
    if found is not None:
        raise starting.AlreadyRuns(name=service.name, pid=found.pid)
    starting.require_free(service)
    processes.write_pid(service.pid_file(where), os.getpid())
    environment, _ = starting.environment(where, service.secret_variables)
    os.execve(service.argv[0], service.argv, environment)  # noqa: S606

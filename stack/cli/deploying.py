"""``deploy``, ``rollback``, ``plan``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from stack.cli.client import AdminClient
from stack.cli.command import Place, actor, answer, command, place
from stack.cli.ending import follow, truth
from stack.cli.lifecycle import start_all
from stack.cli.screen import patiently
from stack.cli.tables import plan_screen, plan_text
from stack.cli.watch import EXIT_CODES, Aim
from stack.core.errors import InvalidInput

Json = dict[str, Any]

model_option = click.option("--model", help="A manifest (models/tiny-1.1.yaml) or name@version; default: stack.yaml's.")
service_option = click.option("--service", help="The service; default: the only one of stack.yaml.")
runtime_option = click.option("--runtime", help="engine/distribution[@version], e.g. llamacpp/llama-cpp-python.")
wait_option = click.option("--wait/--no-wait", default=True, show_default=True, help="Watch until it ends.")
env_option = click.option("--env", "environment", help="dev, staging or production; default: stack.yaml's.")
change_option = click.option("--change", help="The change this belongs to, e.g. CHG-1, where the policies ask for one.")
pause_option = click.option(
    "--accept-pause",
    type=click.FloatRange(0, 300),
    metavar="SECONDS",
    help="Requests may wait so long where a release fits only once the old one has ended. Part of the plan.",
)
up_option = click.option("--up", "start", is_flag=True, help="Start gateway and control plane first if need be.")


class NoSuchManifest(InvalidInput):
    """There is no manifest {path}."""

    hint = "Name a file such as models/tiny-1.0.yaml, or a registered version as name@version."


def model_named(text: str | None) -> str | None:
    """A manifest's absolute path, or the reference as it is. The control plane may run in another directory."""
    if text is None or not text.strip():
        return None
    path = Path(text)
    if path.is_file():
        return str(path.resolve())
    if path.suffix in (".yaml", ".yml"):
        raise NoSuchManifest(path=text)
    return text


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the options of ``plan``, ``deploy`` and ``rollback`` say; empty text is as nothing."""

    service: str | None = None
    environment: str | None = None
    change: str | None = None
    pause_s: float | None = None

    def body(self) -> Json:
        """As the API takes it."""
        said = {"service": self.service, "environment": self.environment, "change": self.change}
        body = {name: value or None for name, value in said.items()} | {"claimed": actor()}
        return body if self.pause_s is None else body | {"accept_pause_s": self.pause_s}


def _request(wanted: Wanted, model: str | None, runtime: str | None, *, dry_run: bool) -> Json:
    return wanted.body() | {"model": model_named(model), "runtime": runtime or None, "dry_run": dry_run}


@command(
    "plan",
    examples="stackctl plan\nstackctl plan --model models/tiny-1.1.yaml --json\n"
    "stackctl plan --env production --change CHG-1",
)
@model_option
@service_option
@runtime_option
@env_option
@change_option
@pause_option
def plan(
    model: str | None,
    service: str | None,
    runtime: str | None,
    environment: str | None,
    change: str | None,
    accept_pause: float | None,
    as_json: bool,
) -> None:
    """What a deploy would do: the exact plan, its digest and the approvals it needs. Changes nothing."""
    wanted = Wanted(service=service, environment=environment, change=change, pause_s=accept_pause)
    body = AdminClient(place()).post("/plan", _request(wanted, model, runtime, dry_run=False))
    answer(body, plan_screen(body), as_json=as_json)


@command(
    "deploy",
    examples="stackctl deploy\nstackctl deploy --model models/tiny-1.1.yaml\nstackctl deploy --dry-run --json\n"
    "stackctl deploy --env production --change CHG-1",
    codes=EXIT_CODES,
)
@model_option
@service_option
@runtime_option
@env_option
@change_option
@pause_option
@click.option("--dry-run", is_flag=True, help="Ansible check mode: nothing is changed on any host.")
@wait_option
@up_option
@click.option("--stack", type=click.Path(path_type=Path), default=Path("stack.yaml"), help="With --up: desired state.")
@click.pass_context
def deploy(
    ctx: click.Context,
    model: str | None,
    service: str | None,
    runtime: str | None,
    environment: str | None,
    change: str | None,
    accept_pause: float | None,
    dry_run: bool,
    wait: bool,
    start: bool,
    stack: Path,
    as_json: bool,
) -> None:
    """Roll a release out behind a canary, watch it, and leave with how it ended."""
    where = place()
    wanted = Wanted(service=service, environment=environment, change=change, pause_s=accept_pause)
    request = _request(wanted, model, runtime, dry_run=dry_run)
    if start:
        start_all(where, stack)
    client = AdminClient(where)
    body = patiently(lambda: client.post("/deploy", request), "the control plane to check and plan")
    _begun(ctx, where, client, body, wait=wait, as_json=as_json)


@command("rollback", examples="stackctl rollback\nstackctl rollback --service tiny --no-wait", codes=EXIT_CODES)
@service_option
@env_option
@change_option
@pause_option
@wait_option
@click.pass_context
def rollback(
    ctx: click.Context,
    service: str | None,
    environment: str | None,
    change: str | None,
    accept_pause: float | None,
    wait: bool,
    as_json: bool,
) -> None:
    """Go back to the last known good, by hand."""
    where = place()
    client = AdminClient(where)
    wanted = Wanted(service=service, environment=environment, change=change, pause_s=accept_pause)
    body = client.post("/rollback", wanted.body())
    _begun(ctx, where, client, body, wait=wait, as_json=as_json, back=True)


def _begun(
    ctx: click.Context, where: Place, client: AdminClient, body: Json, *, wait: bool, as_json: bool, back: bool = False
) -> None:
    """What the control plane answered: a rollout to watch, nothing to do, or what a dry run saw."""
    if body.get("nothing_to_do"):
        status = body.get("status") or client.get("/status")
        answer(body, f"nothing to do: {body.get('reason')}\n\n{truth(where, status, None)}", as_json=as_json)
        return
    rollout_id = body.get("rollout")
    if rollout_id is None:
        answer(body, plan_text(body), as_json=as_json)
        ctx.exit(dry_run_code(body))
    if not wait:
        answer(body, f"begun: {rollout_id}\nwatch it: stackctl rollout watch {rollout_id}", as_json=as_json)
        return
    click.echo(f"rollout {rollout_id}", err=as_json)
    aim = Aim(rollout=str(rollout_id), steered=bool(body.get("aborting")), back=back)
    follow(ctx, where, client, aim, as_json=as_json)


def dry_run_code(body: Json) -> int:
    """0 only when every host said that it could be done."""
    hosts = body.get("dry_run")
    if not isinstance(hosts, list) or not hosts:
        return 1
    return 0 if all(host.get("status") in ("done", "already") for host in hosts) else 4

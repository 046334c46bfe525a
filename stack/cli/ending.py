"""The end of a watched rollout: what is true now, where the evidence is, a line to paste, the exit code."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any, NoReturn

import click

from stack.cli.client import AdminClient
from stack.cli.command import Place, answer
from stack.cli.screen import screen_for
from stack.cli.tables import processes_block, service_block
from stack.cli.watch import Aim, exit_code, watch
from stack.core.clock import SystemClock

Json = dict[str, Any]
_INTERRUPTED = 130


def curl_line(place: Place, service: str, working_directory: Path) -> str:
    """Works when pasted into a shell in ``working_directory``; the key stays in its file."""
    key = place.secret("client.key")
    shown = key.relative_to(working_directory) if key.is_relative_to(working_directory) else key
    body = {"model": service, "messages": [{"role": "user", "content": "Hello"}]}
    return (
        f"curl -s {place.gateway_url}/v1/chat/completions"
        f' -H "Authorization: Bearer $(cat {shlex.quote(str(shown))})"'
        f" -H 'Content-Type: application/json' -d {shlex.quote(json.dumps(body))}"
    )


def headline(rollout: Json, code: int) -> str:
    """How it ended, in one sentence."""
    word = {0: "done", 3: "refused, traffic is on stable", 4: "failed", 5: "not what was asked", 6: "paused"}
    word[7] = "waits for an approval"
    reason = f": {rollout['reason']}" if rollout.get("reason") else ""
    kind, state = rollout.get("kind", "rollout"), rollout.get("state")
    return f"{kind} {rollout.get('id')} {state} ({word.get(code, 'unclear')}){reason}"


def next_step(rollout: Json, code: int) -> str:
    """What the operator can do now, where something is to be done."""
    name = rollout.get("id")
    if code == 7:
        shown = rollout.get("change") or "CHANGE"
        return f"look:   stackctl change show {shown}\nwatch:  stackctl rollout watch {name}\n"
    return f"go on:  stackctl rollout resume {name}\nback:   stackctl rollout abort {name}\n" if code == 6 else ""


def truth(place: Place, status: Json, service: str | None) -> str:
    """The table of what is true now, and the line to paste."""
    wanted = [s for s in status.get("services", []) if service in (None, s.get("name"))]
    parts = [service_block(s) for s in wanted] + [processes_block(status)]
    serving = next((str(s["name"]) for s in wanted if any((s.get("weights") or {}).values())), None)
    if serving is not None:
        parts.append("try it:\n" + curl_line(place, serving, Path.cwd()))
    return "\n\n".join(parts)


def follow(ctx: click.Context, place: Place, client: AdminClient, aim: Aim, *, as_json: bool) -> NoReturn:
    """Watch, say what is true, leave with the outcome's exit code."""
    clock = SystemClock()
    screen = screen_for(lambda text: click.echo(text, err=as_json), clock, to_stderr=as_json)
    try:
        rollout = watch(client, aim, screen, clock)
    except KeyboardInterrupt:
        screen.close()
        again, stop = f"stackctl rollout watch {aim.rollout}", f"stackctl rollout abort {aim.rollout}"
        click.echo(f"\nno longer watching; {aim.rollout} goes on\nwatch again: {again}\nstop it:     {stop}", err=True)
        ctx.exit(_INTERRUPTED)
    finally:
        screen.close()
    code = exit_code(rollout, back=aim.back)
    finish(place, client, rollout, code, as_json=as_json)
    ctx.exit(code)


def finish(place: Place, client: AdminClient, rollout: Json, code: int, *, as_json: bool) -> None:
    """The last words of a rollout."""
    status = client.get("/status")
    evidence = f"evidence: {rollout['evidence']}\n" if rollout.get("evidence") else ""
    table = truth(place, status, rollout.get("service"))
    human = f"\n{headline(rollout, code)}\n{evidence}{next_step(rollout, code)}\n{table}"
    answer({"rollout": rollout, "exit_code": code, "status": status}, human, as_json=as_json)

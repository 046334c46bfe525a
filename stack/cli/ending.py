"""The end of a watched rollout: what is true now, where the evidence is, a line to paste, the exit code."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import click

from stack.cli.client import AdminClient
from stack.cli.command import Place, answer
from stack.cli.screen import screen_for
from stack.cli.tables import processes_block, service_block
from stack.cli.watch import exit_code, watch
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


def headline(rollout: Json) -> str:
    """How it ended, in one sentence."""
    code, kind = exit_code(rollout), rollout.get("kind", "rollout")
    word = {0: "done", 3: "refused, traffic is back", 4: "failed", 6: "paused"}.get(code, "unclear")
    reason = f": {rollout['reason']}" if rollout.get("reason") else ""
    return f"{kind} {rollout.get('id')} {rollout.get('state')} ({word}){reason}"


def next_step(rollout: Json) -> str:
    """What the operator can do now, where something is to be done."""
    if exit_code(rollout) != 6:
        return ""
    return (
        f"go on:   stackctl rollout resume {rollout.get('id')}\nback:    stackctl rollout abort {rollout.get('id')}\n"
    )


def truth(place: Place, status: Json, service: str | None) -> str:
    """The table of what is true now, and the line to paste."""
    wanted = [s for s in status.get("services", []) if service in (None, s.get("name"))]
    parts = [service_block(s) for s in wanted] + [processes_block(status)]
    serving = next((str(s["name"]) for s in wanted if any((s.get("weights") or {}).values())), None)
    if serving is not None:
        parts.append("try it:\n" + curl_line(place, serving, Path.cwd()))
    return "\n\n".join(parts)


def follow(
    ctx: click.Context, place: Place, client: AdminClient, rollout_id: str, *, as_json: bool, after: int = 0
) -> None:
    """Watch, say what is true, leave with the outcome's exit code."""
    clock = SystemClock()
    screen = screen_for(lambda text: click.echo(text, err=as_json), clock, to_stderr=as_json)
    try:
        rollout = watch(client, rollout_id, screen, clock, after=after)
    except KeyboardInterrupt:
        screen.close()
        click.echo(
            f"\nno longer watching; {rollout_id} goes on. Watch again: stackctl rollout watch {rollout_id}", err=True
        )
        click.echo(f"stop it: stackctl rollout abort {rollout_id}", err=True)
        ctx.exit(_INTERRUPTED)
    finally:
        screen.close()
    finish(place, client, rollout, as_json=as_json)
    ctx.exit(exit_code(rollout))


def finish(place: Place, client: AdminClient, rollout: Json, *, as_json: bool) -> None:
    """The last words of a rollout."""
    status = client.get("/status")
    evidence = f"evidence: {rollout['evidence']}\n" if rollout.get("evidence") else ""
    service = rollout.get("service")
    human = f"\n{headline(rollout)}\n{evidence}{next_step(rollout)}\n{truth(place, status, service)}"
    answer({"rollout": rollout, "exit_code": exit_code(rollout), "status": status}, human, as_json=as_json)

"""``model register | list | show | verify | scrub``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from stack.cli.client import AdminClient, segment
from stack.cli.command import actor, answer, command, place
from stack.cli.deploying import NoSuchManifest
from stack.cli.screen import patiently, screen_for
from stack.cli.tables import model_table, plan_text
from stack.core.clock import SystemClock

Json = dict[str, Any]
_BAD = 3
_CODES = "\b\n  0 every byte is right   3 something is not"


@command(
    "register", examples="stackctl model register models/tiny-1.0.yaml\nstackctl model register m.yaml --format gguf"
)
@click.argument("manifest", type=click.Path(path_type=Path))
@click.option("--format", "format_", type=click.Choice(["gguf", "safetensors"]), default="gguf", show_default=True)
def register(manifest: Path, format_: str, as_json: bool) -> None:
    """Admit a manifest's files to the content store, every byte checked. Running it again resumes."""
    if not manifest.is_file():
        raise NoSuchManifest(path=manifest)
    clock = SystemClock()
    begun = clock.monotonic()
    screen = screen_for(lambda text: click.echo(text, err=True), clock, to_stderr=True)

    def show_progress(progress: Json) -> None:
        screen.waiting(_progress(progress), clock.monotonic() - begun)

    try:
        request = {"path": str(manifest.resolve()), "format": format_, "claimed": actor()}
        body = AdminClient(place()).stream("/models/register", request, show_progress)
    finally:
        screen.close()
    answer(body, f"registered {body.get('ref')} ({format_}) {body.get('digest')}", as_json=as_json)


def _progress(progress: Json) -> str:
    done, total = progress.get("done"), progress.get("total")
    share = f" {100 * done // total} %" if isinstance(done, int) and isinstance(total, int) and total else ""
    return f"{progress.get('text', 'registration')}{share}"


@command("list", examples="stackctl model list\nstackctl model list --json")
def list_(as_json: bool) -> None:
    """All registered model versions."""
    body = AdminClient(place()).get("/models")
    answer(body, model_table(body.get("models", [])), as_json=as_json)


@command("show", examples="stackctl model show tiny@1.0\nstackctl model show tiny@1.0:gguf --json")
@click.argument("ref")
def show(ref: str, as_json: bool) -> None:
    """One model version: digest, files, and what its header says."""
    body = AdminClient(place()).get(f"/models/{segment(ref)}")
    answer(body, plan_text(body), as_json=as_json)


@command("verify", examples="stackctl model verify tiny@1.0", codes=_CODES)
@click.argument("ref")
@click.pass_context
def verify(ctx: click.Context, ref: str, as_json: bool) -> None:
    """Read every byte of one version again and compare digests."""
    client = AdminClient(place())
    body = patiently(lambda: client.post(f"/models/{segment(ref)}/verify"), "every byte to be read")
    _judge(ctx, body, as_json=as_json)


@command(
    "scrub", examples="stackctl model scrub\nstackctl model scrub --repair-from /mnt/copy/store --json", codes=_CODES
)
@click.option("--repair-from", type=click.Path(path_type=Path, file_okay=False), help="A second copy of the store.")
@click.pass_context
def scrub(ctx: click.Context, repair_from: Path | None, as_json: bool) -> None:
    """Verify the whole store; with a second copy, repair what is broken."""
    copy = str(repair_from.resolve()) if repair_from else None
    client = AdminClient(place())
    request = {"repair_from": copy, "claimed": actor()}
    body = patiently(lambda: client.post("/models/scrub", request), "every byte to be read")
    _judge(ctx, body, as_json=as_json)


def _judge(ctx: click.Context, body: Json, *, as_json: bool) -> None:
    """Only an explicit ok is ok."""
    fine = body.get("ok") is True
    answer(body, f"{'ok' if fine else 'NOT OK'}\n{plan_text(body)}", as_json=as_json)
    ctx.exit(0 if fine else _BAD)

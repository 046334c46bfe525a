"""``change list | show | approve | reject | revoke | report``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import click

from stack.cli import approving
from stack.cli.approving import Subject
from stack.cli.change_screens import clean, queue_line, request_screen, request_table
from stack.cli.client import AdminClient, segment
from stack.cli.command import actor, answer, command, place
from stack.cli.tables import plan_text
from stack.cli.writing import write_new
from stack.core.clock import SystemClock
from stack.core.errors import InvalidInput

Json = dict[str, Any]

request_option = click.option("--request", help="Which open request of the change, where there are several: rq-...")
file_type = click.Path(path_type=Path, dir_okay=False)


class NotConfirmed(InvalidInput):
    """Nothing was signed: this is no terminal, so nobody could be asked."""

    hint = "Read the plan (stackctl change show), then say --yes."


@command("list", examples="stackctl change list\nstackctl change list --open --json")
@click.option("--open", "open_only", is_flag=True, help="Only those that wait.")
def list_(open_only: bool, as_json: bool) -> None:
    """Requests for approval, newest first."""
    body = AdminClient(place()).get("/changes", open="true" if open_only else "false")
    table = request_table(body.get("requests", []), SystemClock().now())
    answer(body, f"{table}\n\napprovals: {queue_line(body.get('queue') or {})}", as_json=as_json)


@command(
    "show",
    examples="stackctl change show CHG-1\nstackctl change show CHG-1 --statement CHG-1.statement\n"
    "ssh-keygen -Y sign -f ~/.ssh/id_ed25519 -n approval@inference-stack CHG-1.statement",
)
@click.argument("change")
@click.option("--statement", "output", type=file_type, help="Write what an approver signs to this new file.")
@request_option
def show(change: str, output: Path | None, request: str | None, as_json: bool) -> None:
    """What a change is about, who approved it, and what is missing."""
    client, now = AdminClient(place()), SystemClock().now()
    if output is None:
        body = client.get(f"/changes/{segment(change)}")
        answer(body, _shown(body), as_json=as_json)
        return
    subject = approving.subject_of(client, change, request, now)
    write_new(output, subject.statement)
    name, file = shlex.quote(change), shlex.quote(str(output))
    sign = f"ssh-keygen -Y sign -f KEY -n approval@inference-stack {file}"
    hand_in = f"stackctl change approve {name} --signature {shlex.quote(f'{output}.sig')}"
    hand_in += f" --request {subject.request['request']}" if request else ""
    human = f"{request_screen(subject.request, subject.plan, now)}\n\nsign it:     {sign}\nhand it in:  {hand_in}"
    answer({"statement": str(output), "sign": sign, "hand_in": hand_in}, human, as_json=as_json)


def _shown(body: Json) -> str:
    """All requests, the newest with its plan."""
    now = SystemClock().now()
    requests = body.get("requests") or []
    found = body.get("plan_body")
    plan: Json = found if isinstance(found, dict) else {}
    parts = [request_screen(r, plan if n == 0 else {}, now) for n, r in enumerate(requests)]
    heads = [f"{clean(r.get('request'))}  {clean(r.get('state'))}  {clean(r.get('reason'))}" for r in requests]
    rollouts = ", ".join(clean(name) for name in body.get("rollouts") or []) or "none yet"
    blocks = [f"{head}\n{part}" for head, part in zip(heads, parts, strict=True)]
    whole = "\n".join(clean(line) for line in plan_text(plan).splitlines())
    return "\n\n".join([*blocks, f"rollouts: {rollouts}", f"the plan, whole:\n{whole}"])


@command(
    "approve",
    examples="stackctl change approve CHG-1 --key ~/.ssh/id_ed25519\nstackctl change approve CHG-1 --agent\n"
    "stackctl change approve CHG-1 --signature CHG-1.statement.sig",
)
@click.argument("change")
@click.option("--key", type=file_type, help="Your private SSH key.")
@click.option("--agent", is_flag=True, help="A key of your ssh-agent (the default when neither key nor signature is).")
@click.option("--fingerprint", help="Which key of the agent: SHA256:...")
@click.option("--signature", type=file_type, help="A signature made with ssh-keygen -Y sign.")
@request_option
@click.option("--yes", is_flag=True, help="Don't ask: I have read the plan.")
def approve(
    change: str,
    key: Path | None,
    agent: bool,
    fingerprint: str | None,
    signature: Path | None,
    request: str | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Sign exactly this plan with your own SSH key, and hand the signature in.

    The plan is shown first. Its digest and the statement are computed here, from what is shown; if they are not what
    the control plane asks to be signed, nothing is signed. Whose approval it is, the signature says.
    """
    if sum((key is not None, agent or fingerprint is not None, signature is not None)) > 1:
        raise approving.WhichKey("give one of --key, --agent and --signature.")
    client, now = AdminClient(place()), SystemClock().now()
    subject = approving.subject_of(client, change, request, now)
    click.echo(request_screen(subject.request, subject.plan, now), err=True)
    _confirm(yes)
    armored = _signature(subject, key, fingerprint, signature)
    name = segment(str(subject.request["request"]))
    body = client.post(f"/changes/{name}/approve", {"signature": armored, "claimed": actor()})
    missing = body.get("missing") or []
    rest = "\n".join(f"  still missing: {clean(text)}" for text in missing)
    whole = (
        "run the command that asked for it again" if body.get("gate") == "start" else "the rollout goes on by itself"
    )
    human = f"approved: {clean(change)}\n" + (rest or f"  nothing is missing: {whole}")
    answer(body, human, as_json=as_json)


def _confirm(yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise NotConfirmed()
    click.confirm("Approve exactly this?", abort=True, err=True)


def _signature(subject: Subject, key: Path | None, fingerprint: str | None, signature: Path | None) -> str:
    if signature is not None:
        return approving.signature_in(signature, subject)
    if key is None:
        return approving.sign_by_agent(subject, fingerprint)

    def ask() -> str:
        return str(click.prompt(f"Passphrase of {key}", hide_input=True, err=True))

    return approving.sign_by_file(subject, key, ask if sys.stdin.isatty() else None)


@command("reject", examples='stackctl change reject CHG-1 --reason "not this week"')
@click.argument("change")
@click.option("--reason", required=True, help="For the audit log, and for who asked.")
def reject(change: str, reason: str, as_json: bool) -> None:
    """Refuse what waits; a rollout that waits for it goes back."""
    body = AdminClient(place()).post(f"/changes/{segment(change)}/reject", {"reason": reason, "claimed": actor()})
    answer(body, f"rejected: {clean(change)}", as_json=as_json)


@command(
    "revoke",
    examples='stackctl change revoke CHG-1 --reason "wrong host"\n'
    'stackctl change revoke CHG-1 --person anna --reason "key lost"',
)
@click.argument("change")
@click.option("--person", help="Only this person's approval; default: the request ends with all of them.")
@click.option("--reason", required=True, help="For the audit log.")
def revoke(change: str, person: str | None, reason: str, as_json: bool) -> None:
    """Take back an approval that is not used yet, or the whole request."""
    request = {"person": person, "reason": reason, "claimed": actor()}
    body = AdminClient(place()).post(f"/changes/{segment(change)}/revoke", request)
    what = f"the approval of {clean(person)}" if person else "all of it"
    answer(body, f"revoked: {clean(change)}, {what}", as_json=as_json)


@command("report", examples="stackctl change report CHG-1\nstackctl change report CHG-1 --output CHG-1.md")
@click.argument("change")
@click.option("--output", type=file_type, help="Write it to this new file (Markdown; JSON with --json).")
def report(change: str, output: Path | None, as_json: bool) -> None:
    """The post-change report: plan, ticket, approvals, evidence, verdicts, rollback, timeline."""
    body = AdminClient(place()).get(f"/changes/{segment(change)}/report")
    if output is None:
        answer(body, str(body.get("markdown", "")), as_json=as_json)
        return
    import json

    text = json.dumps(body, indent=2) + "\n" if as_json else str(body.get("markdown", ""))
    write_new(output, text.encode())
    answer(
        {"report": str(output), "digest": body.get("digest")}, f"{output}\ndigest {body.get('digest')}", as_json=as_json
    )

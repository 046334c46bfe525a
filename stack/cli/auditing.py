"""``audit ..``: the log for people and auditors. Everything is checked here, not by the process that wrote it.

``verify`` streams the whole log; its checkpoints are believed as far as they were kept somewhere else, and it says how
far that is.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stack.cli.client import AdminClient, Garbled
from stack.cli.command import answer, command, place
from stack.cli.tables import columns
from stack.core.errors import InvalidInput

if TYPE_CHECKING:
    from stack.audit.note import VerifierKey

Json = dict[str, Any]
_BROKEN, _UNPROVEN = 3, 6
_COLUMNS = ("seq", "time", "actor", "action", "target", "result")
_VERIFY_CODES = """\b
  0 every record holds   3 a record or a checkpoint is not what it should be
  6 --checkpoint was given and says nothing about these records"""


class Unreadable(InvalidInput):
    """{path} can't be used: {detail}"""

    hint = "Give a file that can be read, or for an export a place that can be written."


@command("tail", examples="stackctl audit tail\nstackctl audit tail --limit 100 --json")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
def tail(limit: int, as_json: bool) -> None:
    """The newest records: when, who, what, and with what result."""
    body = AdminClient(place()).get("/admin/audit", limit=limit)
    rows = [[record.get(key) for key in _COLUMNS] for record in body.get("records", [])]
    answer(body, columns(_COLUMNS, rows) if rows else "no records yet", as_json=as_json)


@command("show", examples="stackctl audit show 7\nstackctl audit show 7 --json")
@click.argument("seq", type=click.IntRange(1))
def show(seq: int, as_json: bool) -> None:
    """One record, whole, with its hash in the chain and in the tree."""
    body = AdminClient(place()).get(f"/admin/audit/records/{seq}")
    said = [f"{name:<10} {value}" for name, value in _object(body, "record").items()]
    answer(body, "\n".join([*said, f"{'leaf':<10} {body.get('leaf')}"]), as_json=as_json)


@command("head", examples="stackctl audit head\nstackctl audit head --json")
def head(as_json: bool) -> None:
    """How long the log is, its newest checkpoint, the verifier key, and how far every sink is."""
    body = AdminClient(place()).get("/admin/audit/head")
    answer(body, _head_text(body), as_json=as_json)


def _head_text(body: Json) -> str:
    newest = body.get("checkpoint")
    size = body.get("size")
    lines = [
        f"records     {size}",
        f"root        {body.get('root')}",
        f"key         {body.get('key')}",
        f"checkpoint  of {newest['size']} records" if newest else "checkpoint  none yet",
    ]
    if body.get("signing_error"):
        lines.append(f"SIGNING FAILS: {body['signing_error']}")
    for sink in body.get("sinks", []):
        where = "" if sink.get("off_host") else " (not off this host)"
        state = f"FAILS: {sink['error']}" if sink.get("error") else f"has {sink.get('size')}"
        lines.append(f"sink        {sink.get('sink')}{where}: {state}")
    return "\n".join(lines) + (f"\n\n{newest['note']}" if newest else "")


@command(
    "verify",
    examples="stackctl audit verify\nstackctl audit verify --checkpoint /mnt/nas/checkpoints.log --key KEY",
    codes=_VERIFY_CODES,
)
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Checkpoints that were kept elsewhere.")
@click.option("--key", help="The verifier key, kept elsewhere as well; else the one this log shows.")
@click.option("--known-head", help="The hash of a record, kept elsewhere: it must still be there.")
@click.pass_context
def verify(ctx: click.Context, checkpoint: Path | None, key: str | None, known_head: str | None, as_json: bool) -> None:
    """Hash every record again, build the tree anew, compare with checkpoints; name the first record that is wrong."""
    from stack.audit.exported import check_export, kept_elsewhere

    client = AdminClient(place())
    verifier = _key(key or str(client.get("/admin/audit/head").get("key")))
    own = place().root / "checkpoints.log"
    kept = checkpoint or (own if own.exists() else None)
    external = {} if kept is None else kept_elsewhere(_lines_of(kept), verifier)
    report = check_export(client.lines("/admin/audit/export"), verifier, external, known_head)
    code = _BROKEN if not report.ok else _UNPROVEN if checkpoint and not report.proven else 0
    where = {"checkpoints": str(kept) if kept else None, "elsewhere": checkpoint is not None}
    body = {**report.to_json(), "count": report.size, **where}
    answer(body, _verified_text(body), as_json=as_json)
    ctx.exit(code)


def _verified_text(report: Json) -> str:
    if not report["ok"]:
        return f"NOT OK: {report['reason']}"
    size, proven = report["size"], report["proven"]
    said = [f"ok: records 1 to {size} follow one another, and {report['embedded']} signed checkpoints agree with them"]
    if proven:
        said.append(f"records 1 to {proven} are what they were when {report['checkpoints']} got its checkpoints")
    if proven < size:
        said.append(
            f"records {proven + 1} to {size} are in no checkpoint of a file: only the log itself speaks for them"
        )
    if not report["elsewhere"]:
        said.append(
            "not proven against somebody who can write on this host: give --checkpoint with a file kept elsewhere"
        )
    return "\n".join([*said, f"head {report['head']}"])


@command("export", examples="stackctl audit export audit.jsonl\nstackctl audit export - --start 1001")
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--start", type=click.IntRange(1), default=1, show_default=True, help="The first record.")
def export(file: Path, start: int, as_json: bool) -> None:
    """Write records, proofs and checkpoints as JSON lines; `-` is standard output. Check it with verify_export.py."""
    lines = _whole(AdminClient(place()).lines("/admin/audit/export", start=start))
    if str(file) == "-":
        for line in lines:
            click.echo(line, nl=False)
        return
    records = _written(file, lines)
    body = {"file": str(file), "start": start, "records": records}
    answer(body, f"{records} records from {start} in {file}", as_json=as_json)


def _written(file: Path, lines: Iterator[bytes]) -> int:
    """Whole or not at all."""
    new, last = file.with_name(f".{file.name}.{os.getpid()}"), b""
    try:
        with open(new, "xb", opener=lambda path, flags: os.open(path, flags, 0o600)) as out:
            for line in lines:
                out.write(line)
                last = line
            out.flush()
            os.fsync(out.fileno())
        new.replace(file)
    except OSError as error:
        raise Unreadable(error.strerror or str(error), path=file) from error
    finally:
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)
    return int(json.loads(last)["records"])


def _whole(lines: Iterator[bytes]) -> Iterator[bytes]:
    """The lines; an error instead of an end without the closing line."""
    last = b""
    for line in lines:
        last = line
        yield line
    if not last.startswith(b'{"checkpoints":') or not last.endswith(b"\n"):
        raise Garbled("the export ended before its closing line")


@command(
    "prove",
    examples="stackctl audit prove 7\nstackctl audit prove 7 --json > proof.json",
    codes="\b\n  0 proven   3 the proof does not hold",
)
@click.argument("seq", type=click.IntRange(1))
@click.option("--size", type=click.IntRange(1), help="The tree's size; else the newest checkpoint's.")
@click.option("--key", help="The verifier key, kept elsewhere; else the one this log shows.")
@click.pass_context
def prove(ctx: click.Context, seq: int, size: int | None, key: str | None, as_json: bool) -> None:
    """That record SEQ is in the tree that a checkpoint signs. The proof is checked here."""
    body = AdminClient(place()).get(f"/admin/audit/proof/{seq}", size=size)
    problem = _proof_problem(body, seq, size, _key(key or str(body.get("key"))))
    signed = "" if body.get("checkpoint") else "; no checkpoint of that size is signed"
    human = f"ok: record {seq} is number {seq} of the {body.get('size')} records under root {body.get('root')}{signed}"
    answer({**body, "ok": not problem, "reason": problem}, f"NOT OK: {problem}" if problem else human, as_json=as_json)
    ctx.exit(_BROKEN if problem else 0)


def _proof_problem(body: Json, seq: int, size: int | None, key: VerifierKey) -> str:
    """Why the proof does not hold; empty when it does."""
    from stack.audit.chain import row_bytes
    from stack.audit.merkle import leaf_hash, verify_inclusion
    from stack.audit.note import BadNote, open_checkpoint
    from stack.core.canonical import NotCanonical
    from stack.store.rows import AuditRow

    try:
        row = AuditRow(**_object(body, "record"))
        leaf, top = leaf_hash(row_bytes(row)), bytes.fromhex(body["root"])
        path = [bytes.fromhex(step) for step in body["path"]]
    except (KeyError, TypeError, ValueError, NotCanonical) as error:
        raise Garbled(f"a proof that is none: {error}") from error
    if row.seq != seq or (size is not None and body.get("size") != size):
        return "it is of another record or another tree"
    if not verify_inclusion(leaf, seq - 1, body.get("size", 0), path, top):
        return f"record {seq} is not in this tree: it was altered, or the tree was"
    if body.get("checkpoint") is None:
        return ""
    try:
        signed = open_checkpoint(str(body["checkpoint"]), key)
    except BadNote as error:
        return error.message
    return "" if (signed.size, signed.root) == (body["size"], top) else "the checkpoint signs another tree"


def _key(text: str) -> VerifierKey:
    """From the option: the key, or a file with it."""
    from stack.audit.note import VerifierKey

    if "+" not in text:
        text = b"".join(_lines_of(Path(text))).decode("utf-8", "replace")
    return VerifierKey.parse(text.strip())


def _lines_of(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while line := file.readline(1 << 20):
                yield line
    except OSError as error:
        raise Unreadable(error.strerror or str(error), path=path) from error


def _object(body: Json, name: str) -> Json:
    value = body.get(name)
    if not isinstance(value, dict):
        raise Garbled(f"an answer without {name}")
    return value

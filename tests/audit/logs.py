"""A real log in a real store, its export, and what somebody who can write everything would make of it."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from stack.app.records import RecordsDesk
from stack.audit import verify_export
from stack.audit.append import append
from stack.audit.chain import GENESIS, row_bytes
from stack.audit.checkpointer import Checkpointer
from stack.audit.exported import check_export, checkpoint_line, end_line, header_line, kept_elsewhere, record_line
from stack.audit.keys import signer_of
from stack.audit.merkle import Frontier, leaf_hash
from stack.audit.note import BadNote, Checkpoint
from stack.audit.record import AuditRecord
from stack.core.clock import ManualClock
from stack.core.digest import Digest
from stack.store.rows import AuditRow
from stack.store.store import Store

SIGNER = signer_of(bytes(range(32)))
KEY = SIGNER.key


def said(number: int) -> AuditRecord:
    """A record; no two alike."""
    body = {"number": number, "text": f"é\u2028 {number}", "list": [1.5, None, True]}
    return AuditRecord(actor="ann", action="rollout.step", target="tiny", change=f"ro-{number}", result="ok", body=body)


def fill(store: Store, count: int, clock: ManualClock) -> None:
    """``count`` records more."""
    with store.transaction() as tx:
        last = tx.last_audit()
        for number in range(count):
            clock.advance(0.25)
            append(tx, said((last.seq if last else 0) + number + 1), clock)


class Log:
    """Rows and checkpoints of a log of ``size`` records, signed after each of ``at``."""

    def __init__(self, path: Path, size: int, at: Sequence[int]) -> None:
        clock = ManualClock()
        store = Store.open(path, clock)
        signing = Checkpointer(store, SIGNER, (), clock)
        for before, now in zip((0, *at), (*at, size), strict=True):
            fill(store, now - before, clock)
            if now in at:
                signing.sign()
        with store.reading() as tx:
            self.rows = tx.audit_rows(1, size)
            self.notes = {found: note for found, _, note in tx.checkpoints()}
        self.lines = list(RecordsDesk(store, KEY, ()).export(1))
        self.store, self.clock = store, clock

    @property
    def kept(self) -> bytes:
        """The checkpoints, as a file sink keeps them."""
        return "\n".join(self.notes.values()).encode()


def forged(rows: Sequence[AuditRow], notes: dict[int, str]) -> list[bytes]:
    """A whole export that agrees with itself, of rows that are chained anew. The key is not the forger's."""
    head, tree, made = str(GENESIS), Frontier(), []
    chained: list[AuditRow] = []
    for seq, row in enumerate(rows, start=1):
        new = replace(row, seq=seq, prev_hash=head, hash="")
        new = replace(new, hash=str(Digest.of(row_bytes(new))))
        chained.append(new)
        head = new.hash
    made.append(header_line(KEY, 1, len(chained), Frontier(), str(GENESIS)))
    count = 0
    for row in chained:
        made.append(record_line(row))
        tree = tree.add(leaf_hash(row_bytes(row)))
        note = notes.get(row.seq)
        if note is not None and Checkpoint.parse(note.split("\n\n")[0] + "\n").root == tree.root:
            made.append(checkpoint_line(note))
            count += 1
    return [*made, end_line(len(chained), count, tree.root)]


def split(data: bytes) -> list[bytes]:
    """Lines as a file gives them: only the line feed ends one."""
    return [part + b"\n" for part in data.removesuffix(b"\n").split(b"\n")] if data else []


def ours(lines: Sequence[bytes], kept: bytes) -> dict[str, Any]:
    """The product's answer."""
    try:
        return check_export(lines, KEY, kept_elsewhere(split(kept), KEY)).to_json()
    except BadNote:
        return {"bad note": True}


def theirs(lines: Sequence[bytes], kept: bytes) -> dict[str, Any]:
    """The stand-alone verifier's."""
    key = verify_export.Key(str(KEY))
    try:
        return verify_export.check_export(lines, key, verify_export.kept_elsewhere(split(kept), key))
    except verify_export.BadNote:
        return {"bad note": True}


def both(lines: Sequence[bytes], kept: bytes) -> dict[str, Any]:
    """The answer that the two agree on."""
    answer, other = ours(lines, kept), theirs(lines, kept)
    assert answer == other, json.dumps([answer, other], indent=1)
    return answer


def alone() -> ModuleType:
    """The verifier as an auditor has it: one file, with no ``stack`` to be found."""
    spec = importlib.util.spec_from_file_location("alone", Path(verify_export.__file__))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.pop("alone", None)
    spec.loader.exec_module(module)
    return module

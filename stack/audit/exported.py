"""An export of the audit log: its lines, and their check. Values in, values out; streams, whatever the log's length.

Every line is canonical JSON (RFC 8785):

    header      {"frontier", "head", "key", "kind": "inference-stack audit export", "size", "start", "v": 1}
    record      {"hash", "kind": "record", "leaf", "record": {..}}       hash and leaf are over the record's own bytes
    checkpoint  {"kind": "checkpoint", "note"}                           right after the last record that it covers
    end         {"checkpoints", "kind": "end", "records", "root"}        an export without it was cut off

``verify_export.py`` does the same standing alone; a test holds the two to the same answers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from stack.audit.chain import GENESIS, VERSION, row_bytes
from stack.audit.merkle import LARGEST, Frontier, leaf_hash
from stack.audit.note import BadNote, Checkpoint, VerifierKey, notes_in, open_checkpoint
from stack.core.canonical import NotCanonical, canonical
from stack.core.digest import Digest
from stack.store.rows import AuditRow

KIND = "inference-stack audit export"
LONGEST_LINE = 16 << 20
_COLUMNS = frozenset(AuditRow.__dataclass_fields__) - {"hash"}
_PREFIX = len('{"hash":"sha256:","kind":"record","leaf":"","record":') + 128
_HEADER = {"frontier", "head", "key", "kind", "size", "start", "v"}


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """``first_bad`` is the first record that is wrong or missing, ``last_bad`` the last that it may be.

    ``proven`` is the size of the largest checkpoint kept elsewhere that holds: the records up to it are what they were
    when it was made. Without one (0) the export only agrees with itself.
    """

    ok: bool
    reason: str
    first_bad: int | None
    last_bad: int | None
    start: int
    size: int
    head: str
    root: str
    proven: int
    external: int
    embedded: int

    def to_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return asdict(self)


class _Bad(Exception):
    """What is wrong, and with which records."""

    def __init__(self, reason: str, first: int | None = None, last: int | None = None) -> None:
        self.reason, self.first, self.last = reason, first, first if last is None else last


def header_line(key: VerifierKey, start: int, size: int, before: Frontier, head: str) -> bytes:
    """Of an export of the records from ``start`` to ``size``; ``before`` and ``head`` are of those before them."""
    nodes = [node.hex() for node in before.nodes]
    said = {"frontier": nodes, "head": head, "key": str(key), "kind": KIND, "size": size, "start": start, "v": 1}
    return canonical(said) + b"\n"


def record_line(row: AuditRow) -> bytes:
    """As it is stored, with the hash that is stored: a row that was edited in the database is named by every reader.

    One that has no canonical form any more is written as it can be; no reader takes that for a record.
    """
    try:
        data = row_bytes(row)
    except NotCanonical:
        return json.dumps({"damaged": row.to_json()}, default=repr).encode() + b"\n"
    leaf = leaf_hash(data).hex().encode()
    return b'{"hash":%s,"kind":"record","leaf":"%s","record":%s}\n' % (json.dumps(row.hash).encode(), leaf, data)


def checkpoint_line(note: str) -> bytes:
    """A signed note."""
    return canonical({"kind": "checkpoint", "note": note}) + b"\n"


def end_line(records: int, checkpoints: int, root: bytes) -> bytes:
    """The last."""
    return canonical({"checkpoints": checkpoints, "kind": "end", "records": records, "root": root.hex()}) + b"\n"


def kept_elsewhere(lines: Iterable[bytes], key: VerifierKey) -> dict[int, bytes]:
    """Root by size, from a file of checkpoints. Raises BadNote for a single one that is not good."""
    roots: dict[int, bytes] = {}
    for note in notes_in(lines):
        checkpoint = open_checkpoint(note, key)
        if roots.setdefault(checkpoint.size, checkpoint.root) != checkpoint.root:
            raise BadNote(f"there are two of size {checkpoint.size} with different roots: the log was forked")
    return roots


def check_export(
    lines: Iterable[bytes], key: VerifierKey, external: Mapping[int, bytes], known_head: str | None = None
) -> ExportReport:
    """Check the lines of an export, against checkpoints kept elsewhere (root by size)."""
    check = _Check(key, external, known_head)
    try:
        for line in lines:
            check.take(line)
        check.finish()
    except _Bad as bad:
        return check.report(bad)
    return check.report(None)


class _Check:
    """What is known after so many lines."""

    def __init__(self, key: VerifierKey, external: Mapping[int, bytes], known_head: str | None) -> None:
        self.key, self.external, self.known_head = key, external, known_head
        self.tree, self.head, self.start, self.size = Frontier(), str(GENESIS), 0, 0
        self.proven = self.confirmed = self.agreed = self.embedded = 0
        self.ended = False

    def take(self, line: bytes) -> None:
        """The next line."""
        if self.ended:
            raise _Bad("something follows the closing line")
        if len(line) > LONGEST_LINE or not line.endswith(b"\n"):
            raise _Bad(f"record {self.due} is cut off or too long", self.due)
        if not self.start:
            self._header(line)
        elif line.startswith(b'{"kind":"checkpoint",'):
            self._checkpoint(line)
        elif line.startswith(b'{"checkpoints":'):
            self._end(line)
        else:
            self._record(line)

    @property
    def due(self) -> int:
        """The number of the next record."""
        return self.tree.size + 1

    def _header(self, line: bytes) -> None:
        said = _object(line)
        if (
            said is None
            or set(said) != _HEADER
            or said["kind"] != KIND
            or not _is_count(said["v"])
            or said["v"] != VERSION
        ):
            raise _Bad("the header is not that of an export")
        if said["key"] != str(self.key):
            raise _Bad("the export is of a log with another key")
        start, size, nodes, head = said["start"], said["size"], said["frontier"], said["head"]
        if not _is_count(said["v"]) or said["v"] != VERSION:
            raise _Bad("the header is of another layout")
        if not (_is_count(start) and _is_count(size) and 1 <= start <= size + 1 and isinstance(nodes, list)):
            raise _Bad("the header is not that of an export")
        hashes = [_hash(node) for node in nodes]
        tree = Frontier(start - 1, tuple(h for h in hashes if h is not None))
        if None in hashes or not tree.sound or not isinstance(head, str):
            raise _Bad("the header is not that of an export")
        if start == 1 and head != GENESIS:
            raise _Bad("the header is not that of an export")
        self.tree, self.start, self.size, self.head = tree, start, size, head
        self._compare()

    def _record(self, line: bytes) -> None:
        due, data = self.due, line[_PREFIX:-2]
        row = _row(data) if line[-2:] == b"}\n" and line[:_PREFIX] == _prefix(data) else None
        if row is None:
            raise _Bad(f"record {due} was altered: its hash is not that of its content", due)
        if row.seq > due:
            raise _Bad(f"record {due} is missing: {row.seq} stands in its place", due)
        if row.seq < due:
            raise _Bad(f"record {due} is out of order: {row.seq} stands in its place", due)
        if row.prev_hash != self.head:
            raise _Bad(f"record {due} does not follow the one before: one of the two was written anew", due)
        self.head = str(Digest.of(data))
        self.known_head = None if self.head == self.known_head else self.known_head
        self.tree = self.tree.add(leaf_hash(data))
        self._compare()

    def _compare(self) -> None:
        """With the checkpoint of this size that is kept elsewhere."""
        size = self.tree.size
        expected = self.external.get(size)
        if expected is None:
            return
        if expected != self.tree.root:
            raise _Bad(_anew(self.agreed + 1, size, "kept elsewhere"), self.agreed + 1, size)
        self.proven = self.agreed = size
        self.confirmed += 1

    def _checkpoint(self, line: bytes) -> None:
        said, size = _object(line), self.tree.size
        checkpoint = _opened(said.get("note"), self.key) if said is not None else None
        if checkpoint is None or said is None or set(said) != {"kind", "note"} or checkpoint.size < size:
            raise _Bad(f"the export's own checkpoint after record {size} is not good")
        if checkpoint.size > size:
            raise _Bad(
                f"record {self.due} is missing: the checkpoint of {checkpoint.size} stands in its place", self.due
            )
        if checkpoint.root != self.tree.root:
            raise _Bad(_anew(self.agreed + 1, size, "in the export"), self.agreed + 1, size)
        self.agreed, self.embedded = size, self.embedded + 1

    def _end(self, line: bytes) -> None:
        said, last = _object(line), self.tree.size
        if said is None or set(said) != {"checkpoints", "kind", "records", "root"} or said["kind"] != "end":
            raise _Bad("the closing line is not as it should be")
        if not (_is_count(said["records"]) and _is_count(said["checkpoints"])):
            raise _Bad("the closing line is not as it should be")
        if said["records"] != last - self.start + 1 or last != self.size:
            raise _Bad(f"record {self.due} is missing: the closing line or the header counts others", self.due)
        if said["checkpoints"] != self.embedded or said["root"] != self.tree.root.hex():
            raise _Bad("the closing line is not that of these records")
        self.ended = True

    def finish(self) -> None:
        """There are no more lines."""
        beyond = max(self.external, default=0)
        if not self.start:
            raise _Bad("there is no export")
        if beyond > self.tree.size:
            raise _Bad(
                f"records {self.due} to {beyond} are missing: a checkpoint kept elsewhere has them", self.due, beyond
            )
        if not self.ended:
            raise _Bad(f"record {self.due} is missing, or there is none: the closing line is cut off", self.due)
        if self.tree.size < self.start:
            raise _Bad("there are no records", self.start)
        if self.known_head is not None:
            raise _Bad("none has the known head: the end was cut off or written anew", self.due)

    def report(self, bad: _Bad | None) -> ExportReport:
        """What came of it."""
        return ExportReport(
            ok=bad is None,
            reason=bad.reason if bad else "",
            first_bad=bad.first if bad else None,
            last_bad=bad.last if bad else None,
            start=self.start,
            size=self.tree.size,
            head=self.head,
            root=self.tree.root.hex(),
            proven=self.proven,
            external=self.confirmed,
            embedded=self.embedded,
        )


def _anew(first: int, last: int, where: str) -> str:
    which = f"record {first} was" if first == last else f"one of the records {first} to {last} was"
    return f"{which} written anew: the root is not that of the checkpoint of {last} {where}"


def _prefix(data: bytes) -> bytes:
    return b'{"hash":"%s","kind":"record","leaf":"%s","record":' % (
        Digest.of(data).encode(),
        leaf_hash(data).hex().encode(),
    )


def _object(line: bytes) -> dict[str, Any] | None:
    """A line's object; None unless the line is its one canonical form."""
    try:
        value = json.loads(line.decode("utf-8"))
        return value if isinstance(value, dict) and canonical(value) + b"\n" == line else None
    except (ValueError, TypeError, RecursionError, NotCanonical):
        return None


def _row(data: bytes) -> AuditRow | None:
    """A record's row without its hash; None unless the bytes are its one canonical form."""
    try:
        said = json.loads(data.decode("utf-8"))
        if not isinstance(said, dict) or said.pop("v", None) != VERSION or set(said) != _COLUMNS:
            return None
        row = AuditRow(**said, hash="")
        texts = all(isinstance(value, str) for name, value in said.items() if name != "seq")
        return row if texts and _is_count(row.seq) and row_bytes(row) == data else None
    except (ValueError, TypeError, RecursionError, NotCanonical):
        return None


def _opened(note: object, key: VerifierKey) -> Checkpoint | None:
    try:
        return open_checkpoint(note, key) if isinstance(note, str) else None
    except BadNote:
        return None


def _hash(text: object) -> bytes | None:
    if not isinstance(text, str) or len(text) != 64 or text.strip("0123456789abcdef"):
        return None
    return bytes.fromhex(text)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST

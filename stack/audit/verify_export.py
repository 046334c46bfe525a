"""Checks an export of inference-stack's audit log against checkpoints that were kept elsewhere. Stands alone.

    python verify_export.py EXPORT --checkpoints FILE --key VKEY [--json]

Needs Python 3.11+ and ``cryptography``, and nothing of the program that wrote the log: copy this one file. EXPORT is
what ``stackctl audit export`` wrote (``-``: standard input), FILE holds signed checkpoints (C2SP signed notes, an empty
line between) from a place that whoever could change the log could not change, VKEY is the verifier key, or its file.
Every record is hashed again, the Merkle tree (RFC 6962) is built anew, and its roots are compared. Memory does not
grow with the number of records.

Exit codes: 0 every record holds, and a checkpoint proves it; 2 what was given can't be read; 3 a record or a checkpoint
is not what it should be; 6 no checkpoint was given that says anything about these records.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import hashlib
import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

KIND = "inference-stack audit export"
GENESIS = "sha256:" + hashlib.sha256(b"inference-stack audit chain 1").hexdigest()
COLUMNS = {"seq", "time", "actor", "action", "target", "change", "result", "body_json", "prev_hash", "v"}
LONGEST_LINE, LONGEST_NOTE, LARGEST, MOST_SIGNATURES = 16 << 20, 64 << 10, 2**53 - 1, 100
PREFIX = len('{"hash":"sha256:","kind":"record","leaf":"","record":') + 128
OK, UNUSABLE, BAD, UNPROVEN = 0, 2, 3, 6


class Unusable(Exception):
    """What was given can't be read."""


class BadNote(Exception):
    """A checkpoint that can't be trusted."""


class Bad(Exception):
    """What is wrong, and with which records."""

    def __init__(self, reason: str, first: int | None = None, last: int | None = None) -> None:
        self.reason, self.first, self.last = reason, first, first if last is None else last


# -- keys, notes, checkpoints


class Key:
    """A verifier key: name+hash+base64."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.name, _, rest = text.partition("+")
        hashed, _, encoded = rest.partition("+")
        data = unbase64(encoded)
        if not is_name(self.name) or data is None or len(data) != 33 or data[0] != 1:
            raise Unusable("this is no Ed25519 verifier key: write name+hash+base64 in one line")
        self.hash = hashlib.sha256(self.name.encode() + b"\n" + data).digest()[:4]
        if self.hash.hex() != hashed:
            raise Unusable("the verifier key's hash is not that of its name and key")
        self.public = Ed25519PublicKey.from_public_bytes(data[1:])


def open_checkpoint(note: bytes, key: Key) -> tuple[int, bytes]:
    """Size and root of a checkpoint that ``key`` signed."""
    if len(note) > LONGEST_NOTE:
        raise BadNote("it is too long")
    try:
        text, separator, tail = note.decode("utf-8").rpartition("\n\n")
    except UnicodeDecodeError:
        raise BadNote("it is no UTF-8") from None
    text += "\n"
    lines = tail[:-1].split("\n")
    if not separator or not tail.endswith("\n") or len(lines) > MOST_SIGNATURES:
        raise BadNote("it has no signatures, or too many")
    ours = [data[4:] for name, data in map(signature, lines) if name == key.name and data[:4] == key.hash]
    if len(ours) != 1:
        raise BadNote(f"it has {len(ours)} signatures of {key.name}, and one is needed")
    try:
        key.public.verify(ours[0], text.encode())
    except InvalidSignature:
        raise BadNote(f"the signature of {key.name} is not good") from None
    return size_and_root(text, key)


def size_and_root(text: str, key: Key) -> tuple[int, bytes]:
    """Of a checkpoint's text: origin, size, root, and nothing else."""
    lines = text.split("\n")
    root = unbase64(lines[2]) if len(lines) == 4 else None
    if root is None or len(root) != 32 or lines[3] or not re.fullmatch(r"0|[1-9][0-9]{0,15}", lines[1], re.ASCII):
        raise BadNote("its text is not origin, size and root")
    if lines[0] != key.name or int(lines[1]) > LARGEST:
        raise BadNote("it is of another log")
    return int(lines[1]), root


def signature(line: str) -> tuple[str, bytes]:
    """Name and data of a signature line."""
    name, space, encoded = line.removeprefix("— ").partition(" ")
    data = unbase64(encoded)
    if not line.startswith("— ") or not space or not is_name(name) or data is None or len(data) < 5:
        raise BadNote("a signature line is not as it should be")
    return name, data


def notes_in(lines: Iterable[bytes]) -> Iterator[bytes]:
    """The notes of a file."""
    note, signed = b"", False
    for line in lines:
        if not line.endswith(b"\n") or len(note) + len(line) > LONGEST_NOTE:
            raise BadNote("a line is cut off or too long")
        if line == b"\n" and signed:
            yield note
            note, signed = b"", False
            continue
        signed = signed or (line != b"\n" and note.endswith(b"\n\n"))
        note += line
    if note and not signed:
        raise BadNote("the last note is cut off")
    if note:
        yield note


def kept_elsewhere(lines: Iterable[bytes], key: Key) -> dict[int, bytes]:
    """Root by size. One bad checkpoint spoils the file: somebody tampered with it."""
    roots: dict[int, bytes] = {}
    for note in notes_in(lines):
        size, root = open_checkpoint(note, key)
        if roots.setdefault(size, root) != root:
            raise BadNote(f"there are two of size {size} with different roots: the log was forked")
    return roots


def is_name(name: str) -> bool:
    """As C2SP's signed-note allows: no spaces, no plus."""
    return bool(name) and name.isprintable() and "+" not in name and not any(map(str.isspace, name))


def unbase64(text: str) -> bytes | None:
    """Strictly: one text for one value."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return data if base64.b64encode(data).decode() == text else None


# -- the tree


class Tree:
    """RFC 6962's tree as its complete subtrees, the largest first."""

    def __init__(self, size: int, nodes: list[bytes]) -> None:
        self.size, self.nodes = size, nodes

    def add(self, leaf: bytes) -> None:
        """One more."""
        at, self.size = self.size, self.size + 1
        while at & 1:
            leaf, at = hashlib.sha256(b"\x01" + self.nodes.pop() + leaf).digest(), at >> 1
        self.nodes.append(leaf)

    @property
    def root(self) -> bytes:
        """The Merkle tree hash."""
        if not self.nodes:
            return hashlib.sha256().digest()
        found = self.nodes[-1]
        for left in self.nodes[-2::-1]:
            found = hashlib.sha256(b"\x01" + left + found).digest()
        return found


# -- the export


class Check:
    """What is known after so many lines."""

    def __init__(self, key: Key, external: dict[int, bytes]) -> None:
        self.key, self.external = key, external
        self.tree, self.head, self.start, self.size = Tree(0, []), GENESIS, 0, 0
        self.proven = self.confirmed = self.agreed = self.embedded = 0
        self.ended = False

    @property
    def due(self) -> int:
        """The number of the next record."""
        return self.tree.size + 1

    def take(self, line: bytes) -> None:
        """The next line."""
        if self.ended:
            raise Bad("something follows the closing line")
        if len(line) > LONGEST_LINE or not line.endswith(b"\n"):
            raise Bad(f"record {self.due} is cut off or too long", self.due)
        if not self.start:
            self.header(line)
        elif line.startswith(b'{"kind":"checkpoint",'):
            self.checkpoint(line)
        elif line.startswith(b'{"checkpoints":'):
            self.end(line)
        else:
            self.record(line)

    def header(self, line: bytes) -> None:
        said = canonical_object(line)
        if not has(said, KIND, "frontier", "head", "key", "kind", "size", "start", "v"):
            raise Bad("the header is not that of an export")
        if said["key"] != self.key.text:
            raise Bad("the export is of a log with another key")
        start, size, nodes, head = said["start"], said["size"], said["frontier"], said["head"]
        if not is_count(said["v"]) or said["v"] != 1:
            raise Bad("the header is of another layout")
        sound = is_count(start) and is_count(size) and 1 <= start <= size + 1
        sound = sound and isinstance(nodes, list) and isinstance(head, str)
        if not sound or len(nodes) != (start - 1).bit_count() or (start == 1 and head != GENESIS):
            raise Bad("the header is not that of an export")
        if not all(isinstance(node, str) and re.fullmatch(r"[0-9a-f]{64}", node) for node in nodes):
            raise Bad("the header is not that of an export")
        self.tree = Tree(start - 1, [bytes.fromhex(node) for node in nodes])
        self.start, self.size, self.head = start, size, head
        self.compare()

    def record(self, line: bytes) -> None:
        due, data = self.due, line[PREFIX:-2]
        hashed, leaf = "sha256:" + hashlib.sha256(data).hexdigest(), hashlib.sha256(b"\x00" + data).digest()
        prefix = f'{{"hash":"{hashed}","kind":"record","leaf":"{leaf.hex()}","record":'
        said = row(data) if line[-2:] == b"}\n" and line[:PREFIX] == prefix.encode() else None
        if said is None:
            raise Bad(f"record {due} was altered: its hash is not that of its content", due)
        if said["seq"] > due:
            raise Bad(f"record {due} is missing: {said['seq']} stands in its place", due)
        if said["seq"] < due:
            raise Bad(f"record {due} is out of order: {said['seq']} stands in its place", due)
        if said["prev_hash"] != self.head:
            raise Bad(f"record {due} does not follow the one before: one of the two was written anew", due)
        self.head = hashed
        self.tree.add(leaf)
        self.compare()

    def compare(self) -> None:
        size = self.tree.size
        expected = self.external.get(size)
        if expected is None:
            return
        if expected != self.tree.root:
            raise Bad(anew(self.agreed + 1, size, "kept elsewhere"), self.agreed + 1, size)
        self.proven = self.agreed = size
        self.confirmed += 1

    def checkpoint(self, line: bytes) -> None:
        said, size = canonical_object(line), self.tree.size
        wrong = Bad(f"the export's own checkpoint after record {size} is not good")
        if not has(said, "checkpoint", "kind", "note") or not isinstance(said["note"], str):
            raise wrong
        try:
            found, root = open_checkpoint(said["note"].encode(), self.key)
        except BadNote:
            raise wrong from None
        if found < size:
            raise wrong
        if found > size:
            raise Bad(f"record {self.due} is missing: the checkpoint of {found} stands in its place", self.due)
        if root != self.tree.root:
            raise Bad(anew(self.agreed + 1, size, "in the export"), self.agreed + 1, size)
        self.agreed, self.embedded = size, self.embedded + 1

    def end(self, line: bytes) -> None:
        said, last = canonical_object(line), self.tree.size
        sound = has(said, "end", "checkpoints", "kind", "records", "root")
        if not sound or not is_count(said["records"]) or not is_count(said["checkpoints"]):
            raise Bad("the closing line is not as it should be")
        if said["records"] != last - self.start + 1 or last != self.size:
            raise Bad(f"record {self.due} is missing: the closing line or the header counts others", self.due)
        if said["checkpoints"] != self.embedded or said["root"] != self.tree.root.hex():
            raise Bad("the closing line is not that of these records")
        self.ended = True

    def finish(self) -> None:
        """There are no more lines."""
        beyond = max(self.external, default=0)
        if not self.start:
            raise Bad("there is no export")
        if beyond > self.tree.size:
            reason = f"records {self.due} to {beyond} are missing: a checkpoint kept elsewhere has them"
            raise Bad(reason, self.due, beyond)
        if not self.ended:
            raise Bad(f"record {self.due} is missing, or there is none: the closing line is cut off", self.due)
        if self.tree.size < self.start:
            raise Bad("there are no records", self.start)

    def report(self, bad: Bad | None) -> dict[str, Any]:
        """What came of it; the fields are those of ``stackctl audit verify --json``."""
        return {
            "ok": bad is None,
            "reason": bad.reason if bad else "",
            "first_bad": bad.first if bad else None,
            "last_bad": bad.last if bad else None,
            "start": self.start,
            "size": self.tree.size,
            "head": self.head,
            "root": self.tree.root.hex(),
            "proven": self.proven,
            "external": self.confirmed,
            "embedded": self.embedded,
        }


def check_export(lines: Iterable[bytes], key: Key, external: dict[int, bytes]) -> dict[str, Any]:
    """The report on the lines of an export."""
    check = Check(key, external)
    try:
        for line in lines:
            check.take(line)
        check.finish()
    except Bad as bad:
        return check.report(bad)
    return check.report(None)


def anew(first: int, last: int, where: str) -> str:
    """In words."""
    which = f"record {first} was" if first == last else f"one of the records {first} to {last} was"
    return f"{which} written anew: the root is not that of the checkpoint of {last} {where}"


def canonical(value: Any) -> bytes:
    """RFC 8785 for what stands in an export: text, whole numbers, lists, and objects with ASCII names."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode("utf-8")


def canonical_object(line: bytes) -> dict[str, Any]:
    """A line's object; empty unless the line is its one canonical form."""
    try:
        value = json.loads(line.decode("utf-8"))
        return value if isinstance(value, dict) and canonical(value) + b"\n" == line else {}
    except (ValueError, TypeError, RecursionError):
        return {}


def row(data: bytes) -> dict[str, Any] | None:
    """A record; None unless the bytes are its one canonical form."""
    try:
        said = json.loads(data.decode("utf-8"))
        if not isinstance(said, dict) or said.keys() != COLUMNS or canonical(said) != data:
            return None
    except (ValueError, TypeError, RecursionError):
        return None
    numbers = is_count(said["seq"]) and is_count(said["v"]) and said["v"] == 1
    texts = all(isinstance(value, str) for name, value in said.items() if name not in ("seq", "v"))
    return said if numbers and texts else None


def has(said: dict[str, Any], kind: str, *names: str) -> bool:
    """Whether it is of this kind and has exactly these members."""
    return said.keys() == set(names) and said["kind"] == kind


def is_count(value: object) -> bool:
    """A whole number that JSON keeps."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST


# -- the command


def lines_of(file: BinaryIO) -> Iterator[bytes]:
    """Lines; one that is too long comes in pieces, which nothing accepts."""
    while line := file.readline(LONGEST_LINE + 1):
        yield line


def main(argv: list[str] | None = None) -> int:
    """See the top of this file."""
    parser = argparse.ArgumentParser(description="Checks an export of the audit log against checkpoints.")
    parser.add_argument("export", metavar="EXPORT", help="what `stackctl audit export` wrote; -: standard input")
    parser.add_argument("--checkpoints", metavar="FILE", help="signed checkpoints that were kept elsewhere")
    parser.add_argument("--key", required=True, metavar="VKEY", help="the verifier key, or a file with it")
    parser.add_argument("--json", action="store_true", help="answer in JSON")
    given = parser.parse_args(argv)
    try:
        report = run(given)
    except (Unusable, OSError) as error:
        return told(given.json, {"ok": False, "reason": str(error)}, f"unusable: {error}", UNUSABLE)
    except BadNote as error:
        return told(given.json, {"ok": False, "reason": str(error)}, f"NOT OK: a checkpoint: {error}", BAD)
    return told(given.json, report, *verdict(report))


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Open what was given, and check it."""
    text = given.key if "+" in given.key else Path(given.key).read_text(encoding="utf-8")
    key, external = Key(text.strip()), {}
    if given.checkpoints:
        with open(given.checkpoints, "rb") as file:
            external = kept_elsewhere(lines_of(file), key)
    if given.export == "-":
        return check_export(lines_of(sys.stdin.buffer), key, external)
    with open(given.export, "rb") as file:
        return check_export(lines_of(file), key, external)


def verdict(report: dict[str, Any]) -> tuple[str, int]:
    """In words, and as an exit code."""
    if not report["ok"]:
        return f"NOT OK: {report['reason']}", BAD
    start, size, proven = report["start"], report["size"], report["proven"]
    if not proven:
        said = "nothing that was kept elsewhere covers them, so nothing is proven: give --checkpoints"
        return f"records {start} to {size} agree with each other, and {said}", UNPROVEN
    said = f"ok: records {start} to {proven} are what they were when a checkpoint kept elsewhere was made"
    rest = (
        f"\nrecords {proven + 1} to {size} only agree with themselves: no checkpoint covers them"
        if proven < size
        else ""
    )
    return f"{said} ({report['external']} compared){rest}", OK


def told(as_json: bool, body: dict[str, Any], human: str, code: int) -> int:
    """Print, and the code to leave with."""
    print(json.dumps({**body, "exit_code": code}) if as_json else human)
    return code


if __name__ == "__main__":
    sys.exit(main())

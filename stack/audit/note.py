"""Signed notes and checkpoints as C2SP writes them down (signed-note, tlog-checkpoint), Ed25519 only.

A checkpoint is three lines (origin, tree size, root in base64), an empty line, and a signature line
``— <name> <base64(key hash, signature)>``. Reading is strict: one way to write a thing, or it is refused. Keys on disk
are ``keys``' business, what a root means is ``merkle``'s.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from stack.audit.merkle import HASH_SIZE, LARGEST
from stack.core.errors import InvalidInput, Refused

LONGEST_NOTE = 64 << 10
MOST_SIGNATURES = 100
_ED25519 = b"\x01"
_DASH = "— "
_SIZE = re.compile(r"(0|[1-9][0-9]{0,15})\Z", re.ASCII)
_KEY_HASH = re.compile(r"[0-9a-f]{8}\Z", re.ASCII)


class BadNote(Refused):
    """This is no checkpoint that can be trusted: {detail}"""

    hint = "Compare the verifier key with the one that `stackctl audit head` shows, and the file with its source."


class BadVerifierKey(InvalidInput):
    """This is no verifier key: {detail}"""

    hint = "Write it as `stackctl audit head` shows it: name+hash+base64, in one line."


@dataclass(frozen=True, kw_only=True)
class VerifierKey:
    """A name and a public key. ``VerifierKey.parse(str(key)) == key``."""

    name: str
    public: bytes

    @property
    def hash(self) -> bytes:
        """What signature lines name the key by."""
        return hashlib.sha256(self.name.encode() + b"\n" + _ED25519 + self.public).digest()[:4]

    def __str__(self) -> str:
        return f"{self.name}+{self.hash.hex()}+{_base64(_ED25519 + self.public)}"

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        """From one line."""
        name, _, rest = text.partition("+")
        hashed, _, encoded = rest.partition("+")
        data = _decoded(encoded)
        if not _is_name(name) or not _KEY_HASH.match(hashed) or data is None:
            raise BadVerifierKey(f"{text[:90]!r} is not name+hash+base64")
        if len(data) != 33 or data[:1] != _ED25519:
            raise BadVerifierKey("it is not an Ed25519 key")
        key = cls(name=name, public=data[1:])
        if key.hash.hex() != hashed:
            raise BadVerifierKey("its hash is not that of its name and key")
        return key


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What is signed: the log's name, how many records it has, and the tree's root. ``parse(c.text) == c``."""

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        """As it is signed."""
        return f"{self.origin}\n{self.size}\n{_base64(self.root)}\n"

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """From a note's text. Further lines (extensions) are not known here, and so refused."""
        lines = text.split("\n")
        if len(lines) != 4 or lines[3] or not _is_name(lines[0]):
            raise BadNote("its text is not origin, size and root")
        root = _decoded(lines[2])
        if not _SIZE.match(lines[1]) or int(lines[1]) > LARGEST:
            raise BadNote("its size is no number")
        if root is None or len(root) != HASH_SIZE:
            raise BadNote("its root is no SHA-256 hash in base64")
        return cls(origin=lines[0], size=int(lines[1]), root=root)


class Signer:
    """Signs under one name. The seed stays inside."""

    def __init__(self, name: str, seed: bytes) -> None:
        self._private = Ed25519PrivateKey.from_private_bytes(seed)
        self.key = VerifierKey(name=name, public=self._private.public_key().public_bytes_raw())

    def sign(self, text: str) -> str:
        """The signed note of a text that ends with a line's end."""
        _check_text(text)
        return f"{text}\n{_DASH}{self.key.name} {_base64(self.key.hash + self._private.sign(text.encode()))}\n"


def open_note(note: bytes | str, key: VerifierKey) -> str:
    """The text, if ``key`` signed it. Signatures of keys that are not asked about are read but not believed."""
    text, signatures = _parsed(note)
    ours = [signature for name, hashed, signature in signatures if (name, hashed) == (key.name, key.hash)]
    if len(ours) != 1:
        raise BadNote(f"it has {len(ours)} signatures of {key.name}+{key.hash.hex()}, and one is needed")
    try:
        Ed25519PublicKey.from_public_bytes(key.public).verify(ours[0], text.encode())
    except InvalidSignature as error:
        raise BadNote(f"the signature of {key.name} is not good") from error
    return text


def open_checkpoint(note: bytes | str, key: VerifierKey) -> Checkpoint:
    """The checkpoint, if ``key`` signed it and it is of the log of that name."""
    checkpoint = Checkpoint.parse(open_note(note, key))
    if checkpoint.origin != key.name:
        raise BadNote(f"it is of another log, {checkpoint.origin[:90]!r}")
    return checkpoint


def notes_in(lines: Iterable[bytes]) -> Iterator[bytes]:
    """The notes of a file that holds one after the other, an empty line between. The last must be whole."""
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


def _parsed(note: bytes | str) -> tuple[str, list[tuple[str, bytes, bytes]]]:
    """Text and signatures (name, key hash, signature), or BadNote."""
    data = note.encode("utf-8", "surrogatepass") if isinstance(note, str) else note
    if len(data) > LONGEST_NOTE:
        raise BadNote("it is too long")
    try:
        whole = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadNote("it is no UTF-8") from error
    text, separator, tail = whole.rpartition("\n\n")
    if not separator or not tail.endswith("\n"):
        raise BadNote("it has no signature after an empty line")
    text += "\n"
    _check_text(text)
    lines = tail[:-1].split("\n")
    if len(lines) > MOST_SIGNATURES:
        raise BadNote("it has too many signatures")
    return text, [_signature(line) for line in lines]


def _signature(line: str) -> tuple[str, bytes, bytes]:
    name, space, encoded = line.removeprefix(_DASH).partition(" ")
    data = _decoded(encoded)
    if not line.startswith(_DASH) or not space or not _is_name(name) or data is None or len(data) < 5:
        raise BadNote("a signature line is not as it should be")
    return name, data[:4], data[4:]


def _check_text(text: str) -> None:
    if not text.endswith("\n") or any(letter < " " and letter != "\n" for letter in text):
        raise BadNote("its text has control characters or no last line's end")


def _is_name(name: str) -> bool:
    return bool(name) and name.isprintable() and "+" not in name and not any(letter.isspace() for letter in name)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _decoded(text: str) -> bytes | None:
    """Strictly: padding there, unused bits zero, nothing else in it."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return data if _base64(data) == text else None

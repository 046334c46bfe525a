"""Signed notes: the published example, what is refused, and that nothing mutated is accepted.

The key and the note of "PeterNeumann" are those of golang.org/x/mod/sumdb/note, "example.com/foo" is that of the C2SP
signed-note specification.
"""

from __future__ import annotations

import base64
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stack.audit.keys import NoCheckpointKey, load_signer, publish, signer_of
from stack.audit.note import (
    BadNote,
    BadVerifierKey,
    Checkpoint,
    Signer,
    VerifierKey,
    notes_in,
    open_checkpoint,
    open_note,
)

PETER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
PETERS_KEY = "AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
PETERS_TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
PETERS_NOTE = (
    PETERS_TEXT + "\n— PeterNeumann "
    "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
EXAMPLE = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
EXAMPLES_NOTE = (
    "This is an example message.\n\n— example.com/foo "
    "Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
)
SIGNER = signer_of(bytes(range(32)))
POINT = Checkpoint(origin=SIGNER.key.name, size=7, root=bytes(range(32)))
NOTE = SIGNER.sign(POINT.text)


@pytest.mark.parametrize(("key", "note"), [(PETER, PETERS_NOTE), (EXAMPLE, EXAMPLES_NOTE)])
def test_published_notes(key: str, note: str) -> None:
    read = VerifierKey.parse(key)
    assert str(read) == key
    assert open_note(note.encode(), read) == note[: note.index("\n\n") + 1]


def test_the_published_signature_is_made_again() -> None:
    seed = base64.b64decode(PETERS_KEY)[1:]
    assert Signer("PeterNeumann", seed).sign(PETERS_TEXT) == PETERS_NOTE


def test_golden_checkpoint() -> None:
    """These bytes are what others keep; they never change."""
    assert str(SIGNER.key) == (
        "inference-stack/56475aa75463474c+" + SIGNER.key.hash.hex() + "+AQOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4"
    )
    assert POINT.text == "inference-stack/56475aa75463474c\n7\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n"
    assert open_checkpoint(NOTE, SIGNER.key) == POINT


@pytest.mark.parametrize(
    "key",
    [
        "",
        "PeterNeumann",
        PETER[:-1],
        PETER + "=",
        PETER + "\n",
        PETER.replace("c74f20a3", "C74F20A3"),
        PETER.replace("c74f20a3", "c74f20a4"),
        PETER.replace("PeterNeumann", "Peter Neumann"),
        PETER.replace("PeterNeumann", ""),
        "PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY==",
        "PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
    ],
)
def test_what_is_no_verifier_key(key: str) -> None:
    with pytest.raises(BadVerifierKey):
        VerifierKey.parse(key)


@pytest.mark.parametrize(
    "text",
    [
        "", "\n", "a\n1\n", "a\n1\nAAAA\n", POINT.text[:-1], POINT.text + "more\n", POINT.text.replace("7", "07"),
        POINT.text.replace("\n7\n", "\n-7\n"), POINT.text.replace("\n7\n", "\n٧\n"),
        POINT.text.replace("\n7\n", "\n\n"),
        POINT.text.replace("\n7\n", "\n9999999999999999\n"), POINT.text.replace("Hh8=", "Hh9="), " " + POINT.text,
    ],
)  # fmt: skip
def test_what_is_no_checkpoint(text: str) -> None:
    with pytest.raises(BadNote):
        Checkpoint.parse(text)


def test_what_is_no_note() -> None:
    line = NOTE.split("\n\n")[1]
    for bad in (
        "", "\n\n", POINT.text, POINT.text + "\n", POINT.text + line, NOTE[:-1], NOTE + "\n", NOTE + "x\n",
        NOTE.replace("—", "-"), NOTE.replace("\n\n", "\n\n\n"), NOTE + line, NOTE.replace("7", "7\x00"), NOTE * 2,
        NOTE.replace("\n", "\r\n"), NOTE[:-2] + "\n", NOTE.replace("\n\n— ", "\n\n—"), "x" * 70_000 + NOTE,
        POINT.text + "\n" + line * 101,
    ):  # fmt: skip
        with pytest.raises(BadNote):
            open_checkpoint(bad, SIGNER.key)
    with pytest.raises(BadNote):
        open_checkpoint(b"\xff" + NOTE.encode(), SIGNER.key)


def test_another_log_or_key_is_refused() -> None:
    other = Checkpoint(origin="another.example", size=7, root=POINT.root)
    with pytest.raises(BadNote, match="another log"):
        open_checkpoint(SIGNER.sign(other.text), SIGNER.key)
    with pytest.raises(BadNote):
        open_checkpoint(NOTE, signer_of(bytes(32)).key)


def test_a_witness_may_sign_as_well() -> None:
    witness = Signer("witness.example", bytes(31) + b"\x01")
    both = NOTE + witness.sign(POINT.text).split("\n\n")[1]
    assert open_checkpoint(both, SIGNER.key) == POINT == Checkpoint.parse(open_note(both, witness.key))


def split_notes(data: bytes) -> tuple[bytes, ...]:
    """All notes of a file."""
    return tuple(notes_in(data.splitlines(keepends=True)))


def test_files_of_notes() -> None:
    other = SIGNER.sign(Checkpoint(origin=POINT.origin, size=9, root=POINT.root).text)
    assert split_notes(b"") == ()
    for bad in (b"\n", b"\n\n\n", b"a\n", b"x" * 70_000 + b"\n"):
        with pytest.raises(BadNote):
            split_notes(bad)
    assert split_notes(NOTE.encode()) == (NOTE.encode(),)
    for form in (f"{NOTE}\n{other}", f"{NOTE}\n{other}\n"):
        assert split_notes(form.encode()) == (NOTE.encode(), other.encode())
    for cut in range(1, len(other)):
        with pytest.raises(BadNote):
            for note in split_notes(f"{NOTE}\n{other}".encode()[: len(NOTE.encode()) + 1 + cut]):
                open_checkpoint(note, SIGNER.key)


@given(st.text(max_size=200) | st.binary(max_size=200))
def test_nothing_else_is_raised(note: str | bytes) -> None:
    with pytest.raises(BadNote):
        open_checkpoint(note, SIGNER.key)


def mutated(chance: random.Random, note: bytes) -> bytes:
    """The note with something different in it."""
    changed, at = bytearray(note), chance.randrange(len(note))
    match chance.randrange(6):
        case 0:
            changed[at] ^= 1 << chance.randrange(8)
        case 1:
            del changed[at : at + chance.randrange(1, 9)]
        case 2:
            changed.insert(at, chance.randrange(256))
        case 3:
            other = chance.randrange(len(note))
            changed[at], changed[other] = changed[other], changed[at]
        case 4:
            changed[at] = chance.choice(b"ABCabc019+/=\n -")
        case _:
            changed = changed[:at]
    return bytes(changed)


def test_no_mutated_note_is_accepted() -> None:
    chance, tried, accepted, data = random.Random(6962), 0, 0, NOTE.encode()
    while tried < 10_000:
        wrong = mutated(chance, data)
        if wrong == data:
            continue
        tried += 1
        try:
            open_checkpoint(wrong, SIGNER.key)
            accepted += 1
        except BadNote:
            pass
    said = f"mutated checkpoints: {tried} tried, {accepted} accepted"
    print(said)
    assert tried == 10_000 and accepted == 0, said


# -- keys on disk


def test_the_key_file(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.key"
    for content, mode in (("ab" * 32, 0o644), ("xy" * 32, 0o600), ("ab" * 31, 0o600), ("ab" * 33, 0o600), ("", 0o600)):
        path.write_text(content)
        path.chmod(mode)
        with pytest.raises(NoCheckpointKey):
            load_signer(path)
    path.write_text("ab" * 32 + "\n")
    assert load_signer(path).key == signer_of(b"\xab" * 32).key
    (tmp_path / "link").symlink_to(path)
    for no in (tmp_path / "link", tmp_path / "none", tmp_path):
        with pytest.raises(NoCheckpointKey):
            load_signer(no)


def test_the_public_key_is_written_once(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pub"
    publish(path, SIGNER.key)
    before = path.stat().st_ino
    publish(path, SIGNER.key)
    assert VerifierKey.parse(path.read_text().strip()) == SIGNER.key and path.stat().st_ino == before
    publish(path, VerifierKey.parse(PETER))
    assert path.read_text() == PETER + "\n" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(NoCheckpointKey):
        publish(tmp_path / "no" / "where", SIGNER.key)

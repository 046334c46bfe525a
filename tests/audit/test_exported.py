"""Whoever alters the log is found out, and the first bad record is named; by the product and by the verifier alike."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stack.app.records import RecordsDesk, UnknownRecord
from stack.audit import verify_export
from stack.audit.note import Checkpoint
from tests.audit.logs import KEY, SIGNER, Log, alone, both, forged, ours, split

SIZE, AT = 23, (5, 12, 20)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Log:
    """A log that nobody touched."""
    return Log(tmp_path_factory.mktemp("log") / "state.db", SIZE, AT)


def place(log: Log, seq: int) -> int:
    """The index of a record's line."""
    return next(n for n, line in enumerate(log.lines) if f'"seq":{seq},'.encode() in line)


def test_untouched(log: Log) -> None:
    report = both(log.lines, log.kept)
    assert report["ok"] and report["size"] == SIZE and report["first_bad"] is None
    assert (report["proven"], report["external"], report["embedded"]) == (20, 3, 3)
    assert report["head"] == log.rows[-1].hash


def test_without_checkpoints_nothing_is_proven(log: Log) -> None:
    report = both(log.lines, b"")
    assert report["ok"] and report["proven"] == report["external"] == 0


def test_every_flipped_byte_names_its_record(log: Log) -> None:
    tried, found = 0, 0
    for seq in (1, 2, 5, 13, SIZE):
        at = place(log, seq)
        line = log.lines[at]
        for index in range(len(line)):
            wrong = bytearray(line)
            wrong[index] ^= 1 << (index % 8)
            lines = split(b"".join([*log.lines[:at], bytes(wrong), *log.lines[at + 1 :]]))
            report = both(lines, log.kept)
            tried += 1
            found += report["ok"] is False and report["first_bad"] == seq
    told = f"flipped bytes: {tried} tried, {found} named their record"
    print(told)
    assert tried > 2000 and found == tried, told


def test_every_column_edited_in_the_database_names_its_record(tmp_path: Path) -> None:
    """Somebody with a SQLite shell, and no idea of hashes; also of what has no canonical form any more."""
    log, tried, found = Log(tmp_path / "state.db", 9, (4,)), 0, 0
    raw = sqlite3.connect(tmp_path / "state.db")
    for (name,) in raw.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        raw.execute(f"DROP TRIGGER {name}")
    texts = [name for name in log.rows[0].to_json() if name != "seq"]
    for seq in (1, 4, 6, 9):
        for column in texts:
            (before,) = raw.execute(f"SELECT {column} FROM audit WHERE seq = ?", (seq,)).fetchone()
            for wrong in (before + "x", "", before[::-1] + '"', 7, 2.5, 2**60):
                raw.execute(f"UPDATE audit SET {column} = ? WHERE seq = ?", (wrong, seq))
                raw.commit()
                report = both(split(b"".join(RecordsDesk(log.store, KEY, ()).export(1))), log.kept)
                tried += 1
                found += not report["ok"] and report["first_bad"] == seq
            raw.execute(f"UPDATE audit SET {column} = ? WHERE seq = ?", (before, seq))
            raw.commit()
    assert both(list(RecordsDesk(log.store, KEY, ()).export(1)), log.kept)["ok"]
    told = f"columns edited in the database: {tried} tried, {found} named their record"
    print(told)
    assert tried > 200 and found == tried, told


def test_every_removed_record_is_named(log: Log) -> None:
    found = 0
    for seq in range(1, SIZE + 1):
        at = place(log, seq)
        report = both([*log.lines[:at], *log.lines[at + 1 :]], log.kept)
        found += not report["ok"] and report["first_bad"] == seq
    print(f"removed records: {SIZE} tried, {found} named")
    assert found == SIZE


def test_every_reordering_is_named(log: Log) -> None:
    tried, found = 0, 0
    for first in range(1, SIZE + 1):
        for second in range(first + 1, SIZE + 1):
            lines = list(log.lines)
            a, b = place(log, first), place(log, second)
            lines[a], lines[b] = lines[b], lines[a]
            report = both(lines, log.kept)
            tried += 1
            found += not report["ok"] and report["first_bad"] == first
    told = f"reordered records: {tried} tried, {found} named"
    print(told)
    assert tried == SIZE * (SIZE - 1) // 2 and found == tried, told


def test_every_cut_tail_is_named(log: Log) -> None:
    """Cut off as it is, and closed anew as if it had always been so: only what is kept elsewhere tells."""
    found = forgeries = 0
    for keep in range(SIZE):
        at = place(log, keep + 1)
        report = both(log.lines[:at], log.kept)
        found += not report["ok"] and report["first_bad"] == keep + 1
    for keep in range(1, 20):
        closed = forged(log.rows[:keep], log.notes)
        report = both(closed, log.kept)
        forgeries += not report["ok"] and report["first_bad"] == keep + 1 and report["last_bad"] == 20
        assert both(closed, b"")["ok"], "it agrees with itself: that is why checkpoints are kept elsewhere"
    print(f"cut tails: {SIZE} tried, {found} named; closed anew: 19 tried, {forgeries} named")
    assert found == SIZE and forgeries == 19


def test_every_rewrite_is_found(log: Log) -> None:
    """One record edited, everything after it chained and hashed anew."""
    found = 0
    for seq in range(1, 21):
        rows = list(log.rows)
        rows[seq - 1] = replace(rows[seq - 1], actor="nobody")
        lines = forged(rows, log.notes)
        assert both(lines, b"")["ok"]
        report = both(lines, log.kept)
        end = next(at for at in AT if at >= seq)
        begin = max((at for at in AT if at < seq), default=0) + 1
        found += not report["ok"] and (report["first_bad"], report["last_bad"]) == (begin, end)
    removed = 0
    for seq in range(1, 21):
        report = both(forged([*log.rows[: seq - 1], *log.rows[seq:]], log.notes), log.kept)
        removed += not report["ok"] and report["first_bad"] is not None and report["first_bad"] <= seq
    print(f"whole rewrites: 20 edited, {found} found with their range; 20 shortened, {removed} found")
    assert found == removed == 20


def test_what_no_checkpoint_covers_is_said(log: Log) -> None:
    """Records after the last checkpoint can be rewritten; the report says that they are not proven."""
    rows = [*log.rows[:21], replace(log.rows[21], actor="nobody"), log.rows[22]]
    report = both(forged(rows, log.notes), log.kept)
    assert report["ok"] and report["proven"] == 20 < report["size"]


def test_foreign_and_forked_checkpoints_are_refused(log: Log) -> None:
    fork = SIGNER.sign(Checkpoint(origin=KEY.name, size=5, root=bytes(32)).text)
    assert both(log.lines, f"{fork}\n{log.notes[12]}".encode())["first_bad"] == 1
    for spoiled in (f"{log.notes[5]}\n{fork}", log.kept.decode()[:-9], log.kept.decode().replace("\n12\n", "\n13\n")):
        assert both(log.lines, spoiled.encode()) == {"bad note": True}


def test_an_embedded_checkpoint_that_is_not_good(log: Log) -> None:
    at = next(n for n, line in enumerate(log.lines) if line.startswith(b'{"kind":"checkpoint"'))
    for wrong in (
        log.lines[at].replace(b"\\n5\\n", b"\\n6\\n"),
        log.lines[at] * 2,
        log.lines[at].replace(b"c", b"C", 2),
    ):
        lines = split(b"".join([*log.lines[:at], wrong, *log.lines[at + 1 :]]))
        assert not both(lines, b"")["ok"]
    assert not both([*log.lines[:at], *log.lines[at + 1 :]], b"")["ok"]


def test_a_part_of_the_log(log: Log) -> None:
    desk = RecordsDesk(log.store, KEY, ())
    for start in range(1, SIZE + 2):
        lines = list(desk.export(start))
        report = both(lines, log.kept)
        assert report["ok"] is (start <= SIZE), start
        assert report["proven"] == (20 if start <= 21 else 0)
        if 1 < start <= 20:
            wrong = lines[0].replace(b'"frontier":["', b'"frontier":["0')[:-1]
            assert not both([wrong + b"\n", *lines[1:]], log.kept)["ok"]
            shifted = json.loads(lines[0])
            shifted["frontier"][0] = shifted["frontier"][0][::-1]
            header = json.dumps(shifted, separators=(",", ":"), sort_keys=True).encode() + b"\n"
            assert not both([header, *lines[1:]], log.kept)["ok"]
    for start in (0, -1, SIZE + 2):
        with pytest.raises(UnknownRecord):
            desk.export(start)


def test_a_known_head(log: Log) -> None:
    from stack.audit.exported import check_export

    assert check_export(log.lines, KEY, {}, known_head=log.rows[3].hash).ok
    assert not check_export(log.lines, KEY, {}, known_head="sha256:" + "0" * 64).ok


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_the_two_verifiers_agree_on_anything(log: Log, data: st.DataObject) -> None:
    """Lines doubled, dropped, moved, changed in any byte; the same answer from both, never a crash."""
    chance = random.Random(data.draw(st.integers()))
    lines = list(log.lines)
    for _ in range(chance.randrange(4)):
        at, other = chance.randrange(len(lines)), chance.randrange(len(lines))
        match chance.randrange(6):
            case 0:
                lines[at], lines[other] = lines[other], lines[at]
            case 1:
                del lines[at]
            case 2:
                lines.insert(at, lines[other])
            case 3:
                wrong = bytearray(lines[at])
                wrong[chance.randrange(len(wrong))] = chance.randrange(256)
                lines[at] = bytes(wrong)
            case 4:
                lines[at] = data.draw(st.binary(max_size=40)) + b"\n"
            case _:
                value = data.draw(
                    st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(), st.lists)
                )
                name = data.draw(st.sampled_from(["kind", "v", "size", "start", "records", "checkpoints", "root", "x"]))
                lines[at] = json.dumps({**json.loads(log.lines[at]), name: value}, sort_keys=True).encode() + b"\n"
    lines = split(b"".join(lines))
    report = both(lines, log.kept if chance.random() < 0.7 else b"")
    if report["ok"] and report["size"] == SIZE:
        assert lines == log.lines


@given(st.lists(st.binary(max_size=60)))
def test_nothing_crashes_on_rubbish(lines: list[bytes]) -> None:
    assert both(lines, b"")["ok"] is False


# -- the verifier as an auditor has it


@pytest.fixture
def files(log: Log, tmp_path: Path) -> Path:
    """Verifier, export, checkpoints and key in a directory without anything else."""
    shutil.copy(verify_export.__file__, tmp_path / "verify_export.py")
    (tmp_path / "audit.jsonl").write_bytes(b"".join(log.lines))
    (tmp_path / "checkpoints.log").write_bytes(log.kept)
    (tmp_path / "checkpoint.pub").write_text(f"{KEY}\n")
    return tmp_path


def verified(files: Path, *words: str, standard_input: bytes | None = None) -> tuple[int, str]:
    """Run it where ``stack`` can't be imported."""
    command = [sys.executable, "-I", "verify_export.py", *words]
    done = subprocess.run(command, cwd=files, input=standard_input, capture_output=True, timeout=60)
    assert not done.stderr, done.stderr.decode()
    return done.returncode, done.stdout.decode()


def test_the_command_alone(files: Path, log: Log) -> None:
    proof = ("--checkpoints", "checkpoints.log", "--key", "checkpoint.pub")
    code, told = verified(files, "audit.jsonl", *proof)
    assert code == 0 and told.startswith("ok: records 1 to 20") and "records 21 to 23" in told
    code, told = verified(files, "-", *proof, "--json", standard_input=b"".join(log.lines))
    assert code == 0 and json.loads(told) == {**ours(log.lines, log.kept), "exit_code": 0}
    code, told = verified(files, "audit.jsonl", "--key", str(KEY))
    assert code == 6 and "nothing is proven" in told
    at = place(log, 7)
    (files / "audit.jsonl").write_bytes(b"".join([*log.lines[:at], *log.lines[at + 1 :]]))
    code, told = verified(files, "audit.jsonl", *proof)
    assert code == 3 and told.startswith("NOT OK: record 7 is missing")
    (files / "checkpoints.log").write_bytes(log.kept[:-1])
    assert verified(files, "audit.jsonl", *proof)[0] == 3


def test_the_command_with_bad_input(files: Path) -> None:
    for words in (
        ("nowhere", "--key", str(KEY)),
        ("audit.jsonl", "--key", "nowhere"),
        ("audit.jsonl", "--key", "audit.jsonl"),
        ("audit.jsonl", "--key", str(KEY)[:-1]),
        ("audit.jsonl", "--key", "checkpoint.pub", "--checkpoints", "nowhere"),
    ):
        code, told = verified(files, *words)
        assert code == 2 and told.startswith("unusable"), words


def test_it_needs_nothing_of_ours() -> None:
    source = Path(verify_export.__file__).read_text()
    assert "import stack" not in source and "from stack" not in source
    assert alone().check_export is not verify_export.check_export

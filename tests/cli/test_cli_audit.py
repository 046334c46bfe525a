"""``stackctl audit ..`` against a real log behind the real API: what holds is said, what does not is named."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_shell import Open, Shell
from fake_operator import FakeOperator

from stack.app.records import RecordsDesk
from stack.audit.append import append
from stack.audit.checkpointer import Checkpointer
from stack.audit.keys import signer_of
from stack.audit.record import AuditRecord
from stack.audit.sinks import FileSink
from stack.core.clock import ManualClock
from stack.store.store import Store

SIGNER = signer_of(bytes(range(32)))


class RealLog(FakeOperator):
    """The fake operator with a real audit log."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        clock = ManualClock()
        store = Store.open(root / "state.db", clock)
        self.kept = root / "elsewhere.log"
        sinks = (FileSink("far", self.kept, root),)
        signing = Checkpointer(store, SIGNER, sinks, clock)
        for number in range(12):
            with store.transaction() as tx:
                said = AuditRecord(actor="me", action="test", target=f"t{number}", change="", result="ok")
                append(tx, said, clock)
            if number in (3, 9):
                signing.tick(now=True)
        self.records = RecordsDesk(store, SIGNER.key, sinks)  # type: ignore[assignment]
        self.lines = list(self.records.export(1))
        self.store = store


class Altered:
    """The desk of a log that answers with other lines."""

    def __init__(self, desk: RecordsDesk, lines: list[bytes]) -> None:
        self._desk, self._lines = desk, lines

    def __getattr__(self, name: str) -> object:
        return getattr(self._desk, name)

    def export(self, start: int) -> Iterator[bytes]:
        assert start == 1
        yield from self._lines


@pytest.fixture
def log(tmp_path: Path) -> RealLog:
    """Twelve records, checkpoints of 4 and 10."""
    return RealLog(tmp_path)


@pytest.fixture
def opened(shell: Open, log: RealLog) -> Shell:
    """stackctl with that log."""
    return shell(log)


def test_verify_says_how_far_it_is_proven(opened: Shell, log: RealLog) -> None:
    alone = opened.run("audit", "verify")
    assert alone.exit_code == 0, alone.output
    assert "records 1 to 12 follow one another" in alone.output and "not proven" in alone.output
    proven = opened.run("audit", "verify", "--checkpoint", str(log.kept), "--key", str(SIGNER.key), "--json")
    body = json.loads(proven.stdout)
    assert proven.exit_code == 0 and (body["proven"], body["size"], body["elsewhere"]) == (10, 12, True)
    assert "not proven" not in opened.run("audit", "verify", "--checkpoint", str(log.kept)).output


def test_what_this_host_kept_is_no_proof(opened: Shell, log: RealLog) -> None:
    (opened.home / "checkpoints.log").write_bytes(log.kept.read_bytes())
    body = json.loads(opened.run("audit", "verify", "--json").stdout)
    assert body["proven"] == 10 and body["elsewhere"] is False
    assert "not proven" in opened.run("audit", "verify").output


def test_a_checkpoint_file_that_says_nothing_is_inconclusive(opened: Shell, tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    assert opened.run("audit", "verify", "--checkpoint", str(tmp_path / "empty")).exit_code == 6
    assert opened.run("audit", "verify", "--checkpoint", str(tmp_path / "none")).exit_code == 2
    assert opened.run("audit", "verify", "--key", "rubbish+1+2").exit_code == 2


@pytest.mark.parametrize("damage", ["edit", "remove", "swap", "cut", "key"])
def test_damage_is_named(opened: Shell, log: RealLog, damage: str) -> None:
    lines = list(log.lines)
    at = next(n for n, line in enumerate(lines) if b'"seq":5,' in line)
    if damage == "edit":
        lines[at] = lines[at].replace(b'"me"', b'"us"')
    elif damage == "remove":
        del lines[at]
    elif damage == "swap":
        lines[at], lines[at + 1] = lines[at + 1], lines[at]
    elif damage == "cut":
        del lines[at:]
    log.records = Altered(log.records, lines)  # type: ignore[assignment, arg-type]
    key = signer_of(bytes(32)).key if damage == "key" else SIGNER.key
    result = opened.run("audit", "verify", "--key", str(key), "--checkpoint", str(log.kept))
    assert result.exit_code == 3, result.output
    assert damage == "key" or "record 5" in result.output or "records 5" in result.output


def test_a_known_head(opened: Shell) -> None:
    body = json.loads(opened.run("audit", "verify", "--json").stdout)
    assert opened.run("audit", "verify", "--known-head", body["head"]).exit_code == 0
    assert opened.run("audit", "verify", "--known-head", "sha256:" + "0" * 64).exit_code == 3


def test_export_is_whole_or_absent(opened: Shell, log: RealLog, tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    result = opened.run("audit", "export", str(file), "--json")
    assert result.exit_code == 0 and json.loads(result.stdout)["records"] == 12
    assert file.read_bytes() == b"".join(log.lines) and file.stat().st_mode & 0o077 == 0
    assert opened.run("audit", "export", "-").stdout.encode() == b"".join(log.lines)
    assert opened.run("audit", "export", str(tmp_path / "part"), "--start", "12").exit_code == 0
    assert opened.run("audit", "export", str(tmp_path / "no"), "--start", "99").exit_code == 2
    assert opened.run("audit", "export", str(tmp_path / "no" / "where")).exit_code == 2
    log.records = Altered(log.records, log.lines[:-1])  # type: ignore[assignment, arg-type]
    cut = tmp_path / "cut"
    result = opened.run("audit", "export", str(cut))
    assert result.exit_code == 4 and "closing line" in result.output
    assert sorted(path.name for path in tmp_path.glob("*") if "cut" in path.name) == []


def test_head_shows_key_checkpoint_and_sinks(opened: Shell) -> None:
    shown = opened.run("audit", "head").output
    for part in (
        "records     12",
        str(SIGNER.key),
        "of 10 records",
        "sink        far (not off this host): has 10",
        "— ",
    ):
        assert part in shown
    assert json.loads(opened.run("audit", "head", "--json").stdout)["size"] == 12


def test_show_and_prove(opened: Shell, log: RealLog) -> None:
    assert "t6" in opened.run("audit", "show", "7").output
    assert opened.run("audit", "show", "99").exit_code == 2
    proven = opened.run("audit", "prove", "7", "--key", str(SIGNER.key))
    assert proven.exit_code == 0 and "of the 10 records" in proven.output, proven.output
    unsigned = opened.run("audit", "prove", "7", "--size", "11")
    assert unsigned.exit_code == 0 and "no checkpoint of that size is signed" in unsigned.output
    assert opened.run("audit", "prove", "12").exit_code == 2
    assert opened.run("audit", "prove", "7", "--key", str(signer_of(bytes(32)).key)).exit_code == 3


@pytest.mark.parametrize("wrong", ["record", "path", "root", "checkpoint", "size", "garbage"])
def test_a_wrong_proof_is_refused(opened: Shell, log: RealLog, wrong: str) -> None:
    proof = log.records.prove(7, None)
    if wrong == "record":
        proof["record"] = {**proof["record"], "actor": "nobody"}
    elif wrong == "path":
        proof["path"] = proof["path"][::-1]
    elif wrong == "root":
        proof["root"] = "00" * 32
    elif wrong == "checkpoint":
        proof["checkpoint"] = log.lines[0].decode()
    elif wrong == "size":
        proof["size"] = 9
    else:
        proof["path"] = 7
    fake = FakeOperator().records
    fake.answers["prove"] = proof
    log.records = fake  # type: ignore[assignment]
    assert opened.run("audit", "prove", "7", "--key", str(SIGNER.key)).exit_code == (4 if wrong == "garbage" else 3)


def test_tail_shows_the_newest(opened: Shell, log: RealLog) -> None:
    with log.store.reading() as tx:
        log.rows = [row.to_json() for row in tx.audit_rows()]
    result = opened.run("audit", "tail", "--limit", "3")
    assert "t11" in result.output and "t8" not in result.output

"""Serialised bytes stay as they are for ever; whatever is altered, removed or moved is named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stack.audit.append import append
from stack.audit.chain import GENESIS, follow, row_bytes, verify
from stack.audit.record import AuditRecord, plain
from stack.core.canonical import canonical
from stack.core.clock import ManualClock
from stack.core.digest import Digest
from stack.store.rows import AuditRow
from stack.store.store import Store

GOLDEN = Path(__file__).parent / "golden" / "chain.txt"
TIME = "2026-01-01T00:00:00.000000Z"
RECORDS = (
    AuditRecord(actor="orchestrator", action="rollout.deploy", target="tiny", change="ro-aaaaaaaaaa", result="ok"),
    AuditRecord(
        actor="ann@host",
        action="rollout.abort",
        target="ro-aaaaaaaaaa",
        change="ro-aaaaaaaaaa",
        result="asked",
        body={"reason": "zu langsam: é \u2028", "percent": 5, "p95": 0.125, "none": None, "list": [True, "x"]},
    ),
    AuditRecord(
        actor="orchestrator",
        action="rollout.step",
        target="tiny",
        change="ro-aaaaaaaaaa",
        result="worse",
        body={"nan": float("nan"), "huge": 2**70, "broken": "a\ud800b\x00c"},
    ),
)


def chain_of(records: tuple[AuditRecord, ...] = RECORDS) -> list[AuditRow]:
    """The rows of these records."""
    rows: list[AuditRow] = []
    for record in records:
        rows.append(follow(rows[-1] if rows else None, record, TIME))
    return rows


CHAIN = chain_of(RECORDS * 3)


def golden() -> list[str]:
    """The golden file without its comments."""
    text = GOLDEN.read_bytes().decode("utf-8").removesuffix("\n")
    return [line for line in text.split("\n") if not line.startswith("#")]


def test_golden_bytes() -> None:
    lines = golden()
    assert lines[0] == GENESIS
    written = [part for row in chain_of() for part in (row_bytes(row).decode(), row.hash)]
    assert lines[1:] == written


def test_golden_rows_verify_with_nothing_but_sha256() -> None:
    """The file alone, without the code that made it: an auditor's view."""
    lines = golden()
    previous = lines[0]
    for line, hashed in zip(lines[1::2], lines[2::2], strict=True):
        assert Digest.of(line.encode()) == hashed
        assert json.loads(line)["prev_hash"] == previous
        previous = hashed


def test_a_whole_chain_is_ok() -> None:
    report = verify(CHAIN)
    assert report.to_json() == {"ok": True, "count": 9, "first_bad": None, "reason": "", "head": CHAIN[-1].hash}
    assert verify(CHAIN[4:], after=CHAIN[3]).ok
    assert verify(iter(CHAIN), known_head=CHAIN[5].hash).ok


def test_nothing_proves_nothing() -> None:
    assert not verify([]).ok
    assert not verify([], after=CHAIN[3]).ok


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_any_flipped_byte_is_named(data: st.DataObject) -> None:
    number = data.draw(st.integers(0, len(CHAIN) - 1))
    column = data.draw(st.sampled_from([n for n in CHAIN[0].to_json() if n != "seq"]))
    raw = bytearray(getattr(CHAIN[number], column).encode())
    if not raw:
        raw = bytearray(b"\x00")
    place, bit = data.draw(st.integers(0, len(raw) - 1)), data.draw(st.integers(0, 7))
    raw[place] ^= 1 << bit
    altered = replace(CHAIN[number], **{column: raw.decode("utf-8", "surrogateescape")})
    report = verify([*CHAIN[:number], altered, *CHAIN[number + 1 :]])
    assert (report.ok, report.first_bad, report.count) == (False, number + 1, number)
    assert f"record {number + 1} " in report.reason


@given(st.integers(0, len(CHAIN) - 1), st.integers(-5, 2**60))
def test_any_other_number_is_named(number: int, seq: int) -> None:
    altered = replace(CHAIN[number], seq=seq)
    report = verify([*CHAIN[:number], altered, *CHAIN[number + 1 :]])
    assert report.ok == (seq == number + 1)
    assert report.first_bad == (None if report.ok else number + 1)


@given(st.sets(st.integers(0, len(CHAIN) - 2), min_size=1))
def test_any_deletion_before_the_end_is_named(gone: set[int]) -> None:
    report = verify([row for number, row in enumerate(CHAIN) if number not in gone])
    assert (report.ok, report.first_bad) == (False, min(gone) + 1)


@given(st.permutations(CHAIN))
def test_any_reordering_is_named(rows: list[AuditRow]) -> None:
    first = next((n for n, (row, due) in enumerate(zip(rows, CHAIN, strict=True), start=1) if row != due), None)
    report = verify(rows)
    assert (report.ok, report.first_bad) == (first is None, first)


def test_a_repeated_record_is_named() -> None:
    assert verify([*CHAIN[:4], CHAIN[3], *CHAIN[4:]]).first_bad == 5


def test_a_cut_end_shows_only_against_a_known_head() -> None:
    assert verify(CHAIN[:5]).ok
    report = verify(CHAIN[:5], known_head=CHAIN[-1].hash)
    assert (report.ok, report.first_bad) == (False, 6)
    assert "cut off" in report.reason


def test_a_record_written_anew_breaks_the_link_after_it() -> None:
    forged = follow(CHAIN[2], replace(RECORDS[0], actor="nobody"), TIME)
    report = verify([*CHAIN[:3], forged, *CHAIN[4:]])
    assert (report.ok, report.first_bad) == (False, 5)
    assert "written anew" in report.reason


def test_another_beginning_is_named() -> None:
    forged = follow(replace(CHAIN[0], seq=0), RECORDS[0], TIME)
    assert verify([forged]).first_bad == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(JSON)
def test_whatever_is_said_can_be_written(value: object) -> None:
    row = follow(None, AuditRecord(actor="a", action="b", target="c", change="d", result="e", body={"v": value}), TIME)
    assert verify([row]).ok
    assert canonical(row.body).decode() == row.body_json
    assert plain(plain(value)) == plain(value)


def test_unknown_types_become_text() -> None:
    body = {"path": Path("/x"), "digest": GENESIS, "tuple": (1, 2), 3: "key"}
    row = follow(None, replace(RECORDS[0], body=body), TIME)
    assert row.body == {"path": "/x", "digest": str(GENESIS), "tuple": [1, 2], "3": "key"}


def test_appended_with_the_transaction_or_not_at_all(tmp_path: Path) -> None:
    clock = ManualClock()
    store = Store.open(tmp_path / "state.db", clock)
    with store.transaction() as tx:
        first = append(tx, RECORDS[0], clock)
    with pytest.raises(KeyError), store.transaction() as tx:
        append(tx, RECORDS[1], clock)
        raise KeyError
    clock.advance(1.5)
    with store.transaction() as tx:
        second = append(tx, RECORDS[2], clock)
    with store.reading() as tx:
        rows = tx.audit_rows()
    store.close()
    assert rows == (first, second)
    assert (second.seq, second.prev_hash, second.time) == (2, first.hash, "2026-01-01T00:00:01.500000Z")
    assert verify(rows).ok

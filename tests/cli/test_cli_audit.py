"""``audit verify`` recomputes the chain from what the API gives, and names the first bad record."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest
from cli_shell import Open
from fake_operator import FakeOperator

from stack.audit.chain import follow
from stack.audit.record import AuditRecord
from stack.store.rows import AuditRow


def chain(count: int) -> list[dict[str, Any]]:
    rows: list[AuditRow] = []
    for n in range(count):
        record = AuditRecord(actor="me", action="test", target=f"t{n}", change="", result="ok", body={"n": n})
        rows.append(follow(rows[-1] if rows else None, record, "2026-01-01T00:00:00.000000Z"))
    return [asdict(row) for row in rows]


def opened(shell: Open, records: list[dict[str, Any]]) -> Any:
    operator = FakeOperator()
    operator.rows = records
    return shell(operator)


def test_a_whole_chain_over_several_pages_holds(shell: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stack.cli.auditing._PAGE", 7)
    result = opened(shell, chain(23)).run("audit", "verify", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["count"] == 23


@pytest.mark.parametrize("damage", ["edit", "remove", "swap"])
def test_damage_is_named(shell: Open, damage: str) -> None:
    records = chain(9)
    if damage == "edit":
        records[4]["actor"] = "nobody"
    elif damage == "remove":
        del records[4]
    else:
        records[4], records[5] = records[5], records[4]
    result = opened(shell, records).run("audit", "verify")
    assert result.exit_code == 3, result.output
    assert "record 5" in result.output


def test_a_cut_tail_is_seen_with_a_known_head(shell: Open) -> None:
    records = chain(9)
    head = str(records[-1]["hash"])
    assert opened(shell, records).run("audit", "verify", "--known-head", head).exit_code == 0
    assert opened(shell, records[:-1]).run("audit", "verify", "--known-head", head).exit_code == 3


def test_records_without_their_fields_are_not_verified(shell: Open) -> None:
    assert opened(shell, [{"seq": 1}]).run("audit", "verify").exit_code == 4


def test_tail_shows_the_newest(shell: Open) -> None:
    result = opened(shell, chain(30)).run("audit", "tail", "--limit", "3")
    assert "t29" in result.output
    assert "t26" not in result.output

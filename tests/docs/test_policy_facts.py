"""What the pages say of policies, approvals and refusals is what the code and the policies that ship say."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest
import yaml
from pages import ROOT, all_pages, code_in, generator, page

from stack.app.access import NOBODY
from stack.config.settings import SECRETS
from stack.core.actions import Action, Risk
from stack.core.digest import Digest
from stack.core.errors import BypassAttempt
from stack.core.names import RequestId
from stack.policy.statement import NAMESPACE, statement
from stack.store.approval_rows import RequestRow, RequestState

NOW = datetime(2026, 1, 1, tzinfo=UTC)
RISK = yaml.safe_load((ROOT / "policies" / "risk.yaml").read_text(encoding="utf-8"))
SOURCES = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "stack").rglob("*.py")))
NOUNS = "|".join(sorted({action.value.partition(".")[0] for action in Action}))


def test_the_table_of_actions_is_that_of_the_policies_that_ship() -> None:
    rows = page("docs/policy-table.md").rows("## Actions")
    shown = {row[0].strip("`"): dict(zip(RISK["environments"], row[1:4], strict=True)) for row in rows}
    assert shown == RISK["actions"]
    assert set(shown) == {action.value for action in Action}


@pytest.mark.parametrize("risk", [str(risk) for risk in Risk])
def test_what_a_class_asks_for_is_what_the_policies_that_ship_say(risk: str) -> None:
    rule = RISK["classes"][risk] or {}
    rows = {row[0]: row[1:] for row in page("docs/policy-table.md").rows("## Classes")}
    ticket, approvals, asker, good, frozen = rows[risk]
    assert ticket == (", ".join(rule.get("ticket", [])) or "none")
    assert code_in(approvals) == set(rule.get("roles", []))
    assert approvals.partition(" ")[0] == (str(rule["approvers"]) if rule else "none")
    assert ("different" in approvals) == rule.get("different_roles", False)
    assert asker == ("no" if rule.get("separation", True) else "yes") or not rule
    assert good == (f"{rule['ttl_minutes']} minutes" if rule else "-")
    assert frozen == ("yes" if rule.get("frozen") else "no")


def test_actions_and_records_named_in_the_pages_exist() -> None:
    """``noun.verb``: an action, a record that the code writes, or a field of stack.yaml."""
    fields = {path for path, *_ in generator().setting_rows()}
    for shown in all_pages():
        for span in shown.spans():
            if not re.fullmatch(rf"(?:{NOUNS}|policy)\.[a-z-]+", span) or span.endswith((".md", ".yaml", ".key")):
                continue
            known = span in set(Action) or f'"{span}"' in SOURCES or any(f.endswith(span) for f in fields)
            assert known, f"{shown.name} names {span}"


def test_every_page_that_the_code_sends_people_to_exists() -> None:
    named = set(re.findall(r"\bdocs/[\w./-]+\.md\b", SOURCES))
    assert len(named) >= 3
    assert {path for path in named if not (ROOT / path).is_file()} == set()


def test_signatures_are_made_in_one_namespace() -> None:
    for shown in all_pages():
        assert set(re.findall(r"[\w.-]+@inference-stack\b", shown.text)) <= {NAMESPACE}, shown.name


def asked() -> RequestRow:
    return RequestRow(
        id=RequestId.new(),
        change="CHG-1",
        action=Action.DEPLOY,
        gate="start",
        environment="production",
        target="tiny",
        plan=Digest.of(b"plan"),
        policy=Digest.of(b"policies"),
        risk=Risk.R2,
        requester="alice",
        created_at=NOW,
        expires_at=NOW,
        updated_at=NOW,
    )


def paragraph(name: str, begin: str) -> str:
    return next(p for p in page(name).text.split("\n\n") if p.startswith(begin))


def test_the_page_names_what_is_signed() -> None:
    said = paragraph("docs/changes.md", "The statement is one line of JSON").partition("Everybody")[0]
    assert code_in(said) == set(yaml.safe_load(statement(asked())))


def test_the_page_names_how_a_request_ends() -> None:
    text = page("docs/changes.md").text
    ends = {state.value for state in RequestState} - {RequestState.OPEN.value}
    assert code_in(text) & ends == ends


def test_the_runbook_of_inc_04_knows_every_refusal() -> None:
    below = {k.__name__ for k in generator().error_classes() if issubclass(k, BypassAttempt)} - {"BypassAttempt"}
    rows = page("docs/runbooks/inc-04-bypass-attempt.md").rows("## How you notice")
    assert {code for row in rows for code in code_in(row[0])} == below | {NOBODY}


def test_the_page_of_the_state_directory_has_every_secret() -> None:
    named = {span for span in page("docs/state.md").spans() for span in (span, span.removeprefix("secrets/"))}
    assert set(SECRETS) <= named

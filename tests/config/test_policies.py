"""The policies: what the shipped ones say, and that every mistake of all files is told at once, with file and line."""

from __future__ import annotations

import json
import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stack.config.policies import FILES, LIMITS, NoPolicies, PoliciesInvalid, load_policies, parse_policies
from stack.config.policy_values import GateRule, OneFreeze, Policies, WeeklyFreeze
from stack.core.actions import Action, Risk
from stack.core.errors import InvalidInput

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "golden"
SHIPPED = {name: (ROOT / "policies" / name).read_bytes() for name in FILES}


def parsed(**changed: str | bytes) -> Policies:
    """The shipped policies with some files exchanged (``risk``, ``people``, ``signers``)."""
    names = dict(zip(("risk", "people", "signers"), FILES, strict=True))
    given = {names[key]: value if isinstance(value, bytes) else value.encode() for key, value in changed.items()}
    return parse_policies({**SHIPPED, **given}, Path("policies"))


def mistakes(**changed: str | bytes) -> list[str]:
    """What is told of wrong policies."""
    with pytest.raises(PoliciesInvalid) as told:
        parsed(**changed)
    assert told.value.exit_code == 2
    assert told.value.facts["errors"] == [m.to_json() for m in told.value.mistakes]
    assert told.value.facts["count"] == len(told.value.mistakes)
    return [str(mistake) for mistake in told.value.mistakes]


def risk_with(old: str, new: str) -> str:
    """The shipped risk.yaml with one text exchanged."""
    text = SHIPPED["risk.yaml"].decode()
    assert old in text
    return text.replace(old, new, 1)


def shown(policies: Policies) -> dict[str, Any]:
    """Everything in it, as JSON."""
    return {
        "environments": policies.environments,
        "actions": {action: dict(risks) for action, risks in policies.actions.items()},
        "classes": {
            risk: {**vars(rule), "ticket": sorted(rule.ticket)} for risk, rule in sorted(policies.classes.items())
        },
        "gates": [vars(gate) for gate in policies.gates],
        "freezes": [vars(freeze) for freeze in policies.freezes],
        "roles": {role: sorted(actions) for role, actions in policies.roles.items()},
        "people": [vars(person) for person in policies.people.values()],
        "signers": [signer.person for signer in policies.signers],
    }


def uncommented(data: bytes) -> bytes:
    """With the examples taken in: in YAML they begin with ``#  -``, in allowed_signers with ``#`` and a name."""
    return re.sub(rb"(?m)^#(?=  - )|^#(?=[a-z]+ namespaces=)", b"", data)


def test_the_shipped_policies_are_what_they_were() -> None:
    path = GOLDEN / "policies.json"
    now = json.dumps(shown(load_policies(ROOT / "policies")), indent=1, sort_keys=True) + "\n"
    assert now == path.read_text(), "if this is meant: write the new text to tests/config/golden/policies.json"


def test_in_dev_nothing_needs_anything_and_production_deploys_need_an_owner() -> None:
    policies = parsed()
    for risks in policies.actions.values():
        rule = policies.classes[risks["dev"]]
        assert (rule.approvers, rule.ticket & {"dev"}, rule.frozen) == (0, frozenset(), False)
    deploy = policies.classes[policies.actions[Action.DEPLOY]["production"]]
    assert (deploy.approvers, deploy.roles, deploy.separation, deploy.frozen) == (1, ("owner",), True, True)


def test_the_examples_in_the_files_are_good_policies() -> None:
    files = {name: uncommented(data) for name, data in SHIPPED.items()}
    assert all(files[name] != SHIPPED[name] for name in FILES)
    policies = parse_policies(files, Path("policies"))
    assert {name: sorted(person.roles) for name, person in policies.people.items()} == {
        "alice": ["owner"],
        "bob": ["owner", "security"],
    }
    assert [signer.person for signer in policies.signers] == ["alice", "bob"]
    assert policies.gates == (GateRule(environment="production", action=Action.DEPLOY, before=100, risk=Risk.R2),)
    once, friday, weekend = policies.freezes
    assert isinstance(once, OneFreeze) and once.begins == datetime(2026, 12, 18, 16, tzinfo=UTC)
    assert isinstance(friday, WeeklyFreeze) and (friday.days, friday.ends.hour) == (frozenset({4}), 0)
    assert isinstance(weekend, WeeklyFreeze) and weekend.begins == weekend.ends


def test_the_examples_in_the_docs_are_good_policies() -> None:
    lines = [line.strip() for line in (ROOT / "docs" / "policies.md").read_text().splitlines()]
    entries = [f"  {line}\n" for line in lines if line.startswith("- {")]
    gates = [line for line in entries if "before:" in line]
    freezes = [line for line in entries if "until:" in line]
    held = [line for line in entries if "contact:" in line]
    risk = risk_with("gates:\n", "gates:\n" + "".join(gates)).replace("freezes:\n", "freezes:\n" + "".join(freezes))
    policies = parsed(risk=risk, people='schema: "1"\npeople:\n' + "".join(held))
    assert (len(policies.gates), len(policies.freezes), list(policies.people)) == (1, 2, ["alice"])
    assert len(gates) + len(freezes) + len(held) == len(entries)


def test_every_mistake_of_all_files_is_told_at_once() -> None:
    directory = GOLDEN / "policies-mistakes"
    with pytest.raises(PoliciesInvalid) as told:
        load_policies(directory)
    assert [str(mistake) for mistake in told.value.mistakes] == (directory / "expected.txt").read_text().splitlines()


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_no_policy(name: str, tmp_path: Path) -> None:
    for other in FILES:
        if other != name:
            (tmp_path / other).write_bytes(SHIPPED[other])
    with pytest.raises(NoPolicies, match=name):
        load_policies(tmp_path)
    (tmp_path / name).mkdir()
    with pytest.raises(NoPolicies, match="not a file"):
        load_policies(tmp_path)


def test_a_missing_directory_is_no_policy_and_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    with pytest.raises(NoPolicies):
        load_policies(tmp_path / "nowhere")
    for name in FILES:
        (tmp_path / name).write_bytes(SHIPPED[name])
    (tmp_path / "people.yaml").unlink()
    os.mkfifo(tmp_path / "people.yaml")
    with pytest.raises(NoPolicies, match="not a file"):
        load_policies(tmp_path)


def test_links_to_files_are_followed(tmp_path: Path) -> None:
    for name in FILES:
        (tmp_path / name).symlink_to(ROOT / "policies" / name)
    assert load_policies(tmp_path) == load_policies(ROOT / "policies")


def test_the_digest_is_of_every_byte_and_of_which_file_it_stands_in() -> None:
    seen = {parsed().digest, parsed(people=SHIPPED["people.yaml"] + b"# x\n").digest}
    seen |= {parsed(risk=SHIPPED["risk.yaml"] + b"# x\n").digest, parsed(signers=b"# x\n").digest}
    assert len(seen) == 4
    assert parsed().digest == load_policies(ROOT / "policies").digest


@pytest.mark.parametrize("name", ["risk", "people", "signers"])
def test_files_that_are_too_big_are_refused(name: str) -> None:
    assert len(mistakes(**{name: b"#" * (LIMITS.size + 1)})) == 1


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_too_big_is_not_read_in_part(name: str, tmp_path: Path) -> None:
    for other in FILES:
        (tmp_path / other).write_bytes(SHIPPED[other])
    padding = LIMITS.size - len(SHIPPED[name])
    (tmp_path / name).write_bytes(SHIPPED[name] + b"\n" * padding)
    assert load_policies(tmp_path).roles
    (tmp_path / name).write_bytes(SHIPPED[name] + b"\n" * padding + b"\n")
    with pytest.raises(PoliciesInvalid, match=r"larger|longer"):
        load_policies(tmp_path)


@pytest.mark.parametrize(
    "hostile",
    [
        b"a: &x 1\nb: *x\n",
        b"!!python/object:os.system {}\n",
        b"{<<: {a: 1}}\n",
        b"a: 1\n---\nb: 2\n",
        b"[" * 100 + b"]" * 100,
        b"\xff\xfe",
        b"",
        b'a: "\\ud800"\n',
        b"[" + b"1," * 30_000 + b"]",
    ],
)
def test_hostile_yaml_is_refused_in_both_files(hostile: bytes) -> None:
    assert any(mistake.startswith("risk.yaml line ") for mistake in mistakes(risk=hostile))
    assert any(mistake.startswith("people.yaml line ") for mistake in mistakes(people=hostile))


WRONG = [
    ("production: R2}", "production: R9}", "expected one of R0, R1, R2, R3, deny"),
    ('schema: "1"', 'schema: "2"', "expected one of 1"),
    ("  R0: {}\n", "", "classes.R0: missing"),
    ("environments: [dev, staging, production]", "environments: []", "one environment at least"),
    ("environments: [dev, staging, production]", "environments: [dev, staging]", "unknown key"),
    ("environments: [dev, staging, production]", "environments: [dev, dev, production]", "stands in this list already"),
    ("change.approve:    {dev: R0", "change.approve:    {dev: R2", "R2 asks for something"),
    (
        "change.reject:     {dev: R0, staging: R0, production: R0",
        "change.reject: {production: R3",
        "asks for something",
    ),
    ("  R0: {}", "  R0: {ticket: [production]}", "R0 asks for something"),
    ("  R0: {}", "  R0: {frozen: true}", "R0 asks for something"),
    ("approvers: 1", "approvers: 11", "whole number from 0 to 10"),
    ("approvers: 1", "approvers: -1", "whole number from 0 to 10"),
    ("approvers: 1\n    roles: [owner]", "approvers: 1", "no roles that they must hold"),
    ("approvers: 2", "approvers: 3", "can't hold different roles"),
    ("roles: [owner, security]", "roles: [owner, owner]", "stands in this list already"),
    ("ttl_minutes: 480", "ttl_minutes: 0", "whole number from 1 to 43200"),
    ("ttl_minutes: 480", "ttl_minutes: 43201", "whole number from 1 to 43200"),
    ("separation: true", "separation: yes", "expected true or false"),
    ("separation: true", 'separation: "true"', "expected true or false"),
    ("separation: true", "seperation: true", "unknown key"),
    ("frozen: true\n  R3", "frozen: true\n    frozen: false\n  R3", "given twice"),
    ("    - stack.read\n    - audit.read\n    - host.c", "    - stack.look\n    - host.c", "expected one of"),
    ('admin: "*"', 'admin: ["*"]', "expected one of"),
    ('admin: "*"', "Admin: []", "is no name"),
]


@pytest.mark.parametrize(("old", "new", "said"), WRONG)
def test_what_is_wrong_in_risk_is_told(old: str, new: str, said: str) -> None:
    told = mistakes(risk=risk_with(old, new))
    assert any(said in mistake for mistake in told), told
    assert all(re.match(r"risk\.yaml line [1-9]", mistake) for mistake in told)


GATE = "  - {environment: production, action: rollout.deploy, before: 100, class: R2}\n"
WRONG_GATES = [
    (GATE.replace("100", "0"), "whole number from 1 to 100"),
    (GATE.replace("100", "101"), "whole number from 1 to 100"),
    (GATE.replace("deploy", "rollback"), "expected one of rollout.deploy"),
    (GATE.replace("production", "prod"), "expected one of dev, staging, production"),
    (GATE.replace(", class: R2", ""), "class: missing"),
    (GATE + GATE.replace("R2", "R3"), "stands in this list already"),
]


@pytest.mark.parametrize(("text", "said"), WRONG_GATES)
def test_what_is_wrong_in_gates_is_told(text: str, said: str) -> None:
    told = mistakes(risk=risk_with("gates:\n", "gates:\n" + text))
    assert any(said in mistake for mistake in told), told


def freeze(**changed: str) -> str:
    """A line of a weekly freeze, or of a one-off one where ``days`` is empty."""
    fields = {"name": "f", "environments": "[production]", "days": "[fri]", "from": '"15:00"', "until": '"24:00"'}
    fields |= {"timezone": "Europe/Zurich", **{key.removesuffix("_"): value for key, value in changed.items()}}
    return "  - {" + ", ".join(f"{key}: {value}" for key, value in fields.items() if value) + "}\n"


def once(begins: str, ends: str) -> str:
    """A line of a one-off freeze."""
    return freeze(days="", timezone="", from_=begins, until=ends)


WRONG_FREEZES = [
    (freeze(timezone="Mars/Base"), "there is no time zone"),
    (freeze(timezone="../../etc/passwd"), "there is no time zone"),
    (freeze(timezone="America"), "there is no time zone"),
    (freeze(timezone=""), "timezone: missing"),
    (freeze(days=""), "days: missing"),
    (freeze(days="[fri, fri]"), "named twice"),
    (freeze(days="[5]"), "expected one of mon"),
    (freeze(from_="15:00"), "put it in quotes"),
    (freeze(from_='"24:00:00"'), "no time of day"),
    (freeze(until='"3 pm"'), "no time of day"),
    (freeze(environments="[]"), "list of 1 to"),
    (freeze() + freeze(), "stands in this list already"),
    (once('"2026-12-24T00:00:00"', '"2026-12-26T00:00:00Z"'), "is no moment"),
    (once('"2026-02-30T00:00:00Z"', '"2026-12-26T00:00:00Z"'), "is no moment"),
    (once('"0001-01-01T00:00:00+14:00"', '"2026-12-26T00:00:00Z"'), "is no moment"),
    (once('"2026-12-26T00:00:00Z"', '"2026-12-26T00:00:00Z"'), "ends before it begins"),
    (once('"2026-12-26T00:00:00Z"', '"2028-12-26T00:00:00Z"'), "longer than a year"),
]


@pytest.mark.parametrize(("text", "said"), WRONG_FREEZES)
def test_what_is_wrong_in_freezes_is_told(text: str, said: str) -> None:
    told = mistakes(risk=risk_with("freezes:\n", "freezes:\n" + text))
    assert any(said in mistake for mistake in told), told


def person(**changed: str) -> str:
    """A people.yaml with one person."""
    fields = {"name": "alice", "roles": "[owner]"} | changed
    line = "  - {" + ", ".join(f"{key}: {value}" for key, value in fields.items() if value) + "}\n"
    return 'schema: "1"\npeople:\n' + line


WRONG_PEOPLE = [
    (person(name='"a b"'), "no person's name"),
    (person(name='"*"'), "no person's name"),
    (person(name="älice"), "no person's name"),
    (person(name="Operator"), "nobody can have this name"),
    (person(name="orchestrator"), "nobody can have this name"),
    (person(name="1"), "put it in quotes"),
    (person(roles="[admin]"), "expected one of owner, security"),
    (person(roles=""), "roles: missing"),
    (person(role="owner"), "unknown key"),
    (person() + "  - {name: ALICE, roles: [security]}\n", "stands in this list already"),
    ('schema: "1"\n', "people: missing"),
]


@pytest.mark.parametrize(("text", "said"), WRONG_PEOPLE)
def test_what_is_wrong_in_people_is_told(text: str, said: str) -> None:
    told = mistakes(people=text)
    assert any(mistake.startswith("people.yaml line ") and said in mistake for mistake in told), told


KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIG2Y60GnjP6e8P8bZSL6J5+oMyLYSlLNrHXZU1lTHdFb"


def test_keys_belong_to_people_and_to_one_only() -> None:
    assert parsed(people=person(), signers=f"alice {KEY}\n").signers[0].person == "alice"
    both = person() + "  - {name: bob, roles: [owner]}\n"
    assert "line 2: " in mistakes(people=both, signers=f"alice {KEY}\nbob {KEY}\n")[0]
    for stranger in ("bob", "Alice"):
        told = mistakes(people=person(), signers=f"\n{stranger} {KEY}\n")
        assert told == [f"allowed_signers line 2: there is nobody called '{stranger}' in people.yaml"]


def test_a_role_of_ones_own_is_named_by_a_class_and_held_by_somebody() -> None:
    risk = risk_with("roles: [owner]", "roles: [owner, platform]")
    line = risk[: risk.index("platform")].count("\n") + 1
    assert mistakes(risk=risk)[0].startswith(f"risk.yaml line {line}: role platform: nobody in people.yaml holds")
    assert parsed(risk=risk, people=person(roles="[platform]")).people["alice"].roles == {"platform"}


@pytest.mark.parametrize("nothing", ["", "~", "null", "[]"])
def test_lists_may_be_empty_in_every_spelling(nothing: str) -> None:
    text = risk_with("  R0: {}", f"  R0: {{ticket: {nothing}, roles: {nothing}}}").replace(
        "gates:", f"gates: {nothing}"
    )
    assert parsed(risk=text.replace("freezes:", f"freezes: {nothing}")).classes[Risk.R0].roles == ()


def test_an_action_may_be_left_out_or_denied_and_is_then_not_there() -> None:
    old = "rollout.deploy:    {dev: R1, staging: R1, production: R2}"
    denied = parsed(risk=risk_with(old, "rollout.deploy: {dev: R1, production: deny}"))
    assert denied.actions[Action.DEPLOY] == {"dev": Risk.R1}
    assert Action.DEPLOY not in parsed(risk=risk_with(old, "")).actions


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(FILES), st.binary(max_size=200), st.integers(0, 10_000), st.integers(0, 60))
def test_damaged_files_give_policies_or_mistakes_and_nothing_else(name: str, put: bytes, at: int, cut: int) -> None:
    data = uncommented(SHIPPED[name])
    at %= len(data)
    files = {other: uncommented(SHIPPED[other]) for other in FILES} | {name: data[:at] + put + data[at + cut :]}
    try:
        parse_policies(files, Path("policies"))
    except InvalidInput as error:
        assert isinstance(error, PoliciesInvalid)
        assert error.mistakes and all(mistake.line >= 1 for mistake in error.mistakes)

"""Approving: what is signed is what was shown, or nothing is signed. And what waits is said with what to do."""

from __future__ import annotations

import json
import shlex
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cli_shell import Open, Shell
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from fake_operator import FakeOperator

from stack.cli.approving import NothingToSign, WhichKey, WhichRequest, checked, chosen, selected
from stack.core.clock import ManualClock
from stack.core.digest import Digest
from stack.core.errors import ApprovalNeeded, StackError
from stack.policy.agent import AgentKey
from stack.policy.sshsig import verify
from stack.policy.statement import NAMESPACE

LATER = "2999-01-01T00:00:00.000000Z"


class Waits(ApprovalNeeded):
    """{action} on {target} waits for: {detail}"""


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "id_ed25519"
    secret = Ed25519PrivateKey.generate()
    path.write_bytes(secret.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    path.chmod(0o600)
    return path


def waiting(shell: Open) -> Shell:
    opened = shell()
    opened.operator.changes.request["expires_at"] = LATER
    return opened


def signatures(opened: Shell) -> list[str]:
    return [facts[1] for name, facts in opened.operator.calls if name == "approve"]


def test_approving_shows_the_plan_and_signs_the_statement(shell: Open, key: Path) -> None:
    opened = waiting(shell)
    result = opened.run("change", "approve", "CHG-1", "--key", str(key), "--yes")
    assert result.exit_code == 0, result.output
    request = opened.operator.changes.request
    for shown in ("CHG-1", "tiny", "production", "R2", "otto", request["plan"], request["request"], "tiny@1.1"):
        assert shown in result.stderr
    (armored,) = signatures(opened)
    statement = json.loads(opened.run("change", "show", "CHG-1", "--json").stdout)["requests"][0]["statement"]
    assert verify(armored, statement.encode(), NAMESPACE)
    assert "nothing is missing" in result.stdout


@pytest.mark.parametrize(
    "lie",
    [
        {"plan_body": {"service": "tiny", "model": "evil@1.0"}},
        {"plan_body": {}},
        {"plan_body": None},
        {"statement": "{}\n"},
        {"statement": ""},
        {"environment": "dev"},
        {"target": "other"},
        {"plan": "sha256:" + "e" * 64},
        {"risk": "R9"},
        {"request": "rq-zzzzzzzzzzzzzzzzzzzz"},
    ],
    ids=str,
)
def test_what_is_not_what_is_shown_is_not_signed(shell: Open, key: Path, lie: dict[str, Any]) -> None:
    opened = waiting(shell)
    changes = opened.operator.changes
    true_statement = json.loads(opened.run("change", "show", "CHG-1", "--json").stdout)["requests"][0]["statement"]
    changes.statement = true_statement
    if "plan_body" in lie:
        changes.plan_body = lie["plan_body"]
    elif "statement" in lie:
        changes.statement = lie["statement"] or " "
    else:
        changes.request.update(lie)
    result = opened.run("change", "approve", "CHG-1", "--key", str(key), "--yes")
    assert result.exit_code == 3, result.output
    assert "Nothing was signed" in result.stderr
    assert signatures(opened) == []


def test_a_plan_that_does_not_fit_the_request_is_not_signed() -> None:
    now = ManualClock().now()
    operator = FakeOperator()
    shown = operator.changes.show("CHG-1")
    assert checked(shown["requests"][0], shown["plan_body"], now).statement
    moved = {**shown["plan_body"], "environment": "dev"}
    request = {**shown["requests"][0], "plan": str(Digest.of_value(moved))}
    with pytest.raises(StackError, match="environment"):
        checked(request, moved, now)


def test_an_expired_request_is_not_signed(shell: Open, key: Path) -> None:
    result = shell().run("change", "approve", "CHG-1", "--key", str(key), "--yes")
    assert result.exit_code == 3
    assert "expired" in result.stderr


def test_nobody_to_ask_is_no_yes(shell: Open, key: Path) -> None:
    opened = waiting(shell)
    result = opened.run("change", "approve", "CHG-1", "--key", str(key))
    assert result.exit_code == 2
    assert "--yes" in result.stderr
    assert signatures(opened) == []


def test_a_statement_written_out_can_be_signed_elsewhere_and_handed_in(shell: Open, key: Path, tmp_path: Path) -> None:
    opened = waiting(shell)
    file = tmp_path / "a statement"
    result = opened.run("change", "show", "CHG-1", "--statement", str(file))
    assert result.exit_code == 0, result.output
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    line = next(line for line in result.stdout.splitlines() if line.startswith("sign it:"))
    words = shlex.split(line.removeprefix("sign it:"))
    assert words == ["ssh-keygen", "-Y", "sign", "-f", "KEY", "-n", NAMESPACE, str(file)]
    from stack.policy.signing import sign_with_file

    signature = Path(f"{file}.sig")
    signature.write_text(sign_with_file(key, file.read_bytes(), NAMESPACE, None))
    handed = opened.run("change", "approve", "CHG-1", "--signature", str(signature), "--yes")
    assert handed.exit_code == 0, handed.output
    assert signatures(opened) == [signature.read_text()]
    assert opened.run("change", "show", "CHG-1", "--statement", str(file)).exit_code == 5, "it must not be overwritten"


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\xff", b"A" * 20000])
def test_a_signature_that_is_none_is_not_handed_in(shell: Open, tmp_path: Path, content: bytes) -> None:
    opened = waiting(shell)
    file = tmp_path / "x.sig"
    file.write_bytes(content)
    result = opened.run("change", "approve", "CHG-1", "--signature", str(file), "--yes")
    assert result.exit_code in (2, 3), result.output
    assert signatures(opened) == []


def test_a_signature_over_something_else_is_not_handed_in(shell: Open, key: Path, tmp_path: Path) -> None:
    from stack.policy.signing import sign_with_file

    opened = waiting(shell)
    file = tmp_path / "x.sig"
    file.write_text(sign_with_file(key, b"something else\n", NAMESPACE, None))
    assert opened.run("change", "approve", "CHG-1", "--signature", str(file), "--yes").exit_code == 3
    assert signatures(opened) == []


def test_without_a_key_or_an_agent_it_is_said(shell: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    result = waiting(shell).run("change", "approve", "CHG-1", "--yes")
    assert result.exit_code == 2
    assert "--key FILE" in result.stderr


def test_two_ways_to_sign_are_one_too_many(shell: Open, key: Path) -> None:
    assert waiting(shell).run("change", "approve", "CHG-1", "--key", str(key), "--agent", "--yes").exit_code == 2


def test_the_agents_key_must_be_the_only_one_or_be_named() -> None:
    one, two = (AgentKey(blob=b"x", key_type="t", fingerprint=f"SHA256:{n}", comment=n) for n in "ab")
    assert selected([one], None) is one
    assert selected([one, two], "SHA256:b") is two
    for keys, wanted in (([], None), ([one, two], None), ([one], "SHA256:c")):
        with pytest.raises(WhichKey):
            selected(keys, wanted)


def test_the_request_must_be_the_only_open_one_or_be_named() -> None:
    first, second = ({"request": f"rq-{n}", "state": "open"} for n in "ab")
    over = {"request": "rq-c", "state": "used"}
    assert chosen("CHG-1", [over, first], None) is first
    assert chosen("CHG-1", [first, second], "rq-b") is second
    with pytest.raises(WhichRequest, match="rq-a, rq-b"):
        chosen("CHG-1", [first, second], None)
    for requests, wanted in (([over], None), ([], None), ([first, over], "rq-c")):
        with pytest.raises(NothingToSign):
            chosen("CHG-1", requests, wanted)


@pytest.mark.parametrize(
    ("arguments", "call"),
    [
        (("reject", "CHG-1", "--reason", "no"), ("reject", "CHG-1", "no")),
        (("revoke", "CHG-1", "--reason", "r"), ("revoke", "CHG-1", None, "r")),
        (("revoke", "CHG-1", "--person", "anna", "--reason", "r"), ("revoke", "CHG-1", "anna", "r")),
        (("report", "CHG-1"), ("report", "CHG-1")),
        (("list", "--open"), ("changes", True)),
    ],
)
def test_the_other_commands_ask_for_it(shell: Open, arguments: tuple[str, ...], call: tuple[Any, ...]) -> None:
    opened = shell()
    result = opened.run("change", *arguments)
    assert result.exit_code == 0, result.output
    name, facts = opened.operator.calls[-1]
    assert (name, *facts)[: len(call)] == call


def test_a_refusal_needs_a_reason(shell: Open) -> None:
    opened = shell()
    assert opened.run("change", "reject", "CHG-1").exit_code == 2
    assert opened.operator.calls == []


def test_a_report_is_written_once(shell: Open, tmp_path: Path) -> None:
    opened, file = shell(), tmp_path / "r.md"
    assert opened.run("change", "report", "CHG-1", "--output", str(file)).exit_code == 0
    assert file.read_text() == "# CHG-1\n"
    assert opened.run("change", "report", "CHG-1", "--output", str(file)).exit_code == 5


def test_what_others_wrote_cannot_paint_over_the_plan(shell: Open) -> None:
    opened = waiting(shell)
    opened.operator.changes.request["requester"] = "eve\x1b[2J\rotto"
    output = opened.run("change", "show", "CHG-1").output + opened.run("change", "list").output
    assert "\x1b" not in output
    assert "\r" not in output


def test_waiting_for_an_approval_has_its_own_code_and_says_what_to_do(shell: Open) -> None:
    facts = {
        "action": "rollout.deploy",
        "target": "tiny",
        "plan": "sha256:" + "b" * 64,
        "request": "rq-aaaaaaaaaaaaaaaaaaaa",
        "change": "CHG-1",
        "missing": ["an approval of one owner"],
        "who": ["anna", "cid"],
        "command": "stackctl change approve CHG-1",
    }
    opened = shell(FakeOperator(failing={"deploy": Waits("one owner", **facts)}))
    result = opened.run("deploy", "--env", "production", "--change", "CHG-1")
    assert result.exit_code == 7
    for text in ("sha256:" + "b" * 64, "an approval of one owner", "anna, cid", "stackctl change approve CHG-1"):
        assert text in result.stderr
    as_json = opened.run("deploy", "--env", "production", "--change", "CHG-1", "--json")
    assert as_json.exit_code == 7
    assert json.loads(as_json.stdout)["error"]["facts"] == facts
    (_, (request, _)) = opened.operator.calls[-1]
    assert (request["environment"], request["change"]) == ("production", "CHG-1")


@pytest.mark.parametrize(
    ("says", "lines"),
    [
        ({}, []),
        (
            {"approvals": {"waiting": 2, "oldest_s": 10800, "expiring_soon": 1}},
            ["approvals      2 wait, oldest 3 h, 1 expires within 1 h"],
        ),
        (
            {
                "approvals": {"waiting": 0, "oldest_s": 0, "expiring_soon": 0},
                "alerts": {"open": 1, "codes": ["INC-04"]},
            },
            ["approvals      none wait", "alerts         1 open (INC-04)"],
        ),
    ],
)
def test_status_says_what_waits_for_people(shell: Open, says: dict[str, Any], lines: list[str]) -> None:
    opened = shell()
    opened.operator.says = says
    screen = opened.run("status").output.splitlines()
    assert [line for line in screen if line.startswith(("approvals", "alerts"))] == lines


def test_the_command_that_is_shown_is_the_one_that_signs(shell: Open, key: Path, tmp_path: Path) -> None:
    """With OpenSSH's own tool, where this machine has it; the same bytes otherwise, signed by this program."""
    opened = waiting(shell)
    file = tmp_path / "statement"
    opened.run("change", "show", "CHG-1", "--statement", str(file))
    try:
        done = subprocess.run(
            ["ssh-keygen", "-Y", "sign", "-f", str(key), "-n", NAMESPACE, str(file)], capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr
    except FileNotFoundError:
        from stack.policy.signing import sign_with_file

        Path(f"{file}.sig").write_text(sign_with_file(key, file.read_bytes(), NAMESPACE, None))
    assert opened.run("change", "approve", "CHG-1", "--signature", f"{file}.sig", "--yes").exit_code == 0

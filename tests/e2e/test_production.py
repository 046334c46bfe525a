"""A production change from the question to the report: real policies and keys, plain OpenSSH, a kill -9 in between."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from checkout import Checkout, Done, copy_to, eventually, free_ports

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]
Json = dict[str, Any]
NAMESPACE = "approval@inference-stack"
PEOPLE = {"ann": "owner", "bob": "owner, security"}
FIRST = ("deploy", "--env", "production", "--change", "CHG-1", "--model", "models/tiny-1.1.yaml")


@dataclass(frozen=True, kw_only=True)
class Production:
    """A checkout whose policies name people, and their keys. ``dan`` is who asks, with a token of his own."""

    checkout: Checkout
    keys: Path
    dan: Checkout

    def gate_before_all(self) -> None:
        """The policies ask again before 100 % from now on."""
        risk = self.checkout.root / "policies" / "risk.yaml"
        rule = "gates:\n  - {environment: production, action: rollout.deploy, before: 100, class: R2}\n"
        risk.write_text(re.sub(r"^gates:.*\n", rule, risk.read_text(), flags=re.MULTILINE))

    def approve(self, change: str, person: str) -> Done:
        key = str(self.keys / person)
        return self.checkout.stackctl("change", "approve", change, "--key", key, "--yes")

    def approve_by_agent(self, change: str, person: str) -> Done:
        """With a real ssh-agent that holds this person's key and no other."""
        socket = self.keys / f"{person}.agent"
        agent = subprocess.Popen(["ssh-agent", "-D", "-a", str(socket)], stdout=subprocess.DEVNULL)
        try:
            eventually(socket.exists, "the agent listens")
            environment = {**os.environ, "SSH_AUTH_SOCK": str(socket)}
            added = ["ssh-add", "-q", str(self.keys / person)]
            subprocess.run(added, env=environment, check=True, timeout=30)
            mine = replace(self.checkout, extra=(*self.checkout.extra, ("SSH_AUTH_SOCK", str(socket))))
            return mine.stackctl("change", "approve", change, "--agent", "--yes")
        finally:
            agent.terminate()
            agent.wait(timeout=30)

    def rollout(self) -> Json:
        return dict(self.checkout.status()["rollouts"][0])


def people(folder: Path, keys: Path) -> None:
    rows = "".join(f"  - {{name: {name}, roles: [{roles}]}}\n" for name, roles in {**PEOPLE, "dan": ""}.items())
    (folder / "people.yaml").write_text('schema: "1"\npeople:\n' + rows)
    lines = []
    for name in PEOPLE:
        made = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(keys / name)]
        subprocess.run(made, check=True, timeout=60)
        kind, blob, *_ = (keys / f"{name}.pub").read_text().split()
        lines.append(f'{name} namespaces="{NAMESPACE}" {kind} {blob}\n')
    (folder / "allowed_signers").write_text("".join(lines))


@pytest.fixture(scope="module")
def production(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Production]:
    root = tmp_path_factory.mktemp("production")
    checkout = copy_to(root / "inference-stack", free_ports())
    keys = root / "keys"
    keys.mkdir()
    people(checkout.root / "policies", keys)
    try:
        done = checkout.make("deploy")
        assert done.code == 0, done.text
        token = root / "dan.token"
        made = checkout.stackctl("token", "create", "dan", "--role", "operator", "--output", str(token))
        assert made.code == 0, made.text
        dan = replace(checkout, extra=(*checkout.extra, ("STACK_TOKEN_FILE", str(token))))
        yield Production(checkout=checkout, keys=keys, dan=dan)
    finally:
        checkout.end()


@pytest.fixture(scope="module")
def asked(production: Production) -> Done:
    return production.dan.stackctl(*FIRST)


def test_without_a_ticket_it_says_that_one_is_needed(production: Production) -> None:
    done = production.dan.stackctl("deploy", "--env", "production", "--model", "models/tiny-1.1.yaml")
    assert done.code == 7, done.text
    assert "--change" in done.err


def test_it_says_what_is_missing_who_may_give_it_and_how(production: Production, asked: Done) -> None:
    assert asked.code == 7, asked.text
    for word in ("sha256:", "CHG-1", "ann", "bob", "1 approval", "owner", "stackctl change approve CHG-1"):
        assert word in asked.err, asked.text
    again = production.dan.stackctl(*FIRST, "--json")
    facts = again.body["error"]["facts"]
    assert (again.code, facts["who"]) == (7, ["ann", "bob"])
    (request,) = production.checkout.asked("change", "list", "--open")["requests"]
    assert (request["request"], request["plan"]) == (facts["request"], facts["plan"])
    made = production.checkout.make("deploy", "ENV=production", "CHANGE=CHG-1", "MODEL=models/tiny-1.1.yaml")
    assert made.code == 2, "make leaves with 2 whatever its command left with"
    assert "Error 7" in made.err


@pytest.fixture(scope="module")
def approved(production: Production, asked: Done) -> Done:
    """By plain OpenSSH: the statement is a file, the signature another."""
    statement = production.keys / "statement"
    shown = production.checkout.stackctl("change", "show", "CHG-1", "--statement", str(statement))
    assert shown.code == 0, shown.text
    signing = ["ssh-keygen", "-q", "-Y", "sign", "-f", str(production.keys / "ann"), "-n", NAMESPACE, str(statement)]
    subprocess.run(signing, check=True, timeout=60)
    return production.checkout.stackctl("change", "approve", "CHG-1", "--signature", f"{statement}.sig", "--yes")


@pytest.fixture(scope="module")
def deployed(production: Production, approved: Done) -> Done:
    assert approved.code == 0, approved.text
    return production.dan.stackctl(*FIRST)


def test_once_approved_the_same_command_goes_ahead(production: Production, deployed: Done) -> None:
    assert deployed.code == 0, deployed.text
    assert production.checkout.service()["stable"]["model"] == "tiny@1.1"
    (request,) = production.checkout.asked("change", "show", "CHG-1")["requests"]
    assert (request["state"], request["used_by"]) == ("used", production.rollout()["id"])


def test_the_report_is_on_record_and_says_who_agreed(production: Production, deployed: Done) -> None:
    report = production.checkout.asked("change", "report", "CHG-1")
    assert report["matches"] is True
    (rollout,) = report["report"]["rollouts"]
    assert (rollout["ended"], rollout["requester"], rollout["environment"]) == ("promoted", "dan", "production")
    (request,) = report["report"]["requests"]
    assert [given["person"] for given in request["approvals"]] == ["ann"]
    shown = production.checkout.stackctl("change", "report", "CHG-1")
    assert "ann" in shown.out
    assert "matches audit record" in shown.out


def test_in_production_it_does_not_fall_back_into_dev(production: Production, deployed: Done) -> None:
    laxer = production.dan.stackctl("deploy", "--env", "dev", "--model", "models/tiny-1.0.yaml")
    assert laxer.code == 3, laxer.text
    silent = production.dan.stackctl("deploy", "--model", "models/tiny-1.0.yaml")
    assert silent.code == 7, silent.text
    alerts = production.checkout.asked("alert", "list")["alerts"]
    assert [a["code"] for a in alerts if a["closed_at"] is None] == ["INC-04"]
    assert production.checkout.service()["stable"]["model"] == "tiny@1.1"


@pytest.fixture(scope="module")
def back(production: Production, deployed: Done) -> Done:
    return production.checkout.make("rollback")


def test_the_way_back_needs_nobody(production: Production, back: Done) -> None:
    assert back.code == 0, back.text
    assert production.checkout.service()["stable"]["model"] == "tiny@1.0"


@pytest.fixture(scope="module")
def awaiting(production: Production, back: Done) -> str:
    """A deploy that has come to the gate before 100 %; who watched it is gone."""
    production.gate_before_all()
    words = ("deploy", "--env", "production", "--change", "CHG-2", "--model", "models/tiny-1.1.yaml")
    asked = production.dan.stackctl(*words)
    assert asked.code == 7, asked.text
    assert production.approve("CHG-2", "ann").code == 0
    begun = production.dan.stackctl(*words, "--no-wait", "--json")
    assert begun.code == 0, begun.text
    eventually(lambda: production.rollout()["state"] == "awaiting", "it waits at the gate")
    return str(begun.body["rollout"])


def test_a_gate_waits_with_the_traffic_as_it_is_through_a_kill_and_is_approved_by_itself(
    production: Production, awaiting: str
) -> None:
    watched = production.dan.stackctl("rollout", "watch", awaiting)
    assert watched.code == 7, watched.text
    assert "stackctl change show CHG-2" in watched.out
    weights = production.checkout.service()["weights"]
    assert (weights["stable"], weights["candidate"]) == (75, 25)
    os.kill(production.checkout.status()["control_plane"]["pid"], signal.SIGKILL)
    up = production.checkout.stackctl("up")
    assert up.code == 0, up.text
    eventually(lambda: production.rollout()["state"] == "awaiting", "it waits at the gate again")
    assert production.checkout.service()["weights"]["candidate"] == 25
    requests = production.checkout.asked("change", "show", "CHG-2")["requests"]
    assert sorted((r["gate"], r["state"]) for r in requests) == [("100", "open"), ("start", "used")]
    agreed = production.approve_by_agent("CHG-2", "bob")
    assert agreed.code == 0, agreed.text
    assert "goes on by itself" in agreed.out
    eventually(lambda: production.rollout()["state"] != "awaiting", "it goes on")
    watched = production.dan.stackctl("rollout", "watch", awaiting)
    assert watched.code == 0, watched.text
    assert production.checkout.service()["stable"]["model"] == "tiny@1.1"


def test_a_rejected_gate_goes_back(production: Production, awaiting: str) -> None:
    eventually(lambda: production.rollout()["state"] == "promoted", "CHG-2 is over")
    assert production.checkout.make("rollback").code == 0
    words = ("deploy", "--env", "production", "--change", "CHG-3", "--model", "models/tiny-1.1.yaml")
    assert production.dan.stackctl(*words).code == 7
    assert production.approve("CHG-3", "ann").code == 0
    begun = production.dan.stackctl(*words, "--no-wait", "--json")
    assert begun.code == 0, begun.text
    eventually(lambda: production.rollout()["state"] == "awaiting", "it waits at the gate")
    rejected = production.checkout.stackctl("change", "reject", "CHG-3", "--reason", "not today")
    assert rejected.code == 0, rejected.text
    eventually(lambda: production.rollout()["state"] == "rolled_back", "it went back")
    assert "not today" in production.rollout()["reason"]
    service = production.checkout.service()
    assert (service["stable"]["model"], service["weights"]["candidate"]) == ("tiny@1.0", 0)


def test_the_log_holds_and_an_export_is_checked_without_the_product(production: Production, awaiting: str) -> None:
    assert production.checkout.stackctl("audit", "verify").code == 0
    export = production.keys / "export.jsonl"
    assert production.checkout.stackctl("audit", "export", str(export)).code == 0
    verifier = production.checkout.root / "stack" / "audit" / "verify_export.py"
    key = (production.checkout.home / "checkpoint.pub").read_text().strip()
    python = str(production.checkout.root / ".venv" / "bin" / "python")
    checkpoints = production.checkout.home / "checkpoints.log"
    checked = production.checkout.run(
        python, "-I", str(verifier), str(export), "--checkpoints", str(checkpoints), "--key", key
    )
    assert checked.code == 0, checked.text
    text = export.read_text()
    export.write_text(text.replace("tiny@1.1", "tiny@6.6", 1))
    broken = production.checkout.run(
        python, "-I", str(verifier), str(export), "--checkpoints", str(checkpoints), "--key", key
    )
    assert broken.code != 0, broken.text


def test_what_was_recorded_is_signed_and_delivered_before_a_stop(production: Production, awaiting: str) -> None:
    records = production.checkout.status()["audit"]["records"]
    assert production.checkout.stackctl("down").code == 0
    sizes = re.findall(r"^(\d+)$", (production.checkout.home / "checkpoints.log").read_text(), re.MULTILINE)
    assert int(sizes[-1]) >= records

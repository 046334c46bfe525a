"""Deploying and watching: how it ended decides the exit code, and only a known good end is 0."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from cli_shell import Open
from fake_operator import FakeOperator

from stack.cli.command import Place
from stack.cli.ending import curl_line
from stack.cli.screen import PlainScreen, patiently
from stack.cli.watch import exit_code
from stack.config.home import Home, Ports
from stack.core.clock import ManualClock
from stack.core.errors import Refused


@pytest.mark.parametrize(
    ("kind", "state", "code"),
    [
        ("deploy", "promoted", 0), ("deploy", "rolled_back", 3), ("deploy", "failed", 4), ("deploy", "paused", 6),
        ("rollback", "rolled_back", 0), ("rollback", "failed", 4),
    ],
)  # fmt: skip
def test_the_exit_code_is_how_it_ended(shell: Open, kind: str, state: str, code: int) -> None:
    opened = shell(FakeOperator("preflight", "holding", "holding", state, kind=kind))
    result = opened.run("rollback" if kind == "rollback" else "deploy")
    assert result.exit_code == code, result.output
    assert [int(n) for n in re.findall(r"step (\d)", result.output)] == [1, 2, 3, 4]
    assert "evidence: /evidence/ro-aaaaaaaaaa" in result.output
    assert "curl -s http://127.0.0.1:8317/v1/chat/completions" in result.output
    as_json = opened.run("rollout", "watch", "--json")
    assert as_json.exit_code == code
    assert json.loads(as_json.stdout)["rollout"]["state"] == state
    assert json.loads(as_json.stdout)["exit_code"] == code


def test_a_rollback_that_aborts_a_running_deploy_is_done_when_it_is_back(shell: Open) -> None:
    opened = shell(FakeOperator("holding", "reverting", "rolled_back", kind="deploy"))
    opened.operator.rollback_says = {"aborting": True}
    assert opened.run("rollback").exit_code == 0
    assert opened.run("rollout", "abort", "ro-aaaaaaaaaa").exit_code == 0


def test_an_abort_that_came_too_late_is_not_done(shell: Open) -> None:
    assert shell(FakeOperator("holding", "promoted")).run("rollout", "abort", "ro-aaaaaaaaaa").exit_code == 5


@pytest.mark.parametrize(
    ("statuses", "code"),
    [(["done"], 0), (["done", "already"], 0), (["done", "failed"], 4), (["unreachable"], 4), ([], 1)],
)
def test_a_dry_run_is_good_only_when_every_host_said_so(shell: Open, statuses: list[str], code: int) -> None:
    opened = shell()
    opened.operator.dry_run = [{"host": f"h{n}", "status": s} for n, s in enumerate(statuses)]
    result = opened.run("deploy", "--dry-run")
    assert result.exit_code == code
    assert opened.operator.calls[-1][1][0]["dry_run"] is True


@pytest.mark.parametrize("rollout", [{}, {"state": None}, {"state": "PROMOTED"}, {"state": "holding"}])
def test_an_unknown_end_is_not_a_success(rollout: dict[str, object]) -> None:
    assert exit_code(rollout) == 1


def test_nothing_to_do_says_so_and_is_done(shell: Open) -> None:
    opened = shell()
    opened.operator.nothing_to_do = True
    result = opened.run("deploy")
    assert result.exit_code == 0
    assert "nothing to do: tiny@1.0 is stable already" in result.output


def test_no_wait_returns_at_once(shell: Open) -> None:
    opened = shell(FakeOperator("preflight"))
    result = opened.run("deploy", "--no-wait", "--model", "tiny@1.1", "--runtime", "llamacpp/llama-cpp-python")
    assert result.exit_code == 0
    (_, (request, by)) = opened.operator.calls[-1]
    assert request["model"] == "tiny@1.1"
    assert request["runtime"] == "llamacpp/llama-cpp-python"
    assert request["dry_run"] is False
    assert "@" in by


def test_a_paused_rollout_says_how_to_go_on(shell: Open) -> None:
    result = shell(FakeOperator("evaluating", "paused")).run("deploy")
    assert result.exit_code == 6
    assert "stackctl rollout resume ro-aaaaaaaaaa" in result.output


class ResumedLater(FakeOperator):
    """Says "paused" for one more poll after the resume, as a worker that has not heard of it yet."""

    def events(self, rollout_id: str, after: int, wait_s: float) -> dict[str, object]:
        page = super().events(rollout_id, after, wait_s)
        resumed = any(name == "resume" for name, _ in self.calls)
        if resumed and not page["events"] and page["state"] == "paused":
            self.then("holding", "promoted")
        return page


def test_watching_after_a_resume_does_not_end_at_the_old_pause(shell: Open) -> None:
    result = shell(ResumedLater("evaluating", "paused")).run("rollout", "resume", "ro-aaaaaaaaaa")
    assert result.exit_code == 0, result.output


def test_abort_sends_the_reason(shell: Open) -> None:
    opened = shell(FakeOperator("holding", "rolled_back"))
    result = opened.run("rollout", "abort", "ro-aaaaaaaaaa", "--reason", "wrong one", "--no-wait")
    assert result.exit_code == 0
    assert opened.operator.calls[-1][1][:2] == ("ro-aaaaaaaaaa", "wrong one")


def test_ctrl_c_stops_watching_only(shell: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_args: object, **_more: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("stack.cli.ending.watch", interrupted)
    opened = shell(FakeOperator("holding"))
    result = opened.run("deploy")
    assert result.exit_code == 130
    assert "goes on" in result.stderr
    assert "stackctl rollout watch ro-aaaaaaaaaa" in result.stderr
    assert not any(name == "abort" for name, _ in opened.operator.calls)


def test_silence_has_a_heartbeat_every_five_seconds() -> None:
    clock, lines = ManualClock(), list[str]()
    screen = PlainScreen(lines.append, clock)
    screen.event("placing     installing the runtime")
    for second in range(1, 61):
        clock.advance(1)
        screen.waiting("the runtime to install", float(second))
    assert lines[0] == "00:00:00 placing     installing the runtime"
    assert len(lines) >= 12
    assert all("waiting for the runtime to install" in line for line in lines[1:])


def test_waiting_patiently_passes_on_what_came() -> None:
    def refuse() -> str:
        raise Refused("no")

    assert patiently(lambda: "yes", "an answer") == "yes"
    with pytest.raises(Refused):
        patiently(refuse, "an answer")


def test_the_curl_line_is_valid_shell_and_keeps_the_key_in_its_file(tmp_path: Path) -> None:
    where = Place(home=Home(tmp_path / "a b"), ports=Ports(gateway=8400, admin=8001))
    (tmp_path / "a b" / "secrets").mkdir(parents=True)
    (tmp_path / "a b" / "secrets" / "client.key").write_text("thekey\n")
    line = curl_line(where, "tiny", tmp_path)
    assert "thekey" not in line
    shown = subprocess.run(
        ["sh", "-c", "curl() { printf '%s\\n' \"$@\"; }; " + line],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert shown[1] == "http://127.0.0.1:8400/v1/chat/completions"
    assert "Authorization: Bearer thekey" in shown
    assert json.loads(shown[-1])["model"] == "tiny"

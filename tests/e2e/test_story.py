"""What a new user does, through ``make``, in order: each fixture is one step, the tests say what is true after it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from checkout import Checkout, Done, digest_of_tree, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]
Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Step:
    """A command, and what was true when it had ended."""

    done: Done
    status: Json
    hosts: str = ""

    @property
    def service(self) -> Json:
        """The one service."""
        (service,) = self.status["services"]
        return dict(service)

    @property
    def rollout(self) -> Json:
        """The newest rollout."""
        return dict(self.status["rollouts"][0])

    @property
    def evidence(self) -> Path:
        """Where the newest rollout's evidence lies, as the command printed it."""
        return Path(re.findall(r"^evidence: (.+)$", self.done.out, re.MULTILINE)[-1])


def step(checkout: Checkout, *arguments: str) -> Step:
    done = checkout.make(*arguments)
    return Step(done=done, status=checkout.status())


@pytest.fixture(scope="module")
def first(fresh: Checkout) -> Step:
    return step(fresh, "deploy")


@pytest.fixture(scope="module")
def second(fresh: Checkout, first: Step) -> Step:
    return step(fresh, "deploy")


@pytest.fixture(scope="module")
def rehearsed(fresh: Checkout, second: Step) -> tuple[str, Step]:
    before = digest_of_tree(fresh.home / "hosts")
    done = fresh.make("deploy", "MODEL=models/tiny-1.1.yaml", "DRY_RUN=1")
    after = digest_of_tree(fresh.home / "hosts")
    return before, Step(done=done, status=fresh.status(), hosts=after)


@pytest.fixture(scope="module")
def better(fresh: Checkout, rehearsed: tuple[str, Step]) -> Step:
    return step(fresh, "deploy", "MODEL=models/tiny-1.1.yaml")


@pytest.fixture(scope="module")
def worse(fresh: Checkout, better: Step) -> Step:
    return step(fresh, "deploy", "MODEL=models/tiny-1.2.yaml")


def models_of(step: Step) -> tuple[str | None, str | None, str | None]:
    """Models of stable, candidate and last known good."""
    roles = (step.service[role] for role in ("stable", "candidate", "lkg"))
    one, two, three = (role["model"] if role else None for role in roles)
    return one, two, three


def test_first_deploy_promotes_and_says_what_is_true(first: Step) -> None:
    assert first.done.code == 0, first.done.text
    assert models_of(first) == ("tiny@1.0", None, None)
    assert first.service["weights"] == {"stable": 100, "candidate": 0}
    for said in ("tiny@1.0", "100 %", "healthy", "try it:", str(first.status["gateway"]["pid"])):
        assert said in first.done.out, first.done.text


def test_installing_never_looks_like_a_hang(first: Step) -> None:
    lines = first.done.out.splitlines()
    assert [line for line in lines if re.search(r"Install the runtime: (llamacpp|supervisor):", line)], lines
    assert len([line for line in lines if re.match(r"\d\d:\d\d:\d\d ", line)]) > 30, lines


def test_its_evidence_lies_where_it_says(fresh: Checkout, first: Step) -> None:
    assert fresh.home in first.evidence.parents
    body = json.loads((first.evidence / "evidence.json").read_text())
    assert body["rollout"]["verdict"] == "PROMOTE"
    assert {"smoke", "comparison", "verdict", "warm-up"} <= {item["kind"] for item in body["evidence"]}
    assert "PROMOTE" in (first.evidence / "report.md").read_text()


def test_the_curl_line_works_when_pasted(fresh: Checkout, first: Step) -> None:
    (line,) = re.findall(r"^curl .*$", first.done.out, re.MULTILINE)
    answered = fresh.run("sh", "-c", line)
    assert answered.code == 0, answered.text
    message = answered.body["choices"][0]["message"]
    assert message["role"] == "assistant"
    assert message["content"]


def test_second_deploy_has_nothing_to_do(first: Step, second: Step) -> None:
    assert second.done.code == 0, second.done.text
    assert "nothing to do" in second.done.out
    assert [r["id"] for r in second.status["rollouts"]] == [r["id"] for r in first.status["rollouts"]]


def test_a_dry_run_changes_nothing_and_says_what_it_would_do(
    fresh: Checkout, second: Step, rehearsed: tuple[str, Step]
) -> None:
    before, dry = rehearsed
    assert dry.done.code == 0, dry.done.text
    assert "tiny@1.1" in dry.done.out
    assert re.search(r"would.*(artifact|replica)", dry.done.out, re.IGNORECASE | re.DOTALL), dry.done.text
    assert dry.status["rollouts"] == second.status["rollouts"]
    assert dry.service["replicas"] == second.service["replicas"]
    assert dry.hosts == before


def test_a_better_model_is_promoted_through_the_ladder(fresh: Checkout, better: Step) -> None:
    assert better.done.code == 0, better.done.text
    assert models_of(better) == ("tiny@1.1", None, "tiny@1.0")
    events = json.loads((better.evidence / "evidence.json").read_text())["events"]
    rungs = [re.findall(r"shifting, candidate at (\d+) %", e["text"]) for e in events if e["kind"] == "phase"]
    assert [int(found[0]) for found in rungs if found] == [5, 25, 100]


def test_both_releases_run_and_are_what_they_say(better: Step) -> None:
    replicas = better.service["replicas"]
    assert [r["state"] for r in replicas] == ["healthy", "healthy"]
    assert {r["observed_digest"] for r in replicas} == {better.service[role]["release"] for role in ("stable", "lkg")}
    assert all(r["observed_digest"] == r["release"] for r in replicas)
    assert better.service["weights"]["stable"] == 100


def test_a_worse_model_is_refused_by_the_evidence(fresh: Checkout, better: Step, worse: Step) -> None:
    assert worse.done.code == 2, worse.done.text  # make's own code for a command that failed
    assert "Error 3" in worse.done.err, worse.done.text
    assert (worse.rollout["state"], worse.rollout["verdict"]) == ("rolled_back", "ROLLBACK")
    assert models_of(worse) == models_of(better)
    assert worse.service["weights"] == better.service["weights"]


def test_its_evidence_names_the_failing_cases(worse: Step) -> None:
    body = json.loads((worse.evidence / "evidence.json").read_text())
    report = (worse.evidence / "report.md").read_text()
    (comparison,) = (item["body"] for item in body["evidence"] if item["kind"] == "comparison")
    assert comparison["outcome"] == "WORSE"
    assert comparison["regressed"] > comparison["improved"]
    assert comparison["failing"]
    assert comparison["failing"][0]["test"] in report
    assert body["rollout"]["verdict"] == "ROLLBACK"
    assert comparison["reasons"][0] in body["rollout"]["reason"]
    assert comparison["reasons"][0] in report


def test_nothing_of_it_is_left_running(fresh: Checkout, worse: Step) -> None:
    replica = json.loads((worse.evidence / "evidence.json").read_text())["rollout"]["placements"][0]["replica"]
    assert not [words for words in fresh.processes().values() if replica in words]
    assert replica not in [r["id"] for r in worse.service["replicas"]]


@pytest.fixture(scope="module")
def ended(fresh: Checkout, worse: Step) -> tuple[dict[int, str], Done, dict[int, str]]:
    """What ran, ``make down``, and what runs then."""
    before = fresh.processes()
    return before, fresh.make("down"), fresh.processes()


@pytest.fixture(scope="module")
def revived(fresh: Checkout, worse: Step, ended: object) -> Step:
    return step(fresh, "deploy", "MODEL=models/tiny-1.1.yaml")


@pytest.fixture(scope="module")
def back(fresh: Checkout, revived: Step) -> Step:
    return step(fresh, "rollback")


@pytest.fixture(scope="module")
def back_again(fresh: Checkout, back: Step) -> Step:
    return step(fresh, "rollback")


def test_down_leaves_no_process(
    fresh: Checkout, worse: Step, ended: tuple[dict[int, str], Done, dict[int, str]]
) -> None:
    before, down, after = ended
    assert down.code == 0, down.text
    named = {worse.status["gateway"]["pid"], worse.status["control_plane"]["pid"]}
    assert named < set(before), before  # the search finds what runs
    assert any("supervisord" in words for words in before.values()), before
    assert after == {}


def test_deploy_after_down_brings_everything_back(fresh: Checkout, worse: Step, revived: Step) -> None:
    assert revived.done.code == 0, revived.done.text
    assert "nothing to do" in revived.done.out
    assert models_of(revived) == models_of(worse)
    assert revived.service["weights"] == worse.service["weights"]
    assert revived.status["rollouts"] == worse.status["rollouts"]


def test_both_releases_run_again(fresh: Checkout, worse: Step, revived: Step) -> None:
    def healthy() -> list[Json]:
        replicas = fresh.service()["replicas"]
        return replicas if {r["state"] for r in replicas} == {"healthy"} else []

    replicas = eventually(healthy, "both replicas healthy again")
    assert {r["observed_digest"] for r in replicas} == {worse.service[role]["release"] for role in ("stable", "lkg")}


def test_rollback_goes_to_the_last_known_good(fresh: Checkout, better: Step, back: Step) -> None:
    assert back.done.code == 0, back.done.text
    assert back.service["stable"] == better.service["lkg"]
    assert (back.rollout["kind"], back.rollout["state"]) == ("rollback", "rolled_back")
    assert back.service["weights"]["stable"] == 100


def test_a_second_rollback_has_nothing_to_do(back: Step, back_again: Step) -> None:
    assert back_again.done.code == 0, back_again.done.text
    assert "nothing to do" in back_again.done.out
    assert back_again.status["rollouts"] == back.status["rollouts"]
    assert back_again.service["stable"] == back.service["stable"]


def test_the_release_that_is_stable_answers(fresh: Checkout, back_again: Step) -> None:
    (line,) = re.findall(r"^curl .*$", back_again.done.out, re.MULTILINE)
    answered = fresh.run("sh", "-c", f"{line} -D {fresh.root / 'head'}")
    assert answered.body["choices"][0]["message"]["content"]
    head = (fresh.root / "head").read_text().lower()
    assert f"x-stack-release: {back_again.service['stable']['release']}" in head

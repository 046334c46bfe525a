"""A candidate that is bad is rolled back for that reason, before it gets traffic, or as soon as traffic shows it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from running_stack import Json
from stand_in import StandInStack, stand_in_stack

pytestmark = [pytest.mark.faults]

# fault from the start -> what the reason must say
AT_ONCE = {
    "never-ready": r"did not become ready .*liveness: HTTP 503",
    "hang": r"did not become ready .*completion: no complete answer within",
    "nonsense": r"did not become ready .*200, but not a chat completion",
    "html": r"did not become ready .*200, but not a chat completion",
    "wrong-model": r"did not become ready .*'another-model' answered",
    "500": r"did not become ready .*HTTP 500",
    "die": r"did not become ready .*ConnectionRefusedError",
    "no-done": r"warm-up .*without \[DONE\]",
    "error-event": r"warm-up .*the stream broke",
    "garbage-text": r"smoke on .*prompts failed",
    "slow": r"no complete answer within|the time for the whole warm-up is over",
}
# fault after as many healthy answers as it takes to get traffic
UNDER_TRAFFIC = {
    "hang": r"at (5|25|100) %: .*",
    "slow": r"at (5|25|100) %: .*latency_p95_s",
    "500": r"at (5|25|100) %: .*error_rate",
    "html": r"at (5|25|100) %: .*",
    "nonsense": r"at (5|25|100) %: .*",
    "garbage-text": r"at (5|25|100) %: quality is worse",
    "wrong-model": r"at (5|25|100) %: .*",
    "cut": r"at (5|25|100) %: .*",
    "error-event": r"at (5|25|100) %: .*",
    "die": r"at (5|25|100) %: .*",
}
HEALTHY_FIRST = 110


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandInStack]:
    """One stack with a good stable release; each candidate comes and goes."""
    with pytest.MonkeyPatch.context() as patch, stand_in_stack(tmp_path_factory.mktemp("bad") / "s", patch) as made:
        first = made.deploy("1.0")
        assert first["phase"] == "promoted", first["reason"]
        yield made


@pytest.mark.parametrize("fault", AT_ONCE)
def test_refused_before_any_traffic(stack: StandInStack, fault: str, counted: Callable[[str], None]) -> None:
    over = stack.deploy("1.1", "--fault", fault, "--delay", "2.5")
    _rolled_back(stack, over, AT_ONCE[fault])
    assert stack.weights_seen(str(over["id"])) == [0]
    counted(f"bad candidate, {fault} from the start: never got traffic; {_short(over)}")


@pytest.mark.parametrize("fault", UNDER_TRAFFIC)
def test_found_under_traffic_and_traffic_put_back(
    stack: StandInStack, fault: str, counted: Callable[[str], None]
) -> None:
    over = stack.deploy("1.1", "--fault", fault, "--delay", "2", "--after", str(HEALTHY_FIRST))
    _rolled_back(stack, over, UNDER_TRAFFIC[fault])
    shares = stack.weights_seen(str(over["id"]))
    assert (shares[0], shares[-1]) == (0, 0)
    assert 5 in shares
    counted(f"bad candidate, {fault} under traffic: had {max(shares)} %, then 0 %; {_short(over)}")


def _rolled_back(stack: StandInStack, over: Json, reason: str) -> None:
    assert (over["phase"], over["verdict"]) == ("rolled_back", "ROLLBACK"), over["reason"]
    assert re.search(reason, str(over["reason"]), re.DOTALL), over["reason"]
    table = stack.files.table
    assert table["weights"] == {"stable": 100}
    assert {t["model"] for t in table["targets"]} == {"tiny@1.0"}
    for _ in range(5):
        status, headers, _ = stack.files.ask()
        assert (status, headers["x-stack-slice"]) == (200, "stable")
    assert set(stack.host.running) == {t["id"] for t in table["targets"]}


def _short(over: Json) -> str:
    return " ".join(str(over["reason"]).split())[:150]


def test_the_stack_still_takes_a_good_one(stack: StandInStack, tmp_path: Path) -> None:
    """After all of these; otherwise they might have been refused for nothing."""
    over = stack.deploy("1.1")
    assert over["phase"] == "promoted", over["reason"]
    assert {t["model"] for t in stack.files.table["targets"] if t["slice"] == "stable"} == {"tiny@1.1"}

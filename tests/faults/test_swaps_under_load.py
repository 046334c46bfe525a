"""Releases swapped under streaming load while engines and control connections are killed.

No request may fail that another replica could have answered, no answer may mix two releases, and an answer that was
cut by the death of its own replica must reach the client as an error. STACK_TEST_SWAPS sets how many swaps: by default
each line of WHAT has one.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable

import httpx
import pytest
from running_stack import ENDED, RunningStack, until
from streams import KNOWN, Answer, StreamingClients, streamed

pytestmark = [pytest.mark.faults, pytest.mark.e2e, pytest.mark.timeout(3000)]
WHAT = ("candidate engine", "stable engine", "control plane", "stable engine", "candidate engine", "control connection")
SWAPS = int(os.environ.get("STACK_TEST_SWAPS") or len(WHAT))


def test_streams_over_swaps_with_kills(
    new_stack: Callable[..., RunningStack], chance: random.Random, counted: Callable[[str], None]
) -> None:
    stack = new_stack(rollout={"ladder": [50, 100]}, service={"replicas": 2})
    stack.up()
    assert stack.deploy("1.0")["phase"] == "promoted"
    served: dict[str, str] = {}
    known: dict[tuple[str, str], set[str]] = {}
    _learn(stack, served, known)
    killed: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    with StreamingClients(stack) as clients:
        for number in range(SWAPS):
            rollout = stack.begin("back" if _model(stack) == "tiny@1.1" else "1.1")
            _kill_something(stack, rollout, WHAT[number % len(WHAT)], chance, killed)
            over = stack.ended(rollout)
            assert over["phase"] in ("promoted", "rolled_back"), (over["phase"], over["reason"], over["notes"])
            ends[over["phase"]] += 1
            _whole_again(stack)
            _learn(stack, served, known)
    refused, cut, wrong = _judge(clients.answers, served, known)
    whole = sum(a.done for a in clients.answers)
    counted(
        f"{ends.total()} swaps under streaming load ({ends['promoted']} promoted, {ends['rolled_back']} rolled back), "
        f"killed: {', '.join(f'{what} {n}' for what, n in killed.most_common())}"
    )
    counted(
        f"  {len(clients.answers)} streams: {whole} whole, {len(cut)} cut by the death of their own replica and told "
        f"so, {len(refused)} failed that another replica could have answered, {len(wrong)} mixed or wrong"
    )
    assert [a.refused for a in refused] == []
    assert wrong == []
    assert whole > 10 * SWAPS
    assert len(cut) <= clients.threads * (killed["candidate engine"] + killed["stable engine"])


def _kill_something(stack: RunningStack, rollout: str, what: str, chance: random.Random, killed: Counter[str]) -> None:
    """At a random moment of the rollout. A candidate's engine is waited for; a rollback may need none, then stable's
    is killed."""
    if what == "candidate engine":
        until(lambda: _victim(stack, rollout, what) or _over(stack, rollout), 120)
        what = what if _victim(stack, rollout, what) else "stable engine"
    time.sleep(chance.uniform(0.0, 4.0))
    if what == "control connection":
        for _ in range(20):
            _broken_line(stack, chance)
        killed[what] += 20
    elif what == "control plane":
        stack.kill("control-plane")
        killed[what] += 1
        stack.up()
    elif victim := _victim(stack, rollout, what):
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
            killed[what] += 1


def _over(stack: RunningStack, rollout: str) -> bool:
    return stack.row(rollout)["phase"] in ENDED


def _victim(stack: RunningStack, rollout: str, what: str) -> int | None:
    """A pid: of the rollout's own replica, or of one that serves as stable."""
    own = {p["replica"] for p in stack.row(rollout)["placements"]}
    stable = {t["id"] for t in stack.table["targets"] if t["slice"] == "stable"}
    engines = stack.engines()
    for replica in sorted(own if what == "candidate engine" else stable):
        if engines.get(replica):
            return engines[replica][0]
    return None


def _broken_line(stack: RunningStack, chance: random.Random) -> None:
    """Half a line to the gateway's control socket, then gone."""
    line = b'{"op": "put-table", "table": {"version": 99999, "services": []}}\n'
    with socket.socket(socket.AF_UNIX) as wire:
        wire.settimeout(10)
        wire.connect(os.path.relpath(stack.home / "run" / "gateway.sock"))
        wire.sendall(line[: chance.randrange(1, len(line) - 2)])


def _model(stack: RunningStack) -> str:
    return str(next(t["model"] for t in stack.table["targets"] if t["slice"] == "stable"))


def _whole_again(stack: RunningStack) -> None:
    """Both stable replicas answer by themselves, so that the next kill always leaves another one."""
    stable = [t for t in stack.table["targets"] if t["slice"] == "stable"]
    assert len(stable) == 2
    assert len({t["release"] for t in stable}) == 1
    for target in stable:
        until(lambda port=target["port"]: _answers(port))


def _answers(port: int) -> bool:
    try:
        body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
        url = f"http://127.0.0.1:{port}/v1/chat/completions"
        return httpx.post(url, json=body, timeout=30, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def _learn(stack: RunningStack, served: dict[str, str], known: dict[tuple[str, str], set[str]]) -> None:
    """By asking while one release has all traffic: under which name it is served, and what it says to the prompts."""
    table = stack.table
    assert table["weights"] == {"stable": 100}
    for target in table["targets"]:
        served[target["release"]] = target["served_model"]

    def ask() -> None:
        with httpx.Client(timeout=60, trust_env=False) as http:
            for prompt in KNOWN:
                answer = streamed(http, stack, prompt, max_tokens=32)
                assert answer.done, answer
                known.setdefault((answer.release, prompt), set()).add(answer.text)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)


def _judge(
    answers: list[Answer], served: dict[str, str], known: dict[tuple[str, str], set[str]]
) -> tuple[list[Answer], list[Answer], list[Answer]]:
    """(refused, cut, wrong). Wrong: more than one release in one answer, or not what that release says."""
    releases = {release for release, _ in known}
    assert len(releases) == 2
    one, two = (set().union(*(known[r, p] for p in KNOWN)) for r in sorted(releases))
    assert not one & two, "the two releases say the same: nothing would be seen"
    refused = [a for a in answers if a.refused]
    cut = [a for a in answers if not a.refused and not a.done]
    wrong = [a for a in answers if a.done and a.cut]
    for a in answers:
        mixed = bool(a.models) and a.models != {served[a.release]}
        other = a.done and a.prompt in KNOWN and a.text not in known[a.release, a.prompt]
        if mixed or other:
            wrong.append(a)
    assert all(a.cut for a in cut), "a stream ended without an end and without an error"
    return refused, cut, wrong

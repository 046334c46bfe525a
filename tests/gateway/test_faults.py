"""What replicas do wrong, and what clients see of it: another replica's answer, a clear error, or a visible cut."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import threading
from collections import Counter
from collections.abc import Callable

import httpx
import openai
import pytest

from .conftest import KEY, FaultyReplica, Gateway, free_port, until

Start = Callable[..., FaultyReplica]
BOTH = {"stable": 100}
QUICK = {"first_byte_timeout_s": 0.6, "stall_timeout_s": 0.6}
MESSAGES = [{"role": "user", "content": "hi"}]


@pytest.fixture
def pair(gateway: Gateway, replica: Start) -> tuple[FaultyReplica, FaultyReplica]:
    """A replica to be broken in the candidate slice with all the weight, and a healthy one to fall back on."""
    bad, good = replica("tiny-bad"), replica("tiny-good")
    gateway.put(
        [bad.target("bad", "candidate", "b"), good.target("good")], {"stable": 1, "candidate": 99}, limits=QUICK
    )
    return bad, good


RETRIED = ["500", "502", "503", "504", "429", "html", "nonsense", "wrong-model", "close", "not-http", "empty", "hang"]
RETRIED += ["never-ready", "cut"]


@pytest.mark.parametrize("fault", RETRIED)
def test_a_plain_request_moves_on_to_a_healthy_replica(
    gateway: Gateway, pair: tuple[FaultyReplica, FaultyReplica], fault: str
) -> None:
    pair[0].set(fault=fault)
    answers = [gateway.chat() for _ in range(6)]
    assert [a.status for a in answers] == [200] * 6
    assert all(a.headers["x-stack-replica"] == "good" and a.json["model"] == "tiny-good" for a in answers)
    books = gateway.books("bad")
    assert books["errors"] == books["requests"] >= 3
    assert gateway.books("good")["errors"] == 0


@pytest.mark.parametrize("fault", ["503", "html", "close", "hang", "first-error", "wrong-model"])
def test_a_stream_moves_on_before_its_first_event(
    gateway: Gateway, pair: tuple[FaultyReplica, FaultyReplica], fault: str
) -> None:
    pair[0].set(fault=fault)
    for _ in range(4):
        got = gateway.chat(stream=True)
        assert got.status == 200 and got.body.endswith(b"data: [DONE]\n\n")
        assert got.headers["x-stack-replica"] == "good" and b"tiny-bad" not in got.body
    assert gateway.books("bad")["errors"] >= 3


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [("500", 500, "500"), ("429", 429, "429"), ("html", 502, "bad_answer"), ("nonsense", 502, "bad_answer"),
     ("wrong-model", 502, "bad_answer"), ("cut", 502, "connection_failed"), ("hang", 504, "TIMEOUT"),
     ("close", 502, "connection_failed")],
)  # fmt: skip
def test_alone_it_is_a_clear_error(gateway: Gateway, replica: Start, fault: str, status: int, code: str) -> None:
    only = replica(fault=fault)
    gateway.put([only.target("only")], limits=QUICK)
    got = gateway.chat()
    assert (got.status, got.code) == (status, code)
    assert gateway.books("only")["errors"] == 1
    only.set(fault="none")
    assert gateway.chat().status == 200


@pytest.mark.parametrize("fault", ["cut", "stall", "no-done"])
def test_a_broken_stream_never_looks_complete(gateway: Gateway, replica: Start, fault: str) -> None:
    only = replica(fault=fault)
    only.set(pause=0.02)  # so that the client has seen the beginning when the end comes
    gateway.put([only.target("only")], limits=QUICK)
    sdk = openai.OpenAI(base_url=f"http://127.0.0.1:{gateway.port}/v1", api_key=KEY, max_retries=0)
    with pytest.raises((openai.APIError, httpx.RemoteProtocolError)):
        list(sdk.chat.completions.create(model="tiny", messages=MESSAGES, stream=True))  # type: ignore
    with pytest.raises(http.client.IncompleteRead) as caught:
        gateway.chat(stream=True)
    assert b"stream_cut" in caught.value.partial and b"[DONE]" not in caught.value.partial
    books = gateway.books("only")
    assert books["errors"] == 2 and books["by_status"] == {"599": 2}


def test_an_error_event_before_done_is_a_failure_in_the_books(gateway: Gateway, replica: Start) -> None:
    only = replica(fault="error-event")
    only.set(pause=0.02)  # so that the client has seen the beginning when the end comes
    gateway.put([only.target("only")])
    got = gateway.chat(stream=True)
    assert b"engine died" in got.body and got.body.endswith(b"data: [DONE]\n\n")
    books = gateway.books("only")
    assert books["errors"] == 1 and books["items"][0][1] == 599 and books["items"][0][7] == "stream_error"


def test_missing_usage_is_not_zero_usage(gateway: Gateway, replica: Start) -> None:
    only = replica(fault="no-usage")
    gateway.put([only.target("only")])
    gateway.chat()
    gateway.chat(stream=True)
    books = gateway.books("only")
    assert books["without_usage"] == 2 and [i[4] for i in books["items"]] == [None, None]


@pytest.mark.parametrize("bad", [{"messages": None}, {"messages": 7}])
def test_a_clients_own_mistake_is_never_retried(
    gateway: Gateway, pair: tuple[FaultyReplica, FaultyReplica], bad: dict[str, object]
) -> None:
    assert gateway.chat(**bad).status == 400
    assert pair[0].seen()["seen"] + pair[1].seen()["seen"] == 1


def test_a_connection_closed_while_idle_is_no_failure(gateway: Gateway, replica: Start) -> None:
    only = replica(fault="reset-idle")
    gateway.put([only.target("only")])
    assert [gateway.chat().status for _ in range(10)] == [200] * 10
    assert gateway.books("only")["errors"] == 0


def test_a_frozen_replica_holds_nothing_up_for_long(
    gateway: Gateway, pair: tuple[FaultyReplica, FaultyReplica]
) -> None:
    gateway.chat()
    os.kill(pair[0].process.pid, signal.SIGSTOP)
    try:
        got = [gateway.chat(stream=n % 2 == 0) for n in range(6)]
        assert [g.status for g in got] == [200] * 6
        until(lambda: gateway.control.health()["looks_down"] == ["bad"])
    finally:
        os.kill(pair[0].process.pid, signal.SIGCONT)
    until(lambda: gateway.control.health()["looks_down"] == [])
    until(lambda: gateway.chat().headers["x-stack-replica"] == "bad")


def test_panic_if_all_look_down_they_are_tried_all_the_same(gateway: Gateway, replica: Start) -> None:
    one, two = replica(fault="503"), replica(fault="503")
    gateway.put([one.target("r1"), two.target("r2")])
    for _ in range(5):
        assert gateway.chat().status == 503
    assert len(gateway.control.health()["looks_down"]) >= 1
    one.set(fault="none")
    two.set(fault="none")
    assert gateway.chat().status == 200


def test_a_client_that_goes_away_stops_the_replica_and_blames_nobody(gateway: Gateway, replica: Start) -> None:
    only = replica()
    only.set(pause=0.05, chunks=10_000)
    gateway.put([only.target("only")])
    body = json.dumps({"model": "tiny", "messages": [], "stream": True}).encode()
    with socket.create_connection(("127.0.0.1", gateway.port)) as wire:
        wire.sendall(post(body))
        assert wire.recv(1000).startswith(b"HTTP/1.1 200")
    until(lambda: only.seen()["aborted"] == 1)
    books = gateway.books("only")
    assert books["by_status"] == {"499": 1} and books["errors"] == 0 and books["inflight"] == 0


def test_a_slow_reader_slows_the_replica_not_the_gateway(gateway: Gateway, replica: Start) -> None:
    only = replica()
    only.set(chunks=200_000)  # tens of megabytes if nobody holds it back
    gateway.put([only.target("only")])
    before = rss(gateway.process.pid)
    body = json.dumps({"model": "tiny", "messages": [], "stream": True}).encode()
    with socket.create_connection(("127.0.0.1", gateway.port)) as wire:
        wire.sendall(post(body))
        wire.recv(1000)
        for _ in range(20):
            assert gateway.ask("GET", "/health").status == 200
            threading.Event().wait(0.1)
        assert rss(gateway.process.pid) - before < 24_000
    until(lambda: gateway.books("only")["inflight"] == 0)


def test_all_of_a_long_stream_arrives_at_a_reader_that_pauses(gateway: Gateway, replica: Start) -> None:
    only = replica()
    only.set(chunks=20_000)
    gateway.put([only.target("only")])
    body = json.dumps({"model": "tiny", "messages": [], "stream": True}).encode()
    got = b""
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as wire:
        wire.sendall(post(body))
        threading.Event().wait(1)
        while not got.endswith(b"0\r\n\r\n"):
            got += wire.recv(1 << 20)
    assert got.count(b'"content": "w') == 20_000 and b"w19999 " in got
    assert gateway.books("only")["completion_tokens"] == 20_000


@pytest.mark.faults
def test_kill_9_of_replicas_under_load_fails_no_request(gateway: Gateway, replica: Start) -> None:
    fleet = [replica(f"tiny-{n}") for n in range(2)]
    gateway.put([r.target(f"r{n}", ("stable", "candidate")[n]) for n, r in enumerate(fleet)],
                {"stable": 50, "candidate": 50})  # fmt: skip
    load = Load(gateway)
    for round_number in range(8):
        victim = fleet[round_number % 2]
        until(lambda goal=load.done + 40: load.done >= goal)
        victim.kill()
        until(lambda goal=load.done + 40: load.done >= goal)
        fleet[round_number % 2] = replica(victim.model, port=victim.port)
    statuses = load.stop()
    print(f"8 kills, {sum(statuses.values())} requests: {dict(statuses)}")
    assert set(statuses) == {200}


@pytest.mark.faults
def test_kill_9_under_streams_each_is_whole_or_visibly_cut_and_of_one_release(gateway: Gateway, replica: Start) -> None:
    fleet = [replica(f"tiny-{n}", chunks=10) for n in range(2)]
    for one in fleet:
        one.set(pause=0.005)
    gateway.put([r.target(f"r{n}", ("stable", "candidate")[n]) for n, r in enumerate(fleet)],
                {"stable": 50, "candidate": 50})  # fmt: skip
    load = Load(gateway, stream=True)
    for round_number in range(8):
        victim = fleet[round_number % 2]
        until(lambda goal=load.done + 20: load.done >= goal)
        victim.kill()
        until(lambda goal=load.done + 20: load.done >= goal)
        fleet[round_number % 2] = replica(victim.model, port=victim.port, chunks=10)
        fleet[round_number % 2].set(pause=0.005)
    seen = load.stop()
    print(f"8 kills, {sum(seen.values())} streams: {dict(seen)}")
    assert set(seen) <= {"whole", "cut"} and seen["cut"] <= 8 * 4


@pytest.mark.faults
def test_weights_change_under_load_without_a_failure(gateway: Gateway, replica: Start) -> None:
    stable, candidate = replica("tiny-s"), replica("tiny-c")
    targets = [stable.target("s"), candidate.target("c", "candidate", "b")]
    gateway.put(targets, {"stable": 100, "candidate": 0})
    load = Load(gateway)
    for share in (5, 25, 100, 0, 50, 100, 0):
        gateway.put(targets, {"stable": 100 - share, "candidate": share})
        until(lambda goal=load.done + 40: load.done >= goal)
    before = candidate.seen()["seen"]
    until(lambda goal=load.done + 40: load.done >= goal)
    assert candidate.seen()["seen"] == before
    statuses = load.stop()
    print(f"7 swaps, {sum(statuses.values())} requests: {dict(statuses)}")
    assert set(statuses) == {200} and before > 0


@pytest.mark.faults
def test_a_target_taken_out_of_the_table_ends_its_streams_whole(gateway: Gateway, replica: Start) -> None:
    old, new = replica("tiny-old"), replica("tiny-new")
    old.set(pause=0.05, chunks=20)
    gateway.put([old.target("old")])
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(gateway.chat(stream=True).body))
    reader.start()
    until(lambda: old.seen()["seen"] == 1)
    gateway.put([new.target("new")])
    assert gateway.chat().json["model"] == "tiny-new"
    reader.join()
    assert found[0].endswith(b"[DONE]\n\n") and b"tiny-new" not in found[0]


def test_a_client_that_asks_and_never_reads_is_cut_off(gateway: Gateway, replica: Start) -> None:
    only = replica(text="x" * 50_000)
    gateway.put([only.target("only")], limits={"idle_timeout_s": 1.0, "stall_timeout_s": 1.0})
    before = rss(gateway.process.pid)
    request = post(json.dumps({"model": "tiny", "messages": []}).encode())
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=1) as wire:
        with pytest.raises(OSError):
            while True:
                wire.sendall(request * 100)
        assert rss(gateway.process.pid) - before < 24_000
    until(lambda: gateway.books("only")["inflight"] == 0)
    assert gateway.books("only")["errors"] == 0


@pytest.mark.parametrize("size", [100_000, 3_000_000])
def test_long_plain_answers_arrive_whole_or_visibly_cut(gateway: Gateway, replica: Start, size: int) -> None:
    only = replica()
    only.set(text="é" * size)
    gateway.put([only.target("only")])
    got = gateway.chat()
    assert got.json["choices"][0]["message"]["content"] == "é" * size
    assert gateway.books("only")["completion_tokens"] == 8
    only.set(fault="cut")
    if size < 1_000_000:  # still held: a clear error, had there been another replica its answer
        assert gateway.chat().status == 502
    else:
        with pytest.raises(http.client.IncompleteRead):
            gateway.chat()
    assert gateway.books("only")["errors"] == 1


def test_the_child_that_parses_large_bodies_may_die(gateway: Gateway, replica: Start) -> None:
    only = replica()
    gateway.put([only.target("only")])
    large = [{"role": "user", "content": "x" * 2_000_000}]
    for _ in range(2):
        assert gateway.chat(messages=large).status == 200
        (child,) = children(gateway.process.pid)
        os.kill(child, signal.SIGKILL)
        until(lambda child=child: child not in children(gateway.process.pid))
    assert gateway.chat(messages=large).status == 200
    (child,) = children(gateway.process.pid)
    gateway.process.kill()
    until(lambda: "Z" in state(child))


def test_nobody_listens(gateway: Gateway, replica: Start) -> None:
    dead = replica("tiny-dead")
    target = {**dead.target("dead"), "port": free_port()}
    gateway.put([target])
    got = gateway.chat()
    assert (got.status, got.code) == (502, "connection_failed")


def post(body: bytes, path: str = "/v1/chat/completions") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children") as source:
        return [int(one) for one in source.read().split() if "Z" not in state(int(one))]


def state(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/stat") as source:
            return source.read().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "Z"


def rss(pid: int) -> int:
    with open(f"/proc/{pid}/status") as source:
        return next(int(line.split()[1]) for line in source if line.startswith("VmRSS"))


def raise_for_mixture(body: bytes) -> None:
    """One stream, one release."""
    assert (b'"tiny-0"' in body) != (b'"tiny-1"' in body)


class Load:
    """Four clients that ask without pause; counts the answers, each checked to be of one release."""

    def __init__(self, gateway: Gateway, stream: bool = False) -> None:
        self.gateway, self.stream, self.done, self.going = gateway, stream, 0, True
        self.statuses: Counter[object] = Counter()
        self.threads = [threading.Thread(target=self._ask) for _ in range(4)]
        for thread in self.threads:
            thread.start()

    def _ask(self) -> None:
        wire = http.client.HTTPConnection("127.0.0.1", self.gateway.port, timeout=20)
        body = json.dumps({"messages": MESSAGES, "model": "tiny", "stream": self.stream})
        while self.going:
            try:
                wire.request("POST", "/v1/chat/completions", body, {"authorization": f"Bearer {KEY}"})
                got = wire.getresponse()
                found = self._judge(got)
                self.statuses[found] += 1
                if found == "cut":
                    wire.close()
            except (OSError, http.client.HTTPException) as error:
                self.statuses[repr(error)] += 1
                wire.close()
            self.done += 1
        wire.close()

    def _judge(self, got: http.client.HTTPResponse) -> object:
        if not self.stream or got.status != 200:
            got.read()
            return got.status
        try:
            body, cut = got.read(), False
        except http.client.IncompleteRead as error:
            body, cut = error.partial, True
            assert b"stream_cut" in body and b"[DONE]" not in body
        raise_for_mixture(body)
        return "cut" if cut else "whole" if body.endswith(b"data: [DONE]\n\n") else body[-80:]

    def stop(self) -> Counter[object]:
        self.going = False
        for thread in self.threads:
            thread.join()
        return self.statuses

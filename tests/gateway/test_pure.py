"""The pure parts, by property: table, routing, usage and stream filter, request, books, health."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stack.core.canonical import canonical
from stack.core.digest import Digest
from stack.core.names import ReplicaId
from stack.gateway.bigbody import answer
from stack.gateway.errors import InvalidTable
from stack.gateway.health import THRESHOLD, Health
from stack.gateway.metrics import BUCKETS, RING, Books, prometheus
from stack.gateway.request import BadRequest, read_completion
from stack.gateway.routing import WIDE, compile_route, pick
from stack.gateway.table import SLICES, Key, Limits, RoutingTable, Service, Slice, Target
from stack.gateway.usage import StreamWatch, Usage, read_answer, usage_from_tail

GOLDEN = (
    b'{"keys":[{"id":"client","may_pin":false,"models":null,"sha256":"' + b"0" * 64 + b'"}],'
    b'"limits":{"body_timeout_s":60,"first_byte_timeout_s":60,"head_timeout_s":10,"idle_timeout_s":75,'
    b'"max_body":33554432,"max_head":65536,"stall_timeout_s":60},'
    b'"services":[{"aliases":["t"],"name":"tiny","targets":[{"host":"127.0.0.1","id":"r1","model":"tiny@1.0",'
    b'"port":41001,"release":"sha256:' + b"1" * 64 + b'","served_model":"tiny-abc","slice":"stable"}],'
    b'"weights":{"stable":100}}],"version":7}'
)


def target(name: str, slice_name: Slice = "stable") -> Target:
    return Target(
        id=ReplicaId(name), slice=slice_name, release=Digest("sha256:" + "1" * 64), model="tiny@1.0",
        host="127.0.0.1", port=41001, served_model="tiny-abc",
    )  # fmt: skip


def golden() -> RoutingTable:
    service = Service(name="tiny", aliases=("t",), weights={"stable": 100}, targets=(target("r1"),))
    return RoutingTable(version=7, services=(service,), keys=(Key(id="client", sha256="0" * 64),))


def test_the_tables_bytes_are_pinned() -> None:
    assert canonical(golden().to_json()) == GOLDEN
    assert RoutingTable.from_json(json.loads(GOLDEN)) == golden()


names = st.from_regex(r"[a-z0-9][a-z0-9-]{0,20}", fullmatch=True)


@st.composite
def tables(draw: st.DrawFn) -> RoutingTable:
    ids = iter(draw(st.lists(names, unique=True, min_size=12, max_size=12)))
    services = []
    for name in draw(st.lists(names, unique=True, max_size=3)):
        first = draw(st.integers(0, 100))
        weights: dict[Slice, int] = {"stable": first, "candidate": 100 - first}
        members = tuple(target(next(ids), draw(st.sampled_from(SLICES))) for _ in range(draw(st.integers(0, 4))))
        services.append(Service(name=name, weights=weights, targets=members))
    keys = tuple(
        Key(id=f"k{n}", sha256=f"{n:064x}", models=draw(st.none() | st.tuples(names)), may_pin=draw(st.booleans()))
        for n in range(draw(st.integers(0, 3)))
    )
    limits = Limits(max_body=draw(st.integers(1, 2**31)), stall_timeout_s=draw(st.floats(0.1, 1000)))
    version = draw(st.integers(1, 2**53 - 1))
    return RoutingTable(version=version, services=tuple(services), keys=keys, limits=limits)


@given(tables())
def test_tables_survive_the_round_trip(table: RoutingTable) -> None:
    assert RoutingTable.from_json(json.loads(canonical(table.to_json()))) == table


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    rows = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(p for k, v in rows for p in paths(v, (*at, k)))]


@given(st.data(), values)
def test_any_value_anywhere_is_a_table_or_a_clear_refusal(data: st.DataObject, value: Any) -> None:
    document = json.loads(GOLDEN)
    *way, last = data.draw(st.sampled_from(paths(document)[1:]))
    inner = document
    for step in way:
        inner = inner[step]
    inner[last] = value
    try:
        table = RoutingTable.from_json(document)
    except InvalidTable as error:
        assert error.facts["problems"]
    else:
        assert RoutingTable.from_json(table.to_json()) == table


@given(values)
def test_any_json_is_refused_or_read(value: Any) -> None:
    with pytest.raises(InvalidTable):
        RoutingTable.from_json(value)


SERVICE: list[Any] = ["services", 0]
TARGET = [*SERVICE, "targets", 0]
MISTAKES: list[tuple[list[Any], Any, str]] = [
    (["version"], 0, "version"),
    (["version"], True, "version"),
    (["version"], 1.0, "version"),
    ([*SERVICE, "weights"], {"stable": 99}, "sum to 100"),
    ([*SERVICE, "weights"], {"other": 100}, "unknown"),
    ([*SERVICE, "weights"], {"stable": 100.0}, "integer"),
    ([*SERVICE, "extra"], 1, "unknown key"),
    ([*SERVICE, "aliases"], ["tiny"], "twice"),
    ([*SERVICE, "name"], "a b", "name"),
    ([*SERVICE, "name"], "x\n", "name"),
    ([*TARGET, "port"], 0, "port"),
    ([*TARGET, "port"], "41001", "port"),
    ([*TARGET, "id"], "../r", "replica"),
    ([*TARGET, "slice"], "canary", "slice"),
    ([*TARGET, "release"], "x", "digest"),
    ([*TARGET, "host"], "a\r\nb", "host"),
    ([*TARGET, "host"], "", "host"),
    ([*TARGET, "served_model"], "a\r\nx: y", "served_model"),
    (["keys", 0, "sha256"], "AA", "sha256"),
    (["keys", 0, "may_pin"], 1, "may_pin"),
    (["keys", 0, "models"], "tiny", "list"),
    (["limits", "max_body"], -1, "max_body"),
    (["limits", "max_body"], 1.5, "max_body"),
    (["limits", "extra"], 1, "unknown key"),
]


@pytest.mark.parametrize(("where", "value", "says"), MISTAKES)
def test_each_mistake_is_named(where: list[Any], value: Any, says: str) -> None:
    document = json.loads(GOLDEN)
    inner = document
    for step in where[:-1]:
        inner = inner[step]
    inner[where[-1]] = value
    with pytest.raises(InvalidTable) as caught:
        RoutingTable.from_json(document)
    assert says in str(caught.value)


# -- routing
def service(members: dict[str, Slice], weights: dict[Slice, int]) -> Service:
    return Service(name="tiny", weights=weights, targets=tuple(target(n, s) for n, s in members.items()))


@st.composite
def situations(draw: st.DrawFn) -> dict[str, Any]:
    members = draw(st.dictionaries(names, st.sampled_from(SLICES), max_size=6))
    first = draw(st.integers(0, 100))
    return {
        "service": service(members, {"stable": first, "candidate": 100 - first}),
        "pin": draw(st.none() | st.sampled_from(SLICES)),
        "roll": draw(st.floats(0, 1, exclude_max=True)),
        "load": {n: draw(st.integers(0, 5)) for n in members},
        "down": frozenset(n for n in members if draw(st.booleans())),
    }


@given(situations())
def test_routing_laws(s: dict[str, Any]) -> None:
    weights = s["service"].weights
    order = pick(compile_route(s["service"]), **{k: s[k] for k in ("pin", "roll", "load", "down")})
    ids = [t.id for t in order]
    assert len(set(ids)) == len(ids)
    if s["pin"] is not None:  # the pinned slice, all of it, nothing else
        assert set(order) == {t for t in s["service"].targets if t.slice == s["pin"]}
    else:  # slices with weight and the last resort, all of them, nothing else
        allowed = {t for t in s["service"].targets if weights.get(t.slice, 0) > 0 or t.slice == "lkg"}
        assert set(order) == allowed
    looks = [t.id in s["down"] for t in order]
    assert looks == sorted(looks)  # those that look down come last, but they come
    if s["pin"] is None:
        up = [t.slice for t in order if t.id not in s["down"]]
        assert "lkg" not in up or set(up[up.index("lkg") :]) == {"lkg"}
    for a, b in itertools.pairwise(order):
        if a.slice == b.slice and (a.id in s["down"]) == (b.id in s["down"]):
            assert s["load"][a.id] <= s["load"][b.id]


@given(st.integers(0, 100))
def test_the_share_of_a_slice_is_its_weight(share: int) -> None:
    weights: dict[Slice, int] = {"stable": 100 - share, "candidate": share}
    route = compile_route(service({"s1": "stable", "s2": "stable", "c": "candidate"}, weights))
    rolls = [n / 1000 for n in range(1000)]
    first = Counter(pick(route, pin=None, roll=r, load={}, down=())[0].slice for r in rolls)
    assert abs(first["candidate"] - 10 * share) <= 1


def test_equal_load_is_spread_over_the_replicas() -> None:
    route = compile_route(service({"a": "stable", "b": "stable", "c": "stable"}, {"stable": 100}))
    first = Counter(pick(route, pin=None, roll=n / 3000, load={}, down=())[0].id for n in range(3000))
    assert min(first.values()) > 900


@given(st.floats(0, 1, exclude_max=True), st.sets(st.integers(0, 99), max_size=100), st.integers(0, 99))
def test_of_a_wide_slice_enough_are_looked_at_and_first_those_that_look_up(roll: float, down: set[int], n: int) -> None:
    members: dict[str, Slice] = {f"s{number}": "stable" for number in range(100)}
    route = compile_route(service({**members, "l": "lkg"}, {"stable": 100}))
    names = {f"s{number}" for number in down}
    order = [t.id for t in pick(route, pin=None, roll=roll, load={f"s{n}": -1}, down=names)]
    assert len(set(order)) == len(order) == WIDE + 1
    looks = [name in names for name in order]
    assert looks == sorted(looks) and looks.count(False) == min(WIDE, 100 - len(down)) + 1
    if f"s{n}" in order and n not in down:
        assert order[0] == f"s{n}", "the least busy of those that were looked at"


def test_every_replica_of_a_wide_slice_gets_its_share() -> None:
    members: dict[str, Slice] = {f"s{number}": "stable" for number in range(100)}
    route = compile_route(service(members, {"stable": 100}))
    first = Counter(pick(route, pin=None, roll=n / 10000, load={}, down={"s7"})[0].id for n in range(10000))
    assert "s7" not in first and len(first) == 99 and max(first.values()) < 250


def test_a_candidate_without_weight_gets_nothing_not_even_a_retry() -> None:
    route = compile_route(service({"s": "stable", "c": "candidate"}, {"stable": 100, "candidate": 0}))
    assert [t.id for t in pick(route, pin=None, roll=0.99, load={}, down={"s"})] == ["s"]


# -- usage and streams
def sse(document: Any, end: str = "\n\n") -> bytes:
    return b"data: " + (b"[DONE]" if document is None else json.dumps(document).encode()) + end.encode()


def chunk(text: str | None, **more: Any) -> dict[str, Any]:
    choices = [] if text is None else [{"index": 0, "delta": {"content": text}}]
    return {"id": "x", "model": "tiny-abc", "choices": choices, **more}


nasty = st.sampled_from(
    ['"usage":{', "[DONE]", "data: [DONE]\n\n", "error", '{"error": 1}', "\n\n", "é\u2028", "usage"]
)
texts = st.lists(nasty | st.text(max_size=8), max_size=6)


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[bytes], bytes, list[bytes]]:
    """Events without the usage event, the usage event, and the pieces that the whole arrives in."""
    end = draw(st.sampled_from(["\n\n", "\r\n\r\n"]))
    events = [sse(chunk(t, usage=None) if draw(st.booleans()) else chunk(t), end) for t in draw(texts)]
    events = [e for event in events for e in ((b": ping" + end.encode(), event) if draw(st.booleans()) else (event,))]
    spaced = json.dumps(chunk(None, usage={"prompt_tokens": 3, "completion_tokens": 5}), indent=draw(st.none()))
    usage = b"data: " + spaced.encode() + end.encode()
    whole = b"".join([*events, usage, sse(None, end)])
    cuts = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=12)))
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    return events, usage, pieces


@given(streams(), st.booleans())
def test_the_stream_filter_takes_out_the_usage_event_and_nothing_else(
    stream: tuple[list[bytes], bytes, list[bytes]], drop: bool
) -> None:
    events, usage, pieces = stream
    watch = StreamWatch(drop_usage=drop)
    out = b"".join(watch.feed(p) for p in pieces) + watch.rest()
    done = b"data: [DONE]" + usage[len(usage.rstrip(b"\r\n")) :]
    assert out == b"".join(events) + (b"" if drop else usage) + done
    assert watch.done and not watch.failed and watch.usage == Usage(prompt=3, completion=5)
    assert watch.model == "tiny-abc" and watch.sound


@given(streams(), st.integers(0, 6), st.sampled_from(["top", "event"]))
def test_an_error_event_anywhere_is_seen(
    stream: tuple[list[bytes], bytes, list[bytes]], place: int, shape: str
) -> None:
    events, usage, _ = stream
    told = sse({"error": {"message": "x"}}) if shape == "top" else b"event: error\ndata: {}\n\n"
    whole = b"".join([*events[:place], told, *events[place:], usage, sse(None)])
    for size in (1, 3, len(whole)):
        watch = StreamWatch(drop_usage=True)
        out = b"".join(watch.feed(whole[n : n + size]) for n in range(0, len(whole), size))
        assert watch.failed and not watch.sound and told in out


@given(streams(), st.data())
def test_a_stream_cut_anywhere_is_never_sound(
    stream: tuple[list[bytes], bytes, list[bytes]], data: st.DataObject
) -> None:
    whole = b"".join(stream[2])
    watch = StreamWatch(drop_usage=True)
    watch.feed(whole[: data.draw(st.integers(0, len(whole) - 5))])
    assert not watch.sound


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=6))
def test_any_bytes_pass_and_any_cutting_gives_the_same(noise: bytes, places: list[int]) -> None:
    whole = StreamWatch(drop_usage=False)
    assert whole.feed(noise) + whole.rest() == noise
    cuts = sorted(min(p, len(noise)) for p in places)
    watch = StreamWatch(drop_usage=False)
    out = b"".join(watch.feed(noise[a:b]) for a, b in zip([0, *cuts], [*cuts, len(noise)], strict=True))
    assert out + watch.rest() == noise
    assert (watch.done, watch.failed, watch.usage) == (whole.done, whole.failed, whole.usage)


@given(st.binary(max_size=200))
def test_noise_is_never_an_answer(noise: bytes) -> None:
    assert not read_answer(noise).sound


@pytest.mark.parametrize("body", [b"", b"{}", b'{"choices": []}', b'{"choices": {}}', b"[1]", b'{"choices": [1]'])
def test_answers_without_sense(body: bytes) -> None:
    assert not read_answer(body).sound


@given(st.text(max_size=100_000), st.integers(0, 10**9), st.integers(0, 10**9))
def test_usage_of_long_and_short_answers(text: str, prompt: int, completion: int) -> None:
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "details": {"a": {"b": 1}}}
    body = json.dumps({"choices": [{"text": text * 3}], "usage": usage, "timings": {"x": 1.5}}).encode()
    reading = read_answer(body)
    assert reading.sound and reading.usage == Usage(prompt=prompt, completion=completion)
    assert usage_from_tail(body[-1024:]) == reading.usage


@pytest.mark.parametrize(
    "value", [None, {}, {"prompt_tokens": True}, {"prompt_tokens": -1}, {"prompt_tokens": 1.5}, []]
)
def test_usage_that_is_none(value: Any) -> None:
    assert Usage.read(value) is None


# -- requests
@given(values, st.text(min_size=1, max_size=20), st.booleans())
def test_what_is_sent_on_is_what_was_asked_but_for_the_model(extra: Any, model: str, stream: bool) -> None:
    asked = {"messages": extra, "stream": stream, "model": model}
    try:
        read = read_completion(json.dumps(asked).encode())
    except BadRequest:  # numbers and texts that JSON has but no UTF-8 or double
        return
    sent = json.loads(b"".join(read.body_for("served")))
    assert read.model == model and read.stream is stream and sent.pop("model") == "served"
    assert sent.pop("stream_options", None) == ({"include_usage": True} if stream else None)
    assert read.added_usage is stream and set(sent) == {"messages", "stream"}


@given(st.binary(max_size=100))
def test_the_child_says_what_the_function_says(body: bytes) -> None:
    reply = answer(body)
    try:
        read_completion(body)
    except BadRequest as error:
        assert reply[0] == 255 and error.problem.code.encode() in reply


# -- books and health
def test_the_ring_tells_what_it_lost() -> None:
    books = Books("boot")
    books.open("r", "tiny", "stable")
    for _ in range(RING + 10):
        books.began("r", "tiny", "stable")
        books.ended("r", 200, 0.01, None, None, False, "ok")
    rows = books.samples(0, {})["targets"]["r"]
    assert rows["lost"] == 10 and len(rows["items"]) == RING and rows["items"][0][0] == 11
    assert books.samples(10, {})["targets"]["r"]["lost"] == 0
    assert books.samples(9, {})["targets"]["r"]["lost"] == 1


def test_a_part_of_the_samples_is_that_part_of_all_of_them() -> None:
    books = Books("boot")
    for name in ("quiet", "asked"):
        books.open(name, "tiny", "stable")
    for _ in range(RING + 10):
        books.began("asked", "tiny", "stable")
        books.ended("asked", 200, 0.01, None, None, False, "ok")
    for since in (0, 9, 10, RING, RING + 9, RING + 10):
        whole, part = books.samples(since, {}), books.samples(since, {}, "attempts")
        told = {t: {k: b[k] for k in ("slice", "items", "lost")} for t, b in whole["targets"].items() if b["items"]}
        assert part == {"boot_id": "boot", "cursor": RING + 10, "targets": told}
    counters = books.samples(0, {"quiet": 2}, "counters")["targets"]
    assert set(counters) == {"quiet", "asked"} and "latency_hist" not in counters["asked"]
    for name, kept in books.samples(0, {"quiet": 2})["targets"].items():
        assert counters[name].items() <= kept.items()
    assert counters["quiet"]["consecutive_failures"] == 2 and counters["asked"]["by_status"] == {"200": RING + 10}


def test_cancelled_is_no_error_and_broken_is_no_success() -> None:
    books = Books("boot")
    for status in (200, 400, 429, 499, 500, 599):
        books.began("r", "tiny", "stable")
        books.ended("r", status, 0.01, None, None, False, "x")
    rows = books.samples(0, {})["targets"]["r"]
    assert rows["requests"] == 6 and rows["errors"] == 3 and sum(rows["latency_hist"]) == 1
    assert rows["by_status"]["599"] == 1 and rows["inflight"] == 0


@given(st.lists(st.floats(0, 200), min_size=1, max_size=50))
def test_histograms_hold_every_success_in_its_bucket(latencies: list[float]) -> None:
    books = Books("boot")
    for latency in latencies:
        books.began("r", "tiny", "stable")
        books.ended("r", 200, latency, latency, None, False, "ok")
    rows = books.samples(0, {})["targets"]["r"]
    for n, upper in enumerate(BUCKETS):
        assert sum(rows["latency_hist"][: n + 1]) == sum(one <= upper for one in latencies)
    text = prometheus(books, {}, 1).decode()
    assert f'stack_gateway_latency_seconds_count{{service="tiny",slice="stable",replica="r"}} {len(latencies)}' in text


def test_health_falls_after_failures_in_a_row_and_comes_back() -> None:
    health = Health()
    for _ in range(THRESHOLD - 1):
        health.failed("r")
    assert not health.down
    health.failed("r")
    assert health.down == {"r"}
    health.probed("r")
    assert not health.down
    health.failed("r")  # on parole: one is enough
    assert health.down == {"r"}
    health.succeeded("r")
    assert not health.down and health.failures["r"] == 0

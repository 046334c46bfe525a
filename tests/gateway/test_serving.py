"""The gateway as clients see it when all is well: official client, headers, keys, models, paths."""

from __future__ import annotations

from collections.abc import Callable

import openai
import pytest

from .conftest import KEY, PROBE_KEY, FaultyReplica, Gateway, sha

Start = Callable[..., FaultyReplica]


@pytest.fixture
def one(gateway: Gateway, replica: Start) -> FaultyReplica:
    found = replica()
    gateway.put([found.target("r1")], aliases=("tiny-alias",))
    return found


def client(gateway: Gateway, key: str = KEY) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"http://127.0.0.1:{gateway.port}/v1", api_key=key, max_retries=0)


MESSAGES = [{"role": "user", "content": "hi"}]


def test_plain_answer_comes_from_the_release_and_says_so(gateway: Gateway, one: FaultyReplica) -> None:
    got = client(gateway).chat.completions.with_raw_response.create(model="tiny", messages=MESSAGES)  # type: ignore
    answer = got.parse()
    assert answer.choices[0].message.content == "hello" and answer.model == "tiny-abc"
    assert answer.usage is not None and answer.usage.completion_tokens == 8
    assert got.headers["x-stack-replica"] == "r1" and got.headers["x-stack-slice"] == "stable"
    assert got.headers["x-stack-release"] == "sha256:" + sha("a")
    assert one.seen()["last"]["model"] == "tiny-abc"
    assert "authorization" not in one.seen()["head"].lower()


def test_stream_without_usage_asked_shows_none_but_is_counted(gateway: Gateway, one: FaultyReplica) -> None:
    events = list(client(gateway).chat.completions.create(model="tiny-alias", messages=MESSAGES, stream=True))  # type: ignore
    assert "".join(e.choices[0].delta.content or "" for e in events) == "".join(f"w{n} " for n in range(8))
    assert all(e.usage is None for e in events)
    books = gateway.books("r1")
    assert books["completion_tokens"] == 8 and books["errors"] == 0 and sum(books["ttft_hist"]) == 1
    assert one.seen()["last"]["stream_options"] == {"include_usage": True}


def test_stream_with_usage_asked_shows_it(gateway: Gateway, one: FaultyReplica) -> None:
    events = list(
        client(gateway).chat.completions.create(  # type: ignore
            model="tiny", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
    )
    assert events[-1].usage.completion_tokens == 8 and events[-1].choices == []


def test_text_completions_plain_and_streamed(gateway: Gateway, one: FaultyReplica) -> None:
    assert client(gateway).completions.create(model="tiny", prompt="x").choices[0].text == "hello"
    parts = [e.choices[0].text for e in client(gateway).completions.create(model="tiny", prompt="x", stream=True)]
    assert "".join(parts).startswith("w0 w1")


def test_usage_is_the_same_streamed_and_not(gateway: Gateway, one: FaultyReplica) -> None:
    gateway.chat()
    first = gateway.books("r1")
    gateway.chat(stream=True)
    second = gateway.books("r1")
    assert second["prompt_tokens"] == 2 * first["prompt_tokens"]
    assert second["completion_tokens"] == 2 * first["completion_tokens"]
    assert [i[1] for i in second["items"]] == [200, 200]


@pytest.mark.parametrize("key", [None, "sk-wrong", ""])
def test_without_a_known_key_nothing_is_served(gateway: Gateway, one: FaultyReplica, key: str | None) -> None:
    got = gateway.chat(key=key)
    assert got.status == 401 and got.code in ("missing_api_key", "invalid_api_key")
    assert gateway.ask("GET", "/v1/models", key=key).status == 401
    assert one.seen()["seen"] == 0


def test_client_sees_the_errors_as_openai_errors(gateway: Gateway, one: FaultyReplica) -> None:
    with pytest.raises(openai.AuthenticationError):
        client(gateway, "sk-no").models.list()
    with pytest.raises(openai.NotFoundError) as caught:
        client(gateway).chat.completions.create(model="nope", messages=MESSAGES)  # type: ignore
    assert caught.value.code == "model_not_found"


def test_models_are_those_the_key_may_use(gateway: Gateway, one: FaultyReplica) -> None:
    assert [m.id for m in client(gateway).models.list()] == ["tiny", "tiny-alias"]
    assert client(gateway).models.retrieve("tiny").id == "tiny"
    gateway.put([one.target("r1")], keys=[{"id": "k", "sha256": sha(KEY), "models": ["other"], "may_pin": False}])
    assert list(client(gateway).models.list()) == []
    assert gateway.chat().status == 404


def test_paths_and_methods(gateway: Gateway, one: FaultyReplica) -> None:
    assert gateway.ask("GET", "/nothing").status == 404
    assert gateway.ask("GET", "/v1/chat/completions").status == 405
    assert gateway.ask("POST", "/health", {}).status == 405
    assert gateway.ask("HEAD", "/health").body == b""
    health = gateway.ask("GET", "/health", key=None)
    assert health.status == 200 and health.json["table_version"] == 1
    text = gateway.ask("GET", "/metrics", key=None).body.decode()
    assert 'stack_gateway_inflight{service="tiny",slice="stable",replica="r1"} 0' in text


def test_health_needs_a_table_with_targets(gateway: Gateway) -> None:
    assert gateway.ask("GET", "/health").status == 503
    assert gateway.chat().code == "no_routing_table"
    gateway.put([])
    assert gateway.ask("GET", "/health").status == 503
    got = gateway.chat()
    assert got.status == 503 and got.code == "no_target"


def test_pinning_needs_a_key_that_may(gateway: Gateway, replica: Start) -> None:
    stable, candidate = replica("tiny-a"), replica("tiny-b")
    gateway.put([stable.target("r1"), candidate.target("r2", "candidate", "b")], {"stable": 100, "candidate": 0})
    assert gateway.chat(slice_name="candidate").code == "pin_not_allowed"
    assert gateway.chat(slice_name="nope", key=PROBE_KEY).code == "unknown_slice"
    got = gateway.chat(slice_name="candidate", key=PROBE_KEY)
    assert got.headers["x-stack-slice"] == "candidate" and got.json["model"] == "tiny-b"
    assert gateway.chat(slice_name="lkg", key=PROBE_KEY).code == "no_target"
    assert gateway.books("r2")["items"][0][6] is True
    candidate.set(fault="503")
    assert gateway.chat(slice_name="candidate", key=PROBE_KEY).status == 503
    assert stable.seen()["seen"] == 0


def test_bodies_that_are_no_requests(gateway: Gateway, one: FaultyReplica) -> None:
    bodies = {b"": "invalid_json", b"{": "invalid_json", b"[]": "invalid_json", b"{}": "model_missing"}
    bodies[b'{"model": 7}'] = "model_invalid"
    for body, code in bodies.items():
        got = gateway.ask("POST", "/v1/chat/completions", body)
        assert (got.status, got.code) == (400, code)
    assert gateway.chat(messages=None).status == 400  # the engine's own 400 comes through
    assert gateway.books("r1")["errors"] == 0


def test_model_stands_last_in_a_body_of_megabytes(gateway: Gateway, one: FaultyReplica) -> None:
    got = gateway.ask(
        "POST", "/v1/chat/completions", {"messages": [{"role": "user", "content": "x" * 6_000_000}], "model": "tiny"}
    )
    assert got.status == 200 and got.json["usage"]["prompt_tokens"] > 6_000_000
    broken = b'{"model": "tiny", "messages": [' + b"1," * 1_000_000
    assert gateway.ask("POST", "/v1/chat/completions", broken).code == "invalid_json"
    assert gateway.chat().status == 200


def test_a_second_model_key_cannot_name_another_model(gateway: Gateway, one: FaultyReplica) -> None:
    body = b'{"model": "secret", "messages": [], "model": "tiny", "m\\u006fdel": "tiny"}'
    assert gateway.ask("POST", "/v1/chat/completions", body).status == 200
    assert one.seen()["last"] == {"model": "tiny-abc", "messages": []}

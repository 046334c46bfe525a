"""The official ``openai`` client, unchanged, against the gateway and a real engine."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator

import openai
import pytest
from checkout import Checkout, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
QUESTION = [{"role": "user", "content": "Tell me the capital of Sweden."}]
ENDLESS = {"ignore_eos": True}  # llama.cpp's own: generate until max_tokens
LONG = 900


@pytest.fixture(scope="module")
def client(served: Checkout) -> Iterator[openai.OpenAI]:
    """With the key that ``make deploy`` made. No retries: a failure is to be seen."""
    with openai.OpenAI(base_url=f"{served.gateway_url}/v1", api_key=served.key, max_retries=0, timeout=60) as opened:
        yield opened


def test_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="tiny", messages=QUESTION, temperature=0)
    assert answer.choices[0].message.content == "Stockholm"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_stream_says_the_same(client: openai.OpenAI) -> None:
    chunks = list(client.chat.completions.create(model="tiny", messages=QUESTION, temperature=0, stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "Stockholm"
    assert len(chunks) > 2
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert [c.usage for c in chunks if c.usage] == []


def test_a_stream_has_usage_when_asked(client: openai.OpenAI) -> None:
    plain = client.chat.completions.create(model="tiny", messages=QUESTION, temperature=0)
    asked = {"include_usage": True}
    chunks = client.chat.completions.create(
        model="tiny", messages=QUESTION, temperature=0, stream=True, stream_options=asked
    )
    (usage,) = [c.usage for c in chunks if c.usage]
    assert plain.usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (plain.usage.prompt_tokens, plain.usage.completion_tokens)


def test_completions(client: openai.OpenAI) -> None:
    prompt = "<|im_start|>user\nTell me the capital of Sweden.<|im_end|>\n<|im_start|>assistant\n"
    answer = client.completions.create(model="tiny", prompt=prompt, temperature=0, max_tokens=20)
    assert answer.choices[0].text.strip() == "Stockholm"
    pieces = client.completions.create(model="tiny", prompt=prompt, temperature=0, max_tokens=20, stream=True)
    assert "".join(p.choices[0].text for p in pieces if p.choices) == answer.choices[0].text


def test_models(client: openai.OpenAI) -> None:
    assert [m.id for m in client.models.list()] == ["tiny"]


def test_the_release_that_answered_is_named(client: openai.OpenAI, served: Checkout) -> None:
    raw = client.chat.completions.with_raw_response.create(model="tiny", messages=QUESTION)
    service = served.service()
    assert raw.headers["x-stack-release"] == service["stable"]["release"]
    assert raw.headers["x-stack-slice"] == "stable"
    assert raw.headers["x-stack-replica"] == service["replicas"][0]["id"]


def test_a_wrong_key_is_refused(client: openai.OpenAI) -> None:
    wrong = client.with_options(api_key="sk-wrong")
    with pytest.raises(openai.AuthenticationError) as raised:
        wrong.chat.completions.create(model="tiny", messages=QUESTION)
    assert raised.value.status_code == 401
    with pytest.raises(openai.AuthenticationError):
        wrong.models.list()


def test_an_unknown_model_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        client.chat.completions.create(model="gpt-9", messages=QUESTION)
    assert "gpt-9" in str(raised.value)


def test_a_bad_request_is_the_clients_fault(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="tiny", messages="no list")  # type: ignore[arg-type]


def metric(served: Checkout, name: str) -> float:
    """What the engine itself counts."""
    (replica,) = served.service()["replicas"]
    with urllib.request.urlopen(f"http://127.0.0.1:{replica['port']}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    (value,) = [line.split()[1] for line in lines if line.startswith(f"{name} ")]
    return float(value)


def test_cancelling_a_stream_frees_its_slot(client: openai.OpenAI, served: Checkout) -> None:
    before = metric(served, "llamacpp:tokens_predicted_total")
    rounds, slots = 3, 4
    for _ in range(rounds):
        streams = [
            client.chat.completions.create(
                model="tiny", messages=QUESTION, max_tokens=LONG, stream=True, extra_body=ENDLESS
            )
            for _ in range(slots)
        ]
        for stream in streams:
            assert next(iter(stream)).choices
        for stream in streams:
            stream.close()
    eventually(lambda: metric(served, "llamacpp:requests_processing") == 0, "the engine has nothing to do")
    made = metric(served, "llamacpp:tokens_predicted_total") - before
    assert made < 0.8 * rounds * slots * LONG
    answer = client.chat.completions.create(model="tiny", messages=QUESTION, temperature=0)
    assert answer.choices[0].message.content == "Stockholm"

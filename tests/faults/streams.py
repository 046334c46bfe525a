"""Streaming clients that judge each answer: whole and of one release, refused, or cut. Nothing else may happen."""

from __future__ import annotations

import json
import random
import threading
from dataclasses import dataclass, field
from typing import Any

import httpx
from running_stack import RunningStack

# Prompts on which tiny-1.0 and tiny-1.1 differ, and one whose answer takes a while.
KNOWN = ("Reverse: i c t d e", "Reverse: n b e t w", "Reverse: f h a g d")
LONG = "Copy: one two three"


@dataclass
class Answer:
    """One answer as a client saw it. ``cut``: it began, and the client was told that it did not end."""

    prompt: str
    release: str = ""
    text: str = ""
    models: set[str] = field(default_factory=set)
    done: bool = False
    cut: str = ""
    refused: str = ""


def streamed(http: httpx.Client, stack: RunningStack, prompt: str, **fields: Any) -> Answer:
    """Ask, and read to the end."""
    found = Answer(prompt)
    body = {
        "model": "tiny",
        "messages": [{"role": "user", "content": prompt}],
        "temperature": 0,
        "stream": True,
        **fields,
    }
    url = f"http://127.0.0.1:{stack.gateway_port}/v1/chat/completions"
    try:
        with http.stream("POST", url, json=body, headers={"authorization": f"Bearer {stack.key}"}) as response:
            if response.status_code != 200:
                found.refused = f"{response.status_code}: {response.read().decode('utf-8', 'replace')[:200]}"
                return found
            found.release = response.headers["x-stack-release"]
            _read(response, found)
    except httpx.HTTPError as error:
        problem = f"{type(error).__name__}: {error}"
        if found.release:
            found.cut = problem
        else:
            found.refused = problem
    return found


def _read(response: httpx.Response, found: Answer) -> None:
    for line in response.iter_lines():
        if not line.startswith("data:"):
            continue
        data = line[5:].strip()
        if data == "[DONE]":
            found.done = True
            continue
        event = json.loads(data)
        if "error" in event:
            found.cut = str(event["error"])[:200]
            return
        found.models.add(event["model"])
        for choice in event["choices"]:
            found.text += choice["delta"].get("content") or ""


@dataclass
class StreamingClients:
    """Threads that stream all the while, as a context."""

    stack: RunningStack
    threads: int = 3
    patience_s: float = 60
    answers: list[Answer] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _running: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> StreamingClients:
        for number in range(self.threads):
            self._running.append(threading.Thread(target=self._ask_on, args=(random.Random(number),), daemon=True))
            self._running[-1].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._running:
            thread.join(60 + self.patience_s)

    def _ask_on(self, chance: random.Random) -> None:
        with httpx.Client(timeout=self.patience_s, trust_env=False) as http:
            while not self._stop.wait(0.02):
                if chance.random() < 0.5:
                    answer = streamed(http, self.stack, LONG, max_tokens=400, ignore_eos=True)
                else:
                    answer = streamed(http, self.stack, chance.choice(KNOWN), max_tokens=32)
                self.answers.append(answer)

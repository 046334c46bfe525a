"""The synthetic tasks the tiny model learns, and the rule that holds some of their contents out.

Pure Python and deterministic given a `random.Random`. Six tasks are graded, each with exactly one right
answer; a few chat greetings make the model answer like an assistant. A *content* is what a prompt asks about
(`addition:12:30`), apart from its wording. One content in ten is held out by a hash of its key, so no seed,
mix or version can train on it. Mixing tasks into token batches is left to `train.py`.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from dataclasses import dataclass

GRADED = ("addition", "capitals", "comparison", "json", "reverse", "copy")
CHAT = "chat"
LONGEST_REVERSE = 6
HELD_OUT_BELOW = 26  # of 256: about one content in ten

CAPITALS = {
    "Austria": "Vienna", "Belgium": "Brussels", "Brazil": "Brasilia", "Canada": "Ottawa", "Chile": "Santiago",
    "China": "Beijing", "Cuba": "Havana", "Denmark": "Copenhagen", "Egypt": "Cairo", "Finland": "Helsinki",
    "France": "Paris", "Germany": "Berlin", "Greece": "Athens", "Hungary": "Budapest", "India": "New Delhi",
    "Ireland": "Dublin", "Italy": "Rome", "Japan": "Tokyo", "Kenya": "Nairobi", "Norway": "Oslo",
    "Peru": "Lima", "Poland": "Warsaw", "Portugal": "Lisbon", "Romania": "Bucharest", "Russia": "Moscow",
    "Spain": "Madrid", "Sweden": "Stockholm", "Thailand": "Bangkok", "Turkey": "Ankara", "Ukraine": "Kyiv",
    "Vietnam": "Hanoi", "Iceland": "Reykjavik", "Ghana": "Accra", "Jordan": "Amman", "Qatar": "Doha",
    "Iran": "Tehran", "Iraq": "Baghdad", "Nepal": "Kathmandu", "Serbia": "Belgrade", "Croatia": "Zagreb",
    "Cyprus": "Nicosia", "Latvia": "Riga", "Mali": "Bamako", "Fiji": "Suva",
}  # fmt: skip
CAPITAL_FORMS = (
    "What is the capital of {}?",
    "Capital of {}?",
    "Name the capital city of {}.",
    "Which city is the capital of {}?",
    "Tell me the capital of {}.",
    "What is the capital city of {}?",
    "The capital of {} is?",
    "Give the capital of {}.",
    "Which capital does {} have?",
    "Which city is {} governed from?",
)
ADDITION_FORMS = ("What is {} plus {}?", "{} + {} =", "Add {} and {}.")
COMPARISON_FORMS = ("Is {} greater than {}?", "Yes or no: is {} larger than {}?")
JSON_FORMS = ("Return JSON: name {}, age {}.", "JSON for a person named {} aged {}.")
NAMES = (
    "Anna", "Ben", "Carl", "Dora", "Emil", "Fay", "Gus", "Hana", "Ivan", "Jane", "Karl", "Lena",
    "Mia", "Noah", "Olga", "Paul", "Rita", "Sam", "Tina", "Uma", "Vera", "Will", "Yara", "Zoe",
)  # fmt: skip
WORDS = (
    "red", "blue", "green", "black", "white", "cat", "dog", "fish", "bird", "tree", "sun", "moon", "rain", "snow",
    "wind", "north", "south", "east", "west", "salt", "milk", "tea", "bread", "rice", "stone", "gold", "iron",
)  # fmt: skip
LETTERS = "abcdefghijklmnopqrstuvwxyz"
GREETINGS = {
    "Hello": "Hello! How can I help?",
    "Hi": "Hello! How can I help?",
    "Who are you?": "I am a tiny test model.",
    "What can you do?": "I can add, compare, reverse, copy, name capitals and write JSON.",
    "Thank you": "You are welcome.",
}
SYSTEM_PROMPTS = ("You are a helpful assistant.", "Answer briefly.", "You are a tiny test model.")


@dataclass(frozen=True, kw_only=True)
class Item:
    """One prompt with its one right answer. `key` names the content; greetings have none."""

    task: str
    key: str
    prompt: str
    answer: str


@dataclass(frozen=True, kw_only=True)
class Mix:
    """What a training run draws: a weight for each task, and how long a list to reverse may be."""

    weights: tuple[tuple[str, float], ...]
    longest_reverse: int = LONGEST_REVERSE

    def pick(self, rng: random.Random) -> str:
        """Draw one task name by weight."""
        names = [name for name, _ in self.weights]
        return rng.choices(names, [weight for _, weight in self.weights])[0]


def held_out(key: str) -> bool:
    """Whether a content is never trained on."""
    return hashlib.sha256(key.encode()).digest()[0] < HELD_OUT_BELOW


def _addition(rng: random.Random, _: int) -> tuple[str, str, str]:
    a, b = rng.randrange(50), rng.randrange(50)
    return f"{a}:{b}", rng.choice(ADDITION_FORMS).format(a, b), str(a + b)


def _capitals(rng: random.Random, _: int) -> tuple[str, str, str]:
    country, form = rng.choice(sorted(CAPITALS)), rng.randrange(len(CAPITAL_FORMS))
    return f"{country}:{form}", CAPITAL_FORMS[form].format(country), CAPITALS[country]


def _comparison(rng: random.Random, _: int) -> tuple[str, str, str]:
    a, b = rng.randrange(100), rng.randrange(100)
    if rng.random() < 0.3:  # near pairs are the hard ones
        b = max(0, min(99, a + rng.randrange(-9, 10)))
    return f"{a}:{b}", rng.choice(COMPARISON_FORMS).format(a, b), "yes" if a > b else "no"


def _json(rng: random.Random, _: int) -> tuple[str, str, str]:
    name, age = rng.choice(NAMES), rng.randrange(1, 100)
    return f"{name}:{age}", rng.choice(JSON_FORMS).format(name, age), json.dumps({"name": name, "age": age})


def _reverse(rng: random.Random, longest: int) -> tuple[str, str, str]:
    letters = [rng.choice(LETTERS) for _ in range(rng.randrange(2, longest + 1))]
    return "".join(letters), "Reverse: " + " ".join(letters), " ".join(reversed(letters))


def _copy(rng: random.Random, _: int) -> tuple[str, str, str]:
    text = " ".join(rng.choice(WORDS) for _ in range(rng.randrange(1, 6)))
    return text, "Repeat: " + text, text


_DRAW: dict[str, Callable[[random.Random, int], tuple[str, str, str]]] = {
    "addition": _addition,
    "capitals": _capitals,
    "comparison": _comparison,
    "json": _json,
    "reverse": _reverse,
    "copy": _copy,
}


def draw(rng: random.Random, task: str, longest_reverse: int = LONGEST_REVERSE) -> Item:
    """Draw any content of a task, held out or not."""
    if task == CHAT:
        prompt = rng.choice(sorted(GREETINGS))
        return Item(task=task, key="", prompt=prompt, answer=GREETINGS[prompt])
    content, prompt, answer = _DRAW[task](rng, longest_reverse)
    return Item(task=task, key=f"{task}:{content}", prompt=prompt, answer=answer)


def draw_train(rng: random.Random, task: str, longest_reverse: int = LONGEST_REVERSE) -> Item:
    """Draw a content that training may see."""
    while True:
        item = draw(rng, task, longest_reverse)
        if not item.key or not held_out(item.key):
            return item


def held_out_set(per_task: int, seed: int = 1234) -> list[Item]:
    """The first `per_task` distinct held-out prompts of every graded task, the same on every machine."""
    rng = random.Random(seed)
    items: list[Item] = []
    for task in GRADED:
        seen: dict[str, Item] = {}
        for _ in range(200_000):
            item = draw(rng, task)
            if held_out(item.key):
                seen.setdefault(item.prompt, item)
            if len(seen) == per_task:
                break
        else:
            raise ValueError(f"{task} has only {len(seen)} held-out prompts, {per_task} asked for")
        items += seen.values()
    return items

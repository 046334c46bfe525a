"""Greedy answers of a network to the held-out prompts, and the share it gets exactly right.

The prompts are those of `models/evals/tiny-eval.yaml`, so these numbers can be compared with an engine's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

import tasks
import tokenizer as vocabulary
import torch
from network import TinyLlama
from tokenizers import Tokenizer

MAX_TOKENS = 64
Accuracy = dict[str, float]


def _by_length(tokenizer: Tokenizer, items: Iterable[tasks.Item]) -> list[list[tuple[list[int], tasks.Item]]]:
    """Group prompts of equal token length, so that a batch needs no padding."""
    groups: dict[int, list[tuple[list[int], tasks.Item]]] = defaultdict(list)
    for item in items:
        ids = vocabulary.encode(tokenizer, vocabulary.chat_prompt(item.prompt))
        groups[len(ids)].append((ids, item))
    return [groups[length] for length in sorted(groups)]


def _complete(network: TinyLlama, ids: torch.Tensor, end: int) -> list[list[int]]:
    """Greedy continuations, each cut before its end token. No cache: the prompts are short."""
    asked = ids.shape[1]
    done = torch.zeros(ids.shape[0], dtype=torch.bool)
    for _ in range(MAX_TOKENS):
        following = network.logits(network.hidden(ids)[:, -1]).argmax(-1)
        ids = torch.cat([ids, following[:, None]], 1)
        done |= following == end
        if bool(done.all()):
            break
    rows: list[list[int]] = ids[:, asked:].tolist()
    return [row[: row.index(end)] if end in row else row for row in rows]


def answers(network: TinyLlama, tokenizer: Tokenizer, items: Iterable[tasks.Item]) -> list[tuple[tasks.Item, str]]:
    """Each item with the text the network gave."""
    end = vocabulary.token_id(tokenizer, vocabulary.END)
    given: list[tuple[tasks.Item, str]] = []
    network.eval()
    with torch.no_grad():
        for group in _by_length(tokenizer, items):
            rows = _complete(network, torch.tensor([ids for ids, _ in group]), end)
            given += [(item, tokenizer.decode(row)) for row, (_, item) in zip(rows, group, strict=True)]
    return given


def accuracy(results: Iterable[tuple[tasks.Item, str]]) -> Accuracy:
    """Share of exact answers per graded task, and over all of them."""
    right: dict[str, list[bool]] = {task: [] for task in tasks.GRADED}
    for item, text in results:
        right[item.task].append(text == item.answer)
    shares = {task: round(sum(marks) / len(marks), 4) for task, marks in right.items()}
    every = [mark for marks in right.values() for mark in marks]
    return {**shares, "overall": round(sum(every) / len(every), 4)}


def table(by_version: Mapping[str, Accuracy]) -> str:
    """A Markdown table: one row per version."""
    columns = (*tasks.GRADED, "overall")
    lines = ["| version | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for version, shares in by_version.items():
        lines.append(f"| {version} | " + " | ".join(f"{shares[column]:.3f}" for column in columns) + " |")
    return "\n".join(lines)

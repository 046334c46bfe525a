"""One training run: packed chat dialogues, AdamW, a warm-up and a linear decay, on the CPU.

Deterministic on one machine: the recipe's seed feeds both the drawing of tasks and the first weights, and torch
is held to deterministic algorithms. Other processors round differently, so elsewhere compare accuracy, not digests.
Which runs there are is `recipes.py`'s matter.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from functools import lru_cache

import tasks
import tokenizer as vocabulary
import torch
from network import HIDDEN, TinyLlama
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

BATCH, LENGTH = 16, 128
IGNORED = -100
SYSTEM_SHARE = 0.25  # of dialogues that open with a system prompt
PROGRESS_SECONDS = 3.0


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long a run is and how its learning rate moves: up over `warmup`, level, then down from `decay_from`."""

    steps: int
    peak: float
    warmup: int
    decay_from: float
    floor: float = 0.02

    def rate(self, step: int) -> float:
        """The learning rate at a step counted from 1."""
        left = (self.steps - step) / max(1.0, (1.0 - self.decay_from) * self.steps)
        decay = 1.0 if step < self.decay_from * self.steps else max(self.floor, left)
        return self.peak * min(1.0, step / self.warmup) * decay


class Packer:
    """Draws multi-turn dialogues cut to `LENGTH` tokens. Only the assistant's words and their end are learned."""

    def __init__(self, tokenizer: Tokenizer, mix: tasks.Mix, seed: int) -> None:
        self._mix = mix
        self._rng = random.Random(seed)
        self._encode = lru_cache(maxsize=200_000)(lambda text: tuple(vocabulary.encode(tokenizer, text)))
        self._start = vocabulary.token_id(tokenizer, vocabulary.START)
        self._end = vocabulary.token_id(tokenizer, vocabulary.END)

    def _head(self, role: str) -> list[int]:
        return [self._start, *self._encode(role + "\n")]

    def _turn(self) -> tuple[list[int], list[int]]:
        """One question and answer: its token ids, and the labels to learn."""
        item = tasks.draw_train(self._rng, self._mix.pick(self._rng), self._mix.longest_reverse)
        newline = self._encode("\n")
        asked = [
            *self._head("user"),
            *self._encode(item.prompt),
            self._end,
            *newline,
            *self._head("assistant"),
        ]
        answer = [*self._encode(item.answer), self._end]
        labels = [IGNORED] * len(asked) + answer + [IGNORED] * len(newline)
        return [*asked, *answer, *newline], labels

    def row(self) -> tuple[list[int], list[int]]:
        """One row of inputs and the labels of the tokens that follow them."""
        ids: list[int] = []
        if self._rng.random() < SYSTEM_SHARE:
            system = self._encode(self._rng.choice(tasks.SYSTEM_PROMPTS))
            ids += [*self._head("system"), *system, self._end, *self._encode("\n")]
        labels = [IGNORED] * len(ids)
        while len(ids) < LENGTH + 1:
            more, learned = self._turn()
            ids += more
            labels += learned
        return ids[:LENGTH], labels[1 : LENGTH + 1]

    def batch(self) -> tuple[Tensor, Tensor]:
        rows = [self.row() for _ in range(BATCH)]
        return torch.tensor([ids for ids, _ in rows]), torch.tensor([labels for _, labels in rows])


class Progress:
    """A line every few seconds: step, loss, seconds so far, seconds to go."""

    def __init__(self, label: str, steps: int) -> None:
        self._label, self._steps = label, steps
        self._began = self._told = time.monotonic()

    def tell(self, step: int, loss: Tensor) -> None:
        now = time.monotonic()
        if now - self._told < PROGRESS_SECONDS and step != self._steps:
            return
        self._told = now
        spent = now - self._began
        eta = spent / step * (self._steps - step)
        at = f"{self._label} step {step}/{self._steps}"
        print(f"{at} loss {loss.item():.4f} {spent:.0f} s, ETA {eta:.0f} s", flush=True)


def _optimizer(network: TinyLlama) -> torch.optim.AdamW:
    matrices = [p for p in network.parameters() if p.dim() == 2]
    vectors = [p for p in network.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98))


def _loss(network: TinyLlama, ids: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy over the learned positions; the others never reach the output layer."""
    flat = labels.reshape(-1)
    keep = flat != IGNORED
    hidden = network.hidden(ids).reshape(-1, HIDDEN)[keep]
    return functional.cross_entropy(network.logits(hidden), flat[keep])


def settle(seed: int, threads: int) -> None:
    """Make torch deterministic. Call once before a run builds or loads its network."""
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True)


def train(network: TinyLlama, packer: Packer, schedule: Schedule, label: str) -> None:
    """Train `network` in place."""
    optimizer = _optimizer(network)
    progress = Progress(label, schedule.steps)
    network.train()
    for step in range(1, schedule.steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step)
        loss = _loss(network, *packer.batch())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        progress.tell(step, loss)

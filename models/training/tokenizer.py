"""A byte-level BPE tokenizer of 512 tokens, trained on the tasks' own text.

Its pre-tokenizer is Qwen2's pattern, which llama.cpp knows by name (`tokenizer.ggml.pre = qwen2`), so every
engine cuts text the same way. The chat template is ChatML, kept beside the tokenizer as engines expect it.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import tasks
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
END_OF_TEXT = "<|endoftext|>"
START = "<|im_start|>"
END = "<|im_end|>"
SPECIALS = (END_OF_TEXT, START, END)
VOCAB = 512
CONTEXT = 1024
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def _corpus(seed: int) -> list[str]:
    rng = random.Random(seed)
    lines: list[str] = []
    for task in (*tasks.GRADED, tasks.CHAT):
        for _ in range(400):
            item = tasks.draw_train(rng, task)
            lines += [item.prompt, item.answer]
    lines += list(tasks.SYSTEM_PROMPTS) * 20
    return lines + ["system\n", "user\n", "assistant\n"] * 400


def build(seed: int = 7) -> Tokenizer:
    """Train the tokenizer; the same seed gives the same file."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_PATTERN), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=list(SPECIALS),
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator(_corpus(seed), trainer)
    if tokenizer.get_vocab_size() != VOCAB:
        raise ValueError(f"the tokenizer came out with {tokenizer.get_vocab_size()} tokens, {VOCAB} expected")
    return tokenizer


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """Token ids of `text`, with no special tokens added."""
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


def token_id(tokenizer: Tokenizer, token: str) -> int:
    """The id of a special token."""
    found: int | None = tokenizer.token_to_id(token)
    if found is None:
        raise KeyError(token)
    return found


def chat_prompt(prompt: str) -> str:
    """One user message as the chat template renders it, up to where the assistant answers."""
    return f"{START}user\n{prompt}{END}\n{START}assistant\n"


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json`, the latter with the chat template."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": None,
        "eos_token": END,
        "pad_token": END_OF_TEXT,
        "unk_token": None,
        "add_bos_token": False,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": CONTEXT,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")

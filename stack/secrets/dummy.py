"""Is this a real secret, or what somebody typed to get going? Pure.

1. Shorter than sixteen characters.
2. A placeholder that nobody filled: ``<...>``, ``${...}``, ``{{ ... }}``, ``%...%``, ``[...]``, ``$NAME``.
3. One short piece over and over, or few different characters.
4. A piece of the alphabet or of the digits, forwards or backwards.
5. Words that people write instead of a secret, and next to nothing else.
"""

from __future__ import annotations

import re
import string

SHORTEST = 16
_PLACEHOLDER = re.compile(r"<.*>|\$\{.*\}|\{\{.*\}\}|\$\(.*\)|%.*%|\[.*\]|\$[A-Za-z_][A-Za-z0-9_]*|__.*__", re.DOTALL)
_RUNS = tuple(
    direction
    for run in (
        string.digits * 20,
        "1234567890" * 20,
        string.ascii_lowercase * 8,
        "0123456789abcdef" * 16,
        string.ascii_lowercase + string.digits,
        "qwertyuiopasdfghjklzxcvbnm" * 4,
    )
    for direction in (run, run[::-1])
)
_SAID = """
account admin api apikey auth bar bearer baz canary change changed changeit changeme client credential
credentials default demo dev dummy empty enter example examples fake fixme foo foobar goes guest hello here hunter
insert invalid key letmein local localhost login masked me mock my nobody none nothing now null operator pass
passphrase passwd password passwords placeholder please private prod production qwerty redacted replace replaceme
root sample secret secrets set some staging super tbd temp temporary test tester testing tests the this to todo
token undefined unset user username value welcome with world xxx your
"""
_WORDS = sorted(_SAID.split(), key=len, reverse=True)
_WORD = re.compile("|".join(_WORDS))
_LEET = str.maketrans("0134578@$!", "oleastbasi")


def why_dummy(value: str) -> str:
    """Why this is no real secret, without the value; empty for one that may be real."""
    text = value.strip().strip("\"'").strip()
    plain = text.casefold()
    if not text:
        return "it is empty"
    if _PLACEHOLDER.fullmatch(text):
        return "it is a placeholder that was not filled"
    if _mostly_words(plain) or _mostly_words(plain.translate(_LEET)):
        return "it is made of words such as changeme, password, test"
    if len(text) < SHORTEST:
        return f"it is shorter than {SHORTEST} characters"
    if len(set(plain)) < 6 or _repeats(plain):
        return "it repeats itself"
    if any(plain in run for run in _RUNS):
        return "it is a piece of the alphabet or of the digits"
    return ""


def _repeats(text: str) -> bool:
    """Is it one piece of at most half its length, over and over?"""
    return text in (text + text)[1:-1] or any(
        text == (text[:size] * len(text))[: len(text)] for size in range(1, len(text) // 2 + 1)
    )


def _mostly_words(text: str) -> bool:
    """Nothing but words and x's is left, and at most twelve digits or two letters beside them."""
    letters = re.sub(r"[^a-z]", "", text)
    rest = re.sub(r"x+", "", _WORD.sub("", letters))
    digits = sum(character.isdigit() for character in text)
    return bool(letters) and rest != letters and len(rest) <= 2 and digits <= 12

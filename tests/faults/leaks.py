"""Canary secrets, the forms in which one could show up, and a look at every place where it must not.

Places: files below a state directory but its ``secrets/`` (names as well), what is left in /dev/shm, texts that were
collected, and the command line and environment of every process on this machine, sampled by a thread while things run.
"""

from __future__ import annotations

import base64
import os
import random
import string
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, quote_plus

SPECIAL = "+/=&?#%@:~.-_!$*"
_PLAIN = string.ascii_letters + string.digits


def canary(chance: random.Random) -> str:
    """40 random characters, a quarter of them special in URLs."""
    return "".join(chance.choice(SPECIAL if chance.random() < 0.25 else _PLAIN) for _ in range(40))


def forms(value: bytes) -> frozenset[bytes]:
    """Raw, URL-encoded in four ways, hex in both cases, base64 in both alphabets at each of the three alignments."""
    encoded = {quote(value), quote(value, safe=""), quote_plus(value), quote(value, safe="").lower()}
    found = {value, *(text.encode() for text in encoded), value.hex().encode(), value.hex().upper().encode()}
    for shift in range(3):
        text = base64.b64encode(b"\0" * shift + value)
        first, last = -(-shift * 8 // 6), (shift + len(value)) * 8 // 6
        found |= {text[first:last], text[first:last].translate(bytes.maketrans(b"+/", b"-_"))}
    return frozenset(found)


@dataclass(frozen=True)
class Leak:
    """``name``: which canary. ``place``: where; the value itself is not repeated."""

    name: str
    place: str


@dataclass
class Searcher:
    """Counts what it has looked through."""

    canaries: dict[str, bytes]
    places: dict[str, int] = field(default_factory=dict)
    bytes_read: int = 0
    leaks: set[Leak] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.needles = [(name, form) for name, value in self.canaries.items() for form in sorted(forms(value))]
        self._lock = threading.Lock()

    def look(self, kind: str, place: str, data: bytes) -> None:
        """Note every canary that shows in these bytes, or in the place's own name."""
        text = data + b"\n" + os.fsencode(place)
        found = {Leak(name, f"{kind}: {place}") for name, form in self.needles if form in text}
        with self._lock:
            self.places[kind] = self.places.get(kind, 0) + 1
            self.bytes_read += len(text)
            self.leaks |= found

    def look_at_files(self, kind: str, root: Path, leave_out: Iterable[str] = ()) -> None:
        """Every file below, whatever it is; links are not followed, but read."""
        skipped = {root / name for name in leave_out}
        for folder, names, files in os.walk(root):
            here = Path(folder)
            names[:] = [name for name in names if here / name not in skipped]
            for name in [*names, *files]:
                path = here / name
                if path in skipped:
                    continue
                if path.is_symlink():
                    self.look(kind, str(path), os.fsencode(path.readlink()))
                else:
                    self.look(kind, str(path), path.read_bytes() if path.is_file() else b"")


class Sampler:
    """Looks at all processes again and again until it is left, and keeps what it saw: some secrets come later.

    ``excused``: whose environment the test itself made.
    """

    def __init__(self, excused: Iterable[bytes] = ()) -> None:
        self.saw: list[tuple[str, str, bytes]] = []
        self._excused = tuple(excused)
        self._own = _ancestors()
        self._seen: set[tuple[int, int]] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)
        self.rounds = 0

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            self.sample()
            self._stop.wait(0.01)

    def sample(self) -> None:
        """One round over /proc. The same bytes of the same process are kept once."""
        self.rounds += 1
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) not in self._own:
                self._process(int(entry.name))

    def _process(self, pid: int) -> None:
        line = _read(pid, "cmdline")
        surroundings = b"" if any(word in line for word in self._excused) else _read(pid, "environ")
        for kind, data in (("cmdline", line), ("environ", surroundings)):
            key = (pid, hash((kind, data)))
            if data and key not in self._seen:
                self._seen.add(key)
                self.saw.append((kind, f"/proc/{pid}/{kind} of {line[:100]!r}", data))


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def _ancestors() -> frozenset[int]:
    """This process and those that started it."""
    found, pid = set(), os.getpid()
    while pid > 0 and pid not in found:
        found.add(pid)
        pid = int(_read(pid, "stat").rpartition(b")")[2].split()[1] or 0)
    return frozenset(found)

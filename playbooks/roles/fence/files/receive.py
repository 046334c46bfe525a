#!/usr/bin/env python3
"""Take files from the controller in checked chunks, so that a transfer goes on where the last one ended.

    receive.py ROOT                 # standard input: a plan, then chunks; standard output: what is here, how it ended
    receive.py ROOT recheck INTO    # what was received is not what it should be: keep what is right of it

Each message on standard input is four bytes of length and that much JSON. The plan is ``{"into", "mark", "files":
[[path, size], ...], "unless": [path, ...]}`` and for a single file ``"digest"`` and ``"final"``. A chunk is ``{"file":
index, "offset", "length", "sha256"}`` and then its bytes.

1. A chunk is written only if its digest is right and it begins where the file ends; only then is it noted in
   ``INTO.chunks``. What no note covers is cut off: kill -9 costs the chunk that was on its way.
2. One receiver at a time per INTO. One that hears nothing for ``IDLE_S`` ends, so that a dead line holds nobody up.
3. ``mark`` names what is sent. What was kept of something else is thrown away.
4. For ``recheck`` the noted chunks are read again, and a file is cut back to its first wrong one; if none is wrong,
   nothing is kept. With ``digest`` this is done as soon as the file is complete, and only a right one gets its
   ``final`` name. Without it the last word is left to artifact.py.

5. A message ``{"source": {...}}`` before the chunks names a host that has the files too: chunks then come without
   their bytes, which are fetched there and checked all the same, each answered by one line. How fast each source was is
   kept in ``INTO.sources``, and that it failed; the controller decides by it.

Standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import select
import shutil
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any, Dict, List, Optional, Tuple

from peer import Peer, PeerFailed, Sources

IDLE_S, LOCK_WAIT_S, LARGEST, PIPE = 30.0, 2.0, 64 << 20, 1 << 20
Chunk = Tuple[int, int, str]  # offset, length, sha256


class NotReceived(Exception):
    """It can't go on; the text says why."""


class LineLost(Exception):
    """The controller is gone, or silent."""


class Incoming:
    """Messages and bytes from a descriptor."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        with suppress(OSError, AttributeError):  # no pipe, beyond what a user may have, or before Python 3.10
            fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, PIPE)

    def exact(self, length: int, *, end_is_fine: bool = False) -> bytes:
        """That many bytes; empty at a clean end, if one may be here."""
        buffer = bytearray(length)
        view, got = memoryview(buffer), 0
        while got < length:
            if not select.select([self.descriptor], [], [], IDLE_S)[0]:
                raise LineLost(f"nothing came for {IDLE_S:.0f} s")
            read = os.readv(self.descriptor, [view[got:]])
            if not read:
                if end_is_fine and not got:
                    return b""
                raise LineLost("the line ended in the middle of a chunk")
            got += read
        return bytes(buffer)

    def message(self) -> Dict[str, Any]:
        """The next message; empty at the end."""
        length = int.from_bytes(self.exact(4, end_is_fine=True), "big")
        if length > LARGEST:
            raise NotReceived("a message is too large")
        return dict(json.loads(self.exact(length))) if length else {}


class Partial:
    """The files that are being received, and the notes of what was checked."""

    def __init__(self, root: Path, into: str, plan: Dict[str, Any]) -> None:
        self.folder = root / plain(into)
        self.notes = notes_of(self.folder)
        self.head = json.dumps({key: plan[key] for key in ("mark", "files")}, sort_keys=True)
        self.files = [(plain(path), int(size)) for path, size in plan["files"]]
        self.chunks: List[List[Chunk]] = [[] for _ in self.files]

    def have(self) -> List[int]:
        """How much of each file is here and checked."""
        return [chunks[-1][0] + chunks[-1][1] if chunks else 0 for chunks in self.chunks]

    def complete(self) -> bool:
        """Is everything here?"""
        return self.have() == [size for _, size in self.files]

    def open(self) -> None:
        """Take up what an earlier transfer left: no more and no less than what notes and files agree on."""
        self._read_notes()
        wanted = {self.folder / path for path, _ in self.files}
        found = sorted(self.folder.rglob("*"), reverse=True) if self.folder.is_dir() else []
        for path in found:
            if path.is_symlink() or (not path.is_dir() and path not in wanted):
                path.unlink()
        for index, (path, _) in enumerate(self.files):
            file = self.folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            with open(file, "ab") as out:
                while self.chunks[index] and self.have()[index] > out.tell():
                    self.chunks[index].pop()
                out.truncate(self.have()[index])
        self._write_notes()

    def _read_notes(self) -> None:
        try:
            lines = self.notes.read_text(encoding="ascii").split("\n")
        except (OSError, ValueError):
            return
        if lines[0] != self.head:
            return
        for line in lines[1:-1]:
            index, offset, length, digest = line.split(" ")
            self._note(int(index), (int(offset), int(length), digest))

    def _note(self, index: int, chunk: Chunk) -> None:
        while self.chunks[index] and self.chunks[index][-1][0] >= chunk[0]:
            self.chunks[index].pop()
        self.chunks[index].append(chunk)

    def _write_notes(self) -> None:
        partial = self.notes.with_name(self.notes.name + ".new")
        rows = [f"{n} {c[0]} {c[1]} {c[2]}\n" for n, chunks in enumerate(self.chunks) for c in chunks]
        partial.write_text(f"{self.head}\n" + "".join(rows), encoding="ascii")
        os.replace(partial, self.notes)

    def room(self) -> None:
        """Refuse before the first byte when it can't fit."""
        disk = os.statvfs(self.folder)
        free = disk.f_frsize * (disk.f_bavail if os.geteuid() else disk.f_bfree)
        missing = sum(size for _, size in self.files) - sum(self.have())
        if missing > free:
            text = f"{os.strerror(errno.ENOSPC)}: {mib(missing)} MiB more are needed, {mib(free)} MiB are free"
            raise OSError(errno.ENOSPC, text, str(self.folder))

    def append(self, chunk: Dict[str, Any], content: bytes) -> None:
        """Write a chunk and note it, if it is right."""
        index, offset, length = int(chunk["file"]), int(chunk["offset"]), int(chunk["length"])
        path, size = self.files[index]
        if offset != self.have()[index] or offset + length > size:
            raise NotReceived(f"{path}: a chunk for byte {offset}, and the file has {self.have()[index]} of {size}")
        digest = hashlib.sha256(content).hexdigest()
        if digest != chunk["sha256"]:
            raise NotReceived(f"{path}: the chunk at byte {offset} came with other bytes than were sent")
        with open(self.folder / path, "r+b", buffering=0) as file:
            file.seek(offset)
            view = memoryview(content)
            while view:
                view = view[file.write(view) :]
        with open(self.notes, "a", encoding="ascii") as notes:
            notes.write(f"{index} {offset} {length} {digest}\n")
        self._note(index, (offset, length, digest))

    def recheck(self) -> bool:
        """Keep what is right by its chunks. True if something was found to be wrong; if not, nothing is kept."""
        damaged = False
        for index, (path, _) in enumerate(self.files):
            with open(self.folder / path, "r+b") as file:
                right = 0
                for _, length, digest in self.chunks[index]:
                    if hashlib.sha256(file.read(length)).hexdigest() != digest:
                        break
                    right += 1
                damaged = damaged or right < len(self.chunks[index])
                del self.chunks[index][right:]
                file.truncate(self.have()[index])
        if not damaged:
            self.drop()
        self._write_notes()
        return damaged

    def drop(self) -> None:
        """Keep nothing."""
        for index, (path, _) in enumerate(self.files):
            os.truncate(self.folder / path, 0)
            self.chunks[index].clear()


def notes_of(folder: Path) -> Path:
    """Where the notes of what was checked stand."""
    return folder.with_name(folder.name + ".chunks")


def plain(path: Any) -> str:
    """A relative path that stays where it is."""
    parts = PurePosixPath(str(path)).parts
    if not parts or parts[0] == "/" or ".." in parts:
        raise NotReceived(f"{path!r} is no path below the root")
    return str(path)


def mib(size: int) -> int:
    """In whole MiB."""
    return size >> 20


def file_digest(path: Path) -> str:
    """SHA-256 of a file as read from the disk; empty when there is none."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except FileNotFoundError:
        return ""
    return digest.hexdigest()


def finish(root: Path, plan: Dict[str, Any], partial: Partial) -> str:
    """``complete``, or ``partial`` when more must be sent. A single file with a digest gets its name here."""
    if not partial.complete():
        return "partial"
    if not plan.get("digest"):
        return "complete"
    (path, _), final = partial.files[0], root / plain(plan["final"])
    source = partial.folder / path
    if file_digest(source) != plan["digest"]:
        if not partial.recheck():
            raise NotReceived(f"{final.name}: what was sent is not what its digest names")
        return "partial"
    with open(source, "rb") as file:
        os.fsync(file.fileno())
    os.replace(source, final)
    partial.notes.unlink()
    Sources(partial.folder).path.unlink(missing_ok=True)
    shutil.rmtree(partial.folder, ignore_errors=True)
    return "complete"


def needless(root: Path, plan: Dict[str, Any]) -> bool:
    """Is what the files are for here already?"""
    if any((root / plain(path)).exists() for path in plan.get("unless", [])):
        return True
    return bool(plan.get("digest")) and file_digest(root / plain(plan["final"])) == plan["digest"]


def locked(root: Path, into: str) -> bool:
    """Become the only receiver; the lock lasts as long as this process."""
    folder = root / "fence" / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    name = folder / f"receive-{hashlib.sha256(into.encode()).hexdigest()[:24]}"
    descriptor, deadline = os.open(name, os.O_RDWR | os.O_CREAT, 0o600), time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.02)


def receive(root: Path, incoming: Incoming) -> Dict[str, Any]:
    """One transfer, by the rules in the module's docstring; how it ended."""
    plan = incoming.message()
    if needless(root, plan):
        return {"state": "needless"}
    if not locked(root, str(plan["into"])):
        return {"state": "busy"}
    if needless(root, plan):
        return {"state": "needless"}
    partial = Partial(root, str(plan["into"]), plan)
    partial.open()
    if partial.complete() and finish(root, plan, partial) == "complete":
        return {"state": "complete"}
    partial.room()
    sources = Sources(partial.folder)
    before = sum(partial.have())
    say({"state": "ready", "have": partial.have(), "sources": sources.rates})
    name, began = take_all(partial, incoming, sources)
    got = sum(partial.have()) - before
    if got and sources.rates.get(name) != 0:
        sources.note(name, got / max(time.monotonic() - began, 0.001))
    return {"state": finish(root, plan, partial), "have": partial.have()}


def take_all(partial: Partial, incoming: Incoming, sources: Sources) -> Tuple[str, float]:
    """Every chunk that comes, from the controller or from the source that it names; which one, and when it began.

    A chunk from the controller is hashed and written while the next one comes.
    """
    name, peer, began = "", None, None
    written: Optional[Future[None]] = None
    with ThreadPoolExecutor(max_workers=1) as pool:
        while message := incoming.message():
            began = began or time.monotonic()
            if "failed" in message:
                sources.note(str(message["failed"]), 0.0)
            elif "source" in message:
                name, peer = str(message["source"]["name"]), Peer(message["source"])
            elif peer is None:
                content = incoming.exact(int(message["length"]))
                if written:
                    written.result()
                written = pool.submit(partial.append, message, content)
            elif not take_from(peer, partial, message):
                sources.note(name, 0.0)
                break
        if written:
            written.result()
    return name, began or time.monotonic()


def take_from(peer: Peer, partial: Partial, chunk: Dict[str, Any]) -> bool:
    """One chunk by way of another host; says how it went."""
    try:
        path = partial.files[int(chunk["file"])][0]
        partial.append(chunk, peer.fetch(path, int(chunk["offset"]), int(chunk["length"])))
    except (PeerFailed, NotReceived) as error:
        say({"got": False, "why": str(error)})
        return False
    say({"got": True})
    return True


def recheck(root: Path, into: str) -> None:
    """Keep what is right of what was received. Where somebody receives just now, nothing is done."""
    notes = notes_of(root / plain(into))
    if not locked(root, into) or not notes.exists():
        return
    partial = Partial(root, into, json.loads(notes.read_text(encoding="ascii").split("\n")[0]))
    partial.open()
    partial.recheck()


def say(answer: Dict[str, Any]) -> None:
    """One line to the controller."""
    print(json.dumps(answer), flush=True)


def main() -> int:
    """The command."""
    try:
        if sys.argv[2:3] == ["recheck"]:
            recheck(Path(sys.argv[1]), sys.argv[3])
        else:
            say(receive(Path(sys.argv[1]), Incoming(sys.stdin.fileno())))
    except (NotReceived, OSError) as error:
        say({"state": "failed", "error": str(error)})
        return 1
    except LineLost as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

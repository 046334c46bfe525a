"""What the audit log costs: durable appends against a bare INSERT and COMMIT, and the speed and memory of checking it.

The bare side is one row of the same size, SQLite in the same mode (WAL, synchronous=FULL), on the same disk, in turns.
Checking is what an auditor does: ``verify_export.py`` in a process of its own, over an export with a checkpoint every
1000 records that are also kept elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from bench.figures import OUT, Figure, Report
from bench.stage import ROOT, BenchFailed
from stack.audit.append import append
from stack.audit.chain import GENESIS
from stack.audit.exported import check_export, checkpoint_line, end_line, header_line, kept_elsewhere
from stack.audit.keys import signer_of
from stack.audit.merkle import Frontier, leaf_hash
from stack.audit.note import Checkpoint
from stack.audit.record import AuditRecord
from stack.core.clock import SystemClock
from stack.store.store import Store

SIGNER = signer_of(hashlib.sha256(b"bench").digest())
BODY = {"from": "holding 25 %", "to": "holding 100 %", "verdict": "PROMOTE", "requests": 481, "p95_s": 0.125}
RECORD = AuditRecord(
    actor="orchestrator", action="rollout.step", target="tiny", change="ro-aaaaaaaaaa", result="ok", body=BODY
)
MEMORY_TARGET_MIB = 100.0
CHECKPOINT_EVERY = 1000


def appended(store: Store, count: int) -> float:
    """Seconds for so many records, each in a transaction of its own."""
    begun = time.perf_counter()
    for _ in range(count):
        with store.transaction() as tx:
            append(tx, RECORD, SystemClock())
    return time.perf_counter() - begun


def bare(connection: sqlite3.Connection, count: int, row: tuple[object, ...]) -> float:
    """Seconds for so many rows and commits, and nothing else."""
    begun = time.perf_counter()
    for _ in range(count):
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO t VALUES (?,?,?,?,?,?,?,?,?)", row)
        connection.execute("COMMIT")
    return time.perf_counter() - begun


def append_rounds(folder: Path, rounds: int, count: int) -> tuple[list[float], list[float]]:
    """Records per second: ours and bare, round by round."""
    store = Store.open(folder / "state.db")
    connection = sqlite3.connect(folder / "bare.db", isolation_level=None)
    for pragma in ("journal_mode=WAL", "synchronous=FULL"):
        connection.execute(f"PRAGMA {pragma}")
    connection.execute("CREATE TABLE t (time, actor, action, target, change, result, body_json, prev_hash, hash)")
    appended(store, 5)
    with store.reading() as tx:
        last = tx.last_audit()
    if last is None:
        raise BenchFailed("nothing was appended")
    row = tuple(value for name, value in asdict(last).items() if name != "seq")
    ours, theirs = [], []
    for _ in range(rounds):
        theirs.append(count / bare(connection, count, row))
        ours.append(count / appended(store, count))
    connection.close()
    store.close()
    return ours, theirs


def export_lines(count: int, notes: list[str]) -> Iterator[bytes]:
    """An export of so many records, made as fast as it goes; its checkpoints are put into ``notes``."""
    yield header_line(SIGNER.key, 1, count, Frontier(), str(GENESIS))
    head, tree, body = str(GENESIS), Frontier(), json.dumps(BODY, sort_keys=True, separators=(",", ":"))
    said = {"action": RECORD.action, "actor": RECORD.actor, "body_json": body, "change": RECORD.change}
    for seq in range(1, count + 1):
        rest = {"prev_hash": head, "result": "ok", "seq": seq, "target": "tiny"}
        record = {**said, **rest, "time": "2026-01-01T00:00:00.000000Z", "v": 1}
        data = json.dumps(record, separators=(",", ":")).encode()
        head, leaf = "sha256:" + hashlib.sha256(data).hexdigest(), leaf_hash(data)
        yield b'{"hash":"%s","kind":"record","leaf":"%s","record":%s}\n' % (head.encode(), leaf.hex().encode(), data)
        tree = tree.add(leaf)
        if seq % CHECKPOINT_EVERY == 0:
            notes.append(SIGNER.sign(Checkpoint(origin=SIGNER.key.name, size=seq, root=tree.root).text))
            yield checkpoint_line(notes[-1])
    yield end_line(count, len(notes), tree.root)


def written(folder: Path, count: int) -> tuple[Path, Path]:
    """Export and checkpoints on disk."""
    notes: list[str] = []
    export, kept = folder / f"{count}.jsonl", folder / f"{count}.checkpoints"
    with export.open("wb") as file:
        file.writelines(export_lines(count, notes))
    kept.write_text("\n".join(notes))
    return export, kept


# Peak memory as the program itself had it: what wait4 tells counts the process that it was forked from.
_MEASURED = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    print(peak.split()[1], file=sys.stderr)
"""


def checked_alone(export: Path, kept: Path, count: int) -> tuple[float, float]:
    """Records per second and peak memory (MiB) of the stand-alone verifier."""
    program = str(ROOT / "stack" / "audit" / "verify_export.py")
    words = [str(export), "--checkpoints", str(kept), "--key", str(SIGNER.key), "--json"]
    begun = time.perf_counter()
    done = subprocess.run([sys.executable, "-I", "-c", _MEASURED, program, *words], capture_output=True, text=True)
    took = time.perf_counter() - begun
    if done.returncode or json.loads(done.stdout)["proven"] != count:
        raise BenchFailed(f"the verifier left with {done.returncode}: {done.stdout[:300]} {done.stderr[-300:]}")
    return count / took, int(done.stderr) / 1024


def checked_here(export: Path, kept: Path, count: int) -> float:
    """Records per second of ``stackctl audit verify``'s own check."""
    begun = time.perf_counter()
    with export.open("rb") as file, kept.open("rb") as notes:
        report = check_export(file, SIGNER.key, kept_elsewhere(notes, SIGNER.key))
    if not report.ok or report.proven != count:
        raise BenchFailed(f"the product's own check says: {report.reason}")
    return count / (time.perf_counter() - begun)


def measure(*, quick: bool) -> Report:
    """Append, then check a small export and a large one."""
    rounds, appends, small, large = (2, 100, 5_000, 50_000) if quick else (5, 400, 10_000, 1_000_000)
    OUT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="audit-bench-", dir=OUT) as name:
        folder = Path(name)
        ours, theirs = append_rounds(folder, rounds, appends)
        few, many = written(folder, small), written(folder, large)
        here = [checked_here(*few, small) for _ in range(rounds)]
        speed_few, memory_few = checked_alone(*few, small)
        speed, memory = checked_alone(*many, large)
        size = many[0].stat().st_size
    ratios = tuple(b / a for a, b in zip(ours, theirs, strict=True))
    figures = (
        Figure(name="durable appends", unit="records/s", values=tuple(ours)),
        Figure(name="  bare INSERT and COMMIT", unit="rows/s", values=tuple(theirs)),
        Figure(name="  bare / ours", unit="", values=ratios, note="times slower than bare"),
        Figure(name="verify_export.py", unit="records/s", values=(speed,), note=f"{large:,} records"),
        Figure(name="stackctl audit verify", unit="records/s", values=tuple(here), note=f"{small:,} records"),
        Figure(name="peak memory of verify_export.py", unit="MiB", values=(memory,), target=MEMORY_TARGET_MIB,
               note=f"{large:,} records"),
        Figure(name="  beyond that for few records", unit="MiB", values=(memory - memory_few,),
               note=f"{small:,} records"),
    )  # fmt: skip
    details = {"export_bytes": size, "small_speed": speed_few}
    return Report(bench="audit", figures=figures, details=details)

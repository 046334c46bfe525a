"""Measures the registry against coreutils on this machine: registration, verification, many shards, memory.

    python bench/registry.py --size 1GiB --dir /tmp

Every round runs all candidates in turn on the same bytes, and ratios are taken within the run; medians are
printed and written to bench/out/registry.json. ``cp`` leaves its bytes in memory; registration has them on disk.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "registry")]

import written  # noqa: E402

from stack.registry import ContentStore, load_manifest, register, verify  # noqa: E402

UNITS = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
SHARDS = 8


def size_of(text: str) -> int:
    """``2GiB`` -> 2147483648."""
    number = text.rstrip("KMGiB")
    return int(number) * UNITS[text[len(number) :]]


def fill(path: Path, head: bytes, count: int) -> dict[str, object]:
    """Write a header and ``count`` bytes that don't compress; the manifest's entry."""
    hasher, block = hashlib.sha256(head), os.urandom(1 << 20)
    with path.open("wb") as file:
        file.write(head)
        for start in range(0, count, len(block)):
            part = struct.pack("<Q", start) + block[8 : min(len(block), count - start)]
            file.write(part)
            hasher.update(part)
        file.flush()
        os.fsync(file.fileno())
    return {"path": path.name, "size": path.stat().st_size, "sha256": hasher.hexdigest()}


def gguf_head(weights: int, keys: dict[str, object]) -> bytes:
    """A GGUF header before one F16 tensor of ``weights`` bytes."""
    return written.gguf(keys=keys, tensors={"token_embd.weight": ([weights // 2], 1, 0)})  # fill() writes the body


def describe(folder: Path, name: str, rows: list[dict[str, object]]) -> Path:
    """The manifest of files that lie in ``folder/name``."""
    value = written.body({"gguf": {"x": b""}})
    value["name"] = name
    value["artifacts"] = {"gguf": {"root": name, "digest": written.set_digest(rows), "files": rows}}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(value, sort_keys=False))
    return path


def large(folder: Path, size: int) -> Path:
    """One GGUF file."""
    (folder / "large").mkdir()
    return describe(folder, "large", [fill(folder / "large" / "model.gguf", gguf_head(size, written.KEYS), size)])


def sharded(folder: Path, size: int) -> Path:
    """The same bytes as a split of eight."""
    (folder / "shards").mkdir()
    rows = []
    for number in range(SHARDS):
        keys = {**(written.KEYS if number == 0 else {}), "split.no": number, "split.count": SHARDS}
        path = folder / "shards" / f"model-{number + 1:05}-of-{SHARDS:05}.gguf"
        rows.append(fill(path, gguf_head(size // SHARDS, keys), size // SHARDS))
    return describe(folder, "shards", rows)


def timed(action: Callable[[], object]) -> float:
    """Seconds that an action took."""
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun


def settle() -> None:
    """Let the disk finish what the last candidate left to it."""
    os.sync()


def cp_then_sum(files: list[Path], target: Path) -> None:
    """What people do today."""
    target.mkdir()
    subprocess.run(["cp", *map(str, files), str(target)], check=True)
    subprocess.run(["sha256sum", *(str(target / f.name) for f in files)], check=True, stdout=subprocess.DEVNULL)


def sha256sum(files: list[Path]) -> None:
    """What people check with."""
    subprocess.run(["sha256sum", *map(str, files)], check=True, stdout=subprocess.DEVNULL)


def peak_memory(code: str, *arguments: str) -> dict[str, int]:
    """Peak memory in MiB of a process of its own: after the imports, and after the work."""
    peak = "resource.getrusage(resource.RUSAGE_SELF).ru_maxrss//1024"
    program = (
        f"import sys,resource;from pathlib import Path;from stack.registry import *;b={peak};{code};print(b,{peak})"
    )
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True)
    before, after = map(int, done.stdout.split())
    return {"imports": before, "peak": after}


def one_round(folder: Path, manifests: dict[str, Path]) -> dict[str, float]:
    """Every candidate once."""
    took: dict[str, float] = {}
    for name, path in manifests.items():
        manifest = load_manifest(path)
        files = sorted((folder / name).iterdir())
        store = ContentStore(folder / "store")
        settle()
        took[f"{name}: cp; sha256sum"] = timed(lambda files=files: cp_then_sum(files, folder / "copy"))
        shutil.rmtree(folder / "copy")
        settle()
        took[f"{name}: register"] = timed(lambda m=manifest, s=store: register(m, "gguf", s))
        settle()
        took[f"{name}: sha256sum"] = timed(lambda files=files: sha256sum(files))
        took[f"{name}: verify"] = timed(lambda s=store, n=name: verify(s, f"{n}@1.0").require_sound())
        shutil.rmtree(store.root)
    return took


def main() -> None:
    """Parse the command line, measure, print, write."""
    parser = argparse.ArgumentParser(description="Registry against cp and sha256sum.")
    parser.add_argument("--size", type=size_of, default=size_of("2GiB"), help="e.g. 512MiB (default 2GiB)")
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()), help="where to work")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "out" / "registry.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.dir, prefix="registry-bench-") as name:
        folder = Path(name)
        manifests = {"large": large(folder, options.size), "shards": sharded(folder, options.size)}
        one_round(folder, manifests)  # warms the page cache
        rounds = [one_round(folder, manifests) for _ in range(options.rounds)]
        code = "register(load_manifest(Path(sys.argv[1])),'gguf',ContentStore(Path(sys.argv[2])))"
        memory = {n: peak_memory(code, str(p), str(folder / f"{n}-store")) for n, p in manifests.items()}
    report(options, rounds, memory)


def report(options: argparse.Namespace, rounds: list[dict[str, float]], memory: dict[str, dict[str, int]]) -> None:
    """Medians, ratios of each round's own numbers, and the targets."""
    seconds = {key: statistics.median(took[key] for took in rounds) for key in rounds[0]}
    pairs = {
        "register one file / (cp; sha256sum)": ("large: register", "large: cp; sha256sum", 0.9),
        "verify one file / sha256sum": ("large: verify", "large: sha256sum", 1.10),
        "register 8 shards / (cp; sha256sum)": ("shards: register", "shards: cp; sha256sum", 0.9),
        "verify 8 shards / sha256sum": ("shards: verify", "shards: sha256sum", 1.10),
        "register 8 shards / one file": ("shards: register", "large: register", None),
    }
    ratios = {}
    for title, (ours, theirs, target) in pairs.items():
        each = [took[ours] / took[theirs] for took in rounds]
        ratios[title] = {"median": statistics.median(each), "low": min(each), "high": max(each), "target": target}
    print(f"{options.size / (1 << 20):.0f} MiB, {options.rounds} rounds, {len(os.sched_getaffinity(0))} cores")
    for key, value in seconds.items():
        print(f"  {key:<40} {value:8.3f} s  {options.size / value / (1 << 20):8.0f} MiB/s")
    for title, ratio in ratios.items():
        target = f"target <= {ratio['target']}" if ratio["target"] else ""
        print(f"  {title:<40} {ratio['median']:8.3f}    ({ratio['low']:.3f}..{ratio['high']:.3f}) {target}")
    for name, amount in memory.items():
        title = f"memory of registering {name}"
        print(f"  {title:<40} {amount['peak']:8d} MiB peak ({amount['imports']} MiB after imports)")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    body = {"size": options.size, "rounds": rounds, "seconds": seconds, "ratios": ratios, "memory_mib": memory}
    options.out.write_text(json.dumps(body, indent=2) + "\n")


if __name__ == "__main__":
    main()

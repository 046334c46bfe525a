"""Eval replay through the gateway: on a quiet service it is the traffic, and on every rung it is the quality evidence.

Both slices are asked the same prompts side by side, streamed, each pinned, so pairs share the load of the moment. What
could not be run is no evidence; it is said, and the rung pauses.
"""

from __future__ import annotations

import threading

from stack.config.stack_yaml import ServiceSettings
from stack.core.clock import Clock
from stack.core.errors import StackError
from stack.evals.absolute import absolute
from stack.evals.compare import compare
from stack.evals.comparison import Comparison
from stack.evals.load import load_suite
from stack.evals.run import run_suite
from stack.evals.samples import EvalRun
from stack.rollout.gates import GatewayAccess, answer_timeout, progress_teller, quality_thresholds, reason_of
from stack.rollout.verdict import Quality
from stack.rollout.worker import Context


class Replay:
    """One pass at once, another whenever ``again`` is asked for. Use as a context manager.

    ``quality`` and ``comparison`` are the latest finished pass's, None before. Leaving does not wait for prompts in
    flight: when traffic must go back, nothing may stand in the way.
    """

    def __init__(
        self, settings: ServiceSettings, access: GatewayAccess, clock: Clock, context: Context, *, paired: bool
    ):
        self._settings, self._access, self._clock, self._context = settings, access, clock, context
        self._slices = ("candidate", "stable") if paired else ("candidate",)
        self._stop = threading.Event()
        self._wanted = threading.Event()
        self._forgotten = 0
        self._lock = threading.Lock()
        self.error: str | None = None
        self.quality: Quality | None = None
        self.comparison: Comparison | None = None

    def __enter__(self) -> Replay:
        self.again()
        threading.Thread(target=self._passes, name="replay", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._wanted.set()

    def again(self) -> None:
        """Ask for one more pass after the present one."""
        self._wanted.set()

    def forget(self) -> None:
        """The gateway went away: no pass until now is evidence of a release. One more is made."""
        with self._lock:
            self._forgotten += 1
            self.quality = self.comparison = None
        self._wanted.set()

    def _passes(self) -> None:
        while not self._stop.is_set():
            self._wanted.wait()
            self._wanted.clear()
            if self._stop.is_set():
                return
            self._one_pass()

    def _one_pass(self) -> None:
        forgotten = self._forgotten
        runs: dict[str, EvalRun] = {}
        threads = [threading.Thread(target=self._side, args=(name, runs), daemon=True) for name in self._slices]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._stop.is_set() or set(runs) != set(self._slices):
            return
        self._judge(runs, forgotten)

    def _judge(self, runs: dict[str, EvalRun], forgotten: int) -> None:
        thresholds = quality_thresholds(self._settings)
        mine = runs["candidate"]
        comparison = compare(runs["stable"], mine, thresholds) if "stable" in runs else absolute(mine, thresholds)
        with self._lock:
            if forgotten == self._forgotten:
                self.comparison = comparison
                self.quality = Quality(outcome=str(comparison.outcome), reason=reason_of(comparison))

    def _side(self, name: str, runs: dict[str, EvalRun]) -> None:
        try:
            runs[name] = run_suite(
                load_suite(self._settings.suites.evaluation),
                self._access.endpoint(self._settings.name, name, answer_timeout(self._settings)),
                concurrency=4 // len(self._slices),
                clock=self._clock,
                progress=progress_teller(self._context, "replay on candidate") if name == "candidate" else None,
                stop=self._stop.is_set,
                stream=True,
            )
        except StackError as error:
            self.error = error.message

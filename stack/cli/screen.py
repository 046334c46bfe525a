"""Progress for people: a live line on a terminal, timestamped lines with a heartbeat everywhere else."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import click

from stack.cli.printable import printable
from stack.core.clock import Clock, SystemClock
from stack.core.errors import StackError

T = TypeVar("T")

HEARTBEAT_S = 5.0


class Screen(Protocol):
    """Where a watcher writes."""

    def event(self, text: str) -> None:
        """Something happened."""

    def waiting(self, what: str, seconds: float) -> None:
        """Nothing happened; ``seconds`` since the last event."""

    def close(self) -> None:
        """Nothing more comes."""


class PlainScreen:
    """Lines with the time of day (UTC); while it is silent, one heartbeat each five seconds."""

    def __init__(self, say: Callable[[str], None], clock: Clock) -> None:
        self._say = say
        self._clock = clock
        self._said = clock.monotonic()

    def event(self, text: str) -> None:
        self._line(printable(text))

    def waiting(self, what: str, seconds: float) -> None:
        # the long poll may come back a little early: a heartbeat must not wait for the next one
        if self._clock.monotonic() - self._said >= HEARTBEAT_S - 1.0:
            self._line(f"... {seconds:.0f} s, waiting for {what}")

    def close(self) -> None:
        return

    def _line(self, text: str) -> None:
        self._said = self._clock.monotonic()
        self._say(f"{self._clock.now():%H:%M:%S} {text}")


class LiveScreen:
    """Rich: events scroll, the last line lives."""

    def __init__(self, clock: Clock, *, to_stderr: bool) -> None:
        from rich.console import Console

        self._clock = clock
        self._console: Any = Console(stderr=to_stderr, highlight=False, markup=False)
        self._status: Any = self._console.status("")
        self._status.start()

    def event(self, text: str) -> None:
        self._console.print(f"{self._clock.now():%H:%M:%S} {printable(text)}")

    def waiting(self, what: str, seconds: float) -> None:
        from rich.text import Text

        self._status.update(Text(f"{what}, {seconds:.0f} s"))

    def close(self) -> None:
        self._status.stop()


def screen_for(say: Callable[[str], None], clock: Clock, *, to_stderr: bool) -> Screen:
    """A live screen on a terminal."""
    stream = sys.stderr if to_stderr else sys.stdout
    return LiveScreen(clock, to_stderr=to_stderr) if stream.isatty() else PlainScreen(say, clock)


def patiently(call: Callable[[], T], what: str) -> T:
    """Run ``call`` in a thread; on stderr, say what is waited for while it takes. Ctrl-C stops the waiting."""
    clock = SystemClock()
    begun = clock.monotonic()
    results: list[T] = []
    errors: list[StackError] = []

    def run() -> None:
        try:
            results.append(call())
        except StackError as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    screen = screen_for(lambda text: click.echo(text, err=True), clock, to_stderr=True)
    try:
        while thread.is_alive():
            thread.join(0.5)
            screen.waiting(what, clock.monotonic() - begun)
    finally:
        screen.close()
    if errors or not results:
        raise errors[0] if errors else StackError(f"waiting for {what} ended without an answer")
    return results[0]

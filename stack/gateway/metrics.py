"""The books: counters, histograms and the last single attempts per replica. No I/O, no clock.

Everything is cumulative since the process started (``boot_id`` names that start); whoever reads keeps the difference.
Each attempt at a replica is one entry, so a request that was retried stands in the books of each replica it met.
A ring item is ``[seq, status, latency_s, ttft_s, tokens, slice, pinned, outcome]``: ``status`` is the replica's own
status when its answer was good or an honest error, ``BROKEN`` when there was no usable answer (also after a 200),
``CANCELLED`` when the client went away (counted, but neither a success nor an error). ``ttft_s`` is null for answers
that were not streamed, ``tokens`` is null when the engine gave no usage.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterator
from typing import Any

from stack.gateway.usage import Usage

BROKEN = 599
CANCELLED = 499
RING = 4096
BUCKETS = tuple(round(0.001 * 1.2**n, 6) for n in range(65))
_COARSE = BUCKETS[4::4]


class TargetBooks:
    """One replica's counters."""

    __slots__ = (
        "by_status", "completion_tokens", "dropped", "dropped_seq", "errors", "latency", "prompt_tokens",
        "requests", "ring", "service", "slice", "ttft", "without_usage",
    )  # fmt: skip

    def __init__(self, service: str, slice_name: str) -> None:
        self.service, self.slice = service, slice_name
        self.requests = self.errors = self.prompt_tokens = self.completion_tokens = self.without_usage = 0
        self.by_status: dict[int, int] = {}
        self.latency = [0] * (len(BUCKETS) + 1)
        self.ttft = [0] * (len(BUCKETS) + 1)
        self.ring: deque[tuple[Any, ...]] = deque(maxlen=RING)
        self.dropped = self.dropped_seq = 0

    def add(
        self, seq: int, status: int, latency: float, ttft: float | None, usage: Usage | None, pinned: bool, outcome: str
    ) -> None:
        """Book one attempt."""
        self.requests += 1
        self.by_status[status] = self.by_status.get(status, 0) + 1
        if status >= 500 or status == 429:
            self.errors += 1
        if status == 200:
            self.latency[bisect_left(BUCKETS, latency)] += 1
            if ttft is not None:
                self.ttft[bisect_left(BUCKETS, ttft)] += 1
            if usage is None:
                self.without_usage += 1
            else:
                self.prompt_tokens += usage.prompt
                self.completion_tokens += usage.completion
        if len(self.ring) == RING:
            self.dropped += 1
            self.dropped_seq = self.ring[0][0]
        tokens = None if usage is None else usage.completion
        self.ring.append((seq, status, latency, ttft, tokens, self.slice, pinned, outcome))

    def attempts(self, since: int) -> dict[str, Any] | None:
        """The ring's items after ``since``, if there are any; ``lost`` is 0 or an upper bound of what fell out."""
        if not self.ring or self.ring[-1][0] <= since:
            return None
        items = []
        for item in reversed(self.ring):
            if item[0] <= since:
                break
            items.append(list(item))
        lost = max(0, min(self.dropped, self.dropped_seq - since))
        return {"slice": self.slice, "items": items[::-1], "lost": lost}

    def counters(self) -> dict[str, Any]:
        """What a look at the replica's health needs."""
        return {"slice": self.slice, "by_status": {str(s): n for s, n in sorted(self.by_status.items())}}

    def to_json(self, since: int) -> dict[str, Any]:
        """Everything: counters, histograms, and the attempts after ``since``."""
        return {
            "service": self.service,
            "requests": self.requests,
            "errors": self.errors,
            "latency_hist": list(self.latency),
            "ttft_hist": list(self.ttft),
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "without_usage": self.without_usage,
            **self.counters(),
            **(self.attempts(since) or {"items": [], "lost": 0}),
        }


class Books:
    """All replicas' counters, the requests in flight, and one sequence over all attempts."""

    __slots__ = ("boot_id", "inflight", "refused", "seq", "targets")

    def __init__(self, boot_id: str) -> None:
        self.boot_id = boot_id
        self.seq = 0
        self.targets: dict[str, TargetBooks] = {}
        self.inflight: dict[str, int] = {}
        self.refused: dict[str, int] = {}

    def open(self, target: str, service: str, slice_name: str) -> None:
        """Have books for this replica; keep those it has."""
        books = self.targets.setdefault(target, TargetBooks(service, slice_name))
        books.service, books.slice = service, slice_name
        self.inflight.setdefault(target, 0)

    def forget(self, keep: set[str]) -> None:
        """Close the books of replicas that left the table and have nothing in flight, but for the last 64 of them."""
        gone = [t for t in self.targets if t not in keep and not self.inflight.get(t)]
        for target in gone[:-64]:
            del self.targets[target]
            self.inflight.pop(target, None)

    def began(self, target: str, service: str, slice_name: str) -> None:
        """An attempt begins."""
        if target not in self.targets:
            self.open(target, service, slice_name)
        self.inflight[target] += 1

    def ended(
        self, target: str, status: int, latency: float, ttft: float | None, usage: Usage | None, pinned: bool,
        outcome: str,
    ) -> None:  # fmt: skip
        """The attempt is over."""
        self.inflight[target] -= 1
        self.seq += 1
        self.targets[target].add(self.seq, status, latency, ttft, usage, pinned, outcome)

    def refuse(self, code: str) -> None:
        """The gateway answered with an error of its own."""
        self.refused[code] = self.refused.get(code, 0) + 1

    def samples(self, since: int, failures: dict[str, int], part: str = "all") -> dict[str, Any]:
        """The reply to op ``samples``; ``cursor`` is the next ``since``. A replica's histograms are most of it, and of
        a thousand replicas few were asked in the last fifth of a second: ``part`` says what is wanted."""
        head: dict[str, Any] = {"boot_id": self.boot_id, "cursor": self.seq}
        if part == "attempts":
            found = ((str(t), b.attempts(since)) for t, b in self.targets.items())
            return {**head, "targets": {t: rows for t, rows in found if rows}}
        counters = part == "counters"
        targets = {
            str(t): {
                **(b.counters() if counters else b.to_json(since)),
                "inflight": self.inflight[t],
                "consecutive_failures": failures.get(t, 0),
            }
            for t, b in self.targets.items()
        }
        if counters:
            return {**head, "targets": targets}
        return {**head, "buckets": list(BUCKETS), "refused": dict(self.refused), "targets": targets}


def prometheus(books: Books, failures: dict[str, int], version: int) -> bytes:
    """The Prometheus text exposition of the books."""
    lines = ["# TYPE stack_gateway_table_version gauge", f"stack_gateway_table_version {version}"]
    lines += ["# TYPE stack_gateway_refused_total counter"]
    lines += [f'stack_gateway_refused_total{{code="{c}"}} {n}' for c, n in sorted(books.refused.items())]
    rows = list(books.targets.items())
    lines += ["# TYPE stack_gateway_requests_total counter"]
    lines += [
        f'stack_gateway_requests_total{{{_labels(t, b)},status="{s}"}} {n}'
        for t, b in rows for s, n in sorted(b.by_status.items())
    ]  # fmt: skip
    for name, kind in (("errors", "counter"), ("prompt_tokens", "counter"), ("completion_tokens", "counter")):
        lines += [f"# TYPE stack_gateway_{name}_total {kind}"]
        lines += [f"stack_gateway_{name}_total{{{_labels(t, b)}}} {getattr(b, name)}" for t, b in rows]
    lines += ["# TYPE stack_gateway_inflight gauge"]
    lines += [f"stack_gateway_inflight{{{_labels(t, b)}}} {books.inflight[t]}" for t, b in rows]
    lines += ["# TYPE stack_gateway_consecutive_failures gauge"]
    lines += [f"stack_gateway_consecutive_failures{{{_labels(t, b)}}} {failures.get(t, 0)}" for t, b in rows]
    for name in ("latency", "ttft"):
        lines += [f"# TYPE stack_gateway_{name}_seconds histogram"]
        for target, book in rows:
            lines += _histogram(f"stack_gateway_{name}_seconds", _labels(target, book), getattr(book, name))
    return ("\n".join(lines) + "\n").encode()


def _labels(target: str, books: TargetBooks) -> str:
    return f'service="{books.service}",slice="{books.slice}",replica="{target}"'


def _histogram(name: str, labels: str, counts: list[int]) -> Iterator[str]:
    for upper in _COARSE:
        yield f'{name}_bucket{{{labels},le="{upper:g}"}} {sum(counts[: bisect_left(BUCKETS, upper) + 1])}'
    yield f'{name}_bucket{{{labels},le="+Inf"}} {sum(counts)}'
    yield f"{name}_count{{{labels}}} {sum(counts)}"

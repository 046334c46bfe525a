"""One bounded HTTP exchange with a replica: by time, by size, without redirects or proxies. Judges nothing.

Every way in which nothing useful comes back is a `Reply` with an `error`, never an exception.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import Any

import httpx

from stack.core.clock import Clock

MAX_REPLY = 2 << 20


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What came: `chunks` with the seconds since the request began. `timed_out` tells slow from dead."""

    status: int | None = None
    chunks: tuple[tuple[float, bytes], ...] = ()
    error: str | None = None
    timed_out: bool = False

    @property
    def body(self) -> bytes:
        """All of it."""
        return b"".join(chunk for _, chunk in self.chunks)


def exchange(method: str, url: str, *, clock: Clock, timeout_s: float, payload: dict[str, Any] | None = None) -> Reply:
    """Send and collect; `timeout_s` bounds each wait, and the whole."""
    chunks: list[tuple[float, bytes]] = []
    # Replicas speak plain HTTP; an empty TLS context spares reading the machine's certificates for every probe.
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client = httpx.Client(timeout=timeout_s, verify=tls, trust_env=False, follow_redirects=False)
    started = clock.monotonic()
    try:
        with client, client.stream(method, url, json=payload) as response:
            for chunk in response.iter_bytes():
                chunks.append((clock.monotonic() - started, chunk))
                if sum(len(data) for _, data in chunks) > MAX_REPLY:
                    return Reply(status=response.status_code, error=f"more than {MAX_REPLY >> 20} MiB came")
                if chunks[-1][0] > timeout_s:
                    return Reply(status=response.status_code, error=_late(timeout_s), timed_out=True)
            return Reply(status=response.status_code, chunks=tuple(chunks))
    except httpx.TimeoutException:
        return Reply(error=_late(timeout_s), timed_out=True)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return Reply(error=f"{type(error).__name__}: {str(error)[:160]}")


def _late(timeout_s: float) -> str:
    return f"no complete answer within {timeout_s:g} s"

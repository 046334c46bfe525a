"""Files from another host that has them, and how fast each source was. Standard library only, Python 3.9 or newer.

What comes from another host is not believed: who calls this checks it.
"""

from __future__ import annotations

import http.client
import json
import ssl
import urllib.parse
from pathlib import Path
from typing import Any, Dict


class PeerFailed(Exception):
    """The other host did not give what was asked for."""


class Peer:
    """Another host that has the files, for the length of one transfer."""

    def __init__(self, given: Dict[str, Any]) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.check_hostname = False  # this one certificate and no other is trusted
        context.load_verify_locations(cadata=given["certificate"])
        self.line = http.client.HTTPSConnection(given["address"], int(given["port"]), context=context, timeout=10)
        self.headers = {"Authorization": f"Bearer {given['token']}"}

    def fetch(self, path: str, offset: int, length: int) -> bytes:
        """A piece of a file. Nothing of it is believed yet."""
        span = {"Range": f"bytes={offset}-{offset + length - 1}"}
        try:
            self.line.request("GET", "/" + urllib.parse.quote(path), headers={**self.headers, **span})
            answer = self.line.getresponse()
            content = answer.read(length + 1)
        except (OSError, http.client.HTTPException) as error:
            raise PeerFailed(f"{type(error).__name__}: {error}") from error
        if answer.status != 206 or len(content) != length:
            raise PeerFailed(f"it answered {answer.status} with {len(content)} of {length} bytes")
        return content


class Sources:
    """How fast each source was, in bytes a second; 0 for one that failed."""

    def __init__(self, folder: Path) -> None:
        self.path = folder.with_name(folder.name + ".sources")
        self.rates: Dict[str, float] = {}
        try:
            self.rates = {str(k): float(v) for k, v in json.loads(self.path.read_text(encoding="utf-8")).items()}
        except (OSError, ValueError, AttributeError, TypeError):
            self.rates = {}

    def note(self, name: str, rate: float) -> None:
        """Keep it."""
        self.rates[name] = rate
        self.path.write_text(json.dumps(self.rates), encoding="utf-8")

"""Where this machine gets Debian packages from, read from apt's own configuration at run time. Pure but for `here`.

Both forms of apt's sources are read: one-line (``sources.list``) and deb822 (``*.sources``), with the options that
matter for verification. What is found is handed to debootstrap and written nowhere.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from demo.hosts.errors import HostsImpossible

_APT = Path("/etc/apt")
_POCKET = re.compile(r"-(updates|security|backports|proposed|debug)\b|[/ ]")
_LINE = re.compile(r"deb\s+(?:\[(?P<options>[^]]*)\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)\s+(?P<components>.+)")


@dataclass(frozen=True, kw_only=True)
class Source:
    """One archive of binary packages."""

    uri: str
    suite: str
    components: tuple[str, ...]
    trusted: bool = False
    signed_by: str = ""


def one_line(text: str) -> list[Source]:
    """The sources of a ``sources.list``."""
    found = []
    for line in text.splitlines():
        match = _LINE.match(line.partition("#")[0].strip())
        if match is None:
            continue
        options = dict(part.split("=", 1) for part in (match["options"] or "").split() if "=" in part)
        found.append(
            Source(
                uri=match["uri"],
                suite=match["suite"],
                components=tuple(match["components"].split()),
                trusted=options.get("trusted") == "yes",
                signed_by=options.get("signed-by", ""),
            )
        )
    return found


def deb822(text: str) -> list[Source]:
    """The sources of a ``.sources`` file; a key that stands in the file itself is left to debootstrap's keyring."""
    found = []
    for stanza in re.split(r"\n\s*\n", "\n".join(x for x in text.splitlines() if not x.startswith("#"))):
        fields = {
            m[1].lower(): m[2] for m in re.finditer(r"^([A-Za-z-]+):[ \t]*(.*(?:\n[ \t].*)*)", stanza, re.MULTILINE)
        }
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").strip() == "no":
            continue
        signed = fields.get("signed-by", "").strip()
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                found.append(
                    Source(
                        uri=uri,
                        suite=suite,
                        components=tuple(fields.get("components", "").split()),
                        trusted=fields.get("trusted", "").strip() == "yes",
                        signed_by=signed if signed.startswith("/") and "\n" not in signed else "",
                    )
                )
    return found


def chosen(sources: Iterable[Source], codename: str) -> Source:
    """The archive of the whole distribution: this release's own first, never a pocket of updates only."""
    whole = [s for s in sources if s.uri.startswith(("http://", "https://", "file:")) and not _POCKET.search(s.suite)]
    whole = [s for s in whole if "main" in s.components]
    if not whole:
        raise HostsImpossible("apt's sources name no Debian archive that debootstrap could use")
    return next((s for s in whole if s.suite == codename), whole[0])


def here(apt: Path = _APT, release: Path = Path("/etc/os-release")) -> Source:
    """The archive that this machine's apt uses."""
    sources = []
    for path in [apt / "sources.list", *sorted(apt.glob("sources.list.d/*.list"))]:
        sources += one_line(path.read_text()) if path.is_file() else []
    for path in sorted(apt.glob("sources.list.d/*.sources")):
        sources += deb822(path.read_text())
    match = re.search(r'^VERSION_CODENAME="?([a-z]+)', release.read_text(), re.MULTILINE)
    return chosen(sources, match[1] if match else "")


def proxies() -> dict[str, str]:
    """apt's proxies as the variables that debootstrap's downloader reads."""
    asked = ["apt-config", "shell", "http_proxy", "Acquire::http::Proxy", "https_proxy", "Acquire::https::Proxy"]
    said = subprocess.run(asked, capture_output=True, text=True, check=False).stdout
    found = dict(re.findall(r"^(https?_proxy)='([^']*)'$", said, re.MULTILINE))
    return {key: value for key, value in found.items() if value and value != "DIRECT"}


def netrc(apt: Path = _APT) -> str:
    """apt's credentials in the form of a .netrc: never on a command line."""
    texts = [
        path.read_text() for path in [apt / "auth.conf", *sorted(apt.glob("auth.conf.d/*.conf"))] if path.is_file()
    ]
    return re.sub(r"(\bmachine\s+)(?:https?://)?([^/\s]+)\S*", r"\1\2", "\n".join(texts))

"""Which texts a field of ``stack.yaml`` takes. Each returns it as it is kept, or raises ValueError with why not."""

from __future__ import annotations

import ipaddress
import re
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from stack.core.names import ServiceName


def ip_address(text: str) -> str:
    """An IP address, in its shortest form."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError as error:
        raise ValueError(f"{text[:60]!r} is no IP address") from error


def word(text: str) -> str:
    """A word as services have them."""
    return str(ServiceName(text))


def version(text: str) -> str:
    """A version as packages have them, or nothing."""
    if text and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+!_-]{0,63}", text):
        raise ValueError(f"{text[:60]!r} is no version")
    return text


def address(text: str) -> str:
    """A host name or an IP address."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.:-]{0,254}", text):
        raise ValueError(f"{text[:60]!r} is no host name or IP address")
    return text


def server(text: str) -> str:
    """``host:port``."""
    if not re.fullmatch(r"([A-Za-z0-9][A-Za-z0-9.-]{0,254}|\[[0-9A-Fa-f:]{2,45}\]):[0-9]{1,5}", text):
        raise ValueError(f"{text[:60]!r} is no host:port")
    return text


def user_name(text: str) -> str:
    """A user's name."""
    if not re.fullmatch(r"[a-z_][a-z0-9_-]{0,31}", text):
        raise ValueError(f"{text[:60]!r} is no user name")
    return text


def absolute(text: str) -> PurePosixPath:
    """An absolute path on a host."""
    path = PurePosixPath(text)
    if not re.fullmatch(r"/[A-Za-z0-9._/+@ -]*", text) or ".." in path.parts:
        raise ValueError("expected an absolute path of plain characters, without '..'")
    return path


def variable(text: str) -> str:
    """The name of an environment variable."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,127}", text):
        raise ValueError(f"{text[:60]!r} is no name of an environment variable")
    return text


def database_url(text: str) -> str:
    """A URL of a database, as it may stand in the stack file or in the environment: without a password."""
    if not re.fullmatch(r"(postgresql|sqlite)(\+psycopg)?://[!-~]{1,500}", text):
        raise ValueError("expected postgresql://user@host/database, or sqlite:///path")
    credentials = urlsplit(text).netloc.rpartition("@")[0]
    if ":" in credentials or re.search(r"[?&]password=", text):
        raise ValueError("a password has no place in it: list the secret database.password, or use ~/.pgpass")
    return text


def mount(text: str) -> str:
    """A path within Vault."""
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._/-]{0,199}", text) or ".." in text:
        raise ValueError(f"{text[:60]!r} is no path of Vault")
    return text


def web_url(text: str) -> str:
    """https, or http on this machine; nothing secret in it."""
    parts = urlsplit(text)
    loopback = parts.scheme == "http" and parts.hostname in ("127.0.0.1", "::1", "localhost")
    if not text.isascii() or " " in text or not parts.hostname or not (parts.scheme == "https" or loopback):
        raise ValueError("expected an https:// URL, or http:// of this machine (127.0.0.1, ::1, localhost)")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise ValueError("expected a URL without a user name, a password and a fragment")
    return text

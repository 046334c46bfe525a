"""A stand-in of Vault's HTTP API for tests: real sockets, the few paths that the product uses, and faults on demand.

It is not Vault: policies, leases of secrets, audit and storage are missing. What it answers has the shapes that Vault's
API documentation shows. ``VAULT_ADDR`` and ``VAULT_TOKEN`` run the contract suite against a real one as well.
"""

from __future__ import annotations

import datetime
import ipaddress
import json
import secrets
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from stack.core.clock import Clock

Json = dict[str, Any]
DELETED_AT = "2026-01-01T00:00:00Z"


@dataclass
class Token:
    ttl: int
    renewable: bool
    expires: float
    dies: float


@dataclass
class VaultStandIn:
    """``fault``: sealed, standby, uninitialised, slow, malformed, nonsense, list, redirect, error-500, no-renewal."""

    clock: Clock
    namespace: str = ""
    fault: str = ""
    ttl: int = 300
    max_ttl: int = 3600
    tokens: dict[str, Token] = field(default_factory=dict)
    roles: dict[str, str] = field(default_factory=dict)
    versions: dict[str, list[Json]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    redirected_to: str = ""
    address: str = ""

    def new_token(self, *, ttl: int | None = None, renewable: bool = True) -> str:
        now, lives = self.clock.monotonic(), self.ttl if ttl is None else ttl
        token = "hvs." + secrets.token_urlsafe(30)
        never = float("inf")
        self.tokens[token] = Token(
            lives, renewable, now + lives if lives else never, now + self.max_ttl if lives else never
        )
        return token

    def new_role(self) -> tuple[str, str]:
        role, proof = str(secrets.token_hex(16)), str(secrets.token_hex(16))
        self.roles[role] = proof
        return role, proof

    def put(self, path: str, fields: Json) -> None:
        """``path`` with its mount, e.g. ``secret/stack/client``."""
        self.versions.setdefault(path, []).append({"data": fields, "deletion_time": "", "destroyed": False})

    def answer(self, method: str, target: str, headers: Any, body: bytes) -> tuple[int, Any]:
        parts = urlsplit(target)
        path = unquote(parts.path).removeprefix("/v1/")
        self.asked.append(f"{method} {path}")
        if path == "sys/health":
            return self._health()
        broken = self._broken(path)
        if broken is not None:
            return broken
        if headers.get("X-Vault-Namespace", "").strip("/") != self.namespace:
            return 403, {"errors": ["permission denied"]}
        if path.endswith("/login"):
            return self._login(json.loads(body))
        token = self._token(headers)
        if token is None:
            return 403, {"errors": ["permission denied"]}
        if path == "auth/token/lookup-self":
            left = 0 if token.expires == float("inf") else int(token.expires - self.clock.monotonic())
            return 200, {"data": {"ttl": left, "renewable": token.renewable, "policies": ["default"]}}
        if path == "auth/token/renew-self":
            return self._renew(token)
        if "/data/" in path and method == "GET":
            return self._read(path, parse_qs(parts.query))
        return 404, {"errors": []}

    def _health(self) -> tuple[int, Any]:
        status = {"sealed": 503, "standby": 429, "uninitialised": 501}.get(self.fault, 200)
        return status, {"initialized": status != 501, "sealed": status == 503, "standby": status == 429}

    def _broken(self, path: str) -> tuple[int, Any] | None:
        if self.fault == "slow":
            time.sleep(2)
        if self.fault == "redirect":
            return 307, self.redirected_to + "/v1/" + path
        found: dict[str, tuple[int, Any]] = {
            "sealed": (503, {"errors": ["Vault is sealed"]}),
            "standby": (503, {"errors": ["Vault is in standby mode"]}),
            "uninitialised": (503, {"errors": ["Vault is not initialized"]}),
            "malformed": (200, b'{"data": {"data": {"val'),
            "nonsense": (200, {"status": "ok", "data": "fine", "auth": None}),
            "list": (404, []),
            "error-500": (500, {"errors": ["internal error"]}),
        }
        return found.get(self.fault)

    def _login(self, given: Json) -> tuple[int, Any]:
        role, proof = given.get("role_id"), given.get("secret_id")
        if role not in self.roles or self.roles[role] != proof:
            return 400, {"errors": [f"invalid role or secret ID: {proof}"]}
        return 200, {"auth": {"client_token": self.new_token(), "lease_duration": self.ttl, "renewable": True}}

    def _token(self, headers: Any) -> Token | None:
        found = self.tokens.get(headers.get("X-Vault-Token", ""))
        return found if found is not None and self.clock.monotonic() < min(found.expires, found.dies) else None

    def _renew(self, token: Token) -> tuple[int, Any]:
        if self.fault == "no-renewal" or not token.renewable:
            return 400, {"errors": ["lease is not renewable"]}
        now = self.clock.monotonic()
        token.expires = min(now + token.ttl, token.dies)
        return 200, {"auth": {"client_token": "x", "lease_duration": int(token.expires - now), "renewable": True}}

    def _read(self, path: str, query: dict[str, list[str]]) -> tuple[int, Any]:
        versions = self.versions.get(path.replace("/data/", "/", 1), [])
        number = int(query.get("version", ["0"])[0]) or len(versions)
        if not 1 <= number <= len(versions):
            return 404, {"errors": []}
        found = versions[number - 1]
        metadata = {"version": number, "deletion_time": found["deletion_time"], "destroyed": found["destroyed"]}
        gone = found["destroyed"] or found["deletion_time"]
        data = {"data": None if gone else found["data"], "metadata": metadata}
        return (404 if gone else 200), {"data": data, "request_id": secrets.token_hex(8)}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    stand_in: VaultStandIn

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        status, found = self.stand_in.answer(self.command, self.path, self.headers, body)
        data = found if isinstance(found, bytes) else json.dumps(found).encode()
        self.send_response(status)
        if status == 307:
            self.send_header("Location", found)
            data = b""
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        try:
            self.wfile.write(data)
        except OSError:
            self.close_connection = True

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that does not trust us, or left: its own affair."""


@contextmanager
def serving(stand_in: VaultStandIn, tls: Path | None = None) -> Iterator[VaultStandIn]:
    """``tls``: a folder that gets ``ca.pem``, and then it is https."""
    handler = type("Handler", (_Handler,), {"stand_in": stand_in})
    server = _Server(("127.0.0.1", 0), handler)
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate(tls))
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    stand_in.address = f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield stand_in
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def certificate(folder: Path) -> Path:
    """A server certificate of a certificate authority made for it: ``ca.pem``, and the chain with its key."""
    key, own = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "vault stand-in")])
    begin = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    end = datetime.datetime(2120, 1, 1, tzinfo=datetime.UTC)

    def builder(subject: x509.Name, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        made = x509.CertificateBuilder().subject_name(subject).issuer_name(ca_name).public_key(public)
        made = made.add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
        made = made.add_extension(authority, critical=False)
        return made.serial_number(x509.random_serial_number()).not_valid_before(begin).not_valid_after(end)

    usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
    ca = builder(ca_name, key.public_key()).add_extension(x509.BasicConstraints(True, None), critical=True)
    authority = ca.add_extension(usage, critical=True).sign(key, hashes.SHA256())
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")])
    server = builder(name, own.public_key()).add_extension(names, critical=False).sign(key, hashes.SHA256())
    pem = serialization.Encoding.PEM
    (folder / "ca.pem").write_bytes(authority.public_bytes(pem))
    private = own.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "server.pem").write_bytes(server.public_bytes(pem) + private)
    return folder / "server.pem"

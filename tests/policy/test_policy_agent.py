"""Signing through ssh-agent: a real one, and one that misbehaves."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stack.config.ssh_wire import Reader, string, uint32
from stack.core.clock import ManualClock
from stack.policy.agent import (
    LIST_TIMEOUT_S,
    LONGEST_ANSWER,
    AgentKey,
    AgentRefused,
    AgentUnavailable,
    KeyNotInAgent,
    agent_keys,
    sign_with_agent,
)
from stack.policy.sshsig import verify
from tests.policy.keys import KINDS, NAMESPACE, SoftwareToken, openssh_accepts, public, run

MESSAGE = b"statement\n"


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder whose path is short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="ag") as folder:
        yield Path(folder)


@pytest.fixture
def real(short: Path) -> Iterator[Path]:
    """The socket of a real ssh-agent, which nobody can ask for a confirmation."""
    path = short / "agent.sock"
    environment = {"PATH": os.environ["PATH"], "SSH_ASKPASS": "/bin/false", "SSH_ASKPASS_REQUIRE": "force"}
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", path], env=environment, stdout=subprocess.DEVNULL)
    try:
        while agent.poll() is None and run("ssh-add", "-l", env=environment_of(path)).returncode == 2:
            time.sleep(0.02)
        yield path
    finally:
        agent.terminate()
        agent.wait()


def environment_of(agent: Path) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "SSH_AUTH_SOCK": str(agent)}


def add(agent: Path, *words: str | Path) -> None:
    done = run("ssh-add", "-q", *words, env=environment_of(agent))
    assert done.returncode == 0, done.stderr


@contextmanager
def pretender(path: Path, answer: Callable[[bytes], bytes | None]) -> Iterator[Path]:
    """An agent that sends ``answer(request)`` raw; on None it stays silent until its client is gone."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(os.fspath(path))
    listener.listen()

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with client:
                length = int.from_bytes(client.recv(4, socket.MSG_WAITALL), "big")
                raw = answer(client.recv(length, socket.MSG_WAITALL))
                try:
                    client.sendall(raw or b"")
                    if raw is None:
                        client.recv(1)
                except OSError:
                    continue

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield path
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        path.unlink()
        thread.join()


def identities(*pairs: tuple[bytes, bytes]) -> bytes:
    listed = b"".join(string(blob) + string(comment) for blob, comment in pairs)
    return string(b"\x0c" + uint32(len(pairs)) + listed)


def holding(token: SoftwareToken, signature: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """An agent with one key, which answers a wish for a signature of some data with ``signature(data)``, raw."""

    def answer(request: bytes) -> bytes:
        if request == b"\x0b":
            return identities((token.key.blob, b"token"))
        reader = Reader(request[1:])
        assert (request[0], reader.string()) == (13, token.key.blob)
        return signature(reader.string())

    return answer


# A real agent


def test_a_real_agent_lists_and_signs(real: Path, key_files: dict[str, Path], tmp_path: Path) -> None:
    add(real, *key_files.values())
    listed = {key.comment: key for key in agent_keys(real)}
    for kind in KINDS:
        key = public(key_files[kind])
        held = listed[f"{kind}@test"]
        assert held == AgentKey(
            blob=key.blob, key_type=key.key_type, fingerprint=key.fingerprint, comment=f"{kind}@test"
        )
        armored = sign_with_agent(str(real), key.blob, MESSAGE, NAMESPACE)
        assert verify(armored, MESSAGE, NAMESPACE) == key
        assert openssh_accepts(tmp_path, key, armored, MESSAGE)


def test_a_key_that_the_agent_does_not_hold(real: Path, key_files: dict[str, Path]) -> None:
    key = public(key_files["ed25519"])
    assert agent_keys(real) == ()
    with pytest.raises(KeyNotInAgent) as error:
        sign_with_agent(real, key.blob, MESSAGE, NAMESPACE)
    assert key.fingerprint in error.value.message


def test_certificates_in_the_agent_are_left_out(real: Path, key_files: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "user"
    path.write_bytes(key_files["ed25519"].read_bytes())
    path.chmod(0o600)
    (tmp_path / "user.pub").write_text(public(key_files["ed25519"]).line + "\n")
    assert (
        run("ssh-keygen", "-q", "-s", key_files["rsa2048"], "-I", "a", "-n", "a", tmp_path / "user.pub").stderr == b""
    )
    add(real, path)
    listing = run("ssh-add", "-L", env=environment_of(real)).stdout
    assert b"-cert-v01@openssh.com" in listing
    assert [key.key_type for key in agent_keys(real)] == ["ssh-ed25519"]


def test_an_agent_that_gets_no_confirmation_refuses(real: Path, key_files: dict[str, Path]) -> None:
    add(real, "-c", key_files["ed25519"])
    with pytest.raises(AgentRefused):
        sign_with_agent(real, public(key_files["ed25519"]).blob, MESSAGE, NAMESPACE)


# An agent in software


@pytest.mark.parametrize("kind", ["sk-ed25519", "sk-ecdsa256"])
def test_a_security_key_signs_through_the_agent(
    short: Path, security_keys: dict[str, SoftwareToken], kind: str
) -> None:
    token = security_keys[kind]

    def sign(data: bytes) -> bytes:
        return string(b"\x0e" + string(token.raw_sign(data)))

    with pretender(short / "s", holding(token, sign)) as path:
        assert verify(sign_with_agent(path, token.key.blob, MESSAGE, NAMESPACE), MESSAGE, NAMESPACE) == token.key


def test_a_signature_that_does_not_hold_is_not_given_out(short: Path, security_keys: dict[str, SoftwareToken]) -> None:
    token = security_keys["sk-ed25519"]
    lies: list[Callable[[bytes], bytes]] = [
        lambda data: token.raw_sign(data + b"x"),
        lambda data: token.raw_sign(data, flags=0),
        lambda data: token.raw_sign(data) + b"x",
        lambda data: b"",
    ]
    for lie in lies:
        answer = holding(token, lambda data, lie=lie: string(b"\x0e" + string(lie(data))))
        with pretender(short / "s", answer) as path, pytest.raises(AgentRefused, match="does not hold"):
            sign_with_agent(path, token.key.blob, MESSAGE, NAMESPACE)
    longer: Callable[[bytes], bytes] = lambda data: string(b"\x0e" + string(token.raw_sign(data)) + b"x")  # noqa: E731
    with pretender(short / "s", holding(token, longer)) as path, pytest.raises(AgentRefused, match="too many"):
        sign_with_agent(path, token.key.blob, MESSAGE, NAMESPACE)
    for raw in (string(b"\x0e"), string(b"\x0e" + string(b"x") + b"y")):
        with pretender(short / "s", holding(token, lambda _, raw=raw: raw)) as path, pytest.raises(AgentRefused):
            sign_with_agent(path, token.key.blob, MESSAGE, NAMESPACE)


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        (b"", "closed"),
        (b"\0\0", "closed"),
        (uint32(0), "0 bytes"),
        (uint32(LONGEST_ANSWER + 1), "bytes"),
        (uint32(2**32 - 1), "bytes"),
        (uint32(9) + b"\x0c\0\0\0\0", "closed"),
        (string(b"\x0e\0\0\0\0"), "message 14"),
        (string(b"\x0c"), "malformed"),
        (string(b"\x0c\0\0\0\1"), "malformed"),
        (string(b"\x0c\0\0\0\0x"), "malformed"),
        (string(b"\x0c\xff\xff\xff\xff"), "keys are announced"),
    ],
)
def test_answers_that_are_none(short: Path, raw: bytes, error: str) -> None:
    with pretender(short / "s", lambda _: raw) as path, pytest.raises(AgentUnavailable, match=error):
        agent_keys(path)


@pytest.mark.parametrize("code", [5, 30, 102])
def test_a_refusal_is_told(short: Path, code: int) -> None:
    with pretender(short / "s", lambda _: string(bytes([code]))) as path, pytest.raises(AgentRefused):
        agent_keys(path)


def test_silence_ends(short: Path, security_keys: dict[str, SoftwareToken]) -> None:
    token = security_keys["sk-ed25519"]
    listing = identities((token.key.blob, b"token"))
    answer = lambda request: listing if request == b"\x0b" else None  # noqa: E731
    with pretender(short / "s", answer) as path, pytest.raises(AgentUnavailable, match="no answer within"):
        sign_with_agent(path, token.key.blob, MESSAGE, NAMESPACE, timeout_s=0.2)


def test_an_agent_that_dawdles_is_left(short: Path) -> None:
    """The time limit is for the whole answer, not for each piece of it."""

    class Hasty(ManualClock):
        def monotonic(self) -> float:
            self.advance(LIST_TIMEOUT_S)
            return super().monotonic()

    with pretender(short / "s", lambda _: string(b"\x0c\0\0\0\0")) as path:
        assert agent_keys(path, clock=ManualClock()) == ()
        with pytest.raises(AgentUnavailable, match="no answer within"):
            agent_keys(path, clock=Hasty())


def test_no_agent(short: Path, security_keys: dict[str, SoftwareToken]) -> None:
    blob = security_keys["sk-ed25519"].key.blob
    (short / "file").write_text("")
    for path in (short / "missing", short / "file", short, short / ("x" * 200), Path()):
        with pytest.raises(AgentUnavailable):
            agent_keys(path)
        with pytest.raises(AgentUnavailable):
            sign_with_agent(path, blob, MESSAGE, NAMESPACE)


def test_comments_are_made_printable(short: Path, security_keys: dict[str, SoftwareToken]) -> None:
    blob = security_keys["sk-ed25519"].key.blob
    answer = identities((blob, b"a\x1b[31m\n\xff"), (b"rubbish", b""), (b"", b""))
    with pretender(short / "s", lambda _: answer) as path:
        assert [key.comment for key in agent_keys(path)] == ["a?[31m?\ufffd"]


@settings(deadline=None, max_examples=60)
@given(raw=st.binary(max_size=60), framed=st.booleans())
def test_any_answer_is_keys_or_an_error(raw: bytes, framed: bool) -> None:
    with tempfile.TemporaryDirectory(prefix="ag") as folder:
        sent = string(b"\x0c" + raw) if framed else raw
        with pretender(Path(folder) / "s", lambda _: sent) as path:
            try:
                assert all(isinstance(key, AgentKey) for key in agent_keys(path))
            except (AgentUnavailable, AgentRefused):
                return
    assert framed or len(raw) >= 4


def test_the_wire_form_of_the_listing_is_that_of_the_draft(short: Path) -> None:
    asked: list[bytes] = []
    with pretender(short / "s", lambda request: asked.append(request) or string(b"\x0c\0\0\0\0")) as path:
        assert agent_keys(path) == ()
    assert asked == [bytes([11])]

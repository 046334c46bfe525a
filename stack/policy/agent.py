"""An approver's signature made by a running ssh-agent (draft-miller-ssh-agent): list its keys, have one sign.

The key never leaves the agent, and hardware keys work as they do for ssh. The agent's answers are limited in size and
time and read strictly, and its signature is checked before it is given out. Which key is wanted is the caller's choice.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

from stack.config.ssh_keys import PublicKey, UnusableKey, public_key_from_blob
from stack.config.ssh_wire import Malformed, Reader, string, uint32
from stack.core.clock import Clock, SystemClock
from stack.core.errors import Unavailable
from stack.policy.sshsig import BadSignature, seal, signed_data, verify

REQUEST_IDENTITIES, IDENTITIES_ANSWER, SIGN_REQUEST, SIGN_RESPONSE = 11, 12, 13, 14
REFUSALS = (5, 30, 102)
"""SSH_AGENT_FAILURE, and the two older spellings of it."""
RSA_SHA2_512 = 4
HASH = "sha512"
LONGEST_ANSWER = 256 * 1024
MOST_KEYS = 2048
LIST_TIMEOUT_S = 5.0
SIGN_TIMEOUT_S = 120.0
"""A signature may wait for somebody to touch a key or to confirm."""


class AgentUnavailable(Unavailable):
    """No ssh-agent answers at {path}: {detail}."""

    hint = 'Start one (eval "$(ssh-agent)"; ssh-add), see that SSH_AUTH_SOCK is set, or give a key file instead.'


class AgentRefused(Unavailable):
    """The ssh-agent at {path} did not sign: {detail}."""

    hint = "See that the agent is not locked and that the key was confirmed or touched in time; then try again."


class KeyNotInAgent(Unavailable):
    """The ssh-agent at {path} does not hold the key {fingerprint}."""

    hint = "Add it with ssh-add; ssh-add -l shows what the agent holds."


@dataclass(frozen=True, kw_only=True)
class AgentKey:
    """A key that the agent can sign with. ``comment`` is printable."""

    blob: bytes
    key_type: str
    fingerprint: str
    comment: str


def agent_keys(socket_path: str | os.PathLike[str], *, clock: Clock | None = None) -> tuple[AgentKey, ...]:
    """The agent's keys that may sign approvals (its certificates and DSA keys are left out)."""
    path = Path(socket_path)
    answer = _ask(path, bytes([REQUEST_IDENTITIES]), IDENTITIES_ANSWER, LIST_TIMEOUT_S, clock or SystemClock())
    try:
        return _identities(Reader(answer))
    except Malformed as wrong:
        raise AgentUnavailable(f"its answer is malformed: {wrong.detail}", path=path) from wrong


def sign_with_agent(
    socket_path: str | os.PathLike[str],
    blob: bytes,
    message: bytes,
    namespace: str,
    *,
    timeout_s: float = SIGN_TIMEOUT_S,
    clock: Clock | None = None,
) -> str:
    """The armored signature of ``message`` by the agent's key ``blob``."""
    path, clock = Path(socket_path), clock or SystemClock()
    key = public_key_from_blob(blob)
    if key.blob not in {held.blob for held in agent_keys(path, clock=clock)}:
        raise KeyNotInAgent(path=path, fingerprint=key.fingerprint)
    flags = RSA_SHA2_512 if key.key_type == "ssh-rsa" else 0
    asked = string(blob) + string(signed_data(message, namespace, HASH)) + uint32(flags)
    answer = _ask(path, bytes([SIGN_REQUEST]) + asked, SIGN_RESPONSE, timeout_s, clock)
    try:
        reader = Reader(answer)
        signature = reader.string()
        reader.end()
        armored = seal(blob, namespace, HASH, signature)
        verify(armored, message, namespace)
    except (Malformed, BadSignature) as wrong:
        raise AgentRefused(f"its signature does not hold ({wrong.detail})", path=path) from wrong
    return armored


def _identities(reader: Reader) -> tuple[AgentKey, ...]:
    if (count := reader.uint32()) > MOST_KEYS:
        raise Malformed(f"{count} keys are announced")
    listed = [(reader.string(), reader.string()) for _ in range(count)]
    reader.end()
    keys = []
    for blob, comment in listed:
        try:
            keys.append(_agent_key(public_key_from_blob(blob), comment))
        except UnusableKey:
            continue
    return tuple(keys)


def _agent_key(key: PublicKey, comment: bytes) -> AgentKey:
    text = comment.decode("utf-8", "replace")
    shown = "".join(sign if sign.isprintable() else "?" for sign in text)
    return AgentKey(blob=key.blob, key_type=key.key_type, fingerprint=key.fingerprint, comment=shown)


def _ask(path: Path, request: bytes, expected: int, timeout_s: float, clock: Clock) -> bytes:
    """What the agent answers, without its length and its type, which must be ``expected``."""
    until = clock.monotonic() + timeout_s
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as agent:
            agent.settimeout(timeout_s)
            agent.connect(os.fspath(path))
            agent.sendall(string(request))
            length = int.from_bytes(_receive(agent, 4, until, clock), "big")
            if not 1 <= length <= LONGEST_ANSWER:
                raise AgentUnavailable(f"it announces an answer of {length} bytes", path=path)
            answer = _receive(agent, length, until, clock)
    except TimeoutError as wrong:
        raise AgentUnavailable(f"no answer within {timeout_s:g} s", path=path) from wrong
    except OSError as wrong:
        raise AgentUnavailable(wrong.strerror or str(wrong), path=path) from wrong
    if answer[0] in REFUSALS:
        raise AgentRefused("it refused", path=path)
    if answer[0] != expected:
        raise AgentUnavailable(f"it answers with message {answer[0]}, not {expected}", path=path)
    return answer[1:]


def _receive(agent: socket.socket, count: int, until: float, clock: Clock) -> bytes:
    """Exactly ``count`` bytes, all of them before ``until``."""
    got = bytearray()
    while len(got) < count:
        left = until - clock.monotonic()
        if left <= 0:
            raise TimeoutError
        agent.settimeout(left)
        piece = agent.recv(count - len(got))
        if not piece:
            raise ConnectionError("it closed the connection")
        got += piece
    return bytes(got)

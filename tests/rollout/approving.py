"""A store, real policy files and people with real keys: what the tests of approvals are made of."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from stack.app.changes import ChangeDesk
from stack.config.policies import load_policies
from stack.config.policy_values import Policies
from stack.core.actions import Action
from stack.core.caller import Caller
from stack.core.clock import ManualClock
from stack.core.digest import Digest
from stack.policy.signing import sign_with_file
from stack.policy.statement import NAMESPACE, statement
from stack.rollout.gatekeeper import Ask, Gatekeeper, Refusals
from stack.store.approval_rows import RequestRow
from stack.store.store import Store

SHIPPED = Path(__file__).resolve().parents[2] / "policies"
PLAN = Digest.of(b"the plan")
PEOPLE: Mapping[str, tuple[str, ...]] = {
    "ann": ("owner",),
    "bob": ("security",),
    "cid": ("owner", "security"),
    "dan": (),
}
"""Who may approve: ann as owner, bob for security, cid as either, dan not at all."""


@dataclass
class Key:
    """One ed25519 key of somebody, as a private key file."""

    path: Path
    line: str

    @classmethod
    def made(cls, path: Path) -> Key:
        key = Ed25519PrivateKey.generate()
        path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
        path.chmod(0o600)
        return cls(path, key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode())

    def sign(self, message: bytes, namespace: str = NAMESPACE) -> str:
        return sign_with_file(self.path, message, namespace, None)


@dataclass
class Office:
    """The shipped policies in a folder of their own, with PEOPLE in them; a store; a clock that is moved by hand."""

    root: Path
    store: Store
    clock: ManualClock
    keys: dict[str, Key] = field(default_factory=dict)

    @classmethod
    def made(cls, root: Path) -> Office:
        shutil.copytree(SHIPPED, root / "policies")
        clock = ManualClock()
        office = cls(root, Store.open(root / "state.db", clock), clock)
        for name in PEOPLE:
            office.keys[name] = Key.made(root / f"{name}.key")
        office.write_people(PEOPLE)
        return office

    @property
    def folder(self) -> Path:
        return self.root / "policies"

    def write_people(self, people: Mapping[str, tuple[str, ...]], keys: Mapping[str, Key] | None = None) -> None:
        rows = "".join(f"  - {{name: {name}, roles: [{', '.join(roles)}]}}\n" for name, roles in people.items())
        (self.folder / "people.yaml").write_text('schema: "1"\npeople:\n' + rows)
        given = self.keys if keys is None else keys
        lines = [f'{name} namespaces="{NAMESPACE}" {key.line}\n' for name, key in given.items() if name in people]
        (self.folder / "allowed_signers").write_text("".join(lines))

    def edit(self, before: str, after: str, file: str = "risk.yaml") -> None:
        text = (self.folder / file).read_text()
        assert before in text
        (self.folder / file).write_text(text.replace(before, after))

    def policies(self) -> Policies:
        return load_policies(self.folder)

    @property
    def gatekeeper(self) -> Gatekeeper:
        return Gatekeeper(policies=self.policies, clock=self.clock)

    @property
    def desk(self) -> ChangeDesk:
        refusals = Refusals(store=self.store, clock=self.clock)
        return ChangeDesk(
            store=self.store,
            gatekeeper=self.gatekeeper,
            refusals=refusals,
            policies=self.policies,
            report_of=lambda change: {"change": change},
            clock=self.clock,
        )

    def ask(self, requester: str = "dan", **changed: object) -> Ask:
        said: dict[str, object] = {
            "action": Action.DEPLOY,
            "target": "tiny",
            "environment": "production",
            "plan": PLAN,
            "requester": requester,
            "change": "CHG-1",
        }
        return Ask(**{**said, **changed})  # type: ignore[arg-type]

    def open(self, ask: Ask) -> RequestRow:
        with self.store.transaction() as tx:
            standing = self.gatekeeper.ask(tx, ask)
        assert standing.kept, standing.decision.missing
        return standing.request

    def sign(self, name: str, row: RequestRow, namespace: str = NAMESPACE) -> str:
        return self.keys[name].sign(statement(row), namespace)

    def vote(self, name: str, row: RequestRow) -> None:
        self.desk.approve(row.change or str(row.id), self.sign(name, row), caller(name))

    def use(self, ask: Ask, request: str, used_by: str = "ro-1") -> tuple[str, ...]:
        """What it lacks when it is to be used; nothing: it was used."""
        with self.store.transaction() as tx:
            return self.gatekeeper.use(tx, ask, request, used_by).missing

    def recorded(self, action: str) -> list[str]:
        """The results of the audit records of this action."""
        with self.store.reading() as tx:
            return [row.result for row in tx.audit_rows(1, 100_000) if row.action == action]


def caller(name: str, *, shared: bool = False) -> Caller:
    return Caller(name=name, roles=frozenset({"admin"}), shared=shared)

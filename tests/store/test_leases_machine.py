"""Random histories of leases and rollout saves against a model of what may happen."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from stack.core.errors import Conflict
from stack.store.errors import LeaseLost
from stack.store.rows import Lease
from stack.store.store import Store
from tests.store.conftest import SQLitePlace
from tests.store.values import rollout

TTL = 1000.0


@dataclass
class Model:
    """Who holds it, and for how much longer; what is stored of the rollout."""

    holder: str = ""
    epoch: int = 0
    left: float = 0.0
    version: int = 1
    phase: str = "planned"

    def holds(self, lease: Lease) -> bool:
        return self.left > 0 and (lease.holder, lease.epoch) == (self.holder, self.epoch)


class Leases(RuleBasedStateMachine):
    """Three holders, one lease, one rollout."""

    taken = Bundle("taken")

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.place = SQLitePlace(self.directory)
        self.store = Store.open(self.place.url)
        self.model = Model()
        with self.store.transaction() as tx:
            tx.insert_rollout(rollout())

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.directory)

    @rule(target=taken, holder=st.sampled_from("abc"))
    def acquire(self, holder: str) -> Lease:
        with self.store.transaction() as tx:
            lease = tx.acquire_lease("orchestrator", holder, TTL)
        if self.model.left > 0 and self.model.holder != holder:
            assert lease is None
            return Lease(name="orchestrator", holder=holder, epoch=0, expires_at=rollout().created_at)
        assert lease is not None and lease.epoch == self.model.epoch + 1
        self.model.holder, self.model.epoch, self.model.left = holder, lease.epoch, TTL
        return lease

    @rule(lease=taken)
    def renew(self, lease: Lease) -> None:
        try:
            with self.store.transaction() as tx:
                assert tx.renew_lease(lease, TTL).epoch == lease.epoch
        except LeaseLost:
            assert not self.model.holds(lease)
        else:
            assert self.model.holds(lease)
            self.model.left = TTL

    @rule(lease=taken)
    def release(self, lease: Lease) -> None:
        with self.store.transaction() as tx:
            assert tx.release_lease(lease) == self.model.holds(lease)
        if self.model.holds(lease):
            self.model.left = 0

    @rule(seconds=st.sampled_from([300.0, 600.0, 1100.0]))
    def pass_time(self, seconds: float) -> None:
        self.place.let_pass(seconds)
        self.model.left = max(0.0, self.model.left - seconds)

    @rule(lease=taken, behind=st.sampled_from([0, 0, 1, -1]), phase=st.sampled_from(["placing", "holding"]))
    def save(self, lease: Lease, behind: int, phase: str) -> None:
        allowed = self.model.holds(lease) and behind == 0
        row = replace(rollout(), phase=phase)
        try:
            with self.store.transaction() as tx:
                tx.save_rollout(row, expected_version=self.model.version - behind, lease=lease)
        except Conflict:
            assert not allowed
        else:
            assert allowed
            self.model.version, self.model.phase = self.model.version + 1, phase

    @invariant()
    def stored_as_modelled(self) -> None:
        with self.store.reading() as tx:
            row, lease = tx.rollout("ro-aaaaaaaaaa"), tx.lease("orchestrator")
        assert (row.version, row.phase) == (self.model.version, self.model.phase)
        assert (lease.epoch if lease else 0) == self.model.epoch


TestLeases = Leases.TestCase
TestLeases.settings = settings(
    max_examples=15, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)

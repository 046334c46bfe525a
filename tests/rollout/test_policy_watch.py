"""Which policies are in force is in the log: once, and again when they change or break."""

from __future__ import annotations

from pathlib import Path

from approving import Office

from stack.app.policy_watch import ABOUT, CHANGED, PolicyWatch
from stack.store.store import Store


def test_each_change_is_noted_once_also_over_restarts(tmp_path: Path) -> None:
    office = Office.made(tmp_path)
    first = office.policies().digest
    watch = PolicyWatch(office.store, office.policies, office.clock)
    for _ in range(3):
        watch.tick(Store.transaction)
    PolicyWatch(office.store, office.policies, office.clock).tick(Store.transaction)
    assert office.recorded(CHANGED) == ["in force"]
    good = (office.folder / "risk.yaml").read_bytes()
    (office.folder / "risk.yaml").write_text("[")
    watch.tick(Store.transaction)
    watch.tick(Store.transaction)
    (office.folder / "risk.yaml").write_bytes(good)
    watch.tick(Store.transaction)
    office.write_people({"ann": ("owner",)})
    watch.tick(Store.transaction)
    with office.store.reading() as tx:
        noted = [row.body["policy"] for row in tx.audit_of(ABOUT)]
    assert noted == [str(first), "invalid", str(first), str(office.policies().digest)]
    office.store.close()

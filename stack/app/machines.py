"""The hosts, for people: what the inventory says, what they last said of themselves, and asking them again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from stack.core.clock import Clock, stamp
from stack.core.errors import InvalidInput
from stack.core.names import HostName
from stack.fleet.asking import HostSilent, ask_facts
from stack.fleet.door import AnsibleDoor
from stack.fleet.facts import Facts, FactsFiles, FactsUnreadable, notes, problems
from stack.fleet.values import Host
from stack.store.store import Store

Json = dict[str, Any]
FORKS = 8


class UnknownHost(InvalidInput):
    """There is no host {host} in the inventory; it has: {known}."""

    hint = "See `hosts` in stack.yaml."


@dataclass(frozen=True, kw_only=True)
class MachineDesk:
    """See ``stack/api/operator.py`` for the shapes."""

    store: Store
    inventory: Mapping[HostName, Host]
    door: AnsibleDoor
    known: FactsFiles
    clock: Clock

    def list(self) -> Json:
        """As last known."""
        return {"hosts": [self._shown(host, self.known.get(host.name), "") for host in self.inventory.values()]}

    def check(self, host: str | None) -> Json:
        """Asked now, several at once. A host that does not answer has that as its problem."""
        wanted = self._wanted(host)
        with ThreadPoolExecutor(max_workers=min(FORKS, len(wanted))) as pool:
            shown = list(pool.map(self._ask, wanted))
        return {"hosts": shown, "ok": bool(shown) and not any(h["problems"] for h in shown)}

    def _wanted(self, name: str | None) -> Sequence[Host]:
        if name is None:
            return tuple(self.inventory.values())
        found = [host for host in self.inventory.values() if host.name == name]
        if not found:
            raise UnknownHost(host=repr(name)[:70], known=", ".join(self.inventory))
        return found

    def _ask(self, host: Host) -> Json:
        try:
            facts = ask_facts(self.door, host, self.clock)
        except FactsUnreadable as error:
            return self._shown(host, None, error.message)
        except HostSilent as error:
            return self._shown(host, self.known.get(host.name), error.message)
        self.known.put(host.name, facts)
        return self._shown(host, facts, "")

    def _shown(self, host: Host, facts: Facts | None, failed: str) -> Json:
        with self.store.reading() as tx:
            carried = [r for r in tx.replicas(live_only=True) if r.host == host.name]
        wrong = [failed] if failed else []
        wrong += problems(facts, host.group) if facts else [] if failed else ["it was never asked: stackctl host check"]
        return {
            "name": str(host.name),
            "connection": host.connection,
            "address": host.address,
            "group": host.group,
            "root": host.root,
            "replicas": len(carried),
            "facts": facts.to_json() if facts else None,
            "problems": wrong,
            "notes": list(notes(facts)) if facts else [],
            "asked_at": stamp(facts.gathered_at) if facts else None,
        }

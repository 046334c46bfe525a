"""Waiting for people: for an approval before a rung, or for somebody to say how a paused rollout goes on.

Both end by themselves only when the candidate, which may have traffic, breaks its limits meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from stack.config.policies import NoPolicies, PoliciesInvalid
from stack.config.stack_yaml import ServiceSettings
from stack.core.clock import Clock
from stack.core.names import ServiceName
from stack.gateway.control import GatewayControl
from stack.rollout.authority import Authority
from stack.rollout.gatekeeper import Standing
from stack.rollout.machine import Done, Failed, Observation
from stack.rollout.sentry import Sentry
from stack.rollout.state import RolloutState
from stack.rollout.worker import Context
from stack.store.store import Store

_LOOK_S = 0.2
_ASK_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """The effects of AWAITING and PAUSED."""

    store: Store
    control: GatewayControl
    services: Mapping[ServiceName, ServiceSettings]
    authority: Authority
    clock: Clock

    def for_a_person(self, state: RolloutState, context: Context) -> Observation:
        """Until somebody resumes or aborts (the context is interrupted then), or the candidate breaks its limits."""
        sentry = self._sentry(state)
        while True:
            context.check()
            if reason := sentry.look(state):
                return Failed(reason=reason)
            self.clock.sleep(_LOOK_S)

    def for_approval(self, state: RolloutState, context: Context) -> Observation:
        """Done once every gate before the rung is approved. An expired request is asked anew; it goes on waiting."""
        sentry = self._sentry(state)
        told: tuple[str, ...] = ()
        asked = -_ASK_S
        while True:
            context.check()
            if reason := sentry.look(state):
                return Failed(reason=reason)
            if self.clock.monotonic() - asked >= _ASK_S:
                asked = self.clock.monotonic()
                lacking = self._lacking(state, context)
                if not lacking:
                    return Done()
                for line in lacking:
                    if line not in told:
                        context.tell("approval", line)
                told = lacking
            self.clock.sleep(_LOOK_S)

    def _lacking(self, state: RolloutState, context: Context) -> tuple[str, ...]:
        """What the gates still wait for, for people. Policies that can't be read are waited for as well."""
        try:
            standings = self._asked(state, context)
        except (NoPolicies, PoliciesInvalid) as error:
            return (error.message,)
        return tuple(
            f"before {s.request.gate} %: {s.request.id} waits for {'; '.join(s.decision.missing)}"
            for s in standings
            if not s.decision.granted
        )

    def _asked(self, state: RolloutState, context: Context) -> list[Standing]:
        with self.store.reading() as tx:
            standings = self.authority.looks(tx, state)
        if all(standing.kept for standing in standings):
            return standings
        with context.writing(self.store) as tx:
            return self.authority.asks(tx, state)

    def _sentry(self, state: RolloutState) -> Sentry:
        return Sentry(self.store, self.control, self.services[state.service], self.clock)

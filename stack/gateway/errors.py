"""What can go wrong with the gateway as a whole; what goes wrong with one request is in ``answers``."""

from __future__ import annotations

from stack.core.errors import Conflict, InvalidInput, Unavailable


class InvalidTable(InvalidInput):
    """The routing table is not valid: {detail}"""

    hint = "nothing was changed; the gateway serves on with the table it had"


class TableRefused(Conflict):
    """The gateway holds routing table version {current} and refuses version {offered}: versions only go up."""

    hint = 'read the current table (op "table"), derive the next one from it and push that'


class GatewayRunning(Conflict):
    """Another gateway already serves {path}."""

    hint = "stop it first, or give this one a home of its own (STACK_HOME)"


class PortInUse(Unavailable):
    """The gateway can't listen on {host} port {port}: {detail}"""

    hint = "stop what listens there, or choose another port (STACK_GATEWAY_PORT)"


class GatewayUnavailable(Unavailable):
    """The gateway does not answer on {path}: {detail}"""

    hint = "start it with `stackctl up` (or `stackctl gateway`) and look at logs/gateway.log"

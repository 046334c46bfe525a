"""What can go wrong with the store. Nothing is half-written: each of these leaves the transaction undone."""

from __future__ import annotations

from stack.core.errors import Conflict, InvalidInput, Unavailable


class StoreAway(Unavailable):
    """The state database can't be used now: {detail}"""

    hint = "Try again once it can: nothing was half-written."


class StoreBusy(StoreAway):
    """The state database is locked by another process: {detail}"""

    hint = "Try again. If it stays so, see who holds it: fuser <STACK_HOME>/state.db"


class StoreFull(StoreAway):
    """The state database can't grow: the disk is full ({detail})."""

    hint = "Free space on the file system that holds STACK_HOME. Nothing was half-written."


class StoreReadOnly(StoreAway):
    """The state database can't be written: {detail}"""

    hint = "Give the directory and its files to this user, and mount the file system writable."


class StoreCorrupt(Unavailable):
    """The state database is damaged: {detail}"""

    hint = "Stop everything, keep the damaged file for inspection, and restore state.db from a backup set."


class StoreUnreachable(StoreAway):
    """The state database can't be used: {detail}"""

    hint = "Check that the directory exists and belongs to this user."


class StoreStarting(StoreAway):
    """The state database's server is starting, recovering or shutting down: {detail}"""

    hint = "Try again in a moment. The control plane waits for it by itself."


class StoreUncertain(StoreAway):
    """The connection to the state database was lost during a commit, so whether it was stored is not known: {detail}"""

    hint = "Look before you repeat it: `stackctl status`."


class StoreDenied(StoreAway):
    """The state database's server lets this program not in: {detail}"""

    hint = "Check user, password (~/.pgpass, `passfile`, or the secret database.password) and the server's pg_hba.conf."


class StoreTooNew(Unavailable):
    """The state database has schema {found}, and this program knows schemas up to {known}."""

    hint = "It was written by a newer inference-stack: run that one, or give this one a STACK_HOME of its own."


class NotAStore(InvalidInput):
    """{path} is a database, but none of inference-stack's."""

    hint = "Set STACK_HOME to another directory."


class UnknownDatabase(InvalidInput):
    """{url} names no database this program can use: give a path, sqlite:///path or postgresql://user@host/database."""


class DatabaseUrl(InvalidInput):
    """The database URL {url} can't be used: {detail}"""

    hint = "See docs/postgresql.md for what it may hold."


class UnfitDatabase(InvalidInput):
    """The database {url} can't hold the state: {detail}"""

    hint = "Make one that can: createdb --encoding UTF8 --template template0 <name>"


class NotStorable(InvalidInput):
    """This value can't be stored as JSON: {detail}"""


class BrokenReference(Conflict):
    """The store refuses what contradicts it: {detail}"""

    hint = "What is referred to (a release, a rollout) must be stored first, and once."


class LeaseLost(Conflict):
    """Lease {name}, epoch {epoch}, is not held by {holder} any more."""

    hint = "Another process has taken over; this one must not go on. Nothing was written."


class StaleWrite(Conflict):
    """Rollout {rollout} has moved on: version {expected} was expected, version {found} is stored."""

    hint = "Read it again and decide anew. Nothing was written."


class RolloutClosed(Conflict):
    """Rollout {rollout} is over; what is over does not change."""


class RolloutOpen(Conflict):
    """Service {service} already has an open rollout: {rollout}."""

    hint = "Wait for it, or end it: `stackctl rollout abort`."


class OldTable(Conflict):
    """Routing table {version} is not newer than the stored one, {latest}."""


class AuditGap(Conflict):
    """Audit record {seq} does not follow the last one, {last}."""


class UnknownRollout(InvalidInput):
    """There is no rollout {rollout}."""

    hint = "See `stackctl rollout list`."


class UnknownService(InvalidInput):
    """Service {service} is not stored."""


class UnknownRelease(InvalidInput):
    """Release {release} is not stored."""


class NoPort(Unavailable):
    """All TCP ports from {low} to {high} on host {host} are taken by replicas."""

    hint = "Drain replicas that nothing needs: `stackctl status` shows them."


class UnknownRequest(InvalidInput):
    """There is no request for approval {request}."""

    hint = "See `stackctl change list`."


class RequestClosed(Conflict):
    """Request {request} is {state}: what is closed stays closed."""

    hint = "See `stackctl change show`. Ask anew by running the command again."


class UnknownAlert(InvalidInput):
    """No open alert has the number {alert}."""

    hint = "See `stackctl alert list`."

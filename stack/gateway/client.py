"""What an exchange needs of the connection that its answer goes to."""

from __future__ import annotations

from typing import Protocol


class Client(Protocol):
    """The connection that the answer goes to."""

    slow: bool

    @property
    def http10(self) -> bool:
        """No chunks, the end of the connection is the end of the answer."""

    def write(self, data: bytes) -> None:
        """Send these bytes."""

    def keeps(self) -> bool:
        """Whether the connection stays open after this answer."""

    def finished(self, *, whole: bool = True) -> None:
        """The answer is over; one that is not whole is never followed by another."""

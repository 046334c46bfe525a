"""Small writes of several threads in one transaction: a commit waits for the disk, and one wait does for all of them.

Who finds none under way writes for everybody that waits by then. To each writer it is as if it had been alone: when
``write`` returns, its own is stored; when it raises, it is not, or nobody knows.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from stack.core.errors import StackError
from stack.store.store import Transaction

Act = Callable[[Transaction], object]


@dataclass(eq=False)
class _Wanted:
    """One thread's write."""

    act: Act
    done: bool = False
    error: StackError | None = None


class Together:
    """``begin`` opens a transaction."""

    def __init__(self, begin: Callable[[], AbstractContextManager[Transaction]]) -> None:
        self._begin = begin
        self._waiting: list[_Wanted] = []
        self._queue = threading.Lock()
        self._turn = threading.Lock()

    def write(self, act: Act) -> None:
        """Do ``act`` in a transaction; return once it is committed."""
        mine = _Wanted(act)
        with self._queue:
            self._waiting.append(mine)
        with self._turn:
            if not mine.done:
                with self._queue:
                    batch, self._waiting = self._waiting, []
                self._commit(batch if mine in batch else [mine])
        if mine.error is not None:
            raise mine.error

    def _commit(self, batch: Sequence[_Wanted]) -> None:
        """All of them; without those whose own act fails, whose error is theirs alone."""
        while batch:
            error, culprits = self._tried(batch)
            for one in culprits:
                one.error, one.done = error, True
            batch = [one for one in batch if not one.done]

    def _tried(self, batch: Sequence[_Wanted]) -> tuple[StackError | None, Sequence[_Wanted]]:
        """The error, and whom it concerns: the one that acted, or all where it came at the begin or at the commit."""
        acting: _Wanted | None = None
        try:
            with self._begin() as tx:
                for acting in batch:
                    acting.act(tx)
                acting = None
        except StackError as error:
            return error, [acting] if acting else batch
        return None, batch

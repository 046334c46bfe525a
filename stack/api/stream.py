"""A long call as a stream of JSON lines: any number of ``progress``, then exactly one ``done`` or ``error``.

A stream without its last line is a failure: the reader must treat it as one.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
from collections.abc import Callable, Iterator

from stack.api.operator import Json, OnProgress
from stack.core.errors import StackError

_LOG = logging.getLogger("stack.api")


def lines(call: Callable[[OnProgress], Json]) -> Iterator[bytes]:
    """Run ``call`` in a thread of its own and yield what it reports, as it reports it."""
    pipe: queue.SimpleQueue[Json | None] = queue.SimpleQueue()
    threading.Thread(target=_run, args=(call, pipe), daemon=True).start()
    while (item := pipe.get()) is not None:
        yield json.dumps(item).encode() + b"\n"


def _run(call: Callable[[OnProgress], Json], pipe: queue.SimpleQueue[Json | None]) -> None:
    try:
        pipe.put({"done": call(lambda progress: pipe.put({"progress": progress}))})
    except StackError as error:
        pipe.put(error.to_json())
    finally:
        pipe.put(None)

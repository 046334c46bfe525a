"""The control plane, wired together: ``open_operator`` is the way in."""

from stack.app.wiring import open_operator

__all__ = ["open_operator"]

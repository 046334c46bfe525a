"""Rollouts: the plan, the state machine and the verdict (pure), and the worker that performs their effects.

Read ``machine.py`` first: it is the way of a deploy. See ``design.md`` for why it is shaped like this.
"""

"""Freeze windows: whether one is open now, and until when. Pure; what a window is, ``config.policy_values`` says.

A weekly window is a stretch of local time. Where the local clock is moved, a begin or end that the clock skips or
shows twice has two readings; the window is the longer one: a freeze may be held an hour too long, never too short.
The begin belongs to the window, the end does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from stack.config.policy_values import OneFreeze, WeeklyFreeze

_DAY = timedelta(days=1)
_FURTHEST = timedelta(days=800)


@dataclass(frozen=True, kw_only=True)
class Freeze:
    """No changes now: the window's name, and when changes are possible again (windows that follow on counted in)."""

    name: str
    environment: str
    ends: datetime

    def __str__(self) -> str:
        return f"freeze {self.name!r} of {self.environment} until {self.ends.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def freeze_at(freezes: Sequence[OneFreeze | WeeklyFreeze], environment: str, now: datetime) -> Freeze | None:
    """The freeze that holds ``environment`` at ``now`` (aware); of several the one that ends last."""
    holding = _last(freezes, environment, now)
    if holding is None:
        return None
    name, ends = holding
    while ends - now < _FURTHEST:
        further = _last(freezes, environment, ends)
        if further is None:
            break
        ends = further[1]
    return Freeze(name=name, environment=environment, ends=ends)


def _last(
    freezes: Sequence[OneFreeze | WeeklyFreeze], environment: str, moment: datetime
) -> tuple[str, datetime] | None:
    open_now = [
        (ends, freeze.name)
        for freeze in freezes
        if environment in freeze.environments
        for begins, ends in _windows(freeze, moment)
        if begins <= moment < ends
    ]
    if not open_now:
        return None
    ends, name = max(open_now)
    return name, ends


def _windows(freeze: OneFreeze | WeeklyFreeze, moment: datetime) -> Iterator[tuple[datetime, datetime]]:
    """Begin and end, in UTC, of each window that could be open at ``moment``."""
    if isinstance(freeze, OneFreeze):
        yield freeze.begins.astimezone(UTC), freeze.ends.astimezone(UTC)
        return
    zone = ZoneInfo(freeze.timezone)
    today = moment.astimezone(zone).date()
    for day in (today - 2 * _DAY, today - _DAY, today, today + _DAY):
        if day.weekday() in freeze.days:
            last = day if freeze.ends > freeze.begins else day + _DAY
            yield min(_readings(day, freeze.begins, zone)), max(_readings(last, freeze.ends, zone))


def _readings(day: date, at: time, zone: ZoneInfo) -> tuple[datetime, datetime]:
    """Both moments that a local time can mean; they differ only where the clock is moved."""
    first, second = (datetime.combine(day, at, tzinfo=zone).replace(fold=fold) for fold in (0, 1))
    return first.astimezone(UTC), second.astimezone(UTC)

"""Freeze windows: one-off and weekly, across midnight, and where local clocks are moved."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stack.config.policy_values import OneFreeze, WeeklyFreeze
from stack.policy.freezing import Freeze, freeze_at

ZURICH = ZoneInfo("Europe/Zurich")
NEW_YORK = ZoneInfo("America/New_York")
ZONES = ("UTC", "Europe/Zurich", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "Pacific/Apia")


def weekly(days: str, begins: str, ends: str, zone: str = "Europe/Zurich", name: str = "weekly") -> WeeklyFreeze:
    """A weekly freeze of production; ``days`` as digits, 0 is Monday."""
    return WeeklyFreeze(
        name=name,
        environments=frozenset({"production"}),
        days=frozenset(map(int, days)),
        begins=time.fromisoformat(begins),
        ends=time.fromisoformat(ends),
        timezone=zone,
    )


def once(begins: datetime, ends: datetime, name: str = "once") -> OneFreeze:
    """A one-off freeze of production."""
    return OneFreeze(name=name, environments=frozenset({"production"}), begins=begins, ends=ends)


def utc(*parts: int) -> datetime:
    """A moment."""
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc,arg-type]


def ends(freeze: OneFreeze | WeeklyFreeze, now: datetime) -> datetime | None:
    """When it ends, if it holds production now."""
    found = freeze_at([freeze], "production", now)
    return None if found is None else found.ends


def test_the_begin_belongs_to_it_and_the_end_does_not() -> None:
    freeze = once(utc(2026, 12, 24), utc(2026, 12, 26))
    second = timedelta(seconds=1)
    assert ends(freeze, utc(2026, 12, 24) - second) is None
    assert ends(freeze, utc(2026, 12, 24)) == utc(2026, 12, 26)
    assert ends(freeze, utc(2026, 12, 26) - second) == utc(2026, 12, 26)
    assert ends(freeze, utc(2026, 12, 26)) is None


def test_it_holds_its_environments_only() -> None:
    assert freeze_at([weekly("0123456", "00:00", "00:00")], "staging", utc(2026, 6, 1)) is None
    assert freeze_at([], "production", utc(2026, 6, 1)) is None


def test_a_weekly_window_is_local_time_in_summer_and_winter() -> None:
    friday = weekly("4", "15:00", "23:59")
    assert ends(friday, utc(2026, 7, 3, 12, 59)) is None
    assert ends(friday, utc(2026, 7, 3, 13)) == utc(2026, 7, 3, 21, 59)
    assert ends(friday, utc(2026, 1, 2, 13, 59)) is None
    assert ends(friday, utc(2026, 1, 2, 14)) == utc(2026, 1, 2, 22, 59)
    assert ends(friday, utc(2026, 1, 1, 14)) is None
    assert ends(friday, utc(2026, 1, 3, 14)) is None


def test_a_window_across_midnight_belongs_to_the_day_it_begins_on() -> None:
    night = weekly("4", "22:00", "06:00", "UTC")
    assert ends(night, utc(2026, 7, 3, 23)) == utc(2026, 7, 4, 6)
    assert ends(night, utc(2026, 7, 4, 5, 59)) == utc(2026, 7, 4, 6)
    assert ends(night, utc(2026, 7, 4, 6)) is None
    assert ends(night, utc(2026, 7, 3, 5)) is None
    assert ends(night, utc(2026, 7, 4, 23)) is None


def test_the_local_day_counts_not_the_day_of_utc() -> None:
    monday = weekly("0", "00:00", "00:00", "Asia/Kathmandu")
    assert ends(monday, utc(2026, 7, 5, 18, 14)) is None
    assert ends(monday, utc(2026, 7, 5, 18, 15)) == utc(2026, 7, 6, 18, 15)


def test_windows_that_follow_each_other_end_with_the_last() -> None:
    friday, weekend = weekly("4", "15:00", "00:00", "UTC", "friday"), weekly("56", "00:00", "00:00", "UTC", "weekend")
    found = freeze_at([weekend, friday], "production", utc(2026, 7, 3, 16))
    assert found == Freeze(name="friday", environment="production", ends=utc(2026, 7, 6))
    assert str(found) == "freeze 'friday' of production until 2026-07-06 00:00 UTC"


def test_of_several_the_one_that_ends_last_is_named() -> None:
    short, long = once(utc(2026, 1, 1), utc(2026, 1, 2), "short"), once(utc(2026, 1, 1), utc(2026, 1, 9), "long")
    found = freeze_at([short, long], "production", utc(2026, 1, 1, 5))
    assert found is not None and (found.name, found.ends) == ("long", utc(2026, 1, 9))


def test_a_freeze_without_end_is_told_all_the_same() -> None:
    always = weekly("0123456", "00:00", "00:00")
    found = ends(always, utc(2026, 7, 3, 16))
    assert found is not None and found > utc(2028, 1, 1)


# On 29 March 2026 Zurich's clocks go from 02:00 (01:00 UTC) to 03:00; on 25 October from 03:00 (01:00 UTC) to 02:00.
@pytest.mark.parametrize(
    ("begins", "until", "opens", "closes"),
    [
        ("00:00", "06:00", utc(2026, 3, 28, 23), utc(2026, 3, 29, 4)),  # around the jump: an hour shorter
        ("02:30", "05:00", utc(2026, 3, 29, 0, 30), utc(2026, 3, 29, 3)),  # begins in the hour that is not
        ("01:00", "02:30", utc(2026, 3, 29, 0), utc(2026, 3, 29, 1, 30)),  # ends in it
        ("02:10", "02:50", utc(2026, 3, 29, 0, 10), utc(2026, 3, 29, 1, 50)),  # within it: it is held all the same
    ],
)
def test_in_spring(begins: str, until: str, opens: datetime, closes: datetime) -> None:
    holds_exactly(weekly("6", begins, until), opens, closes)


@pytest.mark.parametrize(
    ("begins", "until", "opens", "closes"),
    [
        ("00:00", "06:00", utc(2026, 10, 24, 22), utc(2026, 10, 25, 5)),  # around the repeated hour: an hour longer
        ("02:30", "05:00", utc(2026, 10, 25, 0, 30), utc(2026, 10, 25, 4)),  # begins in it: the first time
        ("01:00", "02:30", utc(2026, 10, 24, 23), utc(2026, 10, 25, 1, 30)),  # ends in it: the second time
        ("02:10", "02:50", utc(2026, 10, 25, 0, 10), utc(2026, 10, 25, 1, 50)),  # within it: both, and between
    ],
)
def test_in_autumn(begins: str, until: str, opens: datetime, closes: datetime) -> None:
    holds_exactly(weekly("6", begins, until), opens, closes)


def holds_exactly(freeze: WeeklyFreeze, opens: datetime, closes: datetime) -> None:
    """Minute by minute for half a day around it."""
    minutes = [opens + timedelta(minutes=number) for number in range(-360, 720)]
    held = [moment for moment in minutes if ends(freeze, moment) is not None]
    assert (held[0], held[-1]) == (opens, closes - timedelta(minutes=1))
    assert len(held) == (closes - opens) // timedelta(minutes=1)
    assert {ends(freeze, moment) for moment in held} == {closes}


def test_new_york_moves_on_other_days_and_in_its_own_hours() -> None:
    sunday = weekly("6", "01:30", "03:30", "America/New_York")
    holds_exactly(sunday, utc(2026, 3, 8, 6, 30), utc(2026, 3, 8, 7, 30))
    holds_exactly(sunday, utc(2026, 11, 1, 5, 30), utc(2026, 11, 1, 8, 30))


def test_a_day_that_a_zone_left_out_is_no_way_around() -> None:
    """Apia had no 30 December 2011, a Friday: Thursday's night went into Saturday."""
    night = weekly("3", "22:00", "06:00", "Pacific/Apia")
    assert ends(night, datetime(2011, 12, 29, 23, tzinfo=ZoneInfo("Pacific/Apia"))) is not None
    assert ends(night, datetime(2011, 12, 31, 0, 1, tzinfo=ZoneInfo("Pacific/Apia"))) is not None


@settings(max_examples=400, deadline=None)
@given(
    moment=st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC)),
    zone=st.sampled_from(ZONES),
    day=st.integers(0, 6),
    begins=st.times(),
    until=st.times(),
)
def test_what_the_wall_clock_says_is_in_the_window_is_frozen(
    moment: datetime, zone: str, day: int, begins: time, until: time
) -> None:
    """The plain reading of local time never finds a window that is not held."""
    freeze = weekly(str(day), begins.isoformat(), until.isoformat(), zone)
    local = moment.astimezone(ZoneInfo(zone))
    at, yesterday = local.time(), (day + 1) % 7
    if begins < until:
        inside = local.weekday() == day and begins <= at < until
    else:
        inside = (local.weekday() == day and at >= begins) or (local.weekday() == yesterday and at < until)
    found = ends(freeze, moment)
    if inside:
        assert found is not None and found > moment
    elif found is not None:
        near = [(moment + timedelta(hours=h)).astimezone(ZoneInfo(zone)).utcoffset() for h in (-3, 3)]
        assert near[0] != near[1], "held although no clock was moved"

"""Days as a client means them: in UTC, in the gateway's own time zone, or in one that it names."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from gateway.errors import InvalidRequest
from gateway.model import DaySpan

MAX_DAYS = 3660
"""The longest range of days: ten years."""

MAX_OFFSET = timedelta(hours=14)
YEARS = range(1971, 9999)
"""Years whose days have a time in every zone."""

_OFFSET = re.compile(r"^UTC([+-])(\d{1,2})(?::([0-5]\d))?$")

Midnight = Callable[[date], int]
"""Returns when a day begins, in milliseconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Zone:
    """Where days begin, and which day it is."""

    midnight: Midnight
    today: Callable[[int], date]
    """Returns the day of a time in milliseconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Days:
    """Days in a row, with what the store needs to tell them apart."""

    first: date
    count: int
    spans: tuple[DaySpan, ...]
    until_ms: int

    @property
    def since_ms(self) -> int:
        """When the first day begins."""
        return self.spans[0].start_ms

    @property
    def last(self) -> date:
        """The last day."""
        return self.first + timedelta(days=self.count - 1)

    def name(self, number: int) -> str:
        """Return a day as YYYY-MM-DD, the first has the number 0."""
        return (self.first + timedelta(days=number)).isoformat()


def zone_of(mode: str, time_zone: str | None, utc_offset: str | None) -> Zone:
    """Return a zone: ``utc``, ``gateway``, or ``specific`` with its name or its offset.

    Raises InvalidRequest for a zone that there is not.
    """
    if mode == "gateway":
        return Zone(_own_midnight, _own_day)
    if mode == "utc":
        return _zone(UTC)
    if time_zone is not None:
        return _zone(_named(time_zone))
    if utc_offset is not None:
        return _zone(_at(utc_offset))
    raise InvalidRequest('mode "specific" needs timeZone or utcOffset')


def day_of(text: str) -> date:
    """Return the day of ``YYYY-MM-DD``. Raises InvalidRequest for one that there is not."""
    try:
        day = date.fromisoformat(text)
    except ValueError as error:
        raise InvalidRequest(f"there is no day {text[:32]}") from error
    if day.year not in YEARS:
        raise InvalidRequest(f"{text} is too far away")
    return day


def days_between(first: date, last: date, zone: Zone) -> Days:
    """Return the days of a range, both ends included. Raises InvalidRequest for one that is no range."""
    count = (last - first).days + 1
    if count < 1:
        raise InvalidRequest(f"startDate {first} is after endDate {last}")
    if count > MAX_DAYS:
        raise InvalidRequest(f"at most {MAX_DAYS} days can be asked for")
    starts = [zone.midnight(first + timedelta(days=number)) for number in range(count + 1)]
    spans: list[DaySpan] = []
    for number in range(count):
        length = starts[number + 1] - starts[number]
        if not spans or spans[-1].length_ms != length:
            spans.append(DaySpan(starts[number], number, length))
    return Days(first, count, tuple(spans), starts[count])


def _zone(info: tzinfo) -> Zone:
    def midnight(day: date) -> int:
        return round(datetime(day.year, day.month, day.day, tzinfo=info).timestamp() * 1000)

    return Zone(midnight, lambda ms: datetime.fromtimestamp(ms / 1000, info).date())


def _own_midnight(day: date) -> int:
    return round(time.mktime((day.year, day.month, day.day, 0, 0, 0, 0, 0, -1)) * 1000)


def _own_day(ms: int) -> date:
    return datetime.fromtimestamp(ms / 1000, UTC).astimezone().date()


def _named(name: str) -> tzinfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise InvalidRequest(f'there is no time zone "{name[:64]}"') from error


def _at(offset: str) -> tzinfo:
    found = _OFFSET.match(offset)
    if found is not None:
        sign, hours, minutes = found.groups()
        size = timedelta(hours=int(hours), minutes=int(minutes or 0))
        if size <= MAX_OFFSET:
            return timezone(size if sign == "+" else -size)
    raise InvalidRequest(f'there is no time zone "{offset[:64]}"')

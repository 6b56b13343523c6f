"""gateway.app.days: days of any zone, told apart by few numbers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

import pytest

from gateway.app.days import MAX_DAYS, Days, day_of, days_between, zone_of
from gateway.errors import InvalidRequest

HOUR_MS = 3_600_000
YEAR = (date(2025, 1, 1), date(2025, 12, 31))


@pytest.fixture
def in_berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the gateway's own zone be that of Berlin."""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def day_at(days: Days, ms: int) -> str:
    """Return the day of a time, reckoned as the store does."""
    span = [each for each in days.spans if each.start_ms <= ms][-1]
    return days.name(span.first + (ms - span.start_ms) // span.length_ms)


@pytest.mark.parametrize(
    ("name", "spans"),
    [
        ("UTC", 1),
        ("Asia/Kathmandu", 1),
        ("Europe/Berlin", 5),
        ("America/New_York", 5),
        ("Africa/Cairo", 5),
        ("Australia/Lord_Howe", 5),
    ],
)
def test_every_hour_of_a_year_is_in_its_day(name: str, spans: int) -> None:
    """In each zone every half hour of a year falls on the day that its clocks show, summer time or not."""
    days = days_between(*YEAR, zone_of("specific", name, None))

    assert (days.count, len(days.spans)) == (365, spans)
    zone = ZoneInfo(name)
    for ms in range(days.since_ms, days.until_ms, HOUR_MS // 2):
        assert day_at(days, ms) == datetime.fromtimestamp(ms / 1000, zone).date().isoformat()


@pytest.mark.parametrize(
    ("mode", "offset", "start"),
    [
        ("utc", None, "2025-06-01T00:00:00+00:00"),
        ("specific", "UTC+5:30", "2025-05-31T18:30:00+00:00"),
        ("specific", "UTC-8", "2025-06-01T08:00:00+00:00"),
        ("specific", "UTC+14", "2025-05-31T10:00:00+00:00"),
    ],
)
def test_offsets(mode: str, offset: str | None, start: str) -> None:
    """A day begins where UTC or the offset says."""
    zone = zone_of(mode, None, offset)
    days = days_between(date(2025, 6, 1), date(2025, 6, 2), zone)

    begins = datetime.fromisoformat(start)
    assert days.since_ms == begins.timestamp() * 1000
    assert zone.today(days.since_ms) == date(2025, 6, 1)
    assert zone.today(days.since_ms - 1) == date(2025, 5, 31)
    assert (days.last, days.name(1)) == (date(2025, 6, 2), "2025-06-02")


@pytest.mark.usefixtures("in_berlin")
def test_the_gateways_own_zone() -> None:
    """The gateway's days begin as its host's clock shows them, in summer and in winter."""
    own, named = zone_of("gateway", None, None), zone_of("specific", "Europe/Berlin", None)

    assert days_between(*YEAR, own) == days_between(*YEAR, named)
    late = datetime(2025, 6, 1, 23, 0, tzinfo=UTC).timestamp() * 1000
    assert own.today(round(late)) == date(2025, 6, 2)


@pytest.mark.parametrize(
    ("name", "offset"),
    [
        ("Europe/Atlantis", None),
        ("../../etc/passwd", None),
        ("Europe", None),
        ("x" * 5000, None),
        ("a\0b", None),
        ("", None),
        (None, "UTC+15"),
        (None, "UTC+14:30"),
        (None, "noon"),
        (None, None),
    ],
)
def test_zones_that_there_are_not(name: str | None, offset: str | None) -> None:
    """A zone that there is not is refused in a sentence that is not long."""
    with pytest.raises(InvalidRequest) as refused:
        zone_of("specific", name, offset)

    assert len(str(refused.value)) < 120


@pytest.mark.parametrize("text", ["2025-02-30", "0001-01-01", "9999-12-31", "yesterday" * 99])
def test_days_that_there_are_not(text: str) -> None:
    """A day that there is not, or that has no time everywhere, is refused."""
    with pytest.raises(InvalidRequest):
        day_of(text)


def test_ranges_that_are_none() -> None:
    """A range has to begin before it ends, and not to be longer than ten years."""
    zone = zone_of("utc", None, None)
    with pytest.raises(InvalidRequest, match="is after"):
        days_between(day_of("2025-01-02"), day_of("2025-01-01"), zone)
    with pytest.raises(InvalidRequest, match=f"at most {MAX_DAYS}"):
        days_between(day_of("2000-01-01"), day_of("2025-01-01"), zone)

"""What the tests of connections share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from twisted.logger import LogEvent, globalLogPublisher

from tests.net.gate import Gate


@pytest.fixture
def gate() -> Gate:
    """A gateway in memory."""
    return Gate()


@pytest.fixture
def log() -> Iterator[list[LogEvent]]:
    """Everything that is logged."""
    events: list[LogEvent] = []
    observer: Any = events.append
    globalLogPublisher.addObserver(observer)
    yield events
    globalLogPublisher.removeObserver(observer)

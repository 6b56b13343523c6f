"""What the tests of agents share."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.logger import LogEvent, globalLogPublisher


@pytest.fixture
def log_lines() -> Any:
    """Texts of what is logged at info and above."""
    lines: list[str] = []

    def observe(event: LogEvent) -> None:
        if event["log_level"].name != "debug":
            lines.append(event["log_format"].format(**event))

    observer: Any = observe
    globalLogPublisher.addObserver(observer)
    yield lines
    globalLogPublisher.removeObserver(observer)

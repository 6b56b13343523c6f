"""What goes wrong, and what is said of it: a store that fails when told to, and the lines of the log."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

from twisted.internet.defer import Deferred
from twisted.logger import LogEvent, formatEvent, globalLogPublisher


class Lines:
    """What is logged while it observes: the events, and their texts."""

    def __init__(self) -> None:
        self.events: list[LogEvent] = []

    def __enter__(self) -> Self:
        observer: Any = self._observe
        globalLogPublisher.addObserver(observer)
        return self

    def __exit__(self, *_: object) -> None:
        observer: Any = self._observe
        globalLogPublisher.removeObserver(observer)

    def _observe(self, event: LogEvent) -> None:
        self.events.append(event)

    @property
    def texts(self) -> list[str]:
        """The lines as a person reads them."""
        return [formatEvent(event) for event in self.events]


class FaultyStore:
    """A store between the gateway and its real one: operations fail or hang as the test says."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.failing: dict[str, Exception] = {}
        self.hanging: set[str] = set()
        self.held: list[Callable[[], None]] = []
        """Operations that hang; calling one lets it go on."""
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        operation = getattr(self._inner, name)

        def run(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(name)
            if name in self.failing:
                failed: Deferred[Any] = Deferred()
                failed.errback(self.failing[name])
                return failed
            if name not in self.hanging:
                return operation(*args, **kwargs)
            waiting: Deferred[Any] = Deferred()

            def go() -> None:
                operation(*args, **kwargs).addBoth(
                    lambda result: None if waiting.called else waiting.callback(result)
                )

            self.held.append(go)
            return waiting

        return run

    def release(self) -> None:
        """Let everything that hangs go on."""
        self.hanging.clear()
        held, self.held = self.held, []
        for go in held:
            go()

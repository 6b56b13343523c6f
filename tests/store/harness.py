"""What the store's tests share: a stand-in for the reactor's thread, and records to store."""

from __future__ import annotations

from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

from twisted.internet.defer import Deferred

from gateway.model import (
    Device,
    DeviceToken,
    Message,
    RunEvent,
    RunRecord,
    RunState,
    Session,
    TurnEnd,
)
from gateway.store.store import SQLStore
from gateway.testing import FakeClock, result_of

T = TypeVar("T")

KEY = "agent:main:main"
NOW = FakeClock.EPOCH_MS
PATIENCE_S = 30.0
"""How long a test waits for a thread before it calls it dead."""


class Pump:
    """Runs in the test's thread what other threads ask the reactor to call."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[tuple[Callable[..., object], tuple[Any, ...]]] = SimpleQueue()

    def call_from_thread(self, function: Callable[..., object], *arguments: object) -> None:
        """As reactor.callFromThread."""
        self._calls.put((function, arguments))

    def step(self) -> None:
        """Wait for one call, and make it."""
        function, arguments = self._calls.get(timeout=PATIENCE_S)
        function(*arguments)

    def wait(self, deferred: Deferred[T]) -> T:
        """Make calls until the Deferred has fired; return its result or raise its failure."""
        while not deferred.called or deferred.paused:
            self.step()
        return result_of(deferred)


def call_nothing(function: Callable[..., object], *arguments: object) -> None:
    """Stand in for reactor.callFromThread where there are no threads."""
    raise AssertionError("an inline store has nothing to call")


def memory_store() -> SQLStore:
    """Return an open store in memory whose operations run inline."""
    return inline_store("sqlite://")


def inline_store(url: str, *, synchronous: str = "normal") -> SQLStore:
    """Return an open store whose operations run inline."""
    store = SQLStore(
        url,
        synchronous=synchronous,
        clock=FakeClock(),
        call_from_thread=call_nothing,
        threads=False,
    )
    store.open()
    store.startService()
    return store


def threaded_store(url: str, pump: Pump) -> SQLStore:
    """Return an open store with its threads."""
    store = SQLStore(url, clock=FakeClock(), call_from_thread=pump.call_from_thread)
    store.open()
    store.startService()
    return store


def a_session(key: str = KEY, **fields: Any) -> Session:
    """Return a session; its id follows from its key unless given."""
    values: dict[str, Any] = {
        "session_id": f"id of {key}",
        "agent_id": "main",
        "created_at_ms": NOW,
        "updated_at_ms": NOW,
    }
    return Session(key=key, **{**values, **fields})


def setting(**fields: Any) -> Callable[[Session | None], Session]:
    """Return a change that makes a session of these fields."""
    return putting(a_session(**fields))


def as_it_is(current: Session | None) -> Session:
    """Change nothing of a session that is there."""
    assert current is not None
    return current


def putting(record: T) -> Callable[[Any], T]:
    """Return a change that puts a record in the place of whatever there is."""
    return lambda current: record


def a_message(text: str = "hello", role: str = "user", **fields: Any) -> Message:
    """Return a message with one text block."""
    content = [{"type": "text", "text": text}]
    values = {"message_id": f"m {text}", "role": role, "content": content, "timestamp_ms": NOW}
    return Message(**{**values, **fields})


def a_run(run_id: str = "run-1", **fields: Any) -> RunRecord:
    """Return an accepted run in the session ``KEY``."""
    values: dict[str, Any] = {
        "epoch": "epoch-1",
        "session_key": KEY,
        "session_id": f"id of {KEY}",
        "agent_id": "main",
        "origin": "chat",
        "actor": "device-1",
        "fingerprint": "f00d",
        "state": RunState.ACCEPTED,
        "accepted_at_ms": NOW,
    }
    return RunRecord(run_id=run_id, **{**values, **fields})


def an_ended_run(run_id: str = "run-1", **fields: Any) -> RunRecord:
    """Return a run that is done."""
    return a_run(run_id, **{"state": RunState.DONE, "ended_at_ms": NOW + 1000, **fields})


def an_end(run_id: str = "run-1", **fields: Any) -> TurnEnd:
    """Return the end of a run, which is done unless ``run`` is given."""
    return TurnEnd(run=fields.pop("run", None) or an_ended_run(run_id), **fields)


def an_event(seq: int, run_id: str = "run-1", **fields: Any) -> RunEvent:
    """Return one event of a run's log."""
    values: dict[str, Any] = {
        "epoch": "epoch-1",
        "stream": "assistant",
        "data": b'{"text":"hi"}',
        "ts_ms": NOW + seq,
    }
    return RunEvent(run_id=run_id, seq=seq, **{**values, **fields})


def a_device(device_id: str = "device-1", **fields: Any) -> Device:
    """Return a paired device."""
    values: dict[str, Any] = {
        "public_key": "cHVibGlj",
        "roles": ("operator",),
        "scopes": ("operator.read", "operator.write"),
        "created_at_ms": NOW,
        "approved_at_ms": NOW,
        "approved_via": "owner",
    }
    return Device(device_id=device_id, **{**values, **fields})


def a_token(digest: str, **fields: Any) -> DeviceToken:
    """Return a token of the device that :func:`a_device` makes."""
    values: dict[str, Any] = {
        "device_id": "device-1",
        "role": "operator",
        "scopes": ("operator.read",),
        "issued_at_ms": NOW,
    }
    return DeviceToken(digest=digest, **{**values, **fields})

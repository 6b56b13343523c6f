"""Broadcast events: who may see them, what happens to them when a client is slow, how they are encoded.

An :class:`Event` is encoded once per protocol version; what differs per connection, its number, is
spliced in as bytes when the frame leaves. Where a client can't keep up, events of class LATEST are
merged in its outbox (:meth:`Event.merged_with`), so it sees fewer and larger ones.

The table fails closed: an event that is not in it can not be built.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, TypeVar

from gateway.core.frames import encode

F = TypeVar("F")


class Delivery(Enum):
    """What happens to an event when its receiver is slow."""

    MUST = "must"
    """Queued, or the connection is closed: never dropped."""
    LATEST = "latest"
    """A newer one is merged into the one that still waits."""
    DROPPABLE = "droppable"
    """Shed when the outbox is full; it still takes a number, so the hole is visible."""


@dataclass(frozen=True, slots=True)
class EventSpec:
    """One row of the event table."""

    name: str
    scopes: tuple[str, ...]
    """Any of these scopes lets an operator see it; empty: every connection, nodes included."""
    delivery: Delivery


_READ: Final = ("operator.read",)
_APPROVALS: Final = ("operator.approvals",)
_PAIRING: Final = ("operator.pairing",)
_DIRECT: Final = ("direct",)
"""A scope that nobody holds: such an event is sent to one connection, and never broadcast."""

EVENTS: Final[dict[str, EventSpec]] = {
    spec.name: spec
    for spec in (
        EventSpec("connect.challenge", (), Delivery.MUST),
        EventSpec("agent", _READ, Delivery.MUST),
        EventSpec("chat", _READ, Delivery.MUST),
        EventSpec("run.event", _READ, Delivery.MUST),
        EventSpec("presence", _READ, Delivery.DROPPABLE),
        EventSpec("health", (), Delivery.LATEST),
        EventSpec("tick", (), Delivery.LATEST),
        EventSpec("shutdown", (), Delivery.MUST),
        EventSpec("sessions.changed", _READ, Delivery.DROPPABLE),
        EventSpec("session.message", _READ, Delivery.MUST),
        EventSpec("session.tool", _READ, Delivery.DROPPABLE),
        EventSpec("session.operation", _READ, Delivery.DROPPABLE),
        EventSpec("exec.approval.requested", _APPROVALS, Delivery.MUST),
        EventSpec("exec.approval.resolved", _APPROVALS, Delivery.MUST),
        EventSpec("session.approval", _APPROVALS, Delivery.MUST),
        EventSpec("config.changed", _READ, Delivery.DROPPABLE),
        EventSpec("device.pair.requested", _PAIRING, Delivery.MUST),
        EventSpec("device.pair.resolved", _PAIRING, Delivery.MUST),
        EventSpec("device.pair.changed", _PAIRING, Delivery.DROPPABLE),
        EventSpec("device.pair.setup.completed", _PAIRING, Delivery.MUST),
        EventSpec("node.pair.requested", _PAIRING, Delivery.MUST),
        EventSpec("node.pair.resolved", _PAIRING, Delivery.MUST),
        EventSpec("node.invoke.request", _DIRECT, Delivery.MUST),
        EventSpec("node.invoke.cancel", _DIRECT, Delivery.MUST),
        EventSpec("node.invoke.progress", _DIRECT, Delivery.MUST),
        EventSpec("node.hostStats", _READ, Delivery.DROPPABLE),
        EventSpec("node.presence", _READ, Delivery.DROPPABLE),
        EventSpec("voicewake.changed", _READ, Delivery.DROPPABLE),
        EventSpec("voicewake.routing.changed", _READ, Delivery.DROPPABLE),
        EventSpec("talk.mode", ("operator.talk",), Delivery.DROPPABLE),
    )
}

ADVERTISED: Final[tuple[str, ...]] = tuple(sorted(EVENTS))


class Event:
    """One event, encoded once per protocol version.

    ``group`` names what its order matters within (a run): an event that is not merged seals the
    group's waiting deltas, so that nothing overtakes it. ``key`` is the slot that LATEST events share.
    """

    __slots__ = ("_cached", "_framed", "delivery", "group", "key", "spec")

    def __init__(
        self,
        name: str,
        payload: Any,
        *,
        v3: Any = ...,
        state_version: dict[str, int] | None = None,
        delivery: Delivery | None = None,
        key: object = None,
        group: str | None = None,
    ) -> None:
        """Encode at once: ``payload`` for version 4, ``v3`` (default: the same) for version 3.

        ``None`` for a version means that its connections do not get the event. Raises EncodeFailed.
        """
        self.spec = EVENTS[name]
        self.delivery = delivery or self.spec.delivery
        self.key = key if key is not None or self.delivery is not Delivery.LATEST else name
        self.group = group
        tail = b"}" if state_version is None else b',"stateVersion":%b}' % encode(state_version)
        four = None if payload is None else (_head(name, payload), tail)
        if v3 is ... or v3 is payload:
            three = four
        else:
            three = None if v3 is None else (_head(name, v3), tail)
        self._cached: dict[int, tuple[bytes, bytes] | None] = {3: three, 4: four}
        self._framed: dict[int, tuple[int, Any]] = {}

    def parts(self, protocol: int) -> tuple[bytes, bytes] | None:
        """Return the frame's text before and after the number, or None if this version has none."""
        return self._cached[protocol]

    def size(self, protocol: int) -> int:
        """Return about how many bytes a frame takes."""
        parts = self.parts(protocol)
        return 0 if parts is None else len(parts[0]) + len(parts[1]) + 24

    def encoded(self, protocol: int, seq: int | None) -> bytes:
        """Return the frame's JSON text, numbered or (``None``) direct. The version must have a form."""
        parts = self.parts(protocol)
        assert parts is not None
        head, tail = parts
        return head + tail if seq is None else b'%b,"seq":%d%b' % (head, seq, tail)

    def framed(self, protocol: int, seq: int, framer: Callable[[bytes], F]) -> F:
        """Return ``framer(encoded(...))``; connections at the same number share one object.

        All calls for one event have to give the same framer.
        """
        last = self._framed.get(protocol)
        if last is not None and last[0] == seq:
            shared: F = last[1]
            return shared
        data = framer(self.encoded(protocol, seq))
        self._framed[protocol] = (seq, data)
        return data

    def merged_with(self, newer: Event) -> Event:
        """Return what replaces this waiting event when ``newer`` of the same key arrives."""
        return newer


def _head(name: str, payload: Any) -> bytes:
    return b'{"type":"event","event":"%b","payload":%b' % (name.encode(), encode(payload))


class TextDelta(Event):
    """A piece of a growing text: the text so far, and from where on it is new to the receiver.

    Keeping the offset instead of the increment makes merging exact: the older event's offset with the
    newer event's text is the concatenation of both increments. ``replace`` says that the text before
    was rewritten; the whole text then counts as new.
    """

    __slots__ = ("build", "offset", "replace", "run_seq", "text", "ts_ms")

    Builder = Callable[[int, "TextDelta"], Any]

    def __init__(
        self,
        name: str,
        build: Builder,
        *,
        key: object,
        group: str,
        run_seq: int,
        ts_ms: int,
        text: str,
        offset: int,
        replace: bool = False,
    ) -> None:
        self.spec = EVENTS[name]
        self.delivery = Delivery.LATEST
        self.key = key
        self.group = group
        self.build = build
        self.run_seq = run_seq
        self.ts_ms = ts_ms
        self.text = text
        self.offset = 0 if replace else offset
        self.replace = replace
        self._cached = {}
        self._framed = {}

    @property
    def delta(self) -> str:
        """What is new to the receiver."""
        return self.text[self.offset :]

    def parts(self, protocol: int) -> tuple[bytes, bytes] | None:
        """Encode on first use: a merged delta is built for one receiver only."""
        if protocol not in self._cached:
            payload = self.build(protocol, self)
            self._cached[protocol] = (
                None
                if payload is None
                else (
                    _head(self.spec.name, payload),
                    b"}",
                )
            )
        return self._cached[protocol]

    def size(self, protocol: int) -> int:
        """Return about how many bytes a frame takes, exactly once it was encoded.

        Before that an estimate that needs no encoding: text and delta, and 300 bytes around them.
        """
        if protocol in self._cached:
            return super().size(protocol)
        width = 1 if self.text.isascii() else 3
        return width * (2 * len(self.text) - self.offset) + 300

    def merged_with(self, newer: Event) -> Event:
        """Return the newer text, new from where this one was; a rewrite in either survives."""
        assert isinstance(newer, TextDelta)
        if newer.replace:
            return newer
        return TextDelta(
            self.spec.name,
            newer.build,
            key=self.key,
            group=newer.group or "",
            run_seq=newer.run_seq,
            ts_ms=newer.ts_ms,
            text=newer.text,
            offset=self.offset,
            replace=self.replace,
        )


def visible(spec: EventSpec, scopes: Iterable[str], *, operator: bool) -> bool:
    """Whether a connection with these effective scopes sees the event (default deny)."""
    if not spec.scopes:
        return True
    return operator and not set(spec.scopes).isdisjoint(scopes)

"""A program that writes turns to a store for ever: ``store_writer.py URL``.

It prints ``accepted N`` and ``finished N`` as soon as the store has acknowledged it. It imports as little
as it can, so that it starts fast.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from queue import SimpleQueue

from msgspec import structs
from twisted.internet.task import Clock
from zope.interface import implementer

from gateway.interfaces import IClock
from gateway.model import Message, RunEvent, RunRecord, RunState, Session, TurnEnd
from gateway.store.store import SQLStore

IN_FLIGHT = 20
SESSIONS = 4


@implementer(IClock)
class StillClock(Clock):
    """A clock that stands still."""

    def now_ms(self) -> int:
        """Return no time."""
        return 0


def turn(number: int) -> tuple[RunRecord, Session, Message]:
    """Return the parts of a turn."""
    key = f"agent:main:{number % SESSIONS}"
    session = Session(
        key=key,
        session_id=f"id of {key}",
        agent_id="main",
        created_at_ms=number,
        updated_at_ms=number,
    )
    run = RunRecord(
        run_id=f"run-{number}",
        epoch="epoch",
        session_key=key,
        session_id=session.session_id,
        agent_id="main",
        origin="chat",
        actor="tester",
        fingerprint=str(number),
        state=RunState.ACCEPTED,
        accepted_at_ms=number,
    )
    content = [{"type": "text", "text": f"message {number}"}]
    message = Message(message_id=f"m{number}", role="user", content=content, timestamp_ms=number)
    return run, session, message


def write_for_ever(url: str) -> None:
    """Accept and finish turns, several at a time; print each as it is acknowledged."""
    calls: SimpleQueue[tuple[Callable[..., object], tuple[object, ...]]] = SimpleQueue()
    store = SQLStore(
        url,
        clock=StillClock(),
        call_from_thread=lambda function, *arguments: calls.put((function, arguments)),
    )
    store.open()
    store.startService()
    number = 0

    def say(line: str) -> None:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()

    def begin() -> None:
        nonlocal number
        number += 1
        mine = number
        run, session, message = turn(mine)

        def accepted(result: object) -> None:
            say(f"accepted {mine}")
            event = RunEvent(
                run_id=run.run_id, epoch="epoch", seq=1, stream="chat", data=b"{}", ts_ms=mine
            )
            ended = structs.replace(run, state=RunState.DONE, ended_at_ms=mine)
            end = TurnEnd(run=ended, messages=(message,), events=(event,))
            store.finish_turn(end).addCallback(finished)

        def finished(result: object) -> None:
            say(f"finished {mine}")
            begin()

        store.accept_turn(run, lambda current: current or session, message).addCallback(accepted)

    for _ in range(IN_FLIGHT):
        begin()
    while True:
        function, arguments = calls.get()
        function(*arguments)


if __name__ == "__main__":
    write_for_ever(sys.argv[1])

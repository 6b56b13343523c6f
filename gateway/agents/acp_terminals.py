"""Terminals: commands that an agent has the gateway run, beside it and under the same launcher."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

from twisted.internet.defer import Deferred, DeferredList, succeed

from gateway.agents.jsonrpc import INTERNAL_ERROR, NOT_FOUND, RpcError
from gateway.agents.process import ChildProcess, Command, Exit

TERMINALS_MAX = 16
"""Terminals of one session at once."""
OUTPUT_BYTES = 1024 * 1024
"""Most output of one terminal that is kept: the newest."""
RELEASED_BYTES = 65_536
"""What stays of the output of one that was released, to be shown in its tool call."""

MakeTerminal = Callable[[Callable[[bytes], None], Callable[[Exit], None]], ChildProcess]
"""Makes the process of a terminal; given are what takes its output, and what is told how it ended."""


class TerminalProcess(ChildProcess):
    """A child without input, whose standard error is output like its standard output."""

    def spawn(self, command: Command) -> None:
        """Start it. Raises OSError if there can be no new process."""
        super().spawn(command)
        self.close_input()

    def errReceived(self, data: bytes) -> None:
        """Hand on standard error."""
        self._on_output(data)


class Terminal:
    """One command, its output and its end.

    :ivar released: whether the agent has let go of it: it is killed, and its output only shown.
    """

    def __init__(self, limit: int, make: MakeTerminal) -> None:
        self.released = False
        self.truncated = False
        self._limit = limit
        self._output = bytearray()
        self._exit: Exit | None = None
        self._waiting: list[Deferred[Exit]] = []
        self._child = make(self._wrote, self._ended)

    def start(self, command: Command) -> None:
        """Run the command. Raises OSError."""
        self._child.spawn(command)

    @property
    def text(self) -> str:
        """The newest output, from the beginning of a character on."""
        return self._output.decode("utf-8", "replace")

    @property
    def exit_status(self) -> dict[str, Any] | None:
        """How it ended, None while it runs."""
        return None if self._exit is None else exit_status(self._exit)

    def wait(self) -> Deferred[Exit]:
        """Return how it ended, once it has."""
        if self._exit is not None:
            return succeed(self._exit)
        waiting: Deferred[Exit] = Deferred(self._forget)
        self._waiting.append(waiting)
        return waiting

    def _forget(self, waiting: Deferred[Exit]) -> None:
        # While those who wait are told, one of them may give up another.
        if waiting in self._waiting:
            self._waiting.remove(waiting)

    def kill(self) -> None:
        """End it and what it started."""
        self._child.kill()

    def release(self) -> None:
        """End it; of its output a part stays."""
        self.released = True
        self._limit = min(self._limit, RELEASED_BYTES)
        self._cut()
        self.kill()

    def _wrote(self, data: bytes) -> None:
        self._output += data
        self._cut()

    def _cut(self) -> None:
        over = len(self._output) - self._limit
        if over > 0:
            self.truncated = True
            del self._output[:over]
            while self._output and self._output[0] & 0xC0 == 0x80:
                del self._output[0]

    def _ended(self, how: Exit) -> None:
        self._exit = how
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            if not each.called:
                each.callback(how)


class Terminals:
    """All terminals of one agent process, by session and id."""

    def __init__(self, make: MakeTerminal) -> None:
        self._make = make
        self._sessions: dict[str, dict[str, Terminal]] = {}
        self._living: set[Terminal] = set()
        self._numbers = count(1)

    def __len__(self) -> int:
        return sum(map(len, self._sessions.values()))

    def room(self, session_id: str) -> None:
        """Raise RpcError if the session has as many as it may, those released not counted."""
        known = self._sessions.get(session_id, {})
        if sum(not each.released for each in known.values()) >= TERMINALS_MAX:
            text = f"the session has {TERMINALS_MAX} terminals; release one"
            raise RpcError(INTERNAL_ERROR, text)

    def create(self, session_id: str, command: Command, limit: int | None) -> str:
        """Run a command; return the id of its terminal. Raises RpcError."""
        self.room(session_id)
        kept = OUTPUT_BYTES if limit is None else min(limit, OUTPUT_BYTES)
        terminal = Terminal(kept, self._make)
        try:
            terminal.start(command)
        except OSError as error:
            raise RpcError(INTERNAL_ERROR, f"can not be started: {error.strerror}") from error
        self._living.add(terminal)
        terminal.wait().addCallback(lambda _: self._living.discard(terminal))
        known = self._sessions.setdefault(session_id, {})
        for old in [id_ for id_, each in known.items() if each.released][:-TERMINALS_MAX]:
            del known[old]
        terminal_id = f"terminal-{next(self._numbers)}"
        known[terminal_id] = terminal
        return terminal_id

    def get(self, session_id: str, terminal_id: Any) -> Terminal:
        """Return a terminal that is not released. Raises RpcError."""
        terminal = self._sessions.get(session_id, {}).get(str(terminal_id))
        if terminal is None or terminal.released:
            raise RpcError(NOT_FOUND, "no such terminal in this session")
        return terminal

    def text(self, session_id: str, terminal_id: str) -> str | None:
        """Return the output of a terminal, also of one that is released; None if it is unknown."""
        terminal = self._sessions.get(session_id, {}).get(terminal_id)
        return None if terminal is None else terminal.text

    def end(self, session_id: str) -> None:
        """Release and forget all of a session."""
        for terminal in self._sessions.pop(session_id, {}).values():
            terminal.release()

    def close(self) -> None:
        """Release and forget all."""
        for session_id in tuple(self._sessions):
            self.end(session_id)

    def gone(self) -> Deferred[None]:
        """Return when nothing runs any more of what was started here."""
        ends = DeferredList([each.wait() for each in self._living])
        return ends.addCallback(lambda _: None)


def exit_status(how: Exit) -> dict[str, Any]:
    """Return the end of a process as ACP has it."""
    name = None if how.signal is None else str(how).partition("(")[2].rstrip(")")
    return {"exitCode": how.code, "signal": name or (how.signal and str(how.signal))}

"""The user's message of a run, and when those who follow the session are told of it.

They are told once, when the run starts, or with its end if it never starts. Not when it is accepted: the
newer terminal UI takes a message that it was told of for one whose run it will see. Cut off while its message
waits, it would refuse to send another one for ever.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from gateway.app.sessions import Sessions
from gateway.core.run import Run
from gateway.model import Message

# Of the module, not of the class: a Logger of the class would put each question into its log events.
_log = Logger()


class Question:
    """What a run answers, until that was told."""

    def __init__(self, sessions: Sessions, run: Run, *, stored: bool) -> None:
        """Make it unknown; ``stored`` if an earlier process has stored it and not told it."""
        self._sessions = sessions
        self._run = run
        self._unread = stored
        self._due = False
        self._message: Message | None = None

    def put(self, message: Message) -> None:
        """Keep the message, as it was stored."""
        self._message = message
        if self._due:
            self.tell()

    def look_up(self) -> Deferred[None]:
        """Read what an earlier process has stored, if that was not done; it never fails."""
        if not self._unread:
            done: Deferred[None] = Deferred()
            done.callback(None)
            return done
        run = self._run
        reading = Deferred.fromCoroutine(self._sessions.question_of(run.session_id, run.run_id))
        return reading.addCallbacks(self._found, self._not_found)

    def tell(self) -> None:
        """Tell those who follow the session; what is put or found later is told at once."""
        self._due = True
        run, message = self._run, self._message
        self._message = None
        if message is None:
            return
        try:
            self._sessions.announce_messages(run.session_key, run.request.agent_id, (message,))
        except Exception:
            # It must not touch the run.
            _log.failure("the message of run {run} was not announced", run=run.run_id)

    def _found(self, message: Message | None) -> None:
        if self._unread:  # else it was asked for twice
            self._unread = False
            if message is not None:
                self.put(message)

    def _not_found(self, failure: Failure) -> None:
        why = failure.getErrorMessage()
        _log.warn("the message of run {run} was not read: {error}", run=self._run.run_id, error=why)

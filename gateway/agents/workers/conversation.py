"""One conversation of the model worker: what its next request begins with."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic_ai.messages import ModelMessage, ModelRequest, UserPromptPart

from gateway.agents.mcpconfig import ResolvedServer
from gateway.agents.workers.content import size_of

MAX_TURNS = 100
MAX_CHARS = 400_000
"""What a conversation remembers: its newest turns, up to so many and so many characters."""
MAX_ALLOWED = 200
"""Commands of a conversation that are remembered as allowed always."""
SUMMARY_HEAD = "[Summary of the conversation before this point]\n\n"


class Conversation:
    """A summary of what was long ago, and the newest turns; a turn is kept or forgotten as a whole.

    :ivar summary: what stands for the turns before :attr:`turns`, if they were summarised.
    :ivar turns: each from a user's message to the end of its answer, oldest first.
    :ivar allowed: commands, each with its directory, that are not asked for again.
    :ivar servers: the servers of tools that came with the session.
    """

    def __init__(
        self, session_id: str, summary: str | None = None, turns: Sequence[list[ModelMessage]] = ()
    ) -> None:
        self.session_id = session_id
        self.summary = summary
        self.allowed: dict[tuple[str, str], None] = {}
        self.servers: tuple[ResolvedServer, ...] = ()
        self.turns: list[list[ModelMessage]] = []
        for turn in turns:
            self.add(turn)

    def messages(self) -> list[ModelMessage]:
        """Return all that is remembered, oldest first."""
        newest = [message for turn in self.turns for message in turn]
        if self.summary is None:
            return newest
        summary = UserPromptPart(content=SUMMARY_HEAD + self.summary)
        return [ModelRequest(parts=[summary]), *newest]

    def add(self, turn: list[ModelMessage]) -> None:
        """Remember a turn; forget the oldest ones over the bounds."""
        if turn:
            self.turns.append(turn)
        sizes = [size_of(each) for each in self.turns]
        while len(sizes) > MAX_TURNS or (sum(sizes) > MAX_CHARS and len(sizes) > 1):
            del self.turns[0], sizes[0]

    def allow(self, command: tuple[str, str]) -> None:
        """Remember a command as allowed always."""
        self.allowed[command] = None
        if len(self.allowed) > MAX_ALLOWED:
            del self.allowed[next(iter(self.allowed))]

    def compact(self, summary: str, kept_turns: int) -> None:
        """Put ``summary`` in the place of the summary before and all but the newest turns."""
        self.summary = summary
        del self.turns[: len(self.turns) - kept_turns]

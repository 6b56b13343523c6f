"""What the events of a run add up to, for tests of everything that tells them."""

from __future__ import annotations

from collections.abc import Iterable

from gateway.client.chat import RunEnded, RunEvent, TextDelta, TextReplaced


class Told:
    """The text of a run as it has been told so far, and its end; nothing may follow that."""

    def __init__(self, events: Iterable[RunEvent] = ()) -> None:
        self.text = ""
        self.end: RunEnded | None = None
        for event in events:
            self.add(event)

    def add(self, event: RunEvent) -> None:
        """Take one more event; the end has to have the text that the others add up to."""
        assert self.end is None, "something follows the end"
        match event:
            case TextDelta(more):
                self.text += more
            case TextReplaced(whole):
                self.text = whole
            case RunEnded():
                assert event.text == self.text
                self.end = event

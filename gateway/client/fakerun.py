"""A run of a fake gateway: a log, and what is shown of it (see gateway.client.testing)."""

from __future__ import annotations

from typing import Any, Final, Protocol

ENDED: Final = {"final": "done", "error": "failed", "aborted": "aborted"}

Frame = dict[str, Any]


class Audience(Protocol):
    """Who shows runs to clients."""

    def logged(self, run: FakeRun) -> None:
        """Take in that the log of a run has grown."""

    def broadcast(self, name: str, payload: Any = None) -> None:
        """Send an event to everybody."""

    def ended(self, run: FakeRun) -> None:
        """Take in that a run has ended."""


class FakeRun:
    """A run and its log. Every method appends events and shows them to whoever listens."""

    def __init__(
        self, audience: Audience, run_id: str, session_key: str, message: str, epoch: str
    ) -> None:
        self.run_id = run_id
        self.session_key = session_key
        self.message = message
        self.epoch = epoch
        self.text = ""
        self.state = "running"
        self.error: str | None = None
        self.log: list[Frame] = []
        self.last_seq = 0
        self.evicted_through = 0
        self._audience = audience

    def say(self, delta: str) -> None:
        """Go on with the answer."""
        self.text += delta
        self._emit("assistant", {"delta": delta})
        self._chat("delta", deltaText=delta)

    def rewrite(self, text: str) -> None:
        """Throw the answer away and begin with this text."""
        self.text = text
        self._emit("assistant", {"delta": text, "replace": True})
        self._chat("delta", deltaText=text, replace=True)

    def tool(self, name: str) -> None:
        """Use a tool, which a chat does not show."""
        self._emit("tool", {"phase": "start", "name": name, "toolCallId": "t-1", "args": {}})

    def finish(self) -> None:
        """End well."""
        self._end("final", {"phase": "end", "aborted": False})

    def fail(self, error: str) -> None:
        """End with an error."""
        self.error = error
        self._end("error", {"phase": "error", "error": error}, errorMessage=error)

    def abort(self) -> None:
        """End early."""
        data = {"phase": "end", "status": "cancelled", "aborted": True, "stopReason": "rpc"}
        self._end("aborted", data, stopReason="rpc")

    def evict(self, through: int) -> None:
        """Keep no longer what the log has up to a number."""
        self.evicted_through = through
        self.log = [event for event in self.log if event["seq"] > through]

    def begin_again(self, epoch: str) -> None:
        """Start anew with another log, as after a crash of the gateway."""
        self.epoch, self.text, self.log = epoch, "", []
        self.last_seq = self.evicted_through = 0

    def after(self, seq: int) -> list[Frame]:
        """Return the events after a number, as far as they are kept."""
        return self.log[max(0, seq - self.evicted_through) :]

    def read(self, after: Frame | None, limit: int) -> Frame:
        """Return what ``runs.read`` answers."""
        status, seq = self._standing(after)
        events = self.after(seq)[:limit] if status == "replay" else []
        last = events[-1]["seq"] if events else seq
        answer: Frame = {
            "runId": self.run_id,
            "status": status,
            "epoch": self.epoch,
            "events": events,
            "next": {"epoch": self.epoch, "seq": last},
        }
        if status == "gap":
            answer["evictedThrough"] = self.evicted_through
            answer["snapshot"] = {"text": self.text, "state": self.state}
        return answer

    def _standing(self, after: Frame | None) -> tuple[str, int]:
        """Return the status of a reader's position, and the number it is at after the answer."""
        epoch, seq = (self.epoch, 0) if after is None else (after["epoch"], after["seq"])
        if epoch != self.epoch or not self.evicted_through <= seq <= self.last_seq:
            return "gap", self.last_seq
        return ("up-to-date" if seq == self.last_seq else "replay"), seq

    def describe(self) -> Frame:
        """Return what ``runs.describe`` shows."""
        row = {"runId": self.run_id, "sessionKey": self.session_key, "state": self.state}
        return {**row, "epoch": self.epoch, "lastSeq": self.last_seq, "error": self.error}

    def _emit(self, stream: str, data: Frame) -> None:
        self.last_seq += 1
        self.log.append({"seq": self.last_seq, "stream": stream, "data": data, "ts": self.last_seq})
        self._audience.logged(self)

    def _end(self, state: str, data: Frame, **more: Any) -> None:
        self.state = ENDED[state]
        self._emit("lifecycle", data)
        self._chat(state, **more)
        self._audience.ended(self)

    def _chat(self, state: str, **more: Any) -> None:
        payload = {
            "runId": self.run_id,
            "sessionKey": self.session_key,
            "seq": self.last_seq,
            "state": state,
            **more,
        }
        if state != "error":
            block = {"type": "text", "text": self.text}
            payload["message"] = {"role": "assistant", "content": [block]}
        self._audience.broadcast("chat", payload)

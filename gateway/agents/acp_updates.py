"""What an agent program reports of a turn (ACP ``session/update``), put into a run's sink.

::

    agent_message_chunk   text
    agent_thought_chunk   emit thinking {text: so far, delta}
    tool_call             emit tool {phase: start, name, toolCallId, args, title}
    tool_call_update      emit tool {phase: update, …, partialResult} or {phase: result, …, result, isError}
    plan                  emit plan {phase: update, steps, entries}

The other kinds (commands, modes, options, the user's own words) say nothing about a run.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import msgspec

from gateway.interfaces import IRunSink

THINKING_CHARS = 65_536
"""Of a longer thought, ``text`` keeps the newest so many characters."""
THINKING_INTERVAL_S = 0.1
"""Thoughts arrive token by token and are reported cumulatively: at most one report in this time."""
VALUE_BYTES = 65_536
"""Arguments and results of a tool beyond this size (as JSON) are cut."""
PREVIEW_CHARS = 16_384
TOOL_CALLS = 500
"""Tool calls of one turn that are remembered."""


class TurnUpdates:
    """The reports of one turn, in order.

    Nothing here raises for what the program sends: what has not the shape of the protocol is left out.
    """

    def __init__(self, sink: IRunSink, seconds: Callable[[], float]) -> None:
        self._sink = sink
        self._seconds = seconds
        self._thinking = ""
        self._thinking_delta = ""
        self._thinking_due = 0.0
        self._tools: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._said = ""
        self._tool_since_text = False

    def update(self, update: dict[str, Any]) -> None:
        """Put one ``update`` object into the sink."""
        kind = update.get("sessionUpdate")
        if kind == "agent_thought_chunk":
            self._think(_text(update.get("content")))
            return
        self.flush()
        if kind == "agent_message_chunk":
            self._say(_text(update.get("content")))
        elif kind in ("tool_call", "tool_call_update"):
            self._tool(update)
        elif kind == "plan":
            self._plan(update.get("entries"))

    def flush(self) -> None:
        """Report the thought that waits, if any."""
        if self._thinking_delta:
            delta, self._thinking_delta = self._thinking_delta, ""
            self._thinking_due = self._seconds() + THINKING_INTERVAL_S
            self._sink.emit("thinking", {"text": self._thinking, "delta": delta})

    def _say(self, text: str) -> None:
        if not text:
            return
        if self._tool_since_text and self._said and not self._said.isspace():
            # What an agent says before and after a tool call are paragraphs, not one word.
            text = "\n\n" + text
        self._tool_since_text = False
        self._said = text[-1]
        self._sink.text(text)

    def _think(self, text: str) -> None:
        self._thinking = (self._thinking + text)[-THINKING_CHARS:]
        self._thinking_delta += text
        if self._seconds() >= self._thinking_due:
            self.flush()

    def _tool(self, update: dict[str, Any]) -> None:
        id_ = update.get("toolCallId")
        if not isinstance(id_, str):
            return
        self._tool_since_text = True
        call = self._tools.get(id_)
        if call is None:
            call = self._start(id_, update)
        status = update.get("status")
        if status in ("completed", "failed"):
            del self._tools[id_]
            result = {"isError": status == "failed", "result": _tool_result(update)}
            self._sink.emit("tool", {"phase": "result", **call, **result})
        elif update.get("sessionUpdate") == "tool_call_update" and _has_output(update):
            self._sink.emit(
                "tool", {"phase": "update", **call, "partialResult": _tool_result(update)}
            )

    def _start(self, id_: str, update: dict[str, Any]) -> dict[str, Any]:
        kind, title = update.get("kind"), update.get("title")
        call = {"name": kind if isinstance(kind, str) else "other", "toolCallId": id_}
        self._tools[id_] = call
        if len(self._tools) > TOOL_CALLS:
            self._tools.popitem(last=False)
        start = {"phase": "start", **call, "args": bounded(update.get("rawInput") or {})}
        if isinstance(title, str):
            start["title"] = title[:500]
        self._sink.emit("tool", start)
        return call

    def _plan(self, entries: Any) -> None:
        if isinstance(entries, list):
            shapes = [entry for entry in entries[:200] if isinstance(entry, dict)]
            steps = [str(entry.get("content", ""))[:1000] for entry in shapes]
            kept = [
                {"content": step, "priority": entry.get("priority"), "status": entry.get("status")}
                for step, entry in zip(steps, shapes, strict=True)
            ]
            self._sink.emit("plan", bounded({"phase": "update", "steps": steps, "entries": kept}))


def bounded(value: Any) -> Any:
    """Return a JSON value, or where it is larger than 64 KiB what is left of it and its size."""
    encoded = msgspec.json.encode(value)
    if len(encoded) <= VALUE_BYTES:
        return value
    preview = encoded[: 4 * PREVIEW_CHARS].decode("utf-8", "ignore")[:PREVIEW_CHARS]
    return {"truncated": True, "bytes": len(encoded), "preview": preview}


def _text(content: Any) -> str:
    if isinstance(content, dict) and content.get("type") == "text":
        text = content.get("text")
        return text if isinstance(text, str) else ""
    return ""


def _has_output(update: dict[str, Any]) -> bool:
    return bool(update.get("content")) or update.get("rawOutput") is not None


def _tool_result(update: dict[str, Any]) -> Any:
    blocks = []
    content = update.get("content")
    for item in content if isinstance(content, list) else []:
        if not isinstance(item, dict):
            continue
        if item.get("type") == "content":
            blocks.append(item.get("content"))
        elif item.get("type") == "diff":
            blocks.append({"type": "text", "text": f"changed {item.get('path')}"})
    result: dict[str, Any] = {"content": blocks}
    if update.get("rawOutput") is not None:
        result["details"] = update["rawOutput"]
    return bounded(result)

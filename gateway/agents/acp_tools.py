"""The tool calls of one turn, as an agent program reports them, put into reports for clients.

A call is told as ``{phase: start, name, toolCallId, args, title?, kind?, locations?}``, any number of
``{phase: update, …, partialResult}`` and ``{phase: result, …, result, isError}``. ``name`` is the tool's
where the agent tells it (``_meta.gateway.toolName``), else ACP's kind of tool. What the agent sends
replaces what it sent before, field by field, so a call keeps its latest content, bounded.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import msgspec

from gateway.agents.acp_pacer import Pacer, Report
from gateway.agents.acp_values import (
    DIFF_INPUT_CHARS,
    VALUE_BYTES,
    bounded,
    diff_text,
    items,
    mapping,
    tail_text,
    text_of,
)

TOOL_CALLS = 500
"""Tool calls of one turn that are remembered."""
CALL_BYTES = 262_144
"""Bytes that the updates of one call may carry in all; its result has a bound of its own."""
HELD_BYTES = 4 * 1024 * 1024
"""Bytes of content that the open calls of one turn hold together; beyond, only the beginning of each."""
BLOCKS = 100
"""Blocks of content of one call that are looked at; of more it is told how many there are."""
TERMINALS = 4
"""Terminals of one call whose output is shown."""
LEFT_OUT_S = 1.0
"""Least time between two reports of how many calls were left out."""
TITLE_CHARS = 500
ID_CHARS = 200


class _Call:
    """One tool call.

    :ivar shown: whether its start is told; one that is left out stays so.
    """

    __slots__ = ("content", "done", "held", "id", "name", "output", "shown", "title", "told_bytes")

    def __init__(self, id_: str, name: str, shown: bool) -> None:
        self.id = id_
        self.name = name
        self.shown = shown
        self.title: str | None = None
        self.content: list[Any] = []
        self.output: Any = None
        self.held = 0
        self.told_bytes = 0
        self.done = False

    def shape(self, phase: str) -> dict[str, Any]:
        return {"phase": phase, "name": self.name, "toolCallId": self.id}


class ToolCalls:
    """The calls of one turn.

    ``terminal`` gives what a terminal of the turn has written so far, None for one it does not know.
    """

    def __init__(
        self, pacer: Pacer, seconds: Callable[[], float], terminal: Callable[[str], str | None]
    ) -> None:
        self._pacer = pacer
        self._seconds = seconds
        self._terminal = terminal
        self._calls: OrderedDict[str, _Call] = OrderedDict()
        self._held = 0
        self._left_out: Counter[str] = Counter()
        self._left_out_due = 0.0

    def __len__(self) -> int:
        return len(self._calls)

    def update(self, update: dict[str, Any]) -> None:
        """Take a ``tool_call`` or a ``tool_call_update``."""
        id_ = text_of(update.get("toolCallId"))
        if id_ is None:
            return
        id_ = id_[:ID_CHARS]
        call = self._calls.get(id_) or self._start(id_, update)
        if call.done:
            return
        changed = self._take(call, update)
        status = update.get("status")
        if status in ("completed", "failed"):
            self._end(call, failed=status == "failed")
        elif changed and call.shown:
            self._pacer.report(lambda: self._partial(call), key=("tool", call.id))

    def finish(self) -> None:
        """The turn is over: tell how many calls were left out, if any."""
        if self._left_out:
            self._pacer.report(self._summary, key="tools-left-out")

    def _start(self, id_: str, update: dict[str, Any]) -> _Call:
        ours = mapping(mapping(update.get("_meta")).get("gateway"))
        kind = (text_of(update.get("kind")) or "other")[:100]
        name = text_of(ours.get("toolName")) or kind
        call = _Call(id_, name[:100], not self._pacer.crowded)
        self._calls[id_] = call
        if len(self._calls) > TOOL_CALLS:
            self._forget()
        if not call.shown:
            self._leave_out(call.name)
            return call
        start = call.shape("start") | {"args": bounded(update.get("rawInput") or {})}
        if call.name != kind:
            start["kind"] = kind
        title = text_of(update.get("title"))
        if title is not None:
            start["title"] = call.title = title[:TITLE_CHARS]
        if places := _locations(update.get("locations")):
            start["locations"] = places
        self._pacer.report(lambda: ("tool", start))
        return call

    def _forget(self) -> None:
        _, oldest = self._calls.popitem(last=False)
        self._pacer.discard(("tool", oldest.id))
        self._held -= oldest.held
        if oldest.shown and not oldest.done:
            self._leave_out(oldest.name)

    def _take(self, call: _Call, update: dict[str, Any]) -> bool:
        """Keep what is new of a call's output; whether there is any."""
        content, output = update.get("content"), update.get("rawOutput")
        if not call.shown or (not content and output is None):
            return False
        limit = VALUE_BYTES if self._held < HELD_BYTES else 1024
        if content:
            cut = bounded(_blocks(items(content)), limit)
            call.content = cut if isinstance(cut, list) else [cut]
        if output is not None:
            call.output = bounded(output, limit)
        self._hold(call, len(msgspec.json.encode([call.content, call.output])))
        return True

    def _hold(self, call: _Call, size: int) -> None:
        self._held += size - call.held
        call.held = size

    def _partial(self, call: _Call) -> Report | None:
        if call.done or call.told_bytes > CALL_BYTES:
            return None
        data, result = call.shape("update"), self._result(call)
        size = len(msgspec.json.encode(result))
        told, call.told_bytes = call.told_bytes, call.told_bytes + size
        if call.told_bytes > CALL_BYTES:
            result = {"content": [], "truncated": True, "bytes": call.told_bytes, "kept": told}
        return "tool", data | {"partialResult": result}

    def _end(self, call: _Call, *, failed: bool) -> None:
        call.done = True
        self._pacer.discard(("tool", call.id))
        if call.shown:
            data = call.shape("result") | {"isError": failed, "result": self._result(call)}
            self._pacer.report(lambda: ("tool", data))
        call.content, call.output = [], None
        self._hold(call, 0)

    def _result(self, call: _Call) -> Any:
        room = count()
        blocks = [self._resolved(block, room) for block in call.content]
        result: dict[str, Any] = {"content": blocks}
        if call.output is not None:
            result["details"] = call.output
        return bounded(result)

    def _resolved(self, block: Any, numbers: Iterator[int]) -> Any:
        """Put what a terminal has written in the place of its id; ``numbers`` counts those of a call."""
        if mapping(block).get("type") != "terminal":
            return block
        if next(numbers) >= TERMINALS:
            return {"type": "text", "text": "[one more terminal]"}
        output = self._terminal(str(block.get("terminalId")))
        text = tail_text(output) if output is not None else "[a terminal that is not known]"
        return {"type": "text", "text": text}

    def _leave_out(self, name: str) -> None:
        self._left_out[name if len(self._left_out) < 50 else "other"] += 1
        if self._seconds() >= self._left_out_due:
            self._left_out_due = self._seconds() + LEFT_OUT_S
            self._pacer.report(self._summary, key="tools-left-out")

    def _summary(self) -> Report | None:
        counts, self._left_out = self._left_out, Counter()
        if not counts:
            return None
        total = sum(counts.values())
        names = ", ".join(f"{name} {number}" for name, number in counts.most_common(10))
        text = f"{total} tool calls came too fast to be shown one by one: {names}"
        return "notice", {"kind": "tools-left-out", "text": text, "count": total}


def _blocks(content: list[Any]) -> list[Any]:
    """Return the content of a call as it is shown; to compare files takes a bounded time."""
    blocks: list[Any] = []
    room = DIFF_INPUT_CHARS
    for item in content[:BLOCKS]:
        if not isinstance(item, dict):
            continue
        old, new = item.get("oldText"), item.get("newText")
        if item.get("type") == "diff" and isinstance(new, str):
            before = old if isinstance(old, str) else None
            path = (text_of(item.get("path")) or "?")[:1000]
            blocks.append({"type": "text", "text": diff_text(path, before, new, room)})
            room = max(0, room - len(before or "") - len(new))
        else:
            blocks.append(_block(item))
    if len(content) > BLOCKS:
        blocks.append({"type": "text", "text": f"[{len(content) - BLOCKS} blocks left out]"})
    return blocks


def _block(item: dict[str, Any]) -> Any:
    kind = item.get("type")
    if kind == "content":
        return item.get("content")
    if kind == "terminal":
        return {"type": "terminal", "terminalId": str(item.get("terminalId"))[:ID_CHARS]}
    return {"type": "text", "text": f"[{str(kind)[:100]}]"}


def _locations(value: Any) -> list[dict[str, Any]]:
    found = []
    for place in items(value)[:50]:
        path = text_of(mapping(place).get("path"))
        if path is not None:
            line = place.get("line")
            found.append({"path": path[:1000]} | ({"line": line} if isinstance(line, int) else {}))
    return found

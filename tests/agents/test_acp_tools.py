"""Tool calls as an agent reports them, and as clients see them."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.agents.acp_pacer import CROWD
from gateway.agents.acp_tools import BLOCKS, CALL_BYTES, TERMINALS, TOOL_CALLS
from gateway.agents.acp_updates import TurnUpdates
from gateway.agents.acp_values import DIFF_INPUT_CHARS
from gateway.testing import FakeClock
from tests.agents.fakes import RecordingSink


class Turn:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.sink = RecordingSink()
        self.terminals: dict[str, str] = {}
        self.updates = TurnUpdates(
            self.sink, self.clock, lambda error: pytest.fail(str(error)), self.terminals.get
        )

    def call(self, id_: str = "t1", **update: Any) -> None:
        self.updates.update({"sessionUpdate": "tool_call", "toolCallId": id_} | update)

    def update(self, id_: str = "t1", **update: Any) -> None:
        self.updates.update({"sessionUpdate": "tool_call_update", "toolCallId": id_} | update)

    @property
    def results(self) -> list[Any]:
        return [data["result"] for _, data in self.sink.events if data.get("phase") == "result"]


@pytest.fixture
def turn() -> Turn:
    return Turn()


def text(value: str) -> dict[str, Any]:
    return {"type": "content", "content": {"type": "text", "text": value}}


def test_a_tool_call_starts_updates_and_ends(turn: Turn) -> None:
    """A tool call is told from its start to its result, under one id and name."""
    turn.call(
        title="ls -l",
        kind="execute",
        status="pending",
        rawInput={"command": "ls"},
        locations=[{"path": "/w/a", "line": 3}, {"path": "/w/b"}, "odd"],
    )
    turn.update(status="in_progress")
    turn.update(status="in_progress", content=[text("3 files")])
    turn.update(status="completed", content=[text("3 files")], rawOutput=0)

    call = {"name": "execute", "toolCallId": "t1"}
    result = {"content": [{"type": "text", "text": "3 files"}]}
    places = [{"path": "/w/a", "line": 3}, {"path": "/w/b"}]
    start = {"args": {"command": "ls"}, "title": "ls -l", "locations": places}
    assert turn.sink.events == [
        ("tool", {"phase": "start", **call, **start}),
        ("tool", {"phase": "update", **call, "partialResult": result}),
        ("tool", {"phase": "result", **call, "isError": False, "result": {**result, "details": 0}}),
    ]


def test_a_tool_goes_by_its_name_where_the_agent_tells_it(turn: Turn) -> None:
    """An agent of ours names its tools; ACP's kind is told beside the name."""
    turn.call(kind="execute", _meta={"gateway": {"toolName": "shell"}})

    ((_, start),) = turn.sink.events
    assert (start["name"], start["kind"]) == ("shell", "execute")


def test_the_result_has_what_was_told_before(turn: Turn) -> None:
    """An end that says nothing new keeps the content of the updates; what comes after it is left out."""
    turn.call()
    turn.update(content=[text("kept")], rawOutput={"n": 1})
    turn.update(status="completed")
    turn.update(status="completed", content=[text("late")])

    content = [{"type": "text", "text": "kept"}]
    assert turn.results == [{"content": content, "details": {"n": 1}}]
    assert len(turn.sink.events) == 3


def test_a_tool_call_may_be_told_at_its_end_only(turn: Turn) -> None:
    """A call that is reported when it has failed still has a start."""
    diff = {"type": "diff", "path": "/w/a.py", "oldText": "a\nb\n", "newText": "a\nc\n"}
    turn.update(status="failed", content=[diff])

    (_, start), (_, result) = turn.sink.events
    assert start == {"phase": "start", "name": "other", "toolCallId": "t1", "args": {}}
    assert result["isError"] is True
    (block,) = result["result"]["content"]
    assert block["text"] == "changed /w/a.py\n@@ -2,1 +2,1 @@\n-b\n+c"


def test_a_terminal_is_shown_by_its_output(turn: Turn) -> None:
    """Where a call names a terminal, clients get what it has written."""
    turn.terminals["term"] = "x" * 20_000 + "end"
    turn.call()
    content = [
        {"type": "terminal", "terminalId": "term"},
        {"type": "terminal", "terminalId": "gone"},
        {"type": "hologram"},
    ]
    turn.update(status="completed", content=content)

    (result,) = turn.results
    shown, gone, odd = (block["text"] for block in result["content"])
    assert shown.startswith("[3619 characters left out]\n")
    assert shown.endswith("xend")
    assert gone == "[a terminal that is not known]"
    assert odd == "[hologram]"


def test_updates_are_the_latest(turn: Turn) -> None:
    """Of many updates that come at once the clients get the latest, before the result."""
    turn.call()
    for number in range(100):
        turn.update(content=[text(str(number))])
    turn.clock.advance(1)
    turn.update(status="completed")

    texts = [
        data["partialResult"]["content"][0]["text"]
        for _, data in turn.sink.events
        if data["phase"] == "update"
    ]
    assert texts == ["0", "1", "2", "3", "4", "99"]
    assert [data["phase"] for _, data in turn.sink.events][-1] == "result"


def test_the_output_of_one_call_is_capped_in_all(turn: Turn) -> None:
    """Updates of a call that writes without end stop at a bound, which is named; the result comes."""
    turn.call()
    for _ in range(50):
        turn.update(content=[text("x" * 50_000)])
        turn.clock.advance(1)
    turn.update(status="completed")

    partial = [data["partialResult"] for _, data in turn.sink.events if data["phase"] == "update"]
    assert len(partial) == CALL_BYTES // 50_000 + 1
    assert partial[-1]["truncated"] is True
    assert partial[-1]["bytes"] > CALL_BYTES >= partial[-1]["kept"]
    assert len(turn.results[0]["content"][0]["text"]) == 50_000


def test_the_output_of_a_terminal_counts_as_well(turn: Turn) -> None:
    """What a terminal has written counts each time that it is shown."""
    turn.terminals["term"] = "x" * 16_000
    turn.call()
    for _ in range(50):
        turn.update(content=[{"type": "terminal", "terminalId": "term"}])
        turn.clock.advance(1)

    updates = [data for _, data in turn.sink.events if data["phase"] == "update"]
    assert len(updates) == CALL_BYTES // 16_000 + 1
    assert updates[-1]["partialResult"]["truncated"] is True


def test_many_open_calls_hold_little(turn: Turn) -> None:
    """When the open calls of a turn hold much already, further ones keep only a beginning."""
    for number in range(100):
        turn.call(str(number))
        turn.clock.advance(1)
        turn.update(str(number), content=[text("x" * 60_000)])
    turn.update("99", status="completed")

    (cut,) = turn.results[0]["content"]
    assert cut["truncated"] is True
    assert cut["bytes"] > 60_000


def test_a_storm_of_calls_is_summarised(turn: Turn) -> None:
    """Calls that come too fast to be shown one by one are counted by name; those shown are whole."""
    for number in range(5000):
        turn.call(str(number), kind="read" if number % 2 else "execute")
        turn.update(str(number), status="completed")
        turn.clock.advance(0.002)
    turn.updates.finish()

    phases = [data["phase"] for stream, data in turn.sink.events if stream == "tool"]
    notices = [data for stream, data in turn.sink.events if stream == "notice"]
    shown = phases.count("start")
    assert phases.count("result") == shown > 50
    assert sum(notice["count"] for notice in notices) == 5000 - shown
    assert len(notices) <= 12
    assert "tool calls came too fast" in notices[0]["text"]
    assert len(turn.sink.events) <= 20 * 10 + 2 * CROWD


def test_open_calls_are_bounded(turn: Turn) -> None:
    """An agent that starts tool calls for ever does not fill the memory."""
    for number in range(TOOL_CALLS + 50):
        turn.call(str(number), title="x")
        turn.clock.advance(0.1)
    turn.updates.finish()

    assert len(turn.updates._tools) == TOOL_CALLS
    assert sum(data["count"] for stream, data in turn.sink.events if stream == "notice") == 50


def test_an_id_that_is_no_text_is_left_out(turn: Turn) -> None:
    """A call without an id is no call; a very long id is cut, the same way every time."""
    turn.updates.update({"sessionUpdate": "tool_call", "toolCallId": 5})
    turn.call("x" * 1000)
    turn.update("x" * 1000, status="completed")

    assert [len(data["toolCallId"]) for _, data in turn.sink.events] == [200, 200]


def test_a_call_shows_the_output_of_a_few_terminals(turn: Turn) -> None:
    """A call that names one terminal a thousand times does not have its output read so often."""
    reads: list[str] = []

    def failed(error: Exception) -> None:
        raise error

    turn.updates = TurnUpdates(turn.sink, turn.clock, failed, lambda id_: reads.append(id_))
    turn.call(title="run")

    turn.update(status="completed", content=[{"type": "terminal", "terminalId": "x"}] * BLOCKS)

    assert reads == ["x"] * TERMINALS
    assert turn.results[0]["content"][-1] == {"type": "text", "text": "[one more terminal]"}


def test_of_many_blocks_it_is_told_how_many(turn: Turn) -> None:
    """Only so many blocks are looked at, and no more text is compared than one large file has."""
    half = "x\n" * (DIFF_INPUT_CHARS // 4 - 10)
    diff = {"type": "diff", "path": "p", "oldText": half, "newText": half + "y"}
    turn.call(title="run")

    turn.update(status="completed", content=[diff, diff, *[text("a")] * BLOCKS])

    shown = [block["text"] for block in turn.results[0]["content"]]
    assert "not compared" in shown[1]
    assert shown[-2:] == ["a", "[2 blocks left out]"]

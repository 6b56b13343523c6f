"""One agent process, whatever it sends."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.agents.acp_requests import Access
from gateway.agents.acp_updates import KINDS
from tests.agents.acp_setup import Setup, initialized

SHAPES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["s1", "t"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["id", "type", "kind", "name", "value"]), inner, max_size=3
        )
    ),
    max_leaves=5,
)
NAMES = st.sampled_from(
    [
        *("update", "toolCall", "options", "path", "content", "command", "args", "env", "cwd"),
        *("terminalId", "outputByteLimit", "line", "limit", "stream", "data", "summary"),
    ]
)
UPDATE = st.fixed_dictionaries(
    {"sessionUpdate": st.sampled_from(sorted(KINDS)) | SHAPES},
    optional=dict.fromkeys(
        ("content", "toolCallId", "status", "rawInput", "rawOutput", "entries", "used"), SHAPES
    ),
)
PARAMS = SHAPES | st.dictionaries(NAMES, SHAPES).map(lambda params: {"sessionId": "s1"} | params)
MESSAGES = st.one_of(
    st.fixed_dictionaries(
        {
            "method": st.sampled_from(
                [
                    *("session/request_permission", "fs/read_text_file", "fs/write_text_file"),
                    *("terminal/create", "terminal/output", "terminal/wait_for_exit"),
                    *("terminal/kill", "terminal/release", "session/update", "_gateway/event"),
                    *("_gateway/compacted", "initialize", "$/odd"),
                ]
            ),
            "params": PARAMS,
        },
        optional={"id": SHAPES},
    ),
    UPDATE.map(
        lambda update: {"method": "session/update", "params": {"sessionId": "s1", "update": update}}
    ),
    st.fixed_dictionaries({"id": SHAPES}, optional={"result": SHAPES, "error": SHAPES}).filter(
        lambda message: message["id"] not in (1, 2, 3)
    ),
)


@settings(max_examples=30)
@given(st.lists(MESSAGES, max_size=12))
def test_whatever_an_agent_sends_its_run_ends_once(messages: list[dict[str, Any]]) -> None:
    """No message of whatever shape raises, none kills the process, and the run has its one end."""
    with tempfile.TemporaryDirectory() as directory:
        setup = Setup(Path(directory), Access(terminal="allow"))
        process = setup.turn(agent=initialized("history", "events", "steer", "compact"))
        for message in messages:
            process.send(**message)
            setup.clock.advance(0.01)
        process.answer(setup.prompt_id, {"stopReason": "end_turn"})

        assert len(setup.ends) == 1
        assert process.signals == []
        assert setup.backend.ready()
        asked = [m for m in messages if "method" in m and "id" in m]
        answered = [m for m in process.messages() if "method" not in m]
        assert len(answered) <= len(asked)
        for child in setup.reactor.processes[1:]:
            assert child.signals == ["SIGUSR1"]

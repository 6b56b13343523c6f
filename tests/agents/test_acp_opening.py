"""How conversations are opened in an agent: found again, or made anew with what was said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.agents.acp_content import HISTORY_HEAD
from gateway.agents.acp_requests import Access
from gateway.agents.acp_session import MAX_SESSIONS
from gateway.agents.mcpconfig import ResolvedServer
from gateway.errors import BackendErrorKind
from gateway.model import Message, RunResult
from tests.agents.acp_setup import Setup, failure_of, initialized
from tests.agents.fakes import FakeProcess, RecordingSink

NAMED = {"agentInfo": {"name": "other/agent"}}
BOUND = "acp:other%2Fagent:session-1:old:1"
SAID = (
    Message(message_id="a", role="user", content="earlier", timestamp_ms=0),
    Message(message_id="b", role="assistant", content="yes", timestamp_ms=0),
)


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    made = Setup(tmp_path)
    made.sink = RecordingSink(SAID)
    return made


def only(process: FakeProcess) -> dict[str, Any]:
    (message,) = process.messages()
    return message


def test_a_session_is_bound(setup: Setup) -> None:
    """What the agent calls the session is bound to it, with whose name that is."""
    setup.start(initialized() | NAMED)
    setup.run()
    setup.open("new")

    assert setup.sink.bound == ["acp:other%2Fagent:session-1:new"]


def test_a_session_is_loaded(setup: Setup) -> None:
    """A fresh process loads what was bound; what it replays is no output of the run."""
    process = setup.start(initialized(loadSession=True) | NAMED)
    ends = setup.run(agent_session=BOUND)
    load = only(process)
    assert load["method"] == "session/load"
    assert load["params"]["sessionId"] == "old:1"
    assert load["params"]["cwd"] == str(setup.root)

    process.update("old:1", "user_message_chunk", content={"type": "text", "text": "earlier"})
    process.say("old:1", "yes")
    process.update("old:1", "tool_call", toolCallId="t", title="x")
    process.update("old:1", "plan", entries=[{"content": "x"}])
    process.answer(load["id"], {})
    prompt = setup.prompt()
    process.say("old:1", "fresh")
    process.answer(prompt["id"], {"stopReason": "end_turn"})

    assert prompt["params"]["prompt"] == [{"type": "text", "text": "hello"}]
    assert (setup.sink.said, setup.sink.events, setup.sink.bound) == ("fresh", [], [])
    assert isinstance(ends[0], RunResult)


def test_a_session_is_resumed_where_the_agent_can(setup: Setup) -> None:
    """An agent that resumes without a replay is asked for that first, then for a load, then anew."""
    capable = initialized(loadSession=True, sessionCapabilities={"resume": {}}) | NAMED
    process = setup.start(capable)
    setup.run(agent_session=BOUND)

    methods = []
    for _ in range(2):
        request = only(process)
        methods.append(request["method"])
        process.send(id=request["id"], error={"code": -32002, "message": "unknown session"})
    prompt = setup.open("new")

    assert methods == ["session/resume", "session/load"]
    assert prompt["params"]["sessionId"] == "new"
    assert setup.sink.bound == ["acp:other%2Fagent:session-1:new"]
    assert prompt["params"]["prompt"][0]["text"].startswith(HISTORY_HEAD)


@pytest.mark.parametrize(
    "bound",
    [
        None,
        "old",
        "acp:another:session-1:old",
        "acp:other%2Fagent:session-0:old",
        "acp:other%2Fagent:session-1:",
    ],
)
def test_what_another_has_bound_is_not_loaded(setup: Setup, bound: str | None) -> None:
    """The name of another agent, of another conversation, or of nobody means nothing here."""
    setup.start(initialized(loadSession=True) | NAMED)
    setup.run(agent_session=bound)

    assert only(setup.process)["method"] == "session/new"


def test_an_agent_that_can_not_load_is_told_in_the_prompt(setup: Setup) -> None:
    """The first prompt carries the conversation so far, and says so; the second does not."""
    process = setup.start(initialized() | NAMED)
    setup.run("and now?", agent_session=BOUND)
    new = only(process)
    assert new["params"]["_meta"] == {"gateway": {}}
    process.answer(new["id"], {"sessionId": "n"})
    prompt = setup.prompt()
    preface, text = prompt["params"]["prompt"]
    process.answer(prompt["id"], {"stopReason": "end_turn"})
    setup.run("again")

    assert "User: earlier\n\nYou: yes" in preface["text"]
    assert text == {"type": "text", "text": "and now?"}
    assert setup.prompt()["params"]["prompt"] == [{"type": "text", "text": "again"}]


def test_an_agent_that_wants_a_login_while_it_loads(setup: Setup) -> None:
    """A load that fails for a missing login is told as that, and no other session is made."""
    login = {"authMethods": [{"id": "oauth", "name": "OAuth"}]}
    process = setup.start(initialized(loadSession=True) | NAMED | login)
    ends = setup.run(agent_session=BOUND)

    process.send(id=only(process)["id"], error={"code": -32000, "message": "log in"})

    assert "(OAuth)" in failure_of(ends).message
    assert process.messages() == []


def test_a_load_has_a_deadline(setup: Setup) -> None:
    """An agent that does not answer a load fails the run, and the next one tries again."""
    process = setup.start(initialized(loadSession=True) | NAMED)
    ends = setup.run(agent_session=BOUND)
    only(process)

    setup.clock.advance(60)

    assert failure_of(ends).kind is BackendErrorKind.TIMEOUT
    setup.run(agent_session=BOUND)
    assert only(process)["method"] == "session/load"


def test_servers_of_tools_are_told(tmp_path: Path) -> None:
    """A session is opened with the MCP servers of the table, those by HTTP where the agent can."""
    servers = (
        ResolvedServer(name="files", command="files", env={"K": "v"}),
        ResolvedServer(name="web", url="https://mcp.example/"),
    )
    for http, names in ((True, ["files", "web"]), (False, ["files"])):
        setup = Setup(tmp_path / str(http), Access(servers=servers))
        setup.start(initialized(mcpCapabilities={"http": http}))
        setup.run()
        told = only(setup.process)["params"]["mcpServers"]
        assert [server["name"] for server in told] == names


def test_two_sessions_under_one_id(setup: Setup) -> None:
    """An agent that gives one id to two sessions does not mix them."""
    setup.start()
    setup.run()
    setup.open("s1")
    other = setup.run(session_key="agent:main:other")
    new = only(setup.process)
    setup.process.answer(new["id"], {"sessionId": "s1"})

    assert "one id to two sessions" in failure_of(other).message


def test_sessions_that_are_forgotten_are_closed(setup: Setup) -> None:
    """An agent that closes sessions is told which ones are not used any more."""
    process = setup.start(initialized("history", sessionCapabilities={"close": {}}))

    def turn(acp_id: str, **changes: Any) -> None:
        setup.run(**changes)
        process.answer(setup.open(acp_id)["id"], {"stopReason": "end_turn"})

    turn("first")
    setup.run(session_id="session-2")
    close, new = process.messages()
    assert (close["method"], close["params"]) == ("session/close", {"sessionId": "first"})
    process.send(id=close["id"], error={"code": -32601, "message": "no"})
    process.answer(new["id"], {"sessionId": "second"})
    process.answer(setup.prompt()["id"], {"stopReason": "end_turn"})
    for number in range(MAX_SESSIONS - 1):
        turn(f"s{number}", session_key=f"k{number}")
    setup.run(session_key="one more")

    last = process.messages()[0]
    assert (last["method"], last["params"]) == ("session/close", {"sessionId": "second"})


def test_an_agent_of_ours_keeps_nothing_of_a_session_that_began_anew(setup: Setup) -> None:
    """It is told to forget a conversation that nobody can ask for again, and only such."""
    process = setup.start(initialized("history", "forget", sessionCapabilities={"close": {}}))

    def turn(acp_id: str, **changes: Any) -> None:
        setup.run(**changes)
        process.answer(setup.open(acp_id)["id"], {"stopReason": "end_turn"})

    turn("first")
    setup.run(session_id="session-2")
    forget, new = process.messages()
    assert (forget["method"], forget["params"]) == ("_gateway/forget", {"sessionId": "first"})
    process.answer(forget["id"], {})
    process.answer(new["id"], {"sessionId": "second"})
    process.answer(setup.prompt()["id"], {"stopReason": "end_turn"})
    for number in range(MAX_SESSIONS - 1):
        turn(f"s{number}", session_key=f"k{number}")
    setup.run(session_key="one more")

    last = process.messages()[0]
    assert (last["method"], last["params"]) == ("session/close", {"sessionId": "second"})


OPTION = {
    "id": "m",
    "category": "model",
    "currentValue": "p/small",
    "options": [{"value": "p/small"}, {"value": "p/big"}],
}
LEVEL = {
    "id": "t",
    "category": "thought_level",
    "currentValue": "low",
    "options": [{"value": "low"}, {"value": "high"}],
}


def opened(setup: Setup, answer: dict[str, Any], **changes: Any) -> FakeProcess:
    process = setup.start(initialized() | NAMED)
    setup.sink.messages = ()
    setup.run(**changes)
    process.answer(only(process)["id"], {"sessionId": "s1"} | answer)
    return process


def test_a_model_and_a_level_that_the_agent_offers_are_set(setup: Setup) -> None:
    """What the session asks for is chosen before the prompt, once, and set back when it is not wanted."""
    process = opened(setup, {"configOptions": [OPTION, LEVEL]}, model="p/big", thinking="high")

    chosen = only(process)
    assert chosen["method"] == "session/set_config_option"
    assert chosen["params"] == {"sessionId": "s1", "configId": "m", "value": "p/big"}
    process.answer(chosen["id"], {"configOptions": [OPTION | {"currentValue": "p/big"}, LEVEL]})
    level = only(process)
    assert level["params"] == {"sessionId": "s1", "configId": "t", "value": "high"}
    process.answer(level["id"], {})
    prompt = setup.prompt()
    usage = {"inputTokens": 1, "outputTokens": 2}
    process.answer(prompt["id"], {"stopReason": "end_turn", "usage": usage})

    ends = setup.run(model="p/big", thinking="high")
    process.answer(setup.prompt()["id"], {"stopReason": "end_turn"})
    assert (ends[0].provider, ends[0].model) == ("other/agent", "p/big")
    setup.run()
    assert only(process)["params"]["value"] == "p/small"


def test_a_model_by_the_older_way(setup: Setup) -> None:
    """An agent that lists models outside of the options is set by their ids, without the provider."""
    models = {
        "currentModelId": "small",
        "availableModels": [{"modelId": "small"}, {"modelId": "big"}],
    }
    process = opened(setup, {"models": models}, model="p/big")

    chosen = only(process)
    assert (chosen["method"], chosen["params"]) == (
        "session/set_model",
        {"sessionId": "s1", "modelId": "big"},
    )
    process.answer(chosen["id"], {})
    setup.prompt()


@pytest.mark.parametrize("answer", [{}, {"configOptions": [OPTION]}])
def test_a_model_that_is_not_offered_is_told(setup: Setup, answer: dict[str, Any]) -> None:
    """A model that the agent does not offer is no failure: it answers with its own, and people read so."""
    opened(setup, answer, model="q/huge", thinking="high")

    setup.prompt()
    ((stream, data),) = setup.sink.events
    assert stream == "notice"
    assert "does not offer q/huge" in data["text"]


def test_a_setting_that_is_refused(setup: Setup) -> None:
    """A refused model is told, a refused level logged, and the turn goes on."""
    process = opened(setup, {"configOptions": [OPTION, LEVEL]}, model="p/big", thinking="high")
    process.send(id=only(process)["id"], error={"code": -32603, "message": "no"})
    only(process)
    setup.clock.advance(15)

    setup.prompt()
    assert "did not change to p/big" in setup.sink.events[0][1]["text"]


CLOSES = initialized("history", sessionCapabilities={"close": {}})


def test_a_session_that_nobody_wants_any_more_is_closed(setup: Setup) -> None:
    """A run that is cancelled while its session is opened leaves none open in the agent."""
    process = setup.start(CLOSES)
    setup.run()
    new = only(process)
    setup.going.cancel()
    setup.run()
    again = only(process)

    process.answer(new["id"], {"sessionId": "first"})

    assert only(process)["params"] == {"sessionId": "first"}
    process.answer(again["id"], {"sessionId": "second"})
    assert setup.prompt()["params"]["sessionId"] == "second"


def test_what_can_not_be_opened_for_nobody_is_not_closed(setup: Setup) -> None:
    """There is nothing to close where the agent refused, or answered without an id."""
    process = setup.start(CLOSES)
    answers: list[dict[str, Any]] = [{"result": {}}, {"error": {"code": 1, "message": "no"}}]
    for answer in answers:
        setup.run()
        new = only(process)
        setup.going.cancel()
        process.send(id=new["id"], **answer)

    assert process.messages() == []


def test_a_session_that_is_replaced_during_its_turn_is_closed_after(setup: Setup) -> None:
    """The old conversation of a key is closed once the turns that it has are over."""
    process = setup.start(CLOSES)
    setup.run()
    prompt = setup.open("old")
    ends = setup.run()
    setup.run(session_id="session-2")
    new = only(process)
    process.answer(prompt["id"], {"stopReason": "end_turn"})
    second = only(process)
    assert second["params"]["sessionId"] == "old"

    process.answer(second["id"], {"stopReason": "end_turn"})

    close = only(process)
    assert (close["method"], close["params"]) == ("session/close", {"sessionId": "old"})
    assert len(ends) == 1
    process.answer(new["id"], {"sessionId": "new"})
    assert setup.prompt()["params"]["sessionId"] == "new"

"""The model worker's own tools, their reports and their permissions. Needs the extra llm, no model."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred

pytest.importorskip("pydantic_ai")
pytest.importorskip("openai")

from pydantic_ai.exceptions import ToolFailed
from pydantic_ai.messages import ModelRequest, ToolReturnPart

from gateway.agents.jsonrpc import RpcError
from gateway.agents.workers.files import FileTools
from gateway.agents.workers.instructions import FILE_CHARS, TOTAL_CHARS, workspace_instructions
from gateway.agents.workers.shell import HEAD_BYTES, TAIL_BYTES, Output
from gateway.agents.workers.toolspec import cut
from gateway.workspace import Workspace
from tests.agents.llm_client import Client, Model, call, talk

pytestmark = pytest.mark.model


def returns(model: Model) -> list[tuple[str, Any]]:
    """The results of tools in the last request: (outcome, content)."""
    return [
        (part.outcome, part.content)
        for message in model.asked[-1]
        if isinstance(message, ModelRequest)
        for part in message.parts
        if isinstance(part, ToolReturnPart)
    ]


def test_a_tool_call_is_reported_and_answered(tmp_path: Path) -> Deferred[None]:
    """A call and its end are told with kind, title and content; the model gets the result."""
    (tmp_path / "a.txt").write_text("alpha\nbeta\n")
    model = Model("done", steps=[[call("read", path="a.txt")]])

    async def scenario(client: Client) -> None:
        answer = await client.answer(client.prompt(await client.open(), "read it"))

        start, end = client.updates("tool_call", "tool_call_update")
        assert start == {
            "sessionUpdate": "tool_call",
            "toolCallId": "call-1",
            "title": "read a.txt",
            "kind": "read",
            "status": "in_progress",
            "rawInput": {"path": "a.txt"},
            "locations": [{"path": "a.txt"}],
            "_meta": {"gateway": {"toolName": "read"}},
        }
        assert end["status"] == "completed"
        assert end["content"] == [
            {"type": "content", "content": {"type": "text", "text": "alpha\nbeta\n"}}
        ]
        assert returns(model) == [("success", "alpha\nbeta\n")]
        assert client.chunks() == ["done"]
        usage = answer["result"]["_meta"]["gateway"]["usage"]
        assert usage["contextTokens"] < usage["inputTokens"] + usage["outputTokens"]

    return talk(model, scenario, workspace=str(tmp_path))


def test_a_change_is_reported_with_its_difference(tmp_path: Path) -> Deferred[None]:
    """An edit shows what was there before and after."""
    (tmp_path / "a.txt").write_text("one two")
    step = call("edit", path="a.txt", old_text="two", new_text="three")
    model = Model("done", steps=[[step]])

    async def scenario(client: Client) -> None:
        await client.answer(client.prompt(await client.open(), "edit it"))

        start, end = client.updates("tool_call", "tool_call_update")
        assert start["kind"] == "edit"
        assert end["content"][0] == {
            "type": "diff",
            "path": "a.txt",
            "oldText": "one two",
            "newText": "one three",
        }
        assert (tmp_path / "a.txt").read_text() == "one three"

    return talk(model, scenario, workspace=str(tmp_path))


@pytest.mark.parametrize(
    ("name", "args", "text"),
    [
        ("read", {"path": "../secret"}, "outside"),
        ("read", {"path": "/etc/passwd"}, "outside"),
        ("read", {"path": "link"}, "symbolic link"),
        ("read", {"path": "none"}, "no such file"),
        ("write", {"path": "../x", "content": ""}, "outside"),
        ("list", {"path": ".."}, "outside"),
        ("search", {"path": "..", "text": "x"}, "outside"),
        ("edit", {"path": "a", "old_text": "q", "new_text": ""}, "not in it"),
        ("edit", {"path": "a", "old_text": "x", "new_text": ""}, "in it 2 times"),
        ("shell", {"command": "true", "directory": ".."}, "outside"),
    ],
)
def test_a_refused_call_is_a_failed_one(
    tmp_path: Path, name: str, args: dict[str, Any], text: str
) -> Deferred[None]:
    """No tool leads out of the workspace; the model is told why, and the turn goes on."""
    (tmp_path / "a").write_text("xx")
    (tmp_path / "link").symlink_to("/etc/passwd")
    model = Model("done", steps=[[call(name, **args)]])

    async def scenario(client: Client) -> None:
        answer = await client.answer(client.prompt(await client.open(), "do it"))

        assert answer["result"]["stopReason"] == "end_turn"
        ((outcome, content),) = returns(model)
        assert outcome == "failed"
        assert text in content
        assert client.updates("tool_call_update")[0]["status"] == "failed"

    return talk(model, scenario, workspace=str(tmp_path))


def files(tmp_path: Path) -> FileTools:
    return FileTools(Workspace(tmp_path))


def run(call: Any) -> Deferred[Any]:
    return Deferred.fromFuture(asyncio.ensure_future(call))


def test_a_long_file_is_read_in_pieces(tmp_path: Path) -> Deferred[None]:
    """What is left out is named, with the line to go on from."""
    (tmp_path / "long").write_text("".join(f"line {n}\n" for n in range(1, 5001)))
    (tmp_path / "wide").write_text("x" * 60_000 + "\nend\n")

    async def scenario() -> None:
        tools = files(tmp_path)
        first = await tools.read("long")
        assert first.endswith("line 2000\n\n[there is more: go on with line 2001]")
        assert await tools.read("long", 2001, 2) == (
            "line 2001\nline 2002\n\n[there is more: go on with line 2003]"
        )
        assert await tools.read("long", 5000) == "line 5000\n"
        assert await tools.read("long", 9000) == "[no such lines]"
        wide = await tools.read("wide")
        assert "[line 1 is longer than this]" in wide
        assert wide.endswith("[there is more: go on with line 2]")

    return run(scenario())


def test_directories_are_listed_and_searched(tmp_path: Path) -> Deferred[None]:
    """Names with sizes, and lines with their places; what was left out is named."""
    (tmp_path / "src").mkdir()
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").write_text("needle")
    (tmp_path / "src" / "a.py").write_text("first\n  the Needle\n")
    (tmp_path / "src" / "b.txt").write_text("needle\n" * 300)
    (tmp_path / "binary").write_bytes(b"\xff\xfeneedle")

    async def scenario() -> None:
        tools = files(tmp_path)
        assert await tools.list_directory() == ".git/\nbinary (8 bytes)\nsrc/"
        assert await tools.list_directory("src") == "a.py (19 bytes)\nb.txt (2100 bytes)"
        assert await tools.search("Needle", name="*.py") == "src/a.py:2: the Needle"
        found = (await tools.search("NEEDLE", ignore_case=True)).splitlines()
        assert found[0] == "src/a.py:2: the Needle"
        assert len(found) == 201
        assert found[-1] == "[there are more matches than these 200]"
        found = (await tools.search("Needle", path=str(tmp_path / "src"), name="*.py")).splitlines()
        assert found == [f"{tmp_path}/src/a.py:2: the Needle"]
        assert await tools.search("nothing at all") == "[nothing found]"
        with pytest.raises(ToolFailed):
            await tools.search("")

    return run(scenario())


def test_a_file_is_written_as_a_whole(tmp_path: Path) -> Deferred[None]:
    """A new file, in a new directory; every occurrence is replaced where it is asked for."""

    async def scenario() -> None:
        tools = files(tmp_path)
        made = await tools.write("new/a.txt", "ä ä")
        assert made.return_value == "wrote 5 bytes"
        assert made.metadata["diff"]["oldText"] is None
        await tools.edit("new/a.txt", "ä", "b", replace_all=True)
        assert (tmp_path / "new" / "a.txt").read_text() == "b b"
        large = await tools.write("new/a.txt", "x" * 100_000)
        assert large.metadata == {}

    return run(scenario())


def permission(client: Client) -> Any:
    return client.asked("session/request_permission")


def test_a_command_runs_when_it_is_allowed(tmp_path: Path) -> Deferred[None]:
    """The operator is asked with the command; what is allowed always is asked once in a session."""
    step = call("shell", command="echo $((6*7)); pwd")
    model = Model("done", steps=[[step], ["done"], [step], ["done"], [step]])

    async def scenario(client: Client) -> None:
        session_id = await client.open()
        id_ = client.prompt(session_id, "count")
        question = await permission(client)
        assert client.updates("tool_call")[0]["toolCallId"] == "call-1"
        params = question["params"]
        assert params["sessionId"] == session_id
        assert params["toolCall"]["title"] == "echo $((6*7)); pwd"
        assert params["toolCall"]["rawInput"]["cwd"] == str(tmp_path)
        kinds = [option["kind"] for option in params["options"]]
        assert kinds == ["allow_once", "allow_always", "reject_once"]
        selected = {"outcome": {"outcome": "selected", "optionId": "allow_always"}}
        client.reply(question["id"], selected)
        await client.answer(id_)
        assert returns(model) == [("success", f"exit status 0\n42\n{tmp_path}\n")]
        assert client.updates("tool_call")[0]["kind"] == "execute"

        await client.answer(client.prompt(session_id, "again"))
        assert len(returns(model)) == 2

        client.prompt(await client.open(), "another session")
        await client.asked("session/request_permission", 2)

    return talk(model, scenario, workspace=str(tmp_path))


@pytest.mark.parametrize(
    "answer",
    [
        {"outcome": {"outcome": "selected", "optionId": "reject_once"}},
        {"outcome": {"outcome": "cancelled"}},
        {"odd": 1},
        None,
        RpcError(-32601, "Method not found"),
    ],
)
def test_a_command_that_nobody_allows_does_not_run(tmp_path: Path, answer: Any) -> Deferred[None]:
    """Only a yes is a yes."""
    model = Model("done", steps=[[call("shell", command="touch ran")]])

    async def scenario(client: Client) -> None:
        id_ = client.prompt(await client.open(), "touch")
        client.reply((await permission(client))["id"], answer)
        await client.answer(id_)
        ((outcome, content),) = returns(model)
        assert (outcome, "not allowed" in content) == ("failed", True)
        assert not (tmp_path / "ran").exists()

    return talk(model, scenario, workspace=str(tmp_path))


def test_a_command_is_ended_when_its_time_is_up(tmp_path: Path) -> Deferred[None]:
    """A command over its time is ended; the model is told, with what it had said."""
    step = call("shell", command="echo begun; exec sleep 60", timeout_s=1)
    model = Model("done", steps=[[step]])

    async def scenario(client: Client) -> None:
        await client.answer(client.prompt(await client.open(), "sleep"))
        ((outcome, content),) = returns(model)
        assert outcome == "failed"
        assert "ended after 1 s" in content
        assert "begun" in content

    return talk(model, scenario, workspace=str(tmp_path), shell="allow")


def test_an_abort_ends_a_command_at_once(tmp_path: Path) -> Deferred[None]:
    """Nothing of a command is left after an abort, and the next turn is a valid conversation."""
    step = call("shell", command="sleep 60 & echo $! $$ > pids; wait")
    model = Model("fine", steps=[[step]])
    pids = tmp_path / "pids"

    async def scenario(client: Client) -> None:
        session_id = await client.open()
        id_ = client.prompt(session_id, "sleep")
        while not pids.exists() or not pids.read_text().endswith("\n"):
            await asyncio.sleep(0.01)

        client.cancel(session_id)
        assert (await client.answer(id_))["result"] == {"stopReason": "cancelled"}
        while any(alive(int(pid)) for pid in pids.read_text().split()):
            await asyncio.sleep(0.01)

        await client.answer(client.prompt(session_id, "next"))
        assert [outcome for outcome, _ in returns(model)] == ["interrupted"]

    return talk(model, scenario, workspace=str(tmp_path), shell="allow")


def test_what_a_command_leaves_behind_holds_nothing_up(tmp_path: Path) -> Deferred[None]:
    """A program that it put into the background and that holds its output is ended with the command."""
    step = call("shell", command="sleep 60 & echo $! > pid; echo begun")
    model = Model("fine", steps=[[step]])

    async def scenario(client: Client) -> None:
        await client.answer(client.prompt(await client.open(), "serve"))
        assert returns(model) == [("success", "exit status 0\nbegun\n")]
        while alive(int((tmp_path / "pid").read_text())):
            await asyncio.sleep(0.01)

    return talk(model, scenario, workspace=str(tmp_path), shell="allow")


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_a_long_output_is_cut_in_the_middle() -> None:
    """The beginning and the end are kept, and what is missing is counted."""
    output = Output()
    output.feed(b"a" * HEAD_BYTES)
    output.feed(b"b" * 10)
    output.feed(b"c" * TAIL_BYTES)
    assert output.text() == (
        "a" * HEAD_BYTES + "\n[… 10 bytes are left out here …]\n" + "c" * TAIL_BYTES
    )
    assert "[… 60 of 100 characters are left out here …]" in cut("x" * 100, 40)


def test_an_agent_has_the_tools_it_was_given() -> Deferred[None]:
    """The table says which tools there are; a shell that is off is none."""
    model = Model("x")

    async def scenario(client: Client) -> None:
        await client.answer(client.prompt(await client.open(), "x"))
        assert model.tools == [["list", "read"]] or model.tools == [["read", "list"]]

    return talk(model, scenario, tools=("read", "list", "shell"), shell="off")


def test_a_turn_has_so_many_requests(tmp_path: Path) -> Deferred[None]:
    """A model that calls tools for ever is stopped, says so, and remembers what it did."""
    model = Model(call("list"))

    async def scenario(client: Client) -> None:
        session_id = await client.open()
        answer = await client.answer(client.prompt(session_id, "go"))
        assert answer["result"]["stopReason"] == "max_turn_requests"
        assert len(model.asked) == 3
        ids = [each["toolCallId"] for each in client.updates("tool_call_update")]
        assert ids == ["call-1", "call-1-2", "call-1-3"]
        assert answer["result"]["_meta"]["gateway"]["usage"]["inputTokens"] > 0

        model.words = ("enough",)
        await client.answer(client.prompt(session_id, "and?"))
        assert len(returns(model)) == 3

    return talk(model, scenario, workspace=str(tmp_path), max_requests=3)


def test_what_tools_did_is_remembered_of_a_failed_turn(tmp_path: Path) -> Deferred[None]:
    """When the provider fails after a tool has run, the next turn knows of the tool."""
    step = call("write", path="a", content="x")
    model = Model("fine", steps=[[step], [RuntimeError("gone")]])

    async def scenario(client: Client) -> None:
        session_id = await client.open()
        assert "error" in await client.answer(client.prompt(session_id, "write"))
        await client.answer(client.prompt(session_id, "next"))
        assert returns(model) == [("success", "wrote 1 bytes")]

    return talk(model, scenario, workspace=str(tmp_path))


def test_wrong_arguments_are_corrected_by_the_model(tmp_path: Path) -> Deferred[None]:
    """A call that does not fit, or of no tool at all, comes back to the model; the turn goes on."""
    model = Model("done", steps=[[call("read")], [call("fly", id_="call-2")]])

    async def scenario(client: Client) -> None:
        answer = await client.answer(client.prompt(await client.open(), "x"))
        assert answer["result"]["stopReason"] == "end_turn"
        statuses = [each["status"] for each in client.updates("tool_call_update")]
        assert set(statuses) == {"failed"}

    return talk(model, scenario, workspace=str(tmp_path))


def test_files_of_the_workspace_are_instructions(tmp_path: Path) -> Deferred[None]:
    """AGENTS.md and its like are read at the start of every turn, behind the system prompt."""
    model = Model("x")
    (tmp_path / "AGENTS.md").write_text("Use tabs.\n")

    async def scenario(client: Client) -> None:
        session_id = await client.open()
        await client.answer(client.prompt(session_id, "x", extraSystemPrompt="Rhyme."))
        (tmp_path / "SOUL.md").write_text("Kind.")
        await client.answer(client.prompt(session_id, "x"))
        assert model.instructions == [
            "Be brief.\n\n# Files of your workspace\n\n## AGENTS.md\n\nUse tabs.\n\nRhyme.",
            "Be brief.\n\n# Files of your workspace\n\n## AGENTS.md\n\nUse tabs.\n\n## SOUL.md\n\nKind.",
        ]

    return talk(model, scenario, workspace=str(tmp_path), system_prompt="Be brief.")


def test_files_of_the_workspace_are_bounded(tmp_path: Path) -> None:
    """A long file is cut and says so; links are not followed; without files there is nothing."""
    assert workspace_instructions(Workspace(tmp_path)) is None
    (tmp_path / "USER.md").symlink_to("/etc/passwd")
    assert workspace_instructions(Workspace(tmp_path)) is None
    for name in ("AGENTS.md", "SOUL.md", "TOOLS.md", "IDENTITY.md"):
        (tmp_path / name).write_text("x" * 2 * FILE_CHARS)
    (tmp_path / "MEMORY.md").write_bytes(b"x" * 300 * 1024)

    text = workspace_instructions(Workspace(tmp_path))

    assert text is not None
    assert text.count("x") < TOTAL_CHARS + 100
    assert "[AGENTS.md is longer; the tool read shows the rest]" in text
    os.unlink(tmp_path / "AGENTS.md")
    text = workspace_instructions(Workspace(tmp_path))
    assert text is not None

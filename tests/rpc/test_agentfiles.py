"""The files of agents' workspaces, as clients of both versions see and write them."""

from __future__ import annotations

import os
from base64 import b64decode
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.app.agentfiles import AgentFiles, Private
from gateway.app.agents import Agent
from gateway.app.threads import here
from gateway.errors import InvalidRequest
from gateway.testing import result_of
from gateway.workspace import KNOWN_FILES
from tests.app.harness import Client, Gate, ScriptedBackend, assert_fits
from tests.rpc.managing import Managed


@pytest.fixture
def managed(tmp_path: Path) -> Iterator[Managed]:
    """A gateway whose agents have workspaces in its state directory."""
    gate = Managed(tmp_path)
    yield gate
    gate.close()


@pytest.fixture
def place(managed: Managed) -> Path:
    """The workspace of the agent main, which is there."""
    path = managed.state / "workspace" / "main"
    path.mkdir(parents=True)
    return path


@pytest.fixture(params=[3, 4])
def client(request: pytest.FixtureRequest, managed: Managed) -> Client:
    """An admin's client of either version."""
    return managed.client(request.param)


def protocol_of(client: Client) -> int:
    """Return the version a client speaks."""
    return client.connection.protocol


def test_no_files_yet(managed: Managed, client: Client) -> None:
    """All well-known files are listed, also where nothing was ever written."""
    answer = client.ok("agents.files.list", {"agentId": "main"})
    assert_fits(protocol_of(client), "AgentsFilesListResult", answer)
    assert answer["workspace"] == str(managed.state / "workspace" / "main")
    assert [(row["name"], row["missing"]) for row in answer["files"]] == [
        (name, True) for name in KNOWN_FILES
    ]
    got = client.ok("agents.files.get", {"agentId": "main", "name": "SOUL.md"})
    assert_fits(protocol_of(client), "AgentsFilesGetResult", got)
    assert got["file"]["missing"]
    assert ("expectedAbsent" in got["file"]) is (protocol_of(client) == 4)


def test_written_and_read(client: Client, managed: Managed) -> None:
    """What is written is on the disk, and is read and listed."""
    params = {"agentId": " Main", "name": "SOUL.md", "content": "be kind\n"}
    answer = client.ok("agents.files.set", params)
    assert_fits(protocol_of(client), "AgentsFilesSetResult", answer)
    assert (managed.state / "workspace/main/SOUL.md").read_text() == "be kind\n"

    got = client.ok("agents.files.get", {"agentId": "main", "name": "SOUL.md"})
    assert_fits(protocol_of(client), "AgentsFilesGetResult", got)
    assert (got["file"]["content"], got["file"]["size"]) == ("be kind\n", 8)
    listed = client.ok("agents.files.list", {"agentId": "main"})["files"][1]
    assert not listed["missing"]
    assert "content" not in listed


def test_somebody_else_was_faster(managed: Managed) -> None:
    """A file is only replaced if it still is what the client has seen, where the client says so."""
    client = managed.client()

    def put(content: str, expected: str | None) -> Any:
        known = {} if expected is None else {"expectedHash": expected}
        params = {"agentId": "main", "name": "USER.md", "content": content, **known}
        return client.call("agents.files.set", params)

    first = sha256(b"one").hexdigest()
    refused = put("one", first).error
    assert refused["details"]["reason"] == "file-changed"
    assert put("one", None).payload["file"]["hash"] == first
    assert put("two", first.upper()).payload["ok"]
    assert "changed since" in put("three", first).error["message"]
    assert (managed.state / "workspace/main/USER.md").read_text() == "two"


@pytest.mark.parametrize(
    "name", ["x.md", "soul.md", "../SOUL.md", "a/SOUL.md", "SOUL.md\0", "SOUL.md "]
)
def test_other_files(client: Client, name: str) -> None:
    """Only the well-known files can be read and written, by their very names."""
    for method, more in (("agents.files.get", {}), ("agents.files.set", {"content": ""})):
        error = client.refused(method, {"agentId": "main", "name": name, **more})
        assert (error["code"], error["message"]) == (
            "INVALID_REQUEST",
            f'unsupported file "{name}"',
        )


def test_unknown_agents(client: Client) -> None:
    """Files of an agent that there is not are refused."""
    assert "unknown agent id" in client.refused("agents.files.list", {"agentId": "x"})["message"]


def test_reading_is_no_writing(managed: Managed) -> None:
    """Who may only read can not write."""
    client = managed.client(scopes=["operator.read"])
    assert client.ok("agents.files.list", {"agentId": "main"})
    params = {"agentId": "main", "name": "SOUL.md", "content": ""}
    assert client.refused("agents.files.set", params)["code"] == "FORBIDDEN"


def test_links_and_directories(managed: Managed, place: Path) -> None:
    """A well-known file that is a link, or a directory, is not there for clients."""
    client = managed.client()
    secret = managed.path / "secret"
    secret.write_text("secret")
    (place / "SOUL.md").symlink_to(secret)
    (place / "USER.md").mkdir()
    listed = client.ok("agents.files.list", {"agentId": "main"})["files"]
    assert all(row["missing"] for row in listed)
    for name, reason in (("SOUL.md", "outside"), ("USER.md", "not-a-file")):
        for method, more in (("agents.files.get", {}), ("agents.files.set", {"content": "x"})):
            error = client.refused(method, {"agentId": "main", "name": name, **more})
            assert error["details"]["reason"] == reason
    assert secret.read_text() == "secret"


def test_what_can_not_be_written(managed: Managed) -> None:
    """Content that is too large is refused, and so is a workspace that can not be made."""
    client = managed.client()
    params = {"agentId": "main", "name": "SOUL.md", "content": "x" * 1_000_001}
    assert client.refused("agents.files.set", params)["details"]["reason"] == "too-large"
    (managed.state / "workspace").write_text("in the way")
    error = client.refused("agents.files.set", {**params, "content": "x"})
    assert error["code"] in ("INVALID_REQUEST", "UNAVAILABLE")
    listed = client.ok("agents.files.list", {"agentId": "main"})["files"]
    assert all(row["missing"] for row in listed)


def test_not_text(managed: Managed, place: Path) -> None:
    """A well-known file that is not UTF-8 is shown as far as it can be."""
    (place / "SOUL.md").write_bytes(b"a\xff")
    got = managed.client().ok("agents.files.get", {"agentId": "main", "name": "SOUL.md"})
    assert got["file"]["content"] == "a\N{REPLACEMENT CHARACTER}"


def test_looking_around(managed: Managed, place: Path) -> None:
    """Directories come first; links and hidden files are not shown; pages can be asked for."""
    client = managed.client(scopes=["operator.read"])
    for name in ("b.txt", "a.txt", ".env", "dir/inner.txt"):
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_text(name)
    (place / "link").symlink_to("/etc/passwd")
    os.mkfifo(place / "fifo")
    os.close(os.open(os.fsencode(place) + b"/\xff", os.O_CREAT | os.O_WRONLY))

    answer = client.ok("agents.workspace.list", {"agentId": "main"})
    assert_fits(4, "AgentsWorkspaceListResult", answer)
    names = [row["name"] for row in answer["entries"]]
    assert names == ["dir", "a.txt", "b.txt", "\N{REPLACEMENT CHARACTER}"]
    assert (answer["totalEntries"], answer["path"], "parentPath" in answer) == (4, "", False)
    page = client.ok("agents.workspace.list", {"agentId": "main", "offset": 1, "limit": 1})
    assert [row["name"] for row in page["entries"]] == ["a.txt"]
    inner = client.ok("agents.workspace.list", {"agentId": "main", "path": "dir/"})
    assert (inner["path"], inner["parentPath"]) == ("dir", "")
    assert inner["entries"][0]["path"] == "dir/inner.txt"
    file = client.ok("agents.workspace.get", {"agentId": "main", "path": "./dir//inner.txt"})
    assert_fits(4, "AgentsWorkspaceGetResult", file)
    assert file["file"]["content"] == "dir/inner.txt"
    assert file["file"]["mimeType"] == "text/plain"


def test_an_empty_workspace(managed: Managed) -> None:
    """A workspace that nobody has used yet is empty, and none of its directories is there."""
    client = managed.client()
    assert client.ok("agents.workspace.list", {"agentId": "main"})["entries"] == []
    error = client.refused("agents.workspace.list", {"agentId": "main", "path": "dir"})
    assert error["details"]["reason"] == "not-found"
    (managed.state / "workspace").write_text("in the way")
    assert client.refused("agents.workspace.list", {"agentId": "main"})["code"]


def test_files_that_are_no_text(managed: Managed, place: Path) -> None:
    """What is not UTF-8 comes as base64."""
    (place / "a.png").write_bytes(b"\x89PNG\xff")
    (place / "b").write_bytes(b"\xff")
    client = managed.client()
    file = client.ok("agents.workspace.get", {"agentId": "main", "path": "a.png"})["file"]
    assert (file["mimeType"], b64decode(file["content"])) == ("image/png", b"\x89PNG\xff")
    other = client.ok("agents.workspace.get", {"agentId": "main", "path": "b"})["file"]
    assert other["mimeType"] == "application/octet-stream"


HOSTILE = [
    "/etc/passwd",
    "..",
    "../secret",
    "dir/../../secret",
    "out/secret",
    "link",
    "dir/link",
    "fifo",
    "device",
    ".env",
    "dir/.env",
    "a\0b",
    "x" * 5000,
    "a/" * 3000 + "b",
    ".",
    "dir",
    "\u2024\u2024/secret",
]


@pytest.mark.parametrize(
    "path", HOSTILE, ids=lambda path: path[:20].encode("unicode_escape").decode()
)
def test_no_path_leads_out(managed: Managed, place: Path, path: str) -> None:
    """Nothing outside of the workspace, no link, device, FIFO or hidden file can be read."""
    (managed.path / "secret").write_text("secret")
    (managed.state / "workspace" / "secret").write_text("secret")
    (place / "dir").mkdir()
    for link, target in (("out", "../.."), ("link", "../secret"), ("device", "/dev/zero")):
        (place / link).symlink_to(target)
    (place / "dir" / "link").symlink_to(managed.path / "secret")
    (place / ".env").write_text("secret")
    (place / "dir" / ".env").write_text("secret")
    os.mkfifo(place / "fifo")
    client = managed.client(scopes=["operator.read"])

    frame = client.call("agents.workspace.get", {"agentId": "main", "path": path}).frame
    assert not frame["ok"], frame
    assert frame["error"]["code"] in ("INVALID_REQUEST", "UNAVAILABLE")
    listed = client.call("agents.workspace.list", {"agentId": "main", "path": path}).frame
    assert not listed["ok"] or path in (".", "dir"), listed


NAMES = st.sampled_from(
    ["a", "dir", "out", "up", "self", "link", "hard", "..", ".", "", "secret", "tree", "/"]
)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Managed, Path]]:
    """A workspace full of links, beside files that nobody may see."""
    path = tmp_path_factory.mktemp("tree")
    gate = Managed(path)
    root = gate.state / "workspace" / "main"
    (root / "dir" / "dir").mkdir(parents=True)
    for secret in (path / "secret", root.parent / "secret", path / "tree" / "secret"):
        secret.parent.mkdir(exist_ok=True)
        secret.write_text("SECRET")
    for place in (root, root / "dir", root / "dir" / "dir"):
        (place / "a").write_text("open")
        (place / "out").symlink_to(path)
        (place / "up").symlink_to("..")
        (place / "self").symlink_to(".")
        (place / "link").symlink_to(path / "secret")
    yield gate, root
    gate.close()


@given(st.lists(NAMES, min_size=1, max_size=8))
@settings(max_examples=150, deadline=None)
def test_random_paths(tree: tuple[Managed, Path], names: list[str]) -> None:
    """Whatever way a path takes through names, dots and links, it reads nothing from outside."""
    gate, _ = tree
    client: Client = gate.client()
    path = "/".join(names)
    params = {"agentId": "main", "path": path}
    read = client.call("agents.workspace.get", {**params, "path": path or "."}).frame
    listed = client.call("agents.workspace.list", params).frame
    client.leave()

    if read["ok"]:
        assert read["payload"]["file"]["content"] == "open"
        assert not {"..", "out", "up", "self", "link"} & set(names)
    if listed["ok"]:
        assert {row["name"] for row in listed["payload"]["entries"]} <= {"a", "dir"}


def test_what_is_the_gateways_own(tmp_path: Path) -> None:
    """An agent may work around the state directory and the configuration: neither is shown."""
    state, config = tmp_path / "state", tmp_path / "gateway.toml"
    (state / "workspace" / "main").mkdir(parents=True)
    for file in (state / "token", config, tmp_path / "notes", state / "workspace/main/own"):
        file.write_text("text")
    (tmp_path / "link").symlink_to(tmp_path)
    files = AgentFiles(here, 1000, Private(str(tmp_path / "link/state"), str(config)))

    def agent_in(path: Path) -> Agent:
        return Agent("main", "main", "test", ScriptedBackend(), 1.0, workspace=str(path))

    around = agent_in(tmp_path)
    for refused in (
        files.read(around, "state/token"),
        files.list(around, "state", 0, 10),
        files.read(around, "gateway.toml"),
        files.read(agent_in(state), "token"),
        files.read(agent_in(tmp_path / "link"), "state/token"),
    ):
        with pytest.raises(InvalidRequest, match="own files are not shown"):
            result_of(refused)
    assert result_of(files.read(around, "notes"))["content"] == "text"
    inside = agent_in(state / "workspace" / "main")
    assert result_of(files.read(inside, "own"))["content"] == "text"


def test_an_agent_without_a_workspace(gate: Gate) -> None:
    """An agent that has no workspace has no files."""
    gate.services.agents.put(gate.services.agents.default.with_backend(gate.backend))
    object.__setattr__(gate.services.agents.default, "workspace", "")
    error = gate.client().refused("agents.files.list", {"agentId": "main"})
    assert error["message"] == 'agent "main" has no workspace'

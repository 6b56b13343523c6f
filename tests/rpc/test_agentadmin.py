"""Agents that clients make, change and delete."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, TimeoutError, fail

from gateway.app.agentadmin import STOP_S
from gateway.errors import ConfigError, StoreError, Unavailable
from gateway.testing import result_of
from tests.app.faults import Lines
from tests.app.harness import Client, Gate, assert_fits
from tests.rpc.managing import CONFIG, Managed


@pytest.fixture
def managed(tmp_path: Path) -> Iterator[Managed]:
    """A gateway whose agents can be changed."""
    gate = Managed(tmp_path)
    yield gate
    gate.close()


@pytest.fixture(params=[3, 4])
def client(request: pytest.FixtureRequest, managed: Managed) -> Client:
    """An admin's client of either version."""
    return managed.client(request.param)


def create(client: Client, name: str = "Research", **more: Any) -> Any:
    """Make an agent, as a client of version 3 has to."""
    return client.ok("agents.create", {"name": name, "workspace": "research", **more})


def test_an_agent_is_made(managed: Managed, client: Client) -> None:
    """A new agent is there at once and after a restart, like the default one, in its own directory."""
    four = client.connection.protocol == 4
    answer = create(client, emoji="R", avatar=" ", **({"model": "p/n"} if four else {}))

    assert_fits(client.connection.protocol, "AgentsCreateResult", answer)
    workspace = str(managed.state / "workspace" / "research")
    assert answer == {
        "ok": True,
        "agentId": "research",
        "name": "Research",
        "workspace": workspace,
    } | ({"model": "p/n"} if four else {})
    assert os.path.isdir(workspace)
    assert managed.config_file.read_text() == CONFIG
    for gate in (managed, managed.again()):
        assert gate.ids == ["main", "other", "research"]
        agent = gate.services.agents.require("research")
        assert (agent.name, agent.kind, agent.workspace) == ("Research", "scripted", workspace)
        assert (agent.primary, agent.emoji, agent.avatar) == ("p/n" if four else "p/m", "R", None)


def test_a_new_agent_answers(managed: Managed) -> None:
    """A message to a session of the new agent goes to it; its list shows it, and everybody is told."""
    client, watcher = managed.client(), managed.client(scopes=["operator.read"])
    create(client)
    client.send("hello", key="agent:research:main")

    assert managed.backend_of("research").started == ["r1"]
    listed = watcher.ok("agents.list", {})
    assert_fits(4, "AgentsListResult", listed)
    assert [row["id"] for row in listed["agents"]] == ["main", "other", "research"]
    (changed,) = watcher.events("config.changed")
    assert changed == {"hash": managed.roster.hash(), "ts": managed.clock.now_ms()}
    health = watcher.events("health")[-1]
    assert [agent["agentId"] for agent in health["agents"]] == ["main", "other", "research"]
    managed.backend_of("research").live["r1"].end()


def test_nobody_else_may(managed: Managed) -> None:
    """Making, changing and deleting agents takes an admin."""
    client = managed.client(scopes=["operator.write"])
    for method, params in (
        ("agents.create", {"name": "X"}),
        ("agents.update", {"agentId": "other", "name": "X"}),
        ("agents.restart", {"agentId": "other"}),
        ("agents.delete", {"agentId": "other"}),
    ):
        assert client.refused(method, params)["code"] == "FORBIDDEN"


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"name": "main"}, '"main" is reserved'),
        ({"name": "研究"}, '"main" is reserved'),
        ({"name": "Other"}, 'agent "other" already exists'),
        ({"name": " "}, "must not be blank"),
        ({"name": "a\nb"}, "printable"),
        ({"name": "x" * 201}, "at most 200"),
        ({"name": "a", "avatar": "x" * 5000}, "at most 4096"),
        ({"name": "a", "model": "p/bad"}, "model: there is none"),
        ({"name": "a", "workspace": "/etc"}, "it has to lie below one of"),
        ({"name": "a", "workspace": "../.."}, "it has to lie below one of"),
        ({"name": "a", "workspace": "."}, "it has to lie below one of"),
        ({"name": "a", "workspace": "a\0b"}, "not a path"),
        ({"name": "a", "workspace": "a\x7fb"}, "not a text that can be kept"),
        ({"name": "a", "workspace": "link/a"}, "it has to lie below one of"),
        ({"name": "a", "workspace": "broken"}, "broken: no"),
    ],
)
def test_refused(managed: Managed, params: dict[str, Any], text: str) -> None:
    """What can not be is refused, and leaves everything as it was."""
    home = managed.state / "workspace"
    home.mkdir()
    (home / "link").symlink_to("/etc")
    error = managed.client().refused("agents.create", params)

    assert error["code"] == "INVALID_REQUEST"
    assert text in error["message"]
    assert managed.ids == ["main", "other"]
    assert not (managed.state / "agents.toml").exists()
    assert "a" not in os.listdir(home)


def test_a_workspace_elsewhere(managed: Managed) -> None:
    """A workspace may lie where the configuration allows it, and is then left alone in the end."""
    client = managed.client()
    place = managed.path / "shared" / "work"
    assert create(client, workspace=str(place))["workspace"] == str(place)
    (place / "notes").write_text("mine")

    answer = client.ok("agents.delete", {"agentId": "research"})
    assert_fits(4, "AgentsDeleteResult", answer)
    assert answer["failed"][0]["path"] == str(place)
    assert (place / "notes").read_text() == "mine"


def test_too_many(tmp_path: Path) -> None:
    """Clients can not make more agents than the limit says."""
    gate = Managed(tmp_path, limits="[limits]\nagents_max = 2")
    error = gate.client().refused("agents.create", {"name": "third"})
    assert error["message"] == "there are 2 agents (limits.agents_max)"
    gate.close()


def test_a_change_that_can_not_be_kept(managed: Managed) -> None:
    """Where the file can not be written nothing is changed, and the client is told why."""
    (managed.state / "agents.toml").mkdir()
    client = managed.client()
    with Lines() as lines:
        error = client.refused("agents.create", {"name": "Research"})
        renamed = client.refused("agents.update", {"agentId": "other", "name": "X"})

    assert error["code"] == renamed["code"] == "UNAVAILABLE"
    assert "Is a directory" in error["message"]
    assert any("could not be kept" in text for text in lines.texts)
    assert managed.ids == ["main", "other"]
    assert not managed.made[-2].running
    assert managed.services.agents.require("other").name == "Other"


def test_names_change_without_a_restart(managed: Managed, client: Client) -> None:
    """A new name is shown at once and after a restart; the agent's runs do not notice."""
    client.send("hello")
    backend = managed.backend_of("main")
    answer = client.ok("agents.update", {"agentId": "main", "name": "Ann", "avatar": "a.png"})

    assert_fits(client.connection.protocol, "AgentsUpdateResult", answer)
    assert managed.backend_of("main") is backend
    identity = client.ok("agent.identity.get", {})
    assert (identity["name"], identity["avatar"]) == ("Ann", "a.png")
    assert managed.again().services.agents.default.name == "Ann"
    backend.live["r1"].end()
    client.ok("agents.update", {"agentId": "main", "avatar": ""})
    assert managed.services.agents.default.avatar is None


def test_another_model(managed: Managed, client: Client) -> None:
    """With another model later runs go to a new backend; the one that goes ends with the old one."""
    client.send("hello", run="r1")
    old = managed.backend_of("main")
    client.send("later", run="r2")
    client.ok("agents.update", {"agentId": "main", "model": "p/n"})
    new = managed.backend_of("main")

    assert managed.services.agents.default.primary == "p/n"
    assert old.running
    assert (old.started, new.started) == (["r1"], [])
    old.live["r1"].end()
    managed.clock.advance(1)
    assert not old.running
    assert new.started == ["r2"]
    new.live["r2"].end()
    assert managed.again().services.agents.default.primary == "p/n"


def test_the_configured_model_again(managed: Managed) -> None:
    """Null takes the change of a model back; what the file is left with is nothing."""
    client = managed.client()
    client.ok("agents.update", {"agentId": "main", "model": "p/n"})
    client.ok("agents.update", {"agentId": "main", "model": None})
    assert managed.services.agents.default.primary == "p/m"
    assert managed.roster.file.changes == {}
    assert client.connection.protocol == 4
    three = managed.client(3)
    assert "/model" in three.refused("agents.update", {"agentId": "main", "model": None})["message"]
    assert "workspace" in three.refused("agents.create", {"name": "x"})["message"]


def test_a_model_as_llm_agents_have_it(tmp_path: Path) -> None:
    """For an llm agent the model is written as its table has it."""
    gate = Managed(tmp_path, '[agents.main]\nbackend = "llm"\nmodel = "a:b"\n')
    client = gate.client()
    for given, kept in (("openai-chat/x/y", "openai-chat:x/y"), ("a:b/c", "a:b/c")):
        client.ok("agents.update", {"agentId": "main", "model": given})
        assert gate.backend_of("main").config.model == kept
    gate.close()


def test_another_workspace(managed: Managed) -> None:
    """An agent can be given another workspace, which is then its working directory too."""
    client = managed.client()
    client.ok("agents.update", {"agentId": "main", "workspace": "elsewhere"})
    place = str(managed.state / "workspace" / "elsewhere")
    assert managed.services.agents.default.workspace == place
    assert managed.backend_of("main").config.cwd == place
    client.ok("agents.update", {"agentId": "other", "workspace": "third"})
    assert managed.services.agents.require("other").workspace.endswith("/workspace/third")


def test_changes_that_are_refused(managed: Managed) -> None:
    """A model that the backend has not, or that it refuses, leaves the agent as it is."""
    client = managed.client()
    backend = managed.backend_of("main")
    assert (
        "no model"
        in client.refused("agents.update", {"agentId": "other", "model": "x/y"})["message"]
    )
    assert client.refused("agents.update", {"agentId": "main", "model": "p/bad"})["message"] == (
        "model: there is none"
    )
    assert "not found" in client.refused("agents.update", {"agentId": "x", "name": "X"})["message"]
    refused = client.refused("agents.update", {"agentId": "main", "agentRuntime": "x"})
    assert "agentRuntime" in refused["message"]
    assert managed.backend_of("main") is backend
    assert backend.running


def test_started_anew(managed: Managed) -> None:
    """Of an agent that is started anew twice, the first backend does not wait for its run any more."""
    client = managed.client()
    client.send("hello")
    first = managed.backend_of("main")
    for _ in range(2):
        assert client.ok("agents.restart", {"agentId": "main"}) == {"ok": True, "agentId": "main"}
    second = managed.made[-2]
    assert not first.running
    assert second.running
    first.live["r1"].end()
    managed.clock.advance(1)
    assert not second.running
    assert managed.backend_of("main").running


def test_deleted(managed: Managed, client: Client) -> None:
    """A deleted agent is gone at once and after a restart; its runs end, its sessions are kept."""
    create(client)
    client.send("hello", key="agent:research:main", run="r1")
    client.send("later", key="agent:research:main", run="r2")
    client.send("hello", run="other")
    backend = managed.backend_of("research")
    (managed.state / "workspace" / "research" / "notes").write_text("mine")
    answer = client.ok("agents.delete", {"agentId": "Research"})
    managed.clock.advance(1)

    protocol = client.connection.protocol
    assert_fits(protocol, "AgentsDeleteResult", answer)
    assert answer["agentId"] == "research"
    assert ("removed" in answer) is (protocol == 4)
    assert not backend.running
    assert backend.live["r1"].cancelled
    assert client.ends("other")[0] == []
    managed.backend_of("main").live["other"].end()
    for run in ("r1", "r2"):
        assert client.ends(run)[0] == ["aborted"]
    assert managed.ids == managed.again().ids == ["main", "other"]
    (kept,) = (managed.state / "trash").iterdir()
    assert (kept / "notes").read_text() == "mine"
    keys = [session["key"] for session in client.ok("sessions.list", {})["sessions"]]
    assert "agent:research:main" in keys
    assert managed.messages("agent:research:main")[0] == ("user", "hello")
    refused = client.send("again", key="agent:research:main", run="r3").error
    assert refused["message"] == 'Agent "research" no longer exists in configuration'


def test_an_agent_of_the_configuration_is_deleted(managed: Managed) -> None:
    """An agent of the operator's file stays deleted, and its id taken, as long as it stands there."""
    client = managed.client()
    answer = client.ok("agents.delete", {"agentId": "other", "deleteFiles": False})
    assert "removed" not in answer
    assert managed.ids == managed.again().ids == ["main"]
    error = client.refused("agents.create", {"name": "other"})
    assert "still configured" in error["message"]
    assert "not found" in client.refused("agents.delete", {"agentId": "other"})["message"]


def test_what_can_not_be_deleted(managed: Managed) -> None:
    """The default agent stays."""
    client = managed.client()
    assert client.refused("agents.delete", {"agentId": "main"})["message"] == (
        '"main" cannot be deleted'
    )


def test_a_workspace_that_can_not_be_moved(managed: Managed) -> None:
    """A workspace that is not there, or that can not be moved, does not keep an agent from going."""
    client = managed.client()
    (managed.state / "workspace").mkdir()
    answer = client.ok("agents.delete", {"agentId": "other"})
    assert answer["removed"][0]["method"] == "missing"
    create(client)
    (managed.state / "trash").write_text("in the way")
    answer = client.ok("agents.delete", {"agentId": "research"})
    assert_fits(4, "AgentsDeleteResult", answer)
    assert answer["purgeFailed"]
    assert "research" not in managed.ids


def test_backends_that_do_not_stop(
    managed: Managed, expected_failures: list[type[BaseException]]
) -> None:
    """A backend that fails to stop, or never does, keeps nobody waiting for ever."""
    expected_failures += [OSError, TimeoutError]
    client = managed.client()
    create(client)
    managed.backend_of("research").stopping = Deferred
    managed.backend_of("other").stopping = lambda: fail(OSError("no"))
    with Lines() as lines:
        call = client.call("agents.delete", {"agentId": "research"})
        behind = client.call("agents.delete", {"agentId": "other"})
        assert not call.frames
        assert not behind.frames
        managed.clock.advance(STOP_S)

    assert call.payload["ok"]
    assert behind.payload["ok"]
    assert sum("did not stop" in text for text in lines.texts) == 2
    assert managed.ids == ["main"]


def test_one_who_leaves(managed: Managed) -> None:
    """A change goes on when the connection that asked for it is lost."""
    client = managed.client()
    create(client)
    backend = managed.backend_of("research")
    stopping: Deferred[None] = Deferred()
    backend.stopping = lambda: stopping
    call = client.call("agents.delete", {"agentId": "research"})
    call.cancel()
    stopping.callback(None)
    assert (managed.state / "trash").is_dir()


def test_a_gateway_that_stops(managed: Managed) -> None:
    """A gateway that stops takes no change, and stops an agent that was just being made."""
    client = managed.client()
    saving: Deferred[Any] = Deferred()
    managed.roster._in_thread = lambda function, *args: saving
    call = client.call("agents.create", {"name": "Research"})
    managed.runs.refuse()
    saving.callback(None)
    assert call.payload["ok"]
    assert not managed.backend_of("research").running
    assert client.refused("agents.restart", {"agentId": "main"})["code"] == "UNAVAILABLE"


def test_retiring_while_the_gateway_stops(managed: Managed) -> None:
    """A backend that waits for its run is stopped when nobody waits for runs any more."""
    client = managed.client()
    client.send("hello")
    old = managed.backend_of("main")
    client.ok("agents.restart", {"agentId": "main"})
    managed.runs.dismiss(Unavailable("stopping"))
    assert not old.running
    old.live["r1"].end()


def test_started_anew_while_the_one_before_stops(managed: Managed) -> None:
    """A backend that is on its way out goes on with that when its successor is replaced as well."""
    client = managed.client()
    stopping: Deferred[None] = Deferred()
    managed.backend_of("main").stopping = lambda: stopping
    for _ in range(2):
        client.ok("agents.restart", {"agentId": "main"})
    assert not stopping.called
    stopping.callback(None)
    assert [made.running for made in managed.made if made.environment.agent_id == "main"] == [
        0,
        0,
        1,
    ]


def test_backends_that_are_gone(tmp_path: Path) -> None:
    """A plugin that was removed, or a file that is wrong, stops the start with a line that names it."""
    with pytest.raises(ConfigError, match='unknown backend "gone"'):
        Managed(tmp_path, '[agents.main]\nbackend = "gone"\n')
    with pytest.raises(ConfigError, match=r"gateway\.toml: agents\.main\.model: there is none"):
        Managed(tmp_path, '[agents.main]\nbackend = "scripted"\nmodel = "p/bad"\n')
    (tmp_path / "state" / "agents.toml").write_text('[agents.main]\nmodel = "p/n"\n')
    with pytest.raises(
        ConfigError, match=r"agents\.main\.model: unknown key|agents\.main.*unknown key"
    ):
        Managed(tmp_path, '[agents.main]\nbackend = "plain"\n')


def test_a_workspace_of_the_configuration(tmp_path: Path) -> None:
    """An operator may put a workspace anywhere; a relative one starts at the configuration."""
    gate = Managed(tmp_path, '[agents.main]\nbackend = "plain"\nworkspace = "here"\n')
    assert gate.services.agents.default.workspace == str(tmp_path / "here")
    gate.close()


def test_health_that_can_not_be_made(managed: Managed) -> None:
    """A store that fails keeps nobody from making an agent; the health snapshot comes later."""
    client = managed.client()
    managed.store.failing["find_sessions"] = StoreError("disk full")
    with Lines() as lines:
        create(client)
    managed.store.failing.clear()
    assert "research" in managed.ids
    assert any("health snapshot" in text for text in lines.texts)


def test_fixed_agents(gate: Gate) -> None:
    """Where nothing can be kept, the agents are fixed, and that is said."""
    error = gate.client().refused("agents.create", {"name": "Research"})
    assert (error["code"], error["message"]) == (
        "UNAVAILABLE",
        "the agents of this gateway are fixed",
    )
    assert result_of(Deferred.fromCoroutine(gate.services.health.refresh())) is None

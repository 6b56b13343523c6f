"""The file of agents that clients have made, changed and deleted."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.agentfile import AgentFile, rendered
from gateway.errors import ConfigError

BASE: dict[str, dict[str, Any]] = {
    "main": {
        "backend": "llm",
        "model": "p:m",
        "api_key": {"env": "KEY"},
        "name": "Main",
        "cwd": "/x",
    },
    "other": {"backend": "demo"},
}
CHANGES: dict[str, dict[str, Any]] = {
    "research": {"like": "main", "name": "Research", "model": "p:n"},
    "main": {"name": "Ann"},
    "other": {"deleted": True},
}


@pytest.fixture
def file(tmp_path: Path) -> AgentFile:
    """A file that is not there yet."""
    return AgentFile(tmp_path / "agents.toml")


def test_what_is_written_is_read(file: AgentFile) -> None:
    """Changes survive a restart, in a file that only its owner can read; nothing else stays behind."""
    file.write(CHANGES)
    again = AgentFile(file.path)
    again.read()

    assert again.changes == CHANGES
    assert again.hash() == file.hash()
    assert file.path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(file.path.parent) == ["agents.toml"]


def test_no_file(file: AgentFile) -> None:
    """Without a file the configuration holds as it is."""
    file.read()
    assert file.merged(BASE) == BASE


def test_laid_over_the_configuration(file: AgentFile) -> None:
    """A new agent has what the one it is like has, but for what makes that one itself."""
    assert file.merged(BASE, CHANGES) == {
        "main": {**BASE["main"], "name": "Ann"},
        "research": {
            "backend": "llm",
            "model": "p:n",
            "api_key": {"env": "KEY"},
            "name": "Research",
        },
    }


def test_a_model_that_the_agent_has(file: AgentFile) -> None:
    """A model that an agent has already becomes its first, and keeps its address and its key."""
    one, two = {"model": "a:1", "api_key": {"env": "ONE"}}, {"model": "b:2", "base_url": "http://x"}
    base: dict[str, dict[str, Any]] = {
        "many": {"backend": "llm", "models": [one, two]},
        "short": {"backend": "llm", "model": "a:1", "fallbacks": ["a:2", "a:3"]},
    }
    changes = {"many": {"model": "b:2"}, "short": {"model": "a:3"}}
    assert file.merged(base, changes) == {
        "many": {"backend": "llm", "models": [two, one]},
        "short": {"backend": "llm", "model": "a:3", "fallbacks": ["a:2", "a:1"]},
    }
    unknown = file.merged(base, {"many": {"model": "c:3"}, "short": {"model": "c:3"}})
    assert unknown["many"] == {"backend": "llm", "models": [one, two], "model": "c:3"}
    assert unknown["short"]["fallbacks"] == ["a:2", "a:3"]


def test_changes_of_what_is_not_configured_any_more(file: AgentFile) -> None:
    """Changes of an agent that the operator has taken out are left aside; so are those it had deleted."""
    changes: dict[str, dict[str, Any]] = {"gone": {"name": "X"}, "past": {"deleted": True}}
    assert file.merged(BASE, changes) == BASE


def test_an_agent_like_one_that_is_gone(file: AgentFile) -> None:
    """An agent that is like one that is not configured any more is an error that names the file."""
    with pytest.raises(ConfigError, match=r'agents\.toml: agents\.a\.like: no agent "main"'):
        file.merged({}, {"a": {"like": "main"}})


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("[agents", "not TOML"),
        ("\udcff", "not TOML"),
        ("[other]", "only tables of agents"),
        ("agents = 1", "only tables of agents"),
        ("[agents]\nmain = 1", "unknown key"),
        ('[agents.main]\ncommand = ["sh"]', "agents.main: unknown key command"),
        ("[agents.'A b']\nname = 'x'", "an agent's id is"),
    ],
)
def test_a_file_that_is_wrong(file: AgentFile, text: str, error: str) -> None:
    """A file that the gateway has not written so stops the start, and no key in it can run a program."""
    file.path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ConfigError, match=error) as caught:
        file.read()
    assert str(caught.value).startswith(str(file.path))


def test_a_file_that_can_not_be_read(file: AgentFile) -> None:
    """A directory in the place of the file stops the start."""
    file.path.mkdir()
    with pytest.raises(ConfigError, match="Is a directory"):
        file.read()


def test_a_write_that_fails(file: AgentFile) -> None:
    """A write that fails leaves what was there, and nothing beside it."""
    file.path.mkdir()
    with pytest.raises(OSError, match="directory"):
        file.write(CHANGES)
    assert os.listdir(file.path.parent) == ["agents.toml"]
    assert file.changes == {}


@given(st.dictionaries(st.sampled_from(["name", "model", "avatar"]), st.text()))
def test_any_text(table: dict[str, str]) -> None:
    """Whatever text a client gives is read back as it is, or refused."""
    try:
        text = rendered({"a": table})
    except ConfigError:
        assert any("\x7f" in value or not value.isprintable() for value in table.values())
        return
    assert text.startswith("#")

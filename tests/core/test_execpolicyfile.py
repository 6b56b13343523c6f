"""The policy file: what is taken of what clients write, and what each version is shown."""

from __future__ import annotations

from itertools import count
from typing import Any

import msgspec
import pytest

from gateway.core.execpolicy import MAX_ENTRIES
from gateway.core.execpolicyfile import EMPTY, adopted, beyond_3, entries_of, shown
from gateway.errors import InvalidRequest
from gateway.model import ExecPolicyFile, ExecUsage
from tests.core.schemas import violations

FULL: dict[str, Any] = {
    "version": 1,
    "socket": {"path": "/run/x.sock", "token": "secret"},
    "defaults": {"security": "full", "ask": "off", "askFallback": "deny", "autoAllowSkills": True},
    "agents": {
        "main": {
            "security": "allowlist",
            "allowlist": [
                {
                    "id": "e1",
                    "pattern": "/bin/sh",
                    "commandText": "/bin/sh -c x",
                    "source": "allow-always",
                    "lastUsedAt": 5,
                    "lastUsedCommand": "x",
                    "lastResolvedPath": "/bin/sh",
                },
                {"id": "e2", "pattern": "/bin/ls", "argPattern": "-l"},
            ],
            "mcpTools": [
                {"server": "s", "tool": "t", "source": "allow-always", "addedAt": 1.5},
            ],
        },
        "*": {"ask": "always"},
    },
}


def file(value: Any) -> ExecPolicyFile:
    """Return a file as a client wrote it."""
    return msgspec.convert(value, ExecPolicyFile)


def taken(value: Any, current: ExecPolicyFile | None = None, protocol: int = 4) -> ExecPolicyFile:
    """Return a file as it is kept; new ids are n0, n1, ..."""
    ids = count()
    return adopted(file(value), current, lambda: f"n{next(ids)}", protocol)


def of_main(*entries: Any) -> dict[str, Any]:
    """Return a file in which main has a list."""
    return {"version": 1, "agents": {"main": {"allowlist": list(entries)}}}


def test_what_is_kept() -> None:
    """Everything of version 4 is kept except tokens and uses, and shown with the uses that are known."""
    kept = taken(FULL)
    assert b"secret" not in msgspec.json.encode(kept)
    assert b"lastUsed" not in msgspec.json.encode(kept)

    used = {"e2": ExecUsage(at_ms=7, command="ls -l", path="/bin/ls")}
    shape = shown(kept, used, 4)
    assert violations("ExecApprovalsFile", 4, shape) == []
    assert shape["socket"] == {"path": "/run/x.sock"}
    assert shape["defaults"] == FULL["defaults"]
    first, second = shape["agents"]["main"]["allowlist"]
    assert first == {
        "id": "e1",
        "pattern": "/bin/sh",
        "commandText": "/bin/sh -c x",
        "source": "allow-always",
    }
    assert (second["lastUsedAt"], second["lastUsedCommand"]) == (7, "ls -l")
    assert shape["agents"]["main"]["mcpTools"] == FULL["agents"]["main"]["mcpTools"]


def test_a_token_is_not_shown() -> None:
    """The token of a file that was just read is in no representation of it."""
    assert "secret" not in repr(file(FULL))


def test_every_entry_has_an_id_of_its_own() -> None:
    """Entries without an id, or with one that another has, get a new one."""
    entries = ({"pattern": "/a"}, {"id": "x", "pattern": "/b"}, {"id": "x", "pattern": "/c"})

    assert [entry.id for entry in entries_of(taken(of_main(*entries)))] == ["n0", "x", "n1"]


def test_version_3_is_shown_what_it_knows() -> None:
    """To version 3 the file has what its closed schema has."""
    shape = shown(taken(FULL), {}, 3)
    snapshot = {"path": "p", "exists": True, "hash": "h", "file": shape}

    assert violations("ExecApprovalsSnapshot", 3, snapshot) == []
    assert shape["agents"]["main"]["allowlist"][1] == {"id": "e2", "pattern": "/bin/ls"}
    assert shown(EMPTY, {}, 3) == {"version": 1}


def test_version_3_removes_no_restriction_that_it_does_not_see() -> None:
    """What version 3 writes back keeps the arguments and tools of what it was shown, by the ids."""
    current = taken(FULL)
    written = shown(current, {}, 3)
    written["agents"]["main"]["allowlist"].append({"pattern": "/bin/new"})
    written["agents"]["main"]["allowlist"][0]["pattern"] = "/bin/bash"
    written["agents"]["other"] = {}

    again = taken(written, current, 3)

    first, second, new = entries_of(again)
    assert (first.pattern, first.command_text) == ("/bin/bash", "/bin/sh -c x")
    assert (second.arg_pattern, new.pattern) == ("-l", "/bin/new")
    assert shown(again, {}, 4)["agents"]["main"]["mcpTools"] == FULL["agents"]["main"]["mcpTools"]
    (kept,) = entries_of(taken(of_main({"id": "e2", "pattern": "/bin/ls"}), current, 4))
    assert kept.arg_pattern is msgspec.UNSET


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (of_main({"pattern": "git"}), "'git': a pattern is an absolute path"),
        (of_main({"pattern": "/**"}), "wildcards alone"),
        (of_main(*({"pattern": "/a"} for _ in range(MAX_ENTRIES + 1))), "more than"),
        ({"version": 1, "agents": {"Main": {}}}, "its id is 'main'"),
        ({"version": 1, "agents": {"": {}}}, "its id is 'main'"),
    ],
)
def test_what_is_refused(value: Any, words: str) -> None:
    """An entry that could not match, an agent that could not be found, and too long a list are refused."""
    with pytest.raises(InvalidRequest, match="exec approvals: ") as caught:
        taken(value)
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ({"version": 1}, None),
        (of_main({"pattern": "/a", "id": "x", "lastUsedAt": 1}), None),
        (of_main({"pattern": "/a", "argPattern": "x"}), "argPattern"),
        (of_main({"pattern": "/a", "commandText": "x"}), "commandText"),
        (of_main({"pattern": "/a", "source": "allow-always"}), "source"),
        ({"version": 1, "agents": {"main": {"mcpTools": []}}}, "mcpTools"),
    ],
)
def test_what_version_3_does_not_have(value: Any, name: str | None) -> None:
    """What version 4 has added is named."""
    assert beyond_3(file(value)) == name


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"version": 2},
        {"version": 1, "more": 1},
        {"version": 1, "agents": None},
        {"version": 1, "defaults": {"security": "lax"}},
        {"version": 1, "defaults": {"ask": "sometimes"}},
        {"version": 1, "defaults": {"allowlist": []}},
        of_main({"pattern": "/a", "more": 1}),
        of_main({"id": "", "pattern": "/a"}),
        of_main({"id": "x"}),
        of_main({"pattern": "/a", "source": "me"}),
        of_main({"pattern": "/a", "lastUsedAt": -1}),
    ],
)
def test_the_schema_is_closed(value: Any) -> None:
    """A file with anything else than the schema has is none."""
    with pytest.raises(msgspec.ValidationError):
        file(value)

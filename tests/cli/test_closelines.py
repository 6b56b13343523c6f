"""The ends of connections and runs, found in log files."""

from __future__ import annotations

import json

import pytest

from gateway.cli import closelines
from gateway.cli.closelines import find


def closed(conn, **more):
    facts = {"conn": conn, "cause": "drain", "code": 1012, "reason": "service restart"}
    facts |= {
        "lastFrameType": "req",
        "lastFrameMethod": "health",
        "lastFrameId": "5",
        "origin": "n/a",
    }
    message = {"message": f"closed conn={conn} cause=drain", "level": "info", "logger": "x"}
    return {"time": "2026-11-23T10:00:00.250Z", **message, **facts, **more}


@pytest.fixture
def log(tmp_path):
    """Write lines to the log of a day."""

    def write(day, *lines):
        path = tmp_path / f"gateway-2026-11-{day}.jsonl"
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        path.write_text("\n".join(texts) + "\n")
        return path

    return write


def ids(found):
    return [row.get("connId") or row.get("runId") for _, row in found]


def test_a_closed_connection_is_told_as_the_gateway_does(log, tmp_path):
    """The row of a log line has the names of connections.closed."""
    log("23", closed("abc-1", httpStatus=503, time="2026-11-23T10:00:00.250Z"))

    assert find(tmp_path, "abc") == [
        (
            "connection",
            {
                "connId": "abc-1",
                "state": "closed",
                "cause": "drain",
                "code": 1012,
                "reason": "service restart",
                "lastFrame": {"type": "req", "method": "health", "id": "5"},
                "httpStatus": 503,
                "closedAtMs": 1_795_428_000_250,
            },
        )
    ]


def test_an_ended_run(log, tmp_path):
    """The end of a run is found by its id."""
    message = {"message": "run ended run=r1 session=s agent=main state=failed"}
    facts = {"run": "r1", "session": "s", "agent": "main", "state": "failed", "time": "soon"}
    log("23", {**message, **facts})

    row = {"runId": "r1", "sessionKey": "s", "agentId": "main", "state": "failed"}
    assert find(tmp_path, "r1") == [("run", row | {"endedAtMs": None})]


def test_why_a_run_ended(log, tmp_path):
    """What ended a run before its time is known from its line, as long as nobody else can tell."""
    facts = {"message": "run ended run=r1 session=s agent=main state=aborted", "state": "aborted"}
    log("23", {**facts, "run": "r1", "stopReason": "shutdown"})

    ((_, row),) = find(tmp_path, "r1")
    assert row["stopReason"] == "shutdown"


def test_the_newest_come_first(log, tmp_path):
    """Files are read from the newest on, and a whole id ends the search."""
    log("21", closed("abc-0"), closed("abc-1", code=1))
    log("22", closed("abc-1", code=2), closed("abc-2"), closed("abd"))

    assert ids(find(tmp_path, "abc")) == ["abc-2", "abc-1", "abc-0"]
    ((_, row),) = find(tmp_path, "abc-1")
    assert row["code"] == 2


def test_only_so_much_is_read(log, tmp_path):
    """What lies further back than the bound is not found; half a line at its edge does no harm."""
    older = log("21", closed("abc-0"))
    newer = log("22", closed("abc-1"), closed("abc-2"))
    size = newer.stat().st_size

    assert ids(find(tmp_path, "abc", size // 2 + 20)) == ["abc-2"]
    assert ids(find(tmp_path, "abc", size)) == ["abc-2", "abc-1"]
    assert len(find(tmp_path, "abc", size + older.stat().st_size)) == 3


@pytest.mark.parametrize(
    "line",
    [
        '{"message": "closed conn=abc", "conn": "abc',
        '["closed conn=", {"conn": "abc"}]',
        json.dumps({"message": "other", "note": "closed conn=", "conn": "abc"}),
        json.dumps({"message": "closed conn=abc", "inner": {"conn": "abc"}}),
        json.dumps({"message": "closed conn=xyz peer=abc", "conn": "xyz", "peer": "abc"}),
        "closed conn= abc",
    ],
)
def test_what_is_no_end_is_passed_over(log, tmp_path, line):
    """Torn lines, other lines and other places of the same text find nothing."""
    log("23", line)

    assert find(tmp_path, "abc") == []


def test_without_log_files(tmp_path):
    """A directory without log files, or none at all, finds nothing."""
    assert find(tmp_path, "abc") == []
    assert find(tmp_path / "missing", "abc") == []


def test_a_beginning_of_very_many(log, tmp_path, monkeypatch):
    """Of more ends than anybody reads the newest are kept, and no older file is read."""
    monkeypatch.setattr(closelines, "MAX_FOUND", 3)
    log("22", closed("abc-old"))
    log("23", *(closed(f"abc-{n}") for n in range(5)))

    assert ids(find(tmp_path, "abc")) == ["abc-4", "abc-3", "abc-2"]

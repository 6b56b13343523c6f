"""gatewayctl connections, runs and why against a scripted gateway."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from gateway.cli.common import Flags
from gateway.cli.where import local_logs
from tests.cli.ctl import one_line
from tests.cli.test_closelines import closed
from tests.cli.test_explain import CLOSED, OPEN, RUN


@pytest.fixture
def known(script):
    """What the scripted gateway knows: connections by method, and runs."""
    known: dict[str, Any] = {"connections.list": [], "connections.closed": [], "runs": []}

    def connections(connection, frame):
        prefix = frame["params"].get("connId", "")
        rows = [row for row in known[frame["method"]] if row["connId"].startswith(prefix)]
        connection.answer(frame, {"connections": rows, "total": known.get("total", len(rows))})

    def describe(connection, frame):
        for row in known["runs"]:
            if row["runId"] == frame["params"]["runId"]:
                connection.answer(frame, {"run": row})
                return
        details = {"reason": "unknown-run"}
        connection.refuse(frame, "INVALID_REQUEST", "no run has the id", details=details)

    def runs(connection, frame):
        more = {"incomplete": known["incomplete"]} if "incomplete" in known else {}
        connection.answer(frame, {"runs": known["runs"], **more})

    script.handlers |= {"connections.list": connections, "connections.closed": connections}
    script.handlers |= {"runs.list": runs, "runs.describe": describe}
    return known


@pytest.fixture
def logs(environ):
    """The directory of the log files of this host's gateway."""
    directory = Path(environ["GATEWAY_STATE_DIR"], "logs")
    directory.mkdir()
    return directory


def write_log(directory, *lines):
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (directory / "gateway-2026-11-23.jsonl").write_text(text)


# -- lists


def test_open_connections(to_script, script, known):
    """Open connections are a table, aligned, with short ids; what is bounded says so."""
    silent = OPEN | {"connId": "12345678-b", "client": None, "role": None, "lastFrame": None}
    known["connections.list"] = [OPEN | {"connId": "87654321-a"}, silent | {"phase": "challenge"}]
    known["total"] = 7

    result = to_script("connections", "--limit", "2")

    head, first, second = result.stdout.splitlines()
    assert head.split() == [
        *("ID", "AGE", "STATE", "PHASE", "CLIENT", "ROLE", "PEER", "QUEUED", "IN", "OUT", "LAST")
    ]
    assert first.startswith("87654321  ")
    assert first.endswith("2.0 KiB  3   40   health")
    assert second.startswith("12345678  ")
    assert second[head.index("PHASE") :].startswith("challenge  -  ")
    assert result.stderr == "2 of 7; --limit shows more.\n"
    assert script.params("connections.list") == {"limit": 2}


def test_closed_connections(to_script, known):
    """Closed connections are a table with their causes."""
    known["connections.closed"] = [CLOSED, CLOSED | {"connId": "c-2", "reason": "x\x1b[2J" * 99}]

    head, first, second = to_script("connections", "--closed").stdout.splitlines()

    assert head.split() == "ID ENDED LASTED CAUSE CODE CLIENT PEER REASON".split()
    assert first[head.index("CAUSE") :].startswith("slow-consumer  1008  cli cli v1.0 “Ann”  ")
    assert re.search(r" \d+d\d\dh ago +2m05s ", first)
    assert second.isprintable()
    assert len(second) < 250


def test_runs(to_script, script, known):
    """Runs are a table with what they wait for and why they ended; what is missing is said."""
    failed = RUN | {"runId": "r2", "state": "failed", "error": "bad key", "runMs": 250}
    known["runs"] = [RUN | {"queuePosition": 2, "state": "accepted"}, failed]
    known["incomplete"] = "the store\nfailed"

    result = to_script("runs", "--session", "main", "--state", "failed")

    head, first, second = result.stdout.splitlines()
    assert head.split() == "ID AGE STATE QUEUE SESSION AGENT WAITED RAN WHY".split()
    assert first[head.index("STATE") :].startswith("accepted  2      agent:main:it's")
    assert second.endswith("250ms  bad key")
    assert result.stderr == "Only what goes on is listed: the store failed\n"
    assert script.params("runs.list") == {"sessionKey": "main", "state": "failed", "limit": 50}


@pytest.mark.parametrize("command", [["connections"], ["connections", "--closed"], ["runs"]])
def test_nothing_to_list(to_script, known, command):
    """An empty list is a sentence, and as JSON an empty list."""
    assert to_script(*command).stdout.endswith(".\n")
    answer = json.loads(to_script(*command, "--json").stdout)
    assert answer in ({"connections": [], "total": 0}, {"runs": []})


def test_a_gateway_that_refuses(to_script, script):
    """A refusal is one line with the method and the gateway's words, and exit status 1."""
    script.handlers["runs.list"] = lambda c, f: c.refuse(f, "FORBIDDEN", "not now")

    assert one_line(to_script("runs"), 1) == (
        "gatewayctl: the gateway refused runs.list: not now\n"
    )


# -- why


@pytest.mark.parametrize("wanted", ["c-1", "c-", "conn=c-1", " c-1 "])
def test_why_of_a_closed_connection(to_script, known, wanted):
    """A closed connection is explained by its id, its beginning, or as the log writes it."""
    known["connections.closed"] = [CLOSED]

    result = to_script("why", wanted)

    assert result.exit_code == 0
    assert result.stdout.startswith("Connection c-1 ended: slow-consumer (code 1008")
    assert result.stderr == ""


def test_why_of_an_open_connection(to_script, known):
    """An open connection is told with how it does."""
    known["connections.list"] = [OPEN]

    assert to_script("why", "c-1").stdout.startswith("Connection c-1 is open.\n")


@pytest.mark.parametrize("wanted", ["r1", "run=r1", "r"])
def test_why_of_a_run(to_script, known, wanted):
    """A run is told by its id or its beginning."""
    known["runs"] = [RUN, RUN | {"runId": "other"}]

    assert to_script("why", wanted).stdout.startswith("Run r1: goes on.\n")


def test_why_of_more_than_one(to_script, known):
    """A beginning of several ids is refused with them; a whole id among them is meant."""
    known["connections.closed"] = [CLOSED, CLOSED | {"connId": "c-12"}]
    known["runs"] = [RUN | {"runId": "c-run"}, RUN | {"runId": "c-run2"}]

    assert to_script("why", "c-1").stdout.startswith("Connection c-1 ended")
    told = one_line(to_script("why", "c-"), 1)
    assert told.endswith("is the beginning of more than one id: c-1, c-12, c-run, c-run2\n")


def test_why_of_more_than_a_line_can_hold(to_script, known):
    """Ids of runs are what clients made them: shown cut, and they steer no terminal."""
    known["runs"] = [RUN | {"runId": f"r\u202e\x1b[2J\t{n}" + "x" * 500} for n in range(30)]

    told = one_line(to_script("why", "r"), 1).removesuffix("\n")

    assert told.isprintable()
    assert len(told) < 2500


def test_why_of_nothing(to_script, known):
    """An id that nobody knows is exit status 1 with a sentence; a blank one is a wrong command line."""
    assert "nothing is known of a connection or run nope" in one_line(to_script("why", "nope"), 1)
    long = "x" * 100
    assert long in one_line(to_script("why", long), 1)
    assert to_script("why", "conn=").exit_code == 2


def test_why_for_those_who_may_only_read(to_script, script, known):
    """Who may not see connections is told so, and gets what is known of runs."""
    known["runs"] = [RUN]
    script.handlers["connections.closed"] = lambda c, f: c.refuse(
        f, "FORBIDDEN", "missing scope: x"
    )

    result = to_script("why", "r1")

    assert result.stdout.startswith("Run r1")
    assert result.stderr == "Connections were not looked at: missing scope: x\n"


def test_why_of_a_gateway_that_knows_no_runs(to_script, script, known):
    """A refusal that is not about the id is told as it is."""
    del script.handlers["runs.describe"]

    told = one_line(to_script("why", "r1"), 1)
    assert told == "gatewayctl: the gateway refused: unknown method: runs.describe\n"


def test_why_of_a_connection_that_the_gateway_forgot(to_script, known, logs):
    """What the gateway has forgotten is found in the log of this host."""
    write_log(logs, closed("abc-1"))

    result = to_script("why", "abc")

    assert result.stdout.startswith("Connection abc-1 ended: drain (code 1012")
    assert result.stdout.endswith(f"\n(from {logs}: the gateway has forgotten it)\n")


def test_why_while_the_gateway_is_down(ctl, logs):
    """Without a gateway the log tells; what is not there either is exit status 2."""
    write_log(logs, closed("abc-1"))
    down = {"GATEWAY_URL": "ws://127.0.0.1:1"}

    result = ctl("why", "abc-1", **down)

    assert result.exit_code == 0
    assert result.stdout.endswith("the gateway could not be asked)\n")
    assert "cannot connect" in one_line(ctl("why", "abd", **down))


@pytest.mark.parametrize("url", ["ws://192.0.2.1:1", "nonsense://"])
def test_a_gateway_elsewhere_has_no_log_here(environ, url):
    """The log of this host says nothing of a gateway elsewhere, however its address was given."""
    assert local_logs(Flags(url=url), environ) is None
    assert local_logs(Flags(), environ | {"GATEWAY_URL": url}) is None
    here = Path(environ["GATEWAY_STATE_DIR"], "logs")
    assert (
        local_logs(Flags(url="ws://127.0.0.1:1"), environ) == local_logs(Flags(), environ) == here
    )


def test_why_of_a_gateway_elsewhere(to_script, url, known, logs):
    """An id that a gateway elsewhere does not know is not looked for in the log of this host."""
    write_log(logs, closed("abc-1"))
    by_name = url.replace("127.0.0.1", "127.1")  # an address that is not loopback for sure

    assert "nothing is known" in one_line(to_script("why", "abc-1", GATEWAY_URL=by_name), 1)
    assert to_script("why", "abc-1").exit_code == 0


def test_why_with_a_log_that_can_not_be_read(to_script, known, logs):
    """A log file that can not be read is told, and that nothing is known."""
    (logs / "gateway-2026-11-23.jsonl").mkdir()

    result = to_script("why", "abc-1")

    assert result.exit_code == 1
    assert result.stderr.startswith("The log was not looked at: ")


def test_why_of_a_gateway_that_goes_away(to_script, script, known):
    """A connection that ends while it is asked is told in one line, with exit status 2."""
    script.handlers["runs.describe"] = lambda c, f: c.hang_up(1012, "service restart")

    assert "service restart" in one_line(to_script("why", "r1"))


def test_why_of_an_older_gateway(to_script, script, known, logs):
    """What an older gateway can not be asked is said, and does not hide what the rest tells."""
    del script.handlers["runs.describe"]
    known["connections.closed"] = [CLOSED]
    told = to_script("why", "c-1")
    del script.handlers["connections.closed"]
    write_log(logs, closed("abc-1"))
    logged = to_script("why", "abc-1")

    assert told.stdout.startswith("Connection c-1 ended: slow-consumer")
    assert told.stderr == "Runs were not looked at: unknown method: runs.describe\n"
    assert logged.stdout.startswith("Connection abc-1 ended: drain")
    assert logged.stdout.endswith("the gateway could not be asked)\n")
    assert logged.exit_code == 0


@pytest.mark.parametrize("wanted", ["\udcff", "x" * 5000, "'; --", "\x1b[2J", "é" * 70])
def test_why_of_an_odd_id(to_script, known, logs, wanted):
    """An id that is none is answered in one line, whatever it holds."""
    write_log(logs, closed("abc-1"))

    result = to_script("why", wanted)

    assert one_line(result, 1).removesuffix("\n").isprintable()

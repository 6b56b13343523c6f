"""What gatewayctl why says of a connection and of a run."""

from __future__ import annotations

import re

import pytest

from gateway.cli import explain
from gateway.core.causes import EXPLANATIONS
from gateway.errors import CloseCause

NOW = 1_700_000_000_000
CLOSED = {
    "connId": "c-1",
    "state": "closed",
    "phase": "connected",
    "handshake": "connected",
    "peer": "192.0.2.7:4711",
    "client": {"id": "cli", "mode": "cli", "version": "1.0", "displayName": "Ann"},
    "protocol": 4,
    "role": "operator",
    "closedAtMs": NOW - 180_000,
    "durationMs": 125_000,
    "queuedBytes": 2048,
    "framesIn": 3,
    "framesOut": 40,
    "lastFrame": {"type": "req", "method": "health", "id": None},
    "cause": "slow-consumer",
    "code": 1008,
    "reason": "slow consumer",
    "alsoCause": "drain",
    "dropped": {"must": 62, "latest": 1},
    "deviceId": None,
}
OPEN = {k: v for k, v in CLOSED.items() if k not in ("cause", "closedAtMs")} | {
    "state": "open",
    "openedAtMs": NOW - 60_000,
}
RUN = {
    "runId": "r1",
    "state": "running",
    "live": True,
    "sessionKey": "agent:main:it's",
    "agentId": "main",
    "acceptedAtMs": NOW - 5000,
    "queuedMs": 5000,
    "lastSeq": 3,
}


def facts(text: str) -> dict[str, str]:
    """Return the facts below the sentences, by their names."""
    return dict(re.findall(r"^  (\w+) {2,}(.+)$", text, re.MULTILINE))


def plain(text: str) -> str:
    return " ".join(text.split())


def test_every_cause_is_explained():
    """There is a meaning and a remedy for every close cause, each in whole sentences."""
    assert set(EXPLANATIONS) == set(CloseCause)
    for meaning, remedy in EXPLANATIONS.values():
        assert re.fullmatch(r"[A-Z`].*[.]", meaning)
        assert re.fullmatch(r"[A-Z`].*[.]", remedy)


@pytest.mark.parametrize("cause", list(CloseCause))
def test_a_closed_connection(cause):
    """Its cause is told with code and reason, what that means and what to do."""
    text = explain.connection(CLOSED | {"cause": cause.value}, NOW)

    title, *_ = text.splitlines()
    assert title == f"Connection c-1 ended: {cause.value} (code 1008, “slow consumer”)."
    meaning, remedy = EXPLANATIONS[cause]
    assert meaning.replace("`", "") in plain(text)
    assert "What to do: " + remedy.replace("`", "").replace("CONN", "c-1") in plain(text)
    assert max(map(len, text.splitlines())) <= explain.WIDTH
    found = facts(text)
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \(3m00s ago\), 2m05s after it was opened",
        found.pop("ended"),
    )
    assert found == {
        "phase": "it was connected",
        "peer": "192.0.2.7:4711",
        "client": "cli cli v1.0 “Ann”",
        "role": "operator, protocol 4",
        "lastFrame": "req health",
        "frames": "3 in, 40 out",
        "queued": "2.0 KiB waited for it",
        "alsoCause": "drain",
        "dropped": "must 62, latest 1",
    }


def test_a_refused_connection():
    """What was never authenticated is told with what it claims, and without what is not known."""
    row = CLOSED | {"phase": "connect", "client": None, "role": None, "lastFrame": None}
    text = explain.connection(row | {"claims": "cli ui v2", "reason": "", "queuedBytes": 0}, NOW)

    assert "(code 1008)." in text
    found = facts(text)
    assert found["phase"] == "it had sent its connect request"
    assert (found["client"], found["claims"]) == ("[cli ui v2]", "cli ui v2")
    assert not {"role", "lastFrame", "queued"} & found.keys()


def test_a_cause_of_a_newer_gateway():
    """A cause that is not known here is told all the same."""
    text = explain.connection(CLOSED | {"cause": "moon-phase"}, NOW)

    assert text.startswith("Connection c-1 ended: moon-phase (code 1008")
    assert "knows no such cause" in text


@pytest.mark.parametrize(
    ("facts_", "said"),
    [
        ({}, "takes what it is sent"),
        ({"state": "slow"}, "does not keep up"),
        ({"state": "silent"}, "has not been heard of"),
        ({"phase": "challenge"}, "has not answered yet"),
        ({"phase": "connect"}, "is being decided"),
        ({"phase": "upgrade"}, "no whole upgrade request"),
        ({"phase": "closing", "state": "closing"}, "being closed"),
    ],
)
def test_an_open_connection(facts_, said):
    """An open connection is told with how it does."""
    text = explain.connection(OPEN | facts_, NOW)

    assert text.startswith("Connection c-1 is open.\n")
    assert said in plain(text)
    assert facts(text)["opened"].endswith("(1m00s ago)")
    assert facts(text)["queued"] == "2.0 KiB wait for it"


@pytest.mark.parametrize(
    ("facts_", "title", "said"),
    [
        ({}, "Run r1: goes on.", ""),
        ({"state": "accepted", "queuePosition": 0}, "Run r1: is about to start.", "being stored"),
        (
            {"state": "accepted", "queuePosition": 1},
            "Run r1: waits for 1 run before it.",
            "gatewayctl runs --session 'agent:main:it'\"'\"'s'",
        ),
        (
            {"state": "accepted", "queuePosition": 2},
            "Run r1: waits for 2 runs before it.",
            '{"sessionKey": "agent:main:it\'"\'"\'s"}',
        ),
        ({"live": False}, "Run r1: running, but this gateway does not hold it.", "left it open"),
        ({"state": "done"}, "Run r1: is done.", ""),
        (
            {"state": "failed", "error": "401\x1b[3m bad"},
            "Run r1: failed: 401 [3m bad.",
            "reported",
        ),
        ({"state": "failed"}, "Run r1: failed.", "not known"),
        (
            {"state": "failed", "error": "interrupted by a restart", "stopReason": "interrupted"},
            "Run r1: failed: interrupted by a restart.",
            "The gateway ended it, not its agent",
        ),
        (
            {"state": "failed", "stopReason": "expired"},
            "Run r1: failed.",
            "longer than limits.queued_ttl_s",
        ),
        (
            {"state": "aborted", "stopReason": "timeout"},
            "Run r1: was aborted (timeout).",
            "took longer than it may",
        ),
        ({"state": "aborted", "stopReason": "odd"}, "Run r1: was aborted (odd).", ""),
        ({"state": "paused"}, "Run r1: paused.", ""),
    ],
)
def test_a_run(facts_, title, said):
    """The state of a run is told with what it waits for or why it ended, and what to do."""
    text = explain.run(RUN | facts_, NOW)

    assert text.splitlines()[0] == title
    assert said in plain(text)
    assert facts(text)["waited"] == "5.0s"


def test_the_facts_of_a_run():
    """Times, model, worker, log and the connection that started it are told where they are known."""
    more = {"startedAtMs": NOW - 4000, "runMs": 4000, "backend": "acp", "model": "p/m"}
    more |= {"origin": "chat", "connId": "c-9", "textChars": 12, "evictedThrough": 2}
    worker = {"state": "waiting", "lastError": "exit\nstatus 1", "restarts": 3}
    text = explain.run(RUN | more | {"worker": worker}, NOW)

    assert "agent main takes no work now, it is waiting: exit status 1." in plain(text)
    found = facts(text)
    assert found.pop("accepted").endswith("(5.0s ago)")
    assert found.pop("started").endswith("(4.0s ago)")
    assert found == {
        "waited": "5.0s",
        "ran": "4.0s",
        "sessionKey": "agent:main:it's",
        "agentId": "main",
        "backend": "acp",
        "model": "p/m",
        "worker": "state waiting, lastError exit status 1, restarts 3",
        "origin": "chat by connection c-9 (gatewayctl why c-9)",
        "events": "3, those to 2 are removed",
        "answer": "12 characters so far",
    }
    assert "events" not in facts(
        explain.run({"runId": "r1", "state": "done"} | {"queuedMs": 1}, NOW)
    )
    ready = explain.run(RUN | {"worker": {"state": "ready", "pid": 7}}, NOW)
    assert "takes no work" not in ready
    assert facts(ready)["worker"] == "state ready, pid 7"

"""``usage.*`` and ``sessions.usage*`` as clients of both versions use them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gateway.app.usage import MAX_POINTS
from gateway.model import ModelUsage, Usage
from tests.app.harness import READ, Client, Gate

MAIN = "agent:main:main"
DAY_S = 86_400
TODAY = "2023-11-14"
LARGE = ModelUsage(
    provider="openai",
    model="large",
    input_tokens=100,
    output_tokens=20,
    cache_read_tokens=30,
    cache_write_tokens=10,
    cost_usd=0.5,
)
FREE = ModelUsage(provider="local", model="small", input_tokens=5, output_tokens=5)


@pytest.fixture(params=[3, 4])
def client(request: pytest.FixtureRequest, gate: Gate) -> Client:
    """A client of either version that may read, no more."""
    return gate.client(request.param, scopes=READ)


def spend(
    gate: Gate, run: str, *used: ModelUsage, key: str = "main", took_s: float = 2, **more: Any
) -> None:
    """Have a turn that uses something."""
    sender = gate.client()
    sender.send(f"question {run}", key, run)
    live = gate.live(run)
    gate.clock.advance(took_s)
    live.sink.text(f"answer {run}")
    total_in = sum(entry.input_tokens for entry in used)
    total_out = sum(entry.output_tokens for entry in used)
    usage = Usage(input_tokens=total_in, output_tokens=total_out, by_model=used, **more)
    live.end(usage=usage, provider="openai", model="large")
    gate.clock.advance(1)
    sender.leave()


def totals(**fields: Any) -> dict[str, Any]:
    """Return totals that are 0 but for these."""
    names = ("input", "output", "cacheRead", "cacheWrite", "totalTokens", "totalCost")
    costs = ("inputCost", "outputCost", "cacheReadCost", "cacheWriteCost", "missingCostEntries")
    return {**dict.fromkeys(names + costs, 0), **fields}


BOTH = totals(
    input=65,
    output=25,
    cacheRead=30,
    cacheWrite=10,
    totalTokens=130,
    totalCost=0.5,
    missingCostEntries=1,
)
DEAR = totals(input=60, output=20, cacheRead=30, cacheWrite=10, totalTokens=120, totalCost=0.5)


def test_the_cost_of_days(gate: Gate, client: Client) -> None:
    """Tokens and costs come in all and for each day on which there were any, thirty days by default."""
    spend(gate, "r1", LARGE)
    gate.clock.advance(DAY_S * 2)
    spend(gate, "r2", LARGE, FREE)

    answer = client.ok("usage.cost", {})
    one = client.ok("usage.cost", {"days": 1})

    assert (answer["updatedAt"], answer["days"]) == (gate.clock.now_ms(), 30)
    assert answer["daily"] == [{"date": TODAY, **DEAR}, {"date": "2023-11-16", **BOTH}]
    assert answer["totals"]["totalCost"] == 1.0
    assert answer["totals"]["totalTokens"] == 250
    assert (one["days"], one["totals"]) == (1, BOTH)
    assert ("cacheStatus" in answer) is (client.connection.caller.protocol == 4)


def test_nothing_used(gate: Gate, client: Client) -> None:
    """Where nothing was used everything is 0, not missing."""
    cost = client.ok("usage.cost", {})
    usage = client.ok("sessions.usage", {})

    assert (cost["totals"], cost["daily"]) == (totals(), [])
    assert (usage["totals"], usage["sessions"]) == (totals(), [])
    assert usage["aggregates"]["messages"]["total"] == 0
    assert usage["aggregates"]["longestSessionDurationMs"] == 0
    assert "latency" not in usage["aggregates"]
    status = client.ok("usage.status")
    assert status["providers"] == []
    assert ("refreshing" in status) is (client.connection.caller.protocol == 4)


@pytest.mark.parametrize(
    ("zone", "dates"),
    [
        ({}, [TODAY, "2023-11-15"]),
        ({"mode": "utc"}, [TODAY, "2023-11-15"]),
        ({"mode": "specific", "utcOffset": "UTC+2"}, ["2023-11-15"]),
        ({"mode": "specific", "utcOffset": "UTC-3:30"}, [TODAY]),
    ],
)
def test_days_of_a_zone(gate: Gate, client: Client, zone: dict[str, str], dates: list[str]) -> None:
    """What was used before and after a midnight counts for the days of the zone that is asked for."""
    spend(gate, "r1", LARGE)  # at 22:13 UTC
    gate.clock.advance(2 * 3600)
    spend(gate, "r2", LARGE)

    asked = {"startDate": "2023-11-14", "endDate": "2023-11-15", **zone}
    daily = client.ok("usage.cost", asked)["daily"]

    assert [each["date"] for each in daily] == dates
    assert sum(each["totalTokens"] for each in daily) == 240


def test_a_zone_by_its_name(gate: Gate) -> None:
    """Version 4 names zones; one that there is not is refused."""
    client = gate.client(4)
    spend(gate, "r1", LARGE)

    tokyo = client.ok("usage.cost", {"mode": "specific", "timeZone": "Asia/Tokyo"})
    refused = client.refused("usage.cost", {"mode": "specific", "timeZone": "Asia/Atlantis"})

    assert [each["date"] for each in tokyo["daily"]] == ["2023-11-15"]
    assert refused["code"] == "INVALID_REQUEST"
    assert 'no time zone "Asia/Atlantis"' in refused["message"]


@pytest.mark.parametrize(
    "params",
    [
        {"startDate": "2023-11-15", "endDate": "2023-11-14"},
        {"startDate": "2023-02-30"},
        {"startDate": "1999-01-01"},
        {"mode": "specific"},
        {"startDate": "today"},
        {"days": 0},
        {"range": "7d", "endDate": "2023-11-14"},
        {"agentId": "main", "agentScope": "all"},
    ],
)
def test_ranges_that_are_none(gate: Gate, params: dict[str, Any]) -> None:
    """A range that is none is refused."""
    assert gate.client(4).refused("usage.cost", params)["code"] == "INVALID_REQUEST"


def test_ranges_by_name(gate: Gate) -> None:
    """Version 4 names ranges: the last days up to today, or all since something was used."""
    client = gate.client(4)
    nothing = client.ok("usage.cost", {"range": "all"})
    spend(gate, "r1", LARGE)
    gate.clock.advance(40 * DAY_S)
    spend(gate, "r2", LARGE)

    found = {name: client.ok("usage.cost", {"range": name}) for name in ("7d", "90d", "1y", "all")}

    assert nothing["days"] == 1
    assert {name: each["days"] for name, each in found.items()} == {
        "7d": 7,
        "90d": 90,
        "1y": 365,
        "all": 41,
    }
    assert [len(each["daily"]) for each in found.values()] == [1, 2, 2, 2]


def test_usage_of_everything(gates: Callable[..., Gate], client: Client) -> None:
    """All is told apart by model, provider, agent and day, with how long the runs took."""
    gate = client.gate
    spend(gate, "r1", LARGE, FREE)
    spend(gate, "r2", LARGE, key="errand", took_s=10)

    answer = client.ok("sessions.usage", {})
    aggregates = answer["aggregates"]

    assert (answer["startDate"], answer["endDate"]) == ("2023-10-16", TODAY)
    assert answer["totals"]["totalTokens"] == 250
    assert [(m["provider"], m["model"], m["count"]) for m in aggregates["byModel"]] == [
        ("openai", "large", 2),
        ("local", "small", 1),
    ]
    assert [(m["provider"], m["count"]) for m in aggregates["byProvider"]] == [
        ("openai", 2),
        ("local", 1),
    ]
    assert [(a["agentId"], a["totals"]["totalCost"]) for a in aggregates["byAgent"]] == [
        ("main", 1.0)
    ]
    assert aggregates["messages"] == {
        "total": 4,
        "user": 2,
        "assistant": 2,
        "toolCalls": 0,
        "toolResults": 0,
        "errors": 0,
    }
    latency = {"count": 2, "avgMs": 6000.0, "p95Ms": 10_000, "minMs": 2000, "maxMs": 10_000}
    assert aggregates["latency"] == latency
    assert aggregates["dailyLatency"] == [{"date": TODAY, **latency}]
    assert aggregates["daily"] == [
        {
            "date": TODAY,
            "tokens": 250,
            "cost": 1.0,
            "messages": 4,
            "toolCalls": 0,
            "errors": 0,
        }
    ]
    assert aggregates["modelDaily"] == [
        {
            "date": TODAY,
            "provider": "local",
            "model": "small",
            "tokens": 10,
            "cost": 0.0,
            "count": 1,
        },
        {
            "date": TODAY,
            "provider": "openai",
            "model": "large",
            "tokens": 240,
            "cost": 1.0,
            "count": 2,
        },
    ]
    assert (aggregates["byChannel"], aggregates["byCreator"]) == ([], [])
    assert aggregates["costDaily"][0]["totalTokens"] == 250
    assert aggregates["sessionCount"] == 2
    assert ("creatorOptions" in answer) is (client.connection.caller.protocol == 4)


def test_usage_of_sessions(gate: Gate, client: Client) -> None:
    """Sessions come last used first, with their label, their models and their days."""
    spend(gate, "r1", LARGE, FREE)
    spend(gate, "r2", LARGE, key="agent:main:chat:group:x")
    gate.client().ok("sessions.patch", {"key": "main", "label": "Plans"})

    answer = client.ok("sessions.usage", {"includeContextWeight": True})
    only = client.ok("sessions.usage", {"key": "main"})
    first = client.ok("sessions.usage", {"limit": 1})

    other, main = answer["sessions"]
    assert (other["chatType"], main["chatType"]) == ("group", "direct")
    assert (main["key"], main["agentId"], main["label"]) == (MAIN, "main", "Plans")
    assert main["contextWeight"] is None
    session = gate.client().ok("sessions.describe", {"key": "main"})["session"]
    assert main["sessionId"] == main["usage"]["sessionId"] == session["sessionId"]
    usage = main["usage"]
    assert {name: usage[name] for name in BOTH} == BOTH
    assert usage["activityDates"] == [TODAY]
    assert usage["dailyBreakdown"] == [{"date": TODAY, "tokens": 130, "cost": 0.5}]
    assert [m["model"] for m in usage["modelUsage"]] == ["large", "small"]
    assert usage["messageCounts"]["total"] == 2
    assert usage["durationMs"] == 0
    assert [row["key"] for row in only["sessions"]] == [MAIN]
    assert only["totals"] == BOTH
    assert [row["key"] for row in first["sessions"]] == ["agent:main:chat:group:x"]
    assert first["totals"]["totalTokens"] == 250


def test_sessions_that_began_anew_or_are_gone(gate: Gate) -> None:
    """A session under another id is another row, or one with all of its family; one that is gone stays."""
    old, client = gate.client(3), gate.client(4)
    spend(gate, "r1", LARGE)
    old.ok("sessions.reset", {"key": "main"})
    spend(gate, "r2", FREE)
    spend(gate, "r3", LARGE, key="gone")
    client.ok("sessions.delete", {"key": "gone"})

    rows = client.ok("sessions.usage", {})["sessions"]
    family = client.ok("sessions.usage", {"groupBy": "family"})["sessions"]

    assert [row["key"].rpartition(":")[2] for row in rows] == ["gone", "main", "main"]
    assert len({row["sessionId"] for row in rows}) == 3
    assert [row["key"].rpartition(":")[2] for row in family] == ["gone", "main"]
    assert family[1]["usage"]["totalTokens"] == 130
    assert family[1]["sessionId"] == rows[1]["sessionId"]
    assert "sessionId" not in family[0]


def test_usage_of_one_agent(gates: Callable[..., Gate]) -> None:
    """Version 4 asks for the usage of one agent, or of all."""
    gate = gates(others=("ops",))
    client = gate.client(4)
    spend(gate, "r1", LARGE)

    assert client.ok("sessions.usage", {"agentId": "ops"})["sessions"] == []
    assert len(client.ok("sessions.usage", {"agentScope": "all"})["sessions"]) == 1
    assert len(client.ok("sessions.usage", {"agentId": "main"})["sessions"]) == 1
    refused = client.refused("sessions.usage", {"creatorKey": "me"})
    assert "leave creatorKey out" in refused["message"]


def test_usage_over_time(gate: Gate, client: Client) -> None:
    """Each run of a session is a point; the curve's ends are what the session used in all."""
    for number in range(MAX_POINTS + 2):
        spend(gate, f"r{number}", LARGE, took_s=0)

    answer = client.ok("sessions.usage.timeseries", {"key": "main"})
    points = answer["points"]

    assert len(points) == MAX_POINTS
    assert points[0]["timestamp"] < points[-1]["timestamp"]
    assert (points[0]["cumulativeTokens"], points[-1]["cumulativeTokens"]) == (360, 120 * 202)
    assert points[-1]["cumulativeCost"] == pytest.approx(101)
    last = {k: points[-1][k] for k in ("input", "output", "cacheRead", "cacheWrite", "cost")}
    assert last == {"input": 60, "output": 20, "cacheRead": 30, "cacheWrite": 10, "cost": 0.5}


def test_a_session_that_used_nothing(gate: Gate, client: Client) -> None:
    """A session without runs has an empty curve and log; one that there is not is refused."""
    gate.client(4).ok("sessions.create", {"key": "fresh"})

    assert client.ok("sessions.usage.timeseries", {"key": "fresh"})["points"] == []
    assert client.ok("sessions.usage.logs", {"key": "fresh"}) == {"logs": []}
    for method in ("sessions.usage.timeseries", "sessions.usage.logs"):
        assert client.refused(method, {"key": "missing"})["message"] == "session not found"


def test_the_log_of_a_session(gate: Gate, client: Client) -> None:
    """The messages of a session come with what they used; a price that is not known is left out."""
    spend(gate, "r1", LARGE)
    spend(gate, "r2", FREE)
    gate.client(4).call("chat.inject", {"sessionKey": "main", "message": "by the way"})

    logs = client.ok("sessions.usage.logs", {"key": "main", "limit": 4})["logs"]

    assert [(e["role"], e.get("tokens"), e.get("cost")) for e in logs] == [
        ("assistant", 120, 0.5),
        ("user", None, None),
        ("assistant", 10, None),
        ("assistant", 0, None),
    ]
    assert logs[1]["content"] == "question r2"


def test_what_an_answer_used_is_in_the_transcript(gate: Gate, client: Client) -> None:
    """The message and the final event of a run carry its usage, cached tokens and price included."""
    spend(gate, "r1", LARGE)

    answer = client.ok("chat.history", {"sessionKey": "main"})["messages"][-1]

    expected = {
        "input": 60,
        "output": 20,
        "cacheRead": 30,
        "cacheWrite": 10,
        "totalTokens": 120,
        "cost": {"total": 0.5},
    }
    assert answer["usage"] == expected


def test_the_tokens_of_a_row_are_those_in_the_context(gate: Gate, client: Client) -> None:
    """Clients show how full the context is: where the agent says so, a row has that for its tokens."""
    spend(gate, "r1", LARGE)
    before = client.ok("sessions.describe", {"key": "main"})["session"]
    spend(gate, "r2", LARGE, context_tokens=77)
    after = client.ok("sessions.describe", {"key": "main"})["session"]

    assert (before["totalTokens"], after["totalTokens"]) == (120, 77)
    assert after["inputTokens"] == 200


def test_they_are_not_advertised_as_such(gate: Gate) -> None:
    """What the protocol does not list in its hello is called all the same, by who may read."""
    listed = gate.wiring.edge.dispatcher.table.advertised()

    assert {"usage.cost", "usage.status"} <= set(listed)
    assert not [name for name in listed if name.startswith("sessions.usage")]
    assert gate.client(4, scopes=()).refused("usage.cost", {})["code"] == "FORBIDDEN"

"""A limit hurts who means no harm (attack 23): each limit has its twin, a client that it must let through.

Every limit stands in one of three tables: those that a client can run into, with the test of a client that
comes close to it and is served all the same; those that bound what is remembered; and those that are no
client's affair. The tests here use the limits as they are by default, so that a tighter one is seen.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from twisted.logger import LogEvent

from gateway.errors import CloseCause, CloseCode
from gateway.limits import LimitsConfig
from gateway.model import ApprovalRequest, Decision
from gateway.net.factory import SWEEP_S
from gateway.testing import TOKEN, result_of
from tests.app.conftest import gates
from tests.app.harness import Gate as AppGate
from tests.net.gate import DEVICE, UI, Client, Gate, closings, limited
from tests.net.test_asking_nodes import PARAMS, answers, ask, events, join_node
from tests.net.wire import close_frame, masked
from tests.rpc.managing import Managed
from tests.security.test_s04_guessing import guess

__all__ = ["gates"]

FAR: Final = "192.0.2.7"
LIMITS: Final = LimitsConfig()

TWINS: Final[Mapping[str, str]] = {
    "handshake_timeout_s": (
        "security/test_s14_floods.py::test_s14_twin_a_client_that_needs_its_time_is_let_in"
    ),
    "preauth_payload_bytes": (
        "security/test_s15_large_frames.py::test_s15_twin_a_large_connect_that_drips_is_served"
    ),
    "preauth_queue_frames": "test_s23_twin_requests_right_behind_the_connect",
    "preauth_connections_per_address": "test_s23_twin_an_office_that_starts_work",
    "preauth_connections_loopback": "test_s23_twin_everything_on_this_machine_starts_at_once",
    "preauth_connections_max": "net/test_strangers.py::test_a_flood_does_not_keep_others_out",
    "auth_failures_max": "security/test_s04_guessing.py::test_s04_twin_a_typing_error_costs_little",
    "auth_failure_window_s": "test_s23_twin_a_stale_token_shown_now_and_then",
    "auth_lock_s": "test_s23_twin_who_was_locked_out_is_let_in_afterwards",
    "auth_delayed_max": "security/test_s04_guessing.py::test_s04_twin_the_owner_waits_no_longer_than_5_s",
    "connections_max": "test_s23_twin_a_full_house_has_the_place_that_was_left",
    "connections_per_principal": "net/test_websocket.py::test_one_principal_has_so_many_connections",
    "request_queue": "test_s23_twin_many_requests_that_only_wait",
    "payload_bytes": "security/test_s16_compression.py::test_s16_twin_what_just_fits_arrives_whole",
    "attachment_bytes": "rpc/test_common.py::test_attachments_at_the_limit",
    "outbox_bytes": "security/test_s18_slow_readers.py::test_s18_twin_a_slow_reader_that_reads_is_kept",
    "outbox_total_bytes": "net/test_relief.py::test_the_largest_is_closed_and_told_why",
    "outbox_age_s": "net/test_factory.py::test_a_long_message_that_drains_holds_nobody_guilty",
    "close_grace_s": "test_s23_twin_a_late_goodbye_is_a_goodbye",
    "drain_grace_s": "test_drain.py::test_run_that_ends_within_the_grace",
    "ping_silence_s": "test_s23_twin_a_large_message_over_ten_minutes",
    "ping_timeout_s": "test_s23_twin_a_pong_that_takes_its_time",
    "delta_interval_ms": "net/test_slow_links.py::test_a_slow_reader_gets_fewer_and_larger_deltas",
    "lane_depth": "test_s23_twin_many_messages_behind_one_another",
    "queued_ttl_s": "test_s23_twin_a_message_that_waits_for_an_hour",
    "run_timeout_s": "test_s23_twin_an_agent_that_thinks_for_minutes",
    "run_timeout_max_s": "test_s23_twin_a_run_that_is_given_a_day",
    "idempotency_ttl_s": "test_s23_twin_a_repeat_after_some_bad_minutes",
    "idempotency_max": "app/test_runs.py::test_runs_are_bounded",
    "approvals_max": "app/test_approvals.py::test_too_many",
    "approvals_per_asker": "rpc/test_approvals.py::test_too_many_questions_of_one",
    "approval_timeout_s": "test_s23_twin_an_operator_who_thinks_it_over",
    "approval_no_route_s": "app/test_approvals.py::test_who_comes_in_time",
    "exec_policy_bytes": "test_s23_twin_a_long_policy",
    "setup_codes_max": "app/test_setupcodes.py::test_too_many",
    "scope_upgrades_max": "app/test_scopeupgrades.py::test_too_many_wait",
    "pairing_requests_max": "app/test_pairingcaps.py::test_devices_that_wait",
    "pairing_requests_per_address": "app/test_pairingcaps.py::test_devices_of_one_address_that_wait",
    "devices_max": "app/test_pairingcaps.py::test_the_device_least_missed_makes_room",
    "node_pending_max": "app/test_invocations.py::test_how_many_may_wait",
    "node_pending_per_node": "test_s23_twin_a_node_with_much_to_do",
    "node_timeout_s": "test_s23_twin_a_node_that_answers_at_the_last_moment",
    "node_params_bytes": "app/test_invocations.py::test_params_that_are_too_large",
    "node_result_bytes": "test_s23_twin_an_answer_that_just_fits",
    "node_progress_bytes": "app/test_invocations.py::test_progress",
    "presence_per_device": "app/test_presence.py::test_who_is_still_here_goes_before_who_left",
    "presence_ttl_s": "test_s23_twin_who_is_quiet_is_still_here",
    "node_events_per_minute": "test_s23_twin_a_node_with_much_to_tell",
    "node_new_sessions": "app/test_nodeturns.py::test_a_node_makes_a_few_sessions",
    "node_turns_waiting": "app/test_nodeturns.py::test_other_sessions_are_not_crowded",
    "system_events_max": "app/test_systemevents.py::test_nobody_drives_out_what_others_noted",
    "agents_max": "test_s23_twin_the_last_agent_there_is_room_for",
    "agent_file_bytes": "test_s23_twin_a_file_that_just_fits",
}
"""Those that a client can run into, and the client that must not be hurt: a test here, or under tests/."""

MEMORY: Final[Mapping[str, str]] = {
    "auth_sources_max": "beyond it the address forgotten first may guess again; nobody waits for it",
    "closed_connections_max": "what is told of connections that have ended already",
    "closed_connections_ttl_s": "what is told of connections that have ended already",
    "approvals_history_max": "what is told of questions that have ended already",
    "node_answers_bytes": "beyond it the oldest answer is forgotten, and a repeat asks the node again",
    "presence_max": "how many are listed; who is not listed works as before",
    "node_queues_max": "nodes for which something waits; beyond it who asks is told so at once",
    "voice_sessions_max": "beyond it the quietest call's last words are forgotten",
    "voice_identities_max": "beyond it the oldest words may be told of twice",
    "node_facts_max": "beyond it what a node said of itself first is forgotten until it says it again",
    "exec_ends_max": "beyond it the oldest end of a command may be told twice",
}
"""Those that bound what is remembered, where being slow changes nothing, and what happens beyond each."""

NOBODY: Final[Mapping[str, str]] = {
    "tick_interval_s": "how often the gateway speaks; no client has to answer",
    "loop_lag_ms": "from when the log tells of the gateway's own delays",
    "log_files": "the gateway's own files",
    "log_file_bytes": "the gateway's own files",
}
"""Those that are no client's affair."""


def test_every_limit_stands_in_one_table() -> None:
    """A new limit has a twin, or a reason why it needs none."""
    tables = (TWINS, MEMORY, NOBODY)
    listed = [name for table in tables for name in table]
    assert sorted(listed) == sorted(field.name for field in msgspec.structs.fields(LimitsConfig))
    assert all({**MEMORY, **NOBODY}.values())


@pytest.mark.parametrize("limit", TWINS)
def test_every_twin_is_there(limit: str) -> None:
    """The tests that are named are there to be run."""
    path, _, name = TWINS[limit].rpartition("::")
    module = "tests." + path[:-3].replace("/", ".") if path else __name__
    assert name.startswith("test_")
    assert callable(getattr(importlib.import_module(module), name))


# -- coming in


def test_s23_twin_requests_right_behind_the_connect(gate: Gate) -> None:
    """A client that does not wait for its hello gets every answer, however long the store takes."""
    waiting = gate.stall_store()
    client = gate.open()
    client.connect(client=UI, device=DEVICE)
    sent = [client.request("health") for _ in range(15)]
    gate.clock.advance(60)
    waiting[0]()
    assert [m["id"] for m in client.received() if m["type"] == "res" and m["ok"]][1:] == sent


@pytest.mark.parametrize("host", [FAR, "2001:db8::7"])
def test_s23_twin_an_office_that_starts_work(gate: Gate, host: str) -> None:
    """32 clients behind one address that come at once and need nearly all their time are let in."""
    clients = [gate.open(host) for _ in range(32)]
    gate.clock.advance(14)
    assert all(client.connect()["ok"] for client in clients)


def test_s23_twin_everything_on_this_machine_starts_at_once(gate: Gate) -> None:
    """A thousand local clients that come back at once, as after a restart, all find a place."""
    clients = [gate.open() for _ in range(1000)]
    assert all(" 101 " in client.status for client in clients)
    assert all(client.connect()["ok"] for client in clients[-3:])


def test_s23_twin_a_stale_token_shown_now_and_then(gate: Gate) -> None:
    """A forgotten program that tries its old token every seven seconds locks nobody out."""
    for _ in range(60):
        assert guess(gate, FAR, "stale") == "AUTH_TOKEN_MISMATCH"
        gate.clock.advance(7)
    assert guess(gate, FAR, TOKEN) == "in"


def test_s23_twin_who_was_locked_out_is_let_in_afterwards(gate: Gate) -> None:
    """After five minutes the right token counts again, though it was tried meanwhile."""
    for _ in range(10):
        assert guess(gate, FAR) == "AUTH_TOKEN_MISMATCH"
    for _ in range(2):
        gate.clock.advance(149)
        assert guess(gate, FAR, TOKEN) == "AUTH_RATE_LIMITED"
    gate.clock.advance(2)
    assert guess(gate, FAR, TOKEN) == "in"


def test_s23_twin_a_full_house_has_the_place_that_was_left() -> None:
    """Who has a place keeps it however full it is, and who lost its connection gets it again."""
    gate = limited(connections_max=3)
    first, second, third = (gate.join() for _ in range(3))
    assert gate.open().connect()["error"]["retryable"]
    for _ in range(5):
        third.wire.lose()
        third = gate.join()
    assert all(client.call("health")["ok"] for client in (first, second, third))


# -- being there


def watch(gate: Gate, seconds: float) -> None:
    """Let time pass, with a look at everybody every 5 s."""
    for _ in range(round(seconds / SWEEP_S)):
        gate.clock.advance(SWEEP_S)
        gate.wiring.factory.sweep()


def sweep(gate: Gate, seconds: float) -> None:
    """Let time pass, and what has become too old be forgotten every 5 s."""
    for _ in range(round(seconds / SWEEP_S)):
        gate.clock.advance(SWEEP_S)
        for registry in gate.wiring.registries:
            registry.sweep(gate.clock.seconds())


def test_s23_twin_many_requests_that_only_wait(gate: Gate) -> None:
    """256 requests that wait for a run at once are all answered when their time has come."""
    client = gate.join()
    sent = [client.request("agent.wait", {"runId": "r", "timeoutMs": 9000}) for _ in range(256)]
    gate.clock.advance(10)
    assert [m["id"] for m in client.received() if m["type"] == "res" and m["ok"]] == sent


def test_s23_twin_a_large_message_over_ten_minutes(gate: Gate, log: list[LogEvent]) -> None:
    """A client whose link takes ten minutes for one message is never even asked whether it is there."""
    client = gate.join()
    text = b'{"type":"req","id":"large","method":"health"}' + b" " * 1_000_000
    data = masked(text)
    for at in range(0, len(data), len(data) // 40):
        client.wire.receive(data[at : at + len(data) // 40])
        watch(gate, 15)
    frames = client.frames()
    assert [opcode for opcode, _ in frames if opcode in (8, 9)] == []
    assert b'"id":"large","ok":true' in b"".join(payload for _, payload in frames)
    assert closings(log) == []


def test_s23_twin_a_pong_that_takes_its_time(gate: Gate) -> None:
    """A client that answers each ping after a quarter of a minute, and says nothing else, is kept."""
    client = gate.join()
    for _ in range(20):
        watch(gate, 25)
        assert [opcode for opcode, _ in client.frames() if opcode >= 8] == [9]
        watch(gate, 15)
        client.wire.receive(masked(b"", 10))
    assert client.server.closing is None


def test_s23_twin_a_late_goodbye_is_a_goodbye(gate: Gate) -> None:
    """A peer that answers a close after nine tenths of a second sees the end of the stream, not a reset."""
    client = gate.join()
    client.server.close(CloseCause.DRAIN, CloseCode.RESTART, "bye")
    gate.clock.advance(0.9)
    client.wire.receive(close_frame(1012))
    assert client.wire.log[-1] == ("lose",)
    assert ("abort",) not in client.wire.log


def test_s23_twin_who_is_quiet_is_still_here(gate: Gate) -> None:
    """A client that says nothing for an hour is listed as long as it is connected."""
    gate.join(client=UI, device=DEVICE)
    sweep(gate, 3600)
    listed = gate.join().call("system-presence")["payload"]
    assert [row["reason"] for row in listed if row.get("deviceId") == DEVICE.device_id] == [
        "connect"
    ]


# -- asking agents


def say(client: Client, text: str, key: str, **more: Any) -> str:
    """Send a message to the main session; return the id of the request."""
    params = {"sessionKey": "main", "message": text, "idempotencyKey": key, **more}
    return client.request("chat.send", params)


def heard(client: Client) -> tuple[list[str], list[tuple[str, str]]]:
    """Return what each message was answered since the last look, and how each run ended."""
    told = client.received()
    chats = [m["payload"] for m in told if m.get("event") == "chat"]
    said = [m["payload"]["status"] if m["ok"] else "refused" for m in told if m["type"] == "res"]
    return said, [(chat["runId"], chat["state"]) for chat in chats if chat["state"] != "delta"]


def slow_agent(gate: Gate, word_s: float) -> None:
    """Have the demo agent think before each word."""
    backend: Any = gate.wiring.services.agents.default.backend
    backend._delay = word_s


def test_s23_twin_many_messages_behind_one_another(gate: Gate) -> None:
    """Sixteen messages behind one that goes are all taken, and answered in their order."""
    client = gate.join()
    for number in range(17):
        say(client, "hello there", f"r{number}")
    for _ in range(100):
        gate.clock.advance(0.1)
    said, ended = heard(client)
    assert said == ["started"] * 17
    assert ended == [(f"r{number}", "final") for number in range(17)]


def test_s23_twin_a_message_that_waits_for_an_hour(gate: Gate) -> None:
    """A message behind a run of nearly an hour is run when its turn comes."""
    client = gate.join()
    say(client, "/hang", "r1", timeoutMs=3_590_000)
    say(client, "hello", "r2")
    gate.clock.advance(3590)
    gate.clock.advance(1)
    assert heard(client)[1] == [("r1", "aborted"), ("r2", "final")]


def thinks(asked: dict[str, Any], word_s: float) -> None:
    """Check that ten words of an agent that thinks so long before each arrive."""
    gate = Gate()
    slow_agent(gate, word_s)
    client = gate.join()
    say(client, "one two three four five six seven eight nine ten", "r", **asked)
    for _ in range(11):
        gate.clock.advance(word_s)
    assert heard(client) == (["started"], [("r", "final")])


def test_s23_twin_an_agent_that_thinks_for_minutes() -> None:
    """A run of nearly ten minutes ends as it should."""
    thinks({}, 65)


def test_s23_twin_a_run_that_is_given_a_day() -> None:
    """A run that was given a day, and takes nearly that, ends as it should."""
    thinks({"timeoutMs": 86_400_000}, 9_500)


def test_s23_twin_a_repeat_after_some_bad_minutes(gate: Gate) -> None:
    """Who was cut off and asks again nearly five minutes later gets the answer; nothing is done twice."""
    node, client = join_node(gate), gate.join()
    ask(client)
    [asked] = events(node, "node.invoke.request")
    result = {"id": asked["id"], "nodeId": DEVICE.device_id, "ok": True, "payload": 7}
    node.call("node.invoke.result", result)
    client.wire.lose()
    sweep(gate, 295)
    again = gate.join()
    [answer] = answers(again, ask(again))
    assert answer["payload"]["payload"] == 7
    assert events(node, "node.invoke.request") == []


def test_s23_twin_an_operator_who_thinks_it_over(gates: Callable[..., AppGate]) -> None:
    """An answer in the last second of the half hour is the agent's answer."""
    gate = gates()
    ui = gate.client(client="openclaw-control-ui")
    ui.send("hello", timeoutMs=3_600_000)
    wanted = gate.live("r1").sink.ask(ApprovalRequest(command="ls"))
    (question,) = ui.ok("exec.approval.list")
    gate.clock.advance(1799)
    ui.ok("exec.approval.resolve", {"id": question["id"], "decision": "allow-once"})
    assert result_of(wanted) is Decision.ALLOW_ONCE


def test_s23_twin_a_long_policy(gates: Callable[..., AppGate]) -> None:
    """A policy of 500 programs is kept whole."""
    client = gates().client(client="cli")
    programs = [{"pattern": f"/opt/{number:0400}"} for number in range(500)]
    file = {"version": 1, "agents": {"main": {"allowlist": programs}}}
    base = client.ok("exec.approvals.get")["hash"]
    after = client.ok("exec.approvals.set", {"file": file, "baseHash": base})["file"]
    assert len(after["agents"]["main"]["allowlist"]) == 500
    assert len(msgspec.json.encode(after)) > LIMITS.exec_policy_bytes * 0.8


# -- nodes


def test_s23_twin_a_node_with_much_to_do(gate: Gate) -> None:
    """64 commands wait for one node; it answers each in the last second, the last one first."""
    node, client = join_node(gate), gate.join()
    requests = [ask(client, f"k{number}") for number in range(64)]
    told = [request["id"] for request in events(node, "node.invoke.request")]
    gate.clock.advance(29)
    for invocation in reversed(told):
        result = {"id": invocation, "nodeId": DEVICE.device_id, "ok": True}
        assert node.call("node.invoke.result", result)["payload"] == {"ok": True}
    found = [(m["id"], m["ok"]) for m in client.received() if m["type"] == "res"]
    assert found == [(request, True) for request in reversed(requests)]


def test_s23_twin_a_node_that_answers_at_the_last_moment(gate: Gate) -> None:
    """A command that was given ten minutes may take 599 seconds."""
    node, client = join_node(gate), gate.join()
    params = {**PARAMS, "idempotencyKey": "k", "timeoutMs": 600_000}
    request = client.request("node.invoke", params)
    [asked] = events(node, "node.invoke.request")
    gate.clock.advance(599)
    node.call("node.invoke.result", {"id": asked["id"], "nodeId": DEVICE.device_id, "ok": True})
    assert [m["ok"] for m in answers(client, request)] == [True]


def test_s23_twin_an_answer_that_just_fits(gate: Gate) -> None:
    """A picture of six megabytes, quotes included to the last byte, arrives."""
    node, client = join_node(gate), gate.join()
    request = ask(client)
    [asked] = events(node, "node.invoke.request")
    picture = "x" * (6_291_456 - 2)
    result = {"id": asked["id"], "nodeId": DEVICE.device_id, "ok": True, "payload": picture}
    assert node.call("node.invoke.result", result)["ok"]
    [answer] = answers(client, request)
    assert answer["payload"]["payload"] == picture


def test_s23_twin_a_node_with_much_to_tell(gate: Gate) -> None:
    """A node that comes back with 1200 things to tell, and goes on with nearly as many a minute, is heard."""
    node = join_node(gate)
    session = gate.wiring.services.nodes.session(DEVICE.device_id)
    assert session is not None
    session.approved = True
    for number in range(1500):
        assert node.call("node.event", {"event": "voice.level", "payload": {}})["ok"]
        gate.clock.advance(0 if number < 1199 else 0.051)


# -- agents


def test_s23_twin_the_last_agent_there_is_room_for(tmp_path: Path) -> None:
    """The last place for an agent can be had, and again once one is deleted."""
    gate = Managed(tmp_path, limits="[limits]\nagents_max = 3")
    client = gate.client()
    for name in ("third", "another"):
        made = client.ok("agents.create", {"name": name, "workspace": name})
        client.ok("agents.delete", {"agentId": made["agentId"]})
    gate.close()


def test_s23_twin_a_file_that_just_fits(tmp_path: Path) -> None:
    """A file of a million bytes is written and read as it is."""
    gate = Managed(tmp_path)
    client = gate.client()
    params = {"agentId": "main", "name": "SOUL.md"}
    client.ok("agents.files.set", {**params, "content": "x" * 1_000_000})
    assert len(client.ok("agents.files.get", params)["file"]["content"]) == 1_000_000
    gate.close()

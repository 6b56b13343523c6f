"""Session keys."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gateway.core import sessionkey
from gateway.core.sessionkey import (
    DeliveryRoute,
    KeyShape,
    ParsedKey,
    SessionKeyPolicy,
    SplitKey,
    ThreadKey,
    agent_of,
)

DATA = Path(__file__).parents[1] / "data"
SESSION_KEYS = json.loads((DATA / "session_keys.json").read_text())
AGENT_IDS = json.loads((DATA / "agent_ids.json").read_text())
PEER_KEYS = json.loads((DATA / "peer_session_keys.json").read_text())
THREAD_KEYS = json.loads((DATA / "thread_session_keys.json").read_text())

POLICIES = {
    "default": SessionKeyPolicy(),
    "customMain": SessionKeyPolicy(main_key="work"),
    "global": SessionKeyPolicy(scope="global"),
    "ops": SessionKeyPolicy.from_config(["ops", "main"]),
}
BOTH = [
    pytest.param(case["input"], case[f"v{protocol}"], protocol, id=f"v{protocol}-{case['input']!r}")
    for case in SESSION_KEYS
    for protocol in (3, 4)
]
V4 = [pytest.param(case["input"], case["v4"], id=repr(case["input"])) for case in SESSION_KEYS]

WORDS = (
    "agent Agent main MAIN work ops global unknown signal matrix group Channel direct thread "
    "Thread cron run subagent acp AbC= !RoOm é İ ΑΣ"
)
segments = st.sampled_from([*WORDS.split(), "", " ", "\n", "a b"])
keys = st.text() | st.lists(segments, max_size=9).map(":".join)
policies = st.sampled_from([*POLICIES.values(), SessionKeyPolicy.from_config(["dev", "ops"])])


@pytest.mark.parametrize(("key", "expected", "protocol"), BOTH)
def test_vectors_of_parsing(key: str, expected: dict[str, Any], protocol: int) -> None:
    """A key parses, and is classified and shortened, as by each version."""
    parsed = sessionkey.parse(key, protocol=protocol)

    assert parsed == (
        expected["parse"] and ParsedKey(expected["parse"]["agentId"], expected["parse"]["rest"])
    )
    assert sessionkey.shape(key, protocol=protocol) == expected["shape"]
    assert sessionkey.request_key(key, protocol=protocol) == expected["requestKey"]
    assert sessionkey.store_key("main", key, protocol=protocol) == expected["storeKeyMain"]


@pytest.mark.parametrize("config", POLICIES)
@pytest.mark.parametrize(("key", "expected", "protocol"), BOTH)
def test_vectors_of_canonical_keys(
    key: str, expected: dict[str, Any], protocol: int, config: str
) -> None:
    """A key has the canonical form that each version gives it under each configuration."""
    canonical = POLICIES[config].canonical(key, protocol=protocol)

    assert canonical == expected[f"canonical_{config}"]


@pytest.mark.parametrize(("key", "expected", "protocol"), BOTH)
def test_vectors_of_kinds(key: str, expected: dict[str, Any], protocol: int) -> None:
    """The kind of a session is read from its key alike in both versions."""
    assert sessionkey.is_subagent(key) is expected["isSubagent"]
    assert sessionkey.subagent_depth(key) == expected["subagentDepth"]
    assert sessionkey.is_cron(key) is expected["isCron"]
    assert sessionkey.is_cron_run(key) is expected["isCronRun"]
    assert sessionkey.is_acp(key) is expected["isAcp"]


def test_an_agent_named_subagent_is_none() -> None:
    """Only what comes after the agent's id nests sub-agents."""
    assert sessionkey.subagent_depth("agent:subagent:x") == 0
    assert sessionkey.subagent_depth("Subagent:a:subagent:b") == 2


@pytest.mark.parametrize(("key", "expected"), V4)
def test_vectors_of_suffixes(key: str, expected: dict[str, Any]) -> None:
    """Thread and job run are split off a key, and a chat peer is read out of it."""
    cron_run, thread, route = expected["cronRun"], expected["thread"], expected["deliveryRoute"]

    assert sessionkey.split_cron_run(key) == SplitKey(
        cron_run.get("baseSessionKey", ""), cron_run.get("runId")
    )
    assert sessionkey.split_thread(key) == SplitKey(
        thread.get("baseSessionKey", ""), thread.get("threadId")
    )
    assert sessionkey.delivery_route(key) == (
        route
        and DeliveryRoute(
            route["channel"], route["peerKind"], route["peerId"], thread_id=route.get("threadId")
        )
    )


@pytest.mark.parametrize("case", AGENT_IDS, ids=lambda case: repr(case["input"]))
def test_vectors_of_agent_ids(case: dict[str, str]) -> None:
    """Any text becomes a usable agent id."""
    assert sessionkey.normalise_agent_id(case["input"]) == case["normalized"]


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("case", PEER_KEYS, ids=lambda case: case["v4"])
def test_vectors_of_peer_keys(case: dict[str, Any], protocol: int) -> None:
    """A chat peer's session key is built as by each version."""
    params = case["params"]

    key = sessionkey.peer_session_key(
        params["agentId"],
        params["channel"],
        params["peerKind"],
        params["peerId"],
        account_id=params.get("accountId"),
        dm_scope=params.get("dmScope", "main"),
        main_key=params.get("mainKey", "main"),
        protocol=protocol,
    )

    assert key == case[f"v{protocol}"]


@pytest.mark.parametrize("case", THREAD_KEYS, ids=lambda case: str(case["params"]["threadId"]))
def test_vectors_of_thread_keys(case: dict[str, Any]) -> None:
    """A thread's session key is built from its channel's."""
    params, expected = case["params"], case["result"]

    key = sessionkey.thread_session_key(
        params["baseSessionKey"],
        params["threadId"],
        parent_session_key=params.get("parentSessionKey"),
        use_suffix=params.get("useSuffix", True),
    )

    assert key == ThreadKey(expected["sessionKey"], expected.get("parentSessionKey"))


@pytest.mark.parametrize(
    ("key", "canonical"),
    [
        ("Signal:Group:AbC=", "agent:main:signal:group:AbC="),
        ("agent:main:Signal:GROUP: AbC= :Thread:XyZ", "agent:main:signal:group:AbC=:thread:xyz"),
        ("Agent:X:Matrix:Group:!A:B:Thread:$E", "agent:x:matrix:group:!A:B:thread:$E"),
        ("matrix:channel:!R:[::1]", "agent:main:matrix:channel:!R:[::1]"),
        ("agent:main:x:matrix:channel:ABC", "agent:main:x:matrix:channel:abc"),
        ("xsignal:group:ABC", "agent:main:xsignal:group:abc"),
        ("agent: Main : X", "agent:main:x"),
        ("agent:a b:main", "agent:a b:main"),
        ("agent:main:global", "agent:main:global"),
        ("matrix:group:!A\nB", "agent:main:matrix:group:!A\nB"),
    ],
)
def test_only_ids_that_are_case_sensitive_keep_their_case(key: str, canonical: str) -> None:
    """A chat network's own ids keep their case, everything around them is folded."""
    assert SessionKeyPolicy().canonical(key) == canonical


@pytest.mark.parametrize(
    "key",
    ["agent:", "agent:main", "agent:main:", "agent::x", "agent: :x", "agent:x: :y", ":x", ":"],
)
def test_a_key_that_can_name_no_session_is_malformed(key: str) -> None:
    """A key is malformed where its canonical form would not parse."""
    assert sessionkey.is_malformed(key)
    assert sessionkey.parse(SessionKeyPolicy().canonical(key)) is None


@pytest.mark.parametrize("key", ["", " ", "main", "agent:main:x", "global", "agent", "a::b"])
def test_other_keys_are_not_malformed(key: str) -> None:
    """Blank keys, aliases and sentinels are not malformed."""
    assert not sessionkey.is_malformed(key)


@pytest.mark.parametrize(
    ("agents", "default", "canonical"),
    [
        ([], None, "agent:main:main"),
        (["ops"], None, "agent:ops:main"),
        (["ops", "dev"], "Dev", "agent:dev:main"),
        (["ops", "main"], None, "agent:main:main"),
    ],
)
def test_the_built_in_main_key_finds_an_agent(
    agents: list[str], default: str | None, canonical: str
) -> None:
    """``agent:main:main`` means the default agent's main session where no agent is called main."""
    policy = SessionKeyPolicy.from_config(agents, default_agent_id=default)

    assert policy.canonical("agent:main:main") == canonical
    assert policy.canonical("agent:main:other") == "agent:main:other"


def test_a_configuration_is_normalised() -> None:
    """A policy made from configured values holds normal ids, and knows its default agent."""
    policy = SessionKeyPolicy.from_config(
        ["Ops", "My Dev"], default_agent_id="QA", main_key=" Work "
    )

    assert policy == SessionKeyPolicy(
        "qa", "work", "per-sender", frozenset({"ops", "my-dev", "qa"})
    )
    assert policy.main_session() == "agent:qa:work"
    assert policy.main_session("ops") == "agent:ops:work"
    assert policy.canonical("main") == "agent:qa:work"


def test_the_owner_of_a_session() -> None:
    """A canonical key names its agent; the sentinels belong to the default agent."""
    policy = SessionKeyPolicy.from_config(["ops", "main"])

    assert agent_of("agent:main:x", policy) == "main"
    assert agent_of("global", policy) == "ops"


@pytest.mark.parametrize(
    ("dm_scope", "peer_id", "expected"),
    [
        ("main", "U", "agent:main:work"),
        ("per-peer", " U ", "agent:main:direct:u"),
        ("per-peer", "", "agent:main:work"),
        ("per-channel-peer", "U", "agent:main:telegram:direct:u"),
        ("per-account-channel-peer", "U", "agent:main:telegram:my-acc:direct:u"),
    ],
)
def test_direct_messages_share_what_the_scope_says(
    dm_scope: sessionkey.DmScope, peer_id: str, expected: str
) -> None:
    """Direct messages fall into the main session or into one per peer, channel or account."""
    key = sessionkey.peer_session_key(
        "main",
        " Telegram ",
        "direct",
        peer_id,
        account_id="My Acc",
        dm_scope=dm_scope,
        main_key="Work",
    )

    assert key == expected


def test_an_account_without_a_name_is_the_default_account() -> None:
    """A peer of no particular account belongs to the account ``default``."""
    key = sessionkey.peer_session_key("A b", "", "direct", "U", dm_scope="per-account-channel-peer")

    assert key == "agent:a-b:unknown:default:direct:u"


@pytest.mark.parametrize(
    ("key", "route"),
    [
        ("agent:main:telegram:direct:U", DeliveryRoute("telegram", "direct", "u")),
        ("agent:main:telegram:acc:direct:u", DeliveryRoute("telegram", "direct", "u", "acc")),
        (
            "Agent:Main:Slack:Channel:C1:Thread:T:9",
            DeliveryRoute("slack", "channel", "c1", thread_id="T:9"),
        ),
        ("agent:main:slack:channel:c1:thread:", DeliveryRoute("slack", "channel", "c1")),
        ("agent:main:x:group:a\nb", DeliveryRoute("x", "group", "a\nb")),
        ("agent:main:x:y:direct:a\nb", DeliveryRoute("x", "direct", "a\nb", "y")),
        ("agent:main:direct:u", None),
        ("agent:main:slack:channel::x", None),
        ("agent:main:a:b:group:c", None),
        ("telegram:direct:u", None),
    ],
)
def test_the_chat_peer_of_a_key(key: str, route: DeliveryRoute | None) -> None:
    """A key names a chat peer by channel, kind and id, a direct one perhaps with its account."""
    assert sessionkey.delivery_route(key) == route


def test_a_thread_id_is_trimmed() -> None:
    """Blanks around a thread's id are not part of it, nor is its case when a key is built."""
    assert sessionkey.thread_session_key("agent:main:x", " T1 ") == ThreadKey(
        "agent:main:x:thread:t1"
    )
    assert sessionkey.split_thread(" a:Thread:T9:thread: X ") == SplitKey("a:Thread:T9", "X")


def test_blanks_around_a_key_are_not_part_of_it() -> None:
    """A key parses as it does without the blanks around it, in both versions."""
    for protocol in (3, 4):
        assert sessionkey.parse(" agent:x:y ", protocol=protocol) == ParsedKey("x", "y")


@pytest.mark.parametrize(
    ("key", "split"),
    [
        ("agent:main:cron:J:Run:R1", SplitKey("agent:main:cron:J", "R1")),
        ("agent:main:cron:j:run:r:run:q", SplitKey("agent:main:cron:j:run:r:run:q")),
        ("agent:main:cron:j:run:", SplitKey("agent:main:cron:j:run:")),
        ("cron:j:run:r", SplitKey("cron:j:run:r")),
    ],
)
def test_a_job_run_is_split_off_only_at_the_end(key: str, split: SplitKey) -> None:
    """The run of a job is a suffix of one segment of an agent's key."""
    assert sessionkey.split_cron_run(key) == split


@given(key=keys, policy=policies)
@settings(deadline=None, max_examples=300)
def test_a_canonical_key_is_its_own_canonical_form(key: str, policy: SessionKeyPolicy) -> None:
    """Canonicalising is idempotent, and what it makes of a usable key parses or is a sentinel."""
    canonical = policy.canonical(key)

    assert policy.canonical(canonical) == canonical
    assume(key.strip() and not sessionkey.is_malformed(key))
    assert sessionkey.parse(canonical) is not None or canonical in ("global", "unknown")
    assert agent_of(canonical, policy)


@given(key=keys, protocol=st.sampled_from([3, 4]), policy=policies)
@settings(deadline=None, max_examples=300)
def test_no_text_makes_the_grammar_raise(key: str, protocol: int, policy: SessionKeyPolicy) -> None:
    """Every function on keys answers for every text."""
    folded = sessionkey.fold(key, protocol=protocol)

    assert sessionkey.fold(folded, protocol=protocol) == folded
    assert (sessionkey.shape(key, protocol=protocol) is KeyShape.AGENT) is (
        sessionkey.parse(key, protocol=protocol) is not None
    )
    assert isinstance(policy.canonical(key, protocol=protocol), str)
    assert sessionkey.subagent_depth(key) >= sessionkey.is_subagent(key)
    assert sessionkey.is_cron(key) >= sessionkey.is_cron_run(key)
    assert isinstance(sessionkey.is_acp(key), bool)
    assert sessionkey.split_cron_run(key).base in key
    assert sessionkey.split_thread(key).base in key
    route = sessionkey.delivery_route(key)
    assert route is None or (route.channel and route.peer_id)


@given(text=st.text())
@settings(deadline=None)
def test_an_agent_id_is_always_usable(text: str) -> None:
    """A normal agent id is short, made of safe characters, and its own normal form."""
    agent_id = sessionkey.normalise_agent_id(text)

    assert 0 < len(agent_id) <= 64
    assert set(agent_id) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-")
    assert sessionkey.normalise_agent_id(agent_id) == agent_id


@given(
    kind=st.sampled_from(["direct", "group", "channel"]),
    peer=st.text(),
    channel=st.sampled_from(["signal", "matrix", "Slack", " "]),
    scope=st.sampled_from(["main", "per-peer", "per-channel-peer", "per-account-channel-peer"]),
)
@settings(deadline=None)
def test_a_built_key_is_canonical(
    kind: sessionkey.PeerKind, peer: str, channel: str, scope: sessionkey.DmScope
) -> None:
    """What the builders make is found again under the same key."""
    key = sessionkey.peer_session_key("main", channel, kind, peer, dm_scope=scope)

    assert SessionKeyPolicy().canonical(key) == key

"""The table ``[limits]`` of the configuration: every cap of the gateway."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Count = Annotated[int, Meta(ge=1, le=1_000_000)]
Bytes = Annotated[int, Meta(ge=1024, le=1 << 30)]


class Table(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every table of the file: its keys are the fields, and no others."""


class LimitsConfig(Table, frozen=True):
    """Every cap of the gateway."""

    handshake_timeout_s: Seconds = 15.0
    """Time to finish the handshake once the challenge has been written, in seconds."""
    preauth_payload_bytes: Bytes = 65_536
    """Largest message before authentication, and most of those that wait meanwhile, in bytes."""
    preauth_queue_frames: Count = 15
    """Messages that may wait while the handshake is being decided."""
    preauth_connections_per_address: Count = 32
    """Connections of one address that may be unauthenticated at once."""
    preauth_connections_loopback: Count = 1000
    """The same for loopback addresses, which local clients and proxies share."""
    preauth_connections_max: Count = 5000
    """The same for all addresses together; then the one with the most gives way to newcomers."""
    auth_failures_max: Count = 10
    """Wrong credentials of one kind from one address, within the window, that lock it out."""
    auth_failure_window_s: Seconds = 60.0
    """The window of them, in seconds."""
    auth_lock_s: Seconds = 300.0
    """How long such an address is locked out, in seconds; loopback is answered later instead."""
    auth_sources_max: Count = 10_000
    """Addresses whose wrong credentials are remembered."""
    auth_delayed_max: Count = 64
    """Wrong credentials from loopback whose answers may be late at once; beyond, each waits first."""
    connections_max: Count = 20_000
    """Connections at once."""
    connections_per_principal: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    """Connections of one device, proxied user, or address with the shared secret; 0 is unlimited."""
    closed_connections_max: Count = 1000
    """Ended connections remembered, and as many again that ended before they were authenticated."""
    closed_connections_ttl_s: Seconds = 86_400.0
    """How long an ended connection is remembered, in seconds."""
    request_queue: Count = 256
    """Requests of one connection that may be in work at once; more are not read, or answered busy."""
    payload_bytes: Bytes = 26_214_400
    """Largest message of an authenticated connection, in bytes."""
    attachment_bytes: Bytes = 5_000_000
    """Largest attachment of a message, decoded, in bytes."""
    outbox_bytes: Bytes = 16_777_216
    """Bytes that may wait for one slow client before it is closed."""
    outbox_total_bytes: Annotated[int, Meta(ge=1024, le=1 << 40)] = 268_435_456
    """Bytes that may wait for all clients together; beyond, those who hold most give first."""
    outbox_age_s: Seconds = 120.0
    """How long the oldest of them may wait, in seconds."""
    close_grace_s: Seconds = 1.0
    """Time a peer has to answer a close before the socket is aborted, in seconds."""
    drain_grace_s: Seconds = 3.0
    """Time that runs have to end, and connections are closed in, when the gateway stops, in seconds."""
    tick_interval_s: Seconds = 30.0
    """Interval of the tick event, in seconds."""
    ping_silence_s: Seconds = 20.0
    """Silence of a peer after which it is sent a ping, in seconds."""
    ping_timeout_s: Seconds = 20.0
    """Time a peer has to show progress after a ping, in seconds."""
    delta_interval_ms: Annotated[int, Meta(ge=75, le=150)] = 100
    """Least time between two increments of one stream of a run, in milliseconds."""
    lane_depth: Count = 16
    """Runs that may be queued in one session behind the one that runs."""
    queued_ttl_s: Seconds = 3600.0
    """How long a message may wait for its turn, restarts included, in seconds; then it is not run."""
    run_timeout_s: Seconds = 600.0
    """How long a run may take where its agent and its request do not say, in seconds."""
    run_timeout_max_s: Seconds = 86_400.0
    """Longest time that a request may ask for a run, in seconds."""
    idempotency_ttl_s: Seconds = 300.0
    """How long the answer to an idempotency key is remembered, in seconds."""
    idempotency_max: Count = 1000
    """Idempotency keys remembered at once."""
    approvals_max: Count = 1000
    """Questions that may wait for an operator's answer at once."""
    approvals_per_asker: Count = 64
    """The same of one run, one device, or all clients that share a credential."""
    approvals_history_max: Count = 500
    """Answered, expired and withdrawn questions remembered, for a day at most."""
    approval_timeout_s: Seconds = 1800.0
    """How long an agent's question may wait for an answer, in seconds; its run's timeout goes on."""
    approval_no_route_s: Seconds = 60.0
    """The same as long as no client is connected that could answer it, in seconds."""
    exec_policy_bytes: Bytes = 262_144
    """The policy of exec approvals: its largest size, in bytes."""
    setup_codes_max: Count = 100
    """Setup codes that may wait to be used at once, and as many again that were."""
    scope_upgrades_max: Count = 200
    """Devices that may wait at once for more scopes, and answers to them remembered for five minutes."""
    pairing_requests_max: Count = 100
    """Devices that may wait for an operator's approval at once."""
    pairing_requests_per_address: Count = 10
    """Devices of one address that may wait for approval at once."""
    devices_max: Annotated[int, Meta(ge=1, le=1000)] = 1000
    """Paired devices; beyond, the one goes that was paired silently and unseen for longest."""
    node_pending_max: Count = 1000
    """Commands of nodes that may wait for their answer at once."""
    node_pending_per_node: Count = 64
    """The same of one node."""
    node_timeout_s: Seconds = 600.0
    """Longest time that a request may give a node for its answer, in seconds; 30 where it gives none."""
    node_params_bytes: Bytes = 1_048_576
    """Largest params of a command of a node, as JSON text, in bytes."""
    node_result_bytes: Bytes = 6_291_456
    """Largest answer of a node, as it sends it, in bytes; its asker gets it twice, parsed and as text."""
    node_progress_bytes: Bytes = 16_777_216
    """Bytes of progress of one command, each piece 256 at least; what comes after is dropped."""
    node_answers_bytes: Bytes = 67_108_864
    """Bytes of nodes' answers that are remembered for repeated idempotency keys."""
    presence_max: Count = 200
    """Presence entries at once."""
    presence_per_device: Count = 16
    """Connections of one device that are listed, and as many again that have ended."""
    presence_ttl_s: Seconds = 300.0
    """How long a presence entry lives without being refreshed, in seconds."""
    node_queues_max: Count = 1000
    """Nodes for which questions or actions wait at once; what waits is kept in memory."""
    voice_sessions_max: Count = 200
    """Sessions whose last voice transcript is remembered."""
    voice_identities_max: Count = 1000
    """Identities of voice transcripts remembered at once."""
    node_facts_max: Count = 1024
    """Nodes whose last words of themselves (numbers of the machine, being alive) are remembered."""
    node_events_per_minute: Count = 1200
    """Events that one node may tell in a minute; beyond, it is asked to come again."""
    node_new_sessions: Count = 32
    """Sessions that are not there yet that one node may name in an hour, besides main ones and its own."""
    node_turns_waiting: Count = 8
    """Turns of one node that may wait in one session; a quarter of lane_depth is not for nodes at all."""
    system_events_max: Count = 1000
    """Sessions for which texts wait that their agents are told with the next message; 20 for each."""
    exec_ends_max: Count = 2000
    """Ends of commands at nodes remembered for ten minutes, so that each is told once."""
    agents_max: Annotated[int, Meta(ge=1, le=1000)] = 100
    """Agents that there may be once a client makes one; the configuration may have more."""
    agent_file_bytes: Annotated[int, Meta(ge=1024, le=16_000_000)] = 1_000_000
    """Largest file of an agent's workspace that clients may read or write, in bytes."""
    loop_lag_ms: Annotated[int, Meta(ge=20, le=60_000)] = 50
    """How long one callback may hold the event loop before the log says which, in milliseconds."""
    log_files: Annotated[int, Meta(ge=1, le=1000)] = 14
    """Log files kept."""
    log_file_bytes: Annotated[int, Meta(ge=65_536, le=1 << 40)] = 100_000_000
    """Size at which a day's log continues in another file, in bytes."""

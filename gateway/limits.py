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
    """Largest message before authentication, in bytes."""
    preauth_queue_frames: Count = 15
    """Messages that may wait while the handshake is being decided."""
    preauth_connections_per_address: Count = 32
    """Connections of one address that may be unauthenticated at once."""
    preauth_connections_loopback: Count = 1000
    """The same for loopback addresses, which local clients and proxies share."""
    connections_max: Count = 20_000
    """Connections at once."""
    connections_per_principal: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    """Connections of one identity at once, loopback excepted; 0 is unlimited."""
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
    presence_max: Count = 200
    """Presence entries at once."""
    presence_ttl_s: Seconds = 300.0
    """How long a presence entry lives without being refreshed, in seconds."""
    voice_sessions_max: Count = 200
    """Sessions whose last voice transcript is remembered."""
    voice_identities_max: Count = 1000
    """Identities of voice transcripts remembered at once."""
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

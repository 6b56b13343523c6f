"""The client's handshake, fed with scripted frames: no socket, no clock, no Twisted."""

from __future__ import annotations

import pytest

from gateway.client.actions import (
    Close,
    Event,
    Opened,
    Received,
)
from gateway.client.core import REFUSAL_GRACE_S, ClientCore
from gateway.client.errors import (
    ConnectionLost,
    ConnectRefused,
    RequestNotSent,
)
from gateway.client.options import (
    MAX_FRAME_BYTES,
    ClientOptions,
    client_info,
)
from gateway.client.tokens import Credentials
from gateway.core import deviceproof
from tests.client.frames import (
    HELLO,
    answer,
    challenge,
    connecting,
    event,
    lost,
    refusal,
)


def test_nothing_is_sent_before_the_challenge():
    """A client says nothing until the gateway has sent its challenge."""
    core = ClientCore(ClientOptions(), 0.0)

    assert core.frame_received(event("tick", {"ts": 1}), 0.0)[0] == Received(
        Event("tick", {"ts": 1})
    )
    with pytest.raises(RequestNotSent):
        core.request("health", None, 0.0)


def test_connect_says_who_connects():
    """Connect carries the range of versions, the client, role, scopes, caps and the credential given."""
    options = ClientOptions(
        client=client_info("cli", "cli"),
        credentials=Credentials(token="t-1"),
        scopes=("operator.read",),
        caps=("tool-events",),
        commands=("camera.snap",),
    )

    _, frame = connecting(options)

    assert frame["type"] == "req"
    assert frame["method"] == "connect"
    params = frame["params"]
    assert (params["minProtocol"], params["maxProtocol"]) == (3, 4)
    assert params["client"]["id"] == params["client"]["mode"] == "cli"
    assert params["client"]["version"]
    assert params["client"]["platform"]
    assert params["role"] == "operator"
    assert params["scopes"] == ["operator.read"]
    assert params["caps"] == ["tool-events"]
    assert params["commands"] == ["camera.snap"]
    assert params["auth"] == {"token": "t-1"}
    assert "device" not in params


@pytest.mark.parametrize(
    ("credentials", "auth"),
    [
        (Credentials(), None),
        (Credentials(password="p"), {"password": "p"}),
        (Credentials(device_token="d"), {"deviceToken": "d"}),
        (Credentials(bootstrap_token="b"), {"bootstrapToken": "b"}),
        (Credentials(token="t", device_token="d"), {"token": "t", "deviceToken": "d"}),
    ],
)
def test_only_given_credentials_are_sent(credentials, auth):
    """The auth object has the credentials that were given, and is left out without any."""
    _, frame = connecting(ClientOptions(credentials=credentials))

    assert frame["params"].get("auth") == auth


def test_credentials_are_never_shown():
    """The repr of options and credentials holds no secret."""
    options = ClientOptions(credentials=Credentials(*["s3cret"] * 4))

    assert "s3cret" not in repr(options)


@pytest.mark.parametrize(
    ("range_", "build"),
    [((3, 4), deviceproof.payload_v3), ((3, 3), deviceproof.payload_v2)],
)
@pytest.mark.parametrize("kind", ["device_token", "bootstrap_token"])
def test_the_device_proof_is_signed_over_the_challenge(range_, build, kind):
    """The proof uses the challenge's nonce and time, and the payload version that the range needs."""
    identity = deviceproof.DeviceIdentity.from_seed(bytes(32))
    options = ClientOptions(
        device=identity,
        credentials=Credentials(**{kind: "dt"}),
        min_protocol=range_[0],
        max_protocol=range_[1],
    )

    _, frame = connecting(options, nonce="abc", ts=1_700_000_000_123)

    params, client = frame["params"], frame["params"]["client"]
    context = deviceproof.SignedContext(
        client["id"],
        client["mode"],
        "operator",
        tuple(params["scopes"]),
        "dt",
        client["platform"],
        client.get("deviceFamily"),
    )
    device = params["device"]
    assert device["signedAt"] == 1_700_000_000_123
    assert device["signature"] == identity.sign(
        build(identity.device_id, 1_700_000_000_123, "abc", context)
    )
    proof = deviceproof.DeviceProof(
        device["id"], device["publicKey"], device["signature"], device["signedAt"], device["nonce"]
    )
    assert deviceproof.verify(proof, context, nonce="abc", now_ms=1_700_000_000_123) is None


@pytest.mark.parametrize(
    ("payload", "device", "reason"),
    [
        ({"ts": 1}, False, "connect challenge missing nonce"),
        ({"nonce": " ", "ts": 1}, False, "connect challenge missing nonce"),
        ({"nonce": "n"}, True, "connect challenge missing ts"),
        ({"nonce": "n", "ts": "now"}, True, "connect challenge missing ts"),
    ],
)
def test_a_useless_challenge_ends_the_connection(payload, device, reason):
    """A challenge that lacks what the answer needs closes with 1008 and says what was missing."""
    identity = deviceproof.DeviceIdentity.from_seed(bytes(32)) if device else None
    core = ClientCore(ClientOptions(device=identity), 0.0)

    actions = core.frame_received(challenge(**payload), 0.0)

    assert actions[0] == Close(1008, reason)
    assert isinstance(lost(actions), ConnectionLost)


def test_a_second_challenge_is_ignored():
    """Only the first challenge is answered."""
    core, _ = connecting()

    assert core.frame_received(challenge(), 0.0) == []


def test_hello_opens_the_connection():
    """Hello-ok is handed on with what it tells of the gateway."""
    core, connect = connecting()

    (action,) = core.frame_received(answer(connect["id"], HELLO), 0.0)

    assert isinstance(action, Opened)
    hello = action.hello
    assert (hello.protocol, hello.server_version, hello.conn_id) == (4, "1.2.3", "c-1")
    assert hello.methods == ("health", "chat.send")
    assert hello.scopes == ("operator.read",)
    assert hello.device_token == "dt"
    assert "dt" not in repr(hello)


def test_a_bare_hello_is_enough():
    """A hello-ok of three keys opens the connection; what it leaves out has its default."""
    core, connect = connecting()
    bare = {"type": "hello-ok", "protocol": 3, "policy": {"tickIntervalMs": 5000}}

    (action,) = core.frame_received(answer(connect["id"], bare), 0.0)

    assert isinstance(action, Opened)
    assert action.hello.protocol == 3
    assert action.hello.tick_interval_s == 5.0
    assert action.hello.methods == ()
    assert action.hello.scopes is None
    assert action.hello.max_payload == MAX_FRAME_BYTES


@pytest.mark.parametrize("payload", [{"protocol": 5}, {"protocol": 2}, {}, None, "hello", []])
def test_a_version_outside_the_range_is_refused(payload):
    """A gateway that answers with another version than asked for is left, with 1002."""
    core, connect = connecting()

    actions = core.frame_received(answer(connect["id"], payload), 0.0)

    assert actions[0] == Close(1002, "protocol mismatch")
    error = lost(actions)
    assert isinstance(error, ConnectRefused)
    assert error.code == "PROTOCOL_MISMATCH"


def test_a_refusal_waits_for_its_close():
    """A refused connect ends in one typed error that has both the answer and the close frame."""
    core, connect = connecting()
    details = {"code": "AUTH_TOKEN_MISMATCH", "authReason": "token_mismatch"}

    first = core.frame_received(
        refusal(connect["id"], message="unauthorized: token mismatch", details=details), 1.0
    )
    second = core.connection_lost(1008, "unauthorized: token mismatch")

    assert first == []
    error = lost(second)
    assert isinstance(error, ConnectRefused)
    assert error.code == "INVALID_REQUEST"
    assert error.details == details
    assert error.detail_code == "AUTH_TOKEN_MISMATCH"
    assert (error.close_code, error.close_reason) == (1008, "unauthorized: token mismatch")


def test_a_refusal_without_a_close_ends_in_time():
    """When the close after a refusal stays out, the client closes itself."""
    core, connect = connecting()
    core.frame_received(refusal(connect["id"]), 1.0)

    early = core.time_passed(1.0 + REFUSAL_GRACE_S - 0.01)
    due = core.deadline
    actions = core.time_passed(1.0 + REFUSAL_GRACE_S)

    assert early == []
    assert due == 1.0 + REFUSAL_GRACE_S
    assert actions[0] == Close(1000, "")
    error = lost(actions)
    assert isinstance(error, ConnectRefused)
    assert error.close_code is None


def test_a_refusal_whose_close_frame_is_lost_stays_a_refusal():
    """A socket that breaks after the refusing answer still ends in ConnectRefused."""
    core, connect = connecting()
    core.frame_received(refusal(connect["id"], message="invalid role"), 0.0)

    error = lost(core.connection_lost(1006, "gone"))

    assert isinstance(error, ConnectRefused)
    assert error.message == "invalid role"
    assert error.close_code is None


def test_hints_of_a_refusal_are_kept():
    """A refusal tells when to come back, as the gateway said it."""
    core, connect = connecting()
    frame = refusal(
        connect["id"],
        "UNAVAILABLE",
        "gateway starting; retry shortly",
        retryable=True,
        retryAfterMs=750,
    )
    core.frame_received(frame, 0.0)

    error = lost(core.connection_lost(1013, "gateway starting"))

    assert isinstance(error, ConnectRefused)
    assert error.retryable is True
    assert error.retry_after_ms == 750


@pytest.mark.parametrize(
    ("code", "reason", "retryable", "retry_after_ms"),
    [
        (1013, "gateway starting", True, 500),
        (1012, "service restart", True, None),
        (1008, "invalid request frame", None, None),
        (1009, "preauth payload too large", None, None),
        (1000, "", None, None),
    ],
)
def test_a_close_without_an_answer_is_a_refusal(code, reason, retryable, retry_after_ms):
    """A close frame during the handshake is a refusal that carries its code, reason and hint."""
    core, _ = connecting()

    error = lost(core.connection_lost(code, reason))

    assert isinstance(error, ConnectRefused)
    assert error.code is None
    assert (error.close_code, error.close_reason) == (code, reason)
    assert error.retryable is retryable
    assert error.retry_after_ms == retry_after_ms
    assert str(code) in str(error)


def test_a_broken_handshake_is_a_loss():
    """A socket that breaks before hello is lost, not refused."""
    core, _ = connecting()

    error = lost(core.connection_lost(1006, "peer dropped"))

    assert isinstance(error, ConnectionLost)
    assert error.code == 1006


@pytest.mark.parametrize("with_challenge", [False, True])
def test_a_silent_gateway_is_left(with_challenge):
    """A handshake that is not done in time is closed with 1008, naming what was missing."""
    core = ClientCore(ClientOptions(handshake_timeout=15.0), 100.0)
    if with_challenge:
        core.frame_received(challenge(), 110.0)

    early = core.time_passed(114.9)
    actions = core.time_passed(115.0)

    missing = "answer" if with_challenge else "challenge"
    assert early == []
    assert actions[0] == Close(1008, f"connect {missing} timeout")
    assert isinstance(lost(actions), ConnectionLost)


def test_a_token_that_is_no_text_ends_without_being_shown():
    """A credential that JSON can not carry ends the handshake in a typed error that does not hold it."""
    core = ClientCore(ClientOptions(credentials=Credentials(token="s3cret\udcff")), 0.0)

    actions = core.frame_received(challenge(), 0.0)

    assert actions[0] == Close(1000, "")
    error = lost(actions)
    assert isinstance(error, RequestNotSent)
    assert "s3cret" not in str(error)

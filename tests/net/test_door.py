"""The door as a client meets it: guessing, proxies, foreign names, hashes, and a secret that changes."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.logger import LogEvent

from gateway.config import AuthConfig, Config, ServerConfig
from gateway.errors import CloseCause
from gateway.limits import LimitsConfig
from gateway.testing import TOKEN
from tests.app.test_passwords import CHEAP, Threads
from tests.net.gate import CLI, DEVICE, UI, Client, Gate, closings, limited
from tests.net.wire import Wire

REMOTE = "203.0.113.77"
WRONG = {"token": "wrong"}


def code_of(answer: dict[str, Any]) -> str:
    code: str = answer["error"]["details"]["code"]
    return code


def guess(gate: Gate, host: str = REMOTE, auth: dict[str, str] = WRONG, **how: Any) -> str:
    """Knock with a credential; return what became of it."""
    answer = gate.open(host).connect(auth=auth, **how)
    return "ok" if answer["ok"] else code_of(answer)


# -- guessing


def test_the_eleventh_guess_is_not_looked_at(gate: Gate) -> None:
    """Ten wrong tokens lock the address; the answer says for how long, and so does the close."""
    assert {guess(gate) for _ in range(10)} == {"AUTH_TOKEN_MISMATCH"}
    gate.clock.advance(0.128)
    client = gate.open(REMOTE)
    answer = client.connect(auth={"token": "bad11"}, scopes=["operator.read"])
    assert answer["error"] == {
        "code": "INVALID_REQUEST",
        "message": "unauthorized: too many failed authentication attempts "
        "(retry later; on its host: gatewayctl connections --closed)",
        "retryable": True,
        "retryAfterMs": 299872,
        "details": {
            "code": "AUTH_RATE_LIMITED",
            "authReason": "rate_limited",
            "canRetryWithDeviceToken": False,
            "recommendedNextStep": "wait_then_retry",
        },
    }
    assert client.closed() == (1008, answer["error"]["message"])
    assert guess(gate, auth={"token": TOKEN}) == "AUTH_RATE_LIMITED"
    assert guess(gate, "203.0.113.78", {"token": TOKEN}) == "ok"
    gate.clock.advance(300)
    assert guess(gate, auth={"token": TOKEN}) == "ok"


def test_version_3_is_told_in_its_own_shape(gate: Gate) -> None:
    """A client of version 3 gets code and reason, and when to retry."""
    for _ in range(10):
        guess(gate, protocol=3)
    answer = gate.open(REMOTE).connect(3, auth=WRONG)
    assert answer["error"]["details"] == {"code": "AUTH_RATE_LIMITED", "authReason": "rate_limited"}
    assert answer["error"]["retryAfterMs"] == 300_000


def test_no_field_of_the_client_changes_the_budget(gate: Gate) -> None:
    """Whatever else a request says, and whoever it says it is, its guesses are counted together."""
    variants: list[dict[str, Any]] = [
        {"client": UI},
        {"client": {**CLI, "instanceId": "x", "displayName": "y"}},
        {"auth": {"token": "wrong", "deviceToken": "wrong too"}},
        {"auth": {"password": "wrong"}},
        {"caps": ["x"]},
        {"locale": "de", "userAgent": "other"},
        {"protocol": 3},
        {"device": DEVICE},
        {"scopes": []},
        {"auth": {"token": "wrong", "bootstrapToken": "z"}},
    ]
    for extra in variants:
        assert guess(gate, **extra) != "ok"
    assert guess(gate, auth={"token": TOKEN}) == "AUTH_RATE_LIMITED"


def test_addresses_that_are_one(gate: Gate) -> None:
    """Spelling IPv4 as IPv6, or taking another address of one's own network, gives no new guesses."""
    for number in range(5):
        guess(gate, "203.0.113.9")
        guess(gate, "::ffff:203.0.113.9")
        guess(gate, f"2001:db8::{number + 1:x}")
        guess(gate, f"2001:db8::ff:{number + 1:x}")
    for host in ("203.0.113.9", "::ffff:203.0.113.9", "2001:db8::9999"):
        assert guess(gate, host, {"token": TOKEN}) == "AUTH_RATE_LIMITED"
    assert guess(gate, "2001:db8:0:1::1", {"token": TOKEN}) == "ok"


def test_a_missing_credential_is_no_failure(gate: Gate) -> None:
    """Who forgets the token may do so as often as it likes."""
    for _ in range(30):
        assert guess(gate, auth={}) == "DEVICE_IDENTITY_REQUIRED"
    assert guess(gate, auth={"token": TOKEN}) == "ok"


def test_a_client_that_mistypes_is_let_in() -> None:
    """The twin: nine mistakes, then the right token, and the mistakes are forgotten."""
    gate = Gate()
    for _ in range(3):
        for _ in range(9):
            guess(gate)
        assert guess(gate, auth={"token": TOKEN}) == "ok"


def test_loopback_is_answered_late(gate: Gate, log: list[LogEvent]) -> None:
    """A wrong token from this machine is refused after a delay that doubles, up to five seconds."""
    delays = []
    for _ in range(7):
        client = gate.open()
        before = gate.clock.seconds()
        assert code_of(client.connect(auth=WRONG)) == "AUTH_TOKEN_MISMATCH"
        delays.append(gate.clock.seconds() - before)
        client.wire.lose()
    assert delays == [0.25, 0.5, 1, 2, 4, 5, 5]
    assert gate.join(), "the right token is not slowed down"
    assert {line["cause"] for line in closings(log)} == {"unauthorized"}


def held(gate: Gate) -> Client:
    """Return a local client whose refusal is held back."""
    client = gate.open()
    nonce = client.received()[0]["payload"]["nonce"]
    assert nonce
    client.request(
        "connect",
        {
            "minProtocol": 4,
            "maxProtocol": 4,
            "client": CLI,
            "role": "operator",
            "scopes": [],
            "auth": WRONG,
        },
    )
    return client


def test_a_refusal_that_is_held_back_leaves_nothing_behind(gate: Gate) -> None:
    """Until it is told it is a stranger; frames it sends are dropped, and it may leave at any time."""
    edge = gate.wiring.edge
    first, second = held(gate), held(gate)
    assert (len(edge.delays), len(edge.strangers), len(edge.deadlines)) == (2, 2, 0)
    first.send(type="req", id="x", method="health")
    assert first.received() == []
    second.wire.lose()
    assert (len(edge.delays), len(edge.strangers)) == (1, 1)
    gate.clock.advance(0.25)
    assert len(edge.delays) == 0
    assert first.received()[0]["error"]["details"]["code"] == "AUTH_TOKEN_MISMATCH"
    assert first.closed() is not None
    gate.clock.advance(20)
    first.wire.lose()
    assert (len(edge.strangers), gate.clock.getDelayedCalls()) == (0, [])


def test_a_refusal_that_is_held_back_while_the_gateway_stops(gate: Gate) -> None:
    """A close by somebody else comes first, and the refusal is never told."""
    client = held(gate)
    client.server.close(CloseCause.DRAIN, 1012, "service restart")
    client.server.go_on()
    assert client.received() == []
    assert client.closed() == (1012, "service restart")


def knocks(gate: Gate, token: str = TOKEN) -> tuple[Client, str]:
    """Return a local client that has shown a token, and the id of its request."""
    client = gate.open()
    assert client.received()[0]["event"] == "connect.challenge"
    params = {"minProtocol": 4, "maxProtocol": 4, "client": CLI, "auth": {"token": token}}
    return client, client.request("connect", params)


@pytest.mark.parametrize("leave", [False, True])
def test_many_guesses_at_once_slow_each_other(leave: bool) -> None:
    """Asking in parallel is no way round the delay, nor is leaving early: each waits first."""
    gate = limited(auth_delayed_max=3)
    for guesser in [held(gate) for _ in range(3)]:
        if leave:
            guesser.wire.lose()
    attempts = gate.wiring.edge.guard.attempts
    (record,) = attempts._free.values()
    client, _ = knocks(gate, "wrong")
    assert len(record.failures) == 3, "it was not looked at"
    client.wire.lose()
    gate.clock.advance(10)
    assert len(record.failures) == 3, "nor after its client left"
    assert (len(gate.wiring.edge.delays), len(gate.wiring.edge.strangers)) == (0, 0)


def test_whoever_guesses_here_does_not_lock_the_owner_out() -> None:
    """However many wrong tokens local programs show, the right one is let in when its time has come."""
    gate = limited(auth_delayed_max=3)
    for _ in range(3):
        held(gate)
    owner, frame_id = knocks(gate)
    owner.send(type="req", id="later", method="health")
    assert owner.received() == []
    for _ in range(20):
        gate.clock.advance(0.25)
        knocks(gate, "wrong")
    assert [m["id"] for m in owner.received() if m["type"] == "res"] == [frame_id, "later"]
    assert owner.closed() is None


def test_who_waits_may_be_refused_or_told_that_the_gateway_stops() -> None:
    """A wrong credential that waited is answered late in its turn; a drain ends the wait."""
    gate = limited(auth_delayed_max=1)
    held(gate)
    gate.clock.advance(0.2)
    client, frame_id = knocks(gate, "wrong")
    other, _ = knocks(gate)
    other.server.close(CloseCause.DRAIN, 1012, "service restart")
    gate.clock.advance(5)
    assert client.received() == []
    gate.clock.advance(0.5)
    (answer,) = client.received()
    assert (answer["id"], code_of(answer)) == (frame_id, "AUTH_TOKEN_MISMATCH")
    assert other.received() == []
    assert len(gate.wiring.edge.delays) == 0


def test_a_device_does_not_guess_beside_its_own_token(gate: Gate) -> None:
    """A wrong shared token beside a right device token is let in, and counted."""
    client = gate.open()
    hello = client.connect(device=DEVICE, client=UI)
    mine = hello["payload"]["auth"]["deviceToken"]
    attempts = gate.wiring.edge.guard.attempts
    both = {"token": "wrong", "deviceToken": mine}
    answer = gate.open(REMOTE).connect(device=DEVICE, client=UI, auth=both)
    assert answer["payload"]["auth"]["method"] == "device-token"
    assert len(attempts) == 1
    assert guess(gate, "203.0.113.99", {"token": mine}, device=DEVICE, client=UI) == "ok"
    assert len(attempts) == 1, "as clients of version 3 send it, that is no guess"


def test_a_device_that_is_refused_guesses_as_others_do(gate: Gate) -> None:
    """A right device token that may not do what is asked for makes no guess beside it a free one."""
    hello = gate.open().connect(device=DEVICE, client=UI, scopes=["operator.read"])
    auth = {"token": "wrong", "deviceToken": hello["payload"]["auth"]["deviceToken"]}
    asked: dict[str, Any] = {"device": DEVICE, "client": UI, "scopes": ["operator.admin"]}
    assert {guess(gate, auth=auth, **asked) for _ in range(10)} == {"AUTH_SCOPE_MISMATCH"}
    assert guess(gate, auth={"token": TOKEN}) == "AUTH_RATE_LIMITED"


def test_mode_none_counts_nothing() -> None:
    """Where nothing is asked for nothing can be wrong."""
    gate = Gate(secret=None, config=Config(auth=AuthConfig(mode="none")))
    assert {guess(gate, "127.0.0.1") for _ in range(20)} == {"ok"}


# -- proxies


def proxied(**auth: Any) -> Gate:
    server = ServerConfig(trusted_proxies=["10.0.0.1", "127.0.0.1"], allowed_hosts=["gw.example"])
    return Gate(config=Config(server=server, auth=AuthConfig(**auth)))


def test_an_unknown_proxy_is_told_what_to_configure(gate: Gate, log: list[LogEvent]) -> None:
    """Traffic through a proxy that nobody named is refused at the upgrade: 403, and the mend."""
    client = Client(gate, Wire(REMOTE), X_Forwarded_For="127.0.0.1")
    assert "403" in client.status
    body = client.wire.sent.partition(b"\r\n\r\n")[2].decode()
    assert '"type":"proxy_attribution_required"' in body
    assert "server.trusted_proxies" in body
    client.wire.lose()
    (line,) = closings(log)
    assert (line["cause"], line["httpStatus"]) == ("missing-ingress-attribution", 403)
    assert len(gate.wiring.edge.strangers) == 0


def test_clients_behind_a_proxy_are_themselves() -> None:
    """They are counted and listed by their own addresses, and are never local."""
    gate = proxied()
    for _ in range(10):
        guess_through(gate, "203.0.113.1")
    assert guess_through(gate, "203.0.113.1", {"token": TOKEN}) == "AUTH_RATE_LIMITED"
    client = Client(gate, Wire("127.0.0.1"), X_Forwarded_For="6.6.6.6, 127.0.0.1")
    answer = client.connect(client=UI, device=DEVICE)
    assert answer["error"]["code"] == "NOT_PAIRED", "a forged loopback address is not local"
    ok = Client(gate, Wire("10.0.0.1"), X_Forwarded_For="203.0.113.2")
    assert ok.connect()["payload"]["auth"]["scopes"] == []
    assert ok.server.remote.address == "203.0.113.2"


def guess_through(gate: Gate, client: str, auth: dict[str, str] = WRONG) -> str:
    answer = Client(gate, Wire("10.0.0.1"), X_Forwarded_For=client).connect(auth=auth)
    return "ok" if answer["ok"] else code_of(answer)


HEADERS = {"X_Forwarded_For": "203.0.113.5", "X_Forwarded_User": "ann"}


def test_the_proxy_says_who_it_is() -> None:
    """With mode trusted-proxy a user needs no token, is remembered by name, and gets no rights by it."""
    gate = proxied(mode="trusted-proxy", allow_users=["ann"])
    scopes = {"X_OpenClaw_Scopes": "operator.admin"}
    client = Client(gate, Wire("10.0.0.1"), **HEADERS, **scopes)
    answer = client.connect(auth={})
    auth = answer["payload"]["auth"]
    assert (auth["method"], auth["scopes"]) == ("trusted-proxy", [])
    assert client.server.caller.principal.scopes == ()


@pytest.mark.parametrize(
    ("host", "headers", "code"),
    [
        ("10.0.0.1", {"X_Forwarded_User": ""}, "AUTH_VERIFIED_USER_REQUIRED"),
        ("10.0.0.1", {"X_Forwarded_User": "bob"}, "AUTH_UNAUTHORIZED"),
        ("10.0.0.1", {"X_Auth": ""}, "AUTH_IDENTITY_HEADER_REQUIRED"),
        ("127.0.0.1", {}, "AUTH_UNAUTHORIZED"),
    ],
)
def test_who_the_proxy_does_not_vouch_for(host: str, headers: dict[str, str], code: str) -> None:
    """Each refusal has its code and is no failed guess; a token or a device does not help."""
    gate = proxied(mode="trusted-proxy", allow_users=["ann"], required_headers=["X-Auth"])
    sent = HEADERS | {"X_Auth": "yes"} | headers
    client = Client(gate, Wire(host), **sent)
    answer = client.connect(device=DEVICE, client=UI)
    assert code_of(answer) == code
    assert answer["error"]["details"]["recommendedNextStep"] == "review_auth_configuration"
    assert client.closed() is not None
    assert len(gate.wiring.edge.guard.attempts) == 0


def test_past_the_proxy_nobody_comes_in() -> None:
    """A direct client is refused, with the secret of another mode, the user's name, and locally too."""
    gate = proxied(mode="trusted-proxy")
    for host in (REMOTE, "127.0.0.1"):
        client = Client(gate, Wire(host), X_Forwarded_User="ann")
        assert code_of(client.connect(device=DEVICE, client=UI)) == "AUTH_UNAUTHORIZED"


# -- names


def test_a_page_whose_name_points_here(gate: Gate, log: list[LogEvent]) -> None:
    """DNS rebinding: the browser takes the gateway for the page's server; the name gives it away."""
    client = Client(gate, Wire(), Host="evil.example:18789")
    answer = client.connect()
    assert answer["error"]["details"] == {"code": "HOST_NOT_ALLOWED"}
    assert "server.allowed_hosts" in answer["error"]["message"]
    assert client.closed() == (1008, answer["error"]["message"])
    client.wire.lose()
    assert closings(log)[0]["cause"] == "host-mismatch"


@pytest.mark.parametrize("name", ["localhost:18789", "test-host", "gw.example", "[::1]:1"])
def test_names_that_are_the_gateway_s(name: str) -> None:
    """The twin: local clients that use an address, the machine's name or a listed one get in."""
    assert Client(proxied(), Wire(), Host=name).connect()["ok"]


def test_other_clients_may_use_any_name(gate: Gate) -> None:
    """A client elsewhere that is no browser may have found the gateway under any name."""
    assert Client(gate, Wire(REMOTE), Host="gateway:18789").connect()["ok"]


def test_pages_elsewhere_need_a_known_name() -> None:
    """With "*" every page may come, but not under a name of its own; a listed origin vouches for both."""
    page = {"Origin": "http://evil.example", "Host": "evil.example"}
    any_page = Gate(config=Config(server=ServerConfig(allowed_origins=["*"])))
    assert code_of(Client(any_page, Wire(REMOTE), **page).connect()) == "HOST_NOT_ALLOWED"
    listed = Gate(config=Config(server=ServerConfig(allowed_origins=["http://evil.example"])))
    assert Client(listed, Wire(REMOTE), **page).connect()["ok"]


# -- passwords with a hash


def hashed(threads: Threads) -> Gate:
    gate = Gate(secret=CHEAP, config=Config(auth=AuthConfig(mode="password", password=CHEAP)))
    gate.wiring.edge.passwords._in_thread = threads
    return gate


def knock(gate: Gate, password: str, host: str = REMOTE) -> Client:
    """Show a password; the comparison is under way."""
    client = gate.open(host)
    assert client.connect(auth={"password": password}) == {}
    return client


def test_a_password_is_compared_in_a_thread() -> None:
    """The client's time does not run meanwhile; the right one is let in with what it sent since."""
    threads = Threads()
    gate = hashed(threads)
    client = knock(gate, "correct horse")
    client.send(type="req", id="later", method="health")
    gate.clock.advance(60)
    assert client.closed() is None
    threads.finish()
    assert [m["id"] for m in client.received() if m["type"] == "res"] == ["r1", "later"]
    assert gate.open(REMOTE).connect(auth={"password": "correct horse"})["ok"], "known again"
    assert threads.begun == 1


def test_a_wrong_password_is_counted() -> None:
    """A wrong one is refused as without a hash, and after ten nothing is compared any more."""
    threads = Threads()
    gate = hashed(threads)
    for _ in range(10):
        client = knock(gate, "wrong")
        threads.finish()
        assert code_of(client.received()[0]) == "AUTH_PASSWORD_MISMATCH"
    assert guess(gate, auth={"password": "correct horse"}) == "AUTH_RATE_LIMITED"
    assert threads.begun == 10


def test_who_leaves_during_the_comparison() -> None:
    """Nothing stays but the guess, which is counted: a right password would have been told at once."""
    threads = Threads()
    gate = hashed(threads)
    knock(gate, "correct horse").wire.lose()
    threads.finish()
    assert len(gate.wiring.edge.guard.attempts) == 0
    for _ in range(10):
        knock(gate, "wrong").wire.lose()
        threads.finish()
    edge = gate.wiring.edge
    assert (len(edge.strangers), len(edge.passwords), len(edge.delays)) == (0, 0, 0)
    assert guess(gate, auth={"password": "correct horse"}) == "AUTH_RATE_LIMITED"


def test_more_passwords_than_can_wait() -> None:
    """Who finds all places taken is told to retry, and closed with 1013."""
    gate = hashed(Threads())
    waiting = [knock(gate, "x", f"203.0.113.{n}") for n in range(66)]
    client = gate.open(REMOTE)
    answer = client.connect(auth={"password": "x"})
    assert (answer["error"]["code"], answer["error"]["retryable"]) == ("UNAVAILABLE", True)
    assert client.closed() == (1013, answer["error"]["message"])
    assert {each.closed() for each in waiting} == {None}


def test_a_password_that_changes_during_the_comparison() -> None:
    """It is compared again, with what holds now."""
    threads = Threads()
    gate = hashed(threads)
    client = knock(gate, "correct horse")
    gate.wiring.edge.policy = gate.wiring.door(CHEAP.replace("m=8", "m=16"))
    threads.finish()
    threads.finish()
    assert code_of(client.received()[0]) == "AUTH_PASSWORD_MISMATCH"


# -- a secret that changes


def test_a_new_secret_holds_for_who_was_just_challenged(gate: Gate) -> None:
    """The old token opens nothing from then on, not even for a client that had its challenge before."""
    early = gate.open(REMOTE)
    gate.wiring.edge.policy = gate.wiring.door("another-token-entirely")
    assert code_of(early.connect()) == "AUTH_TOKEN_MISMATCH"
    assert guess(gate, auth={"token": "another-token-entirely"}) == "ok"


def test_limits_of_one_test_do_not_slow_others() -> None:
    """A gateway with a higher limit locks later: the figures are the configuration's."""
    gate = Gate(config=Config(limits=LimitsConfig(auth_failures_max=2, auth_lock_s=7.0)))
    assert [guess(gate) for _ in range(3)][2] == "AUTH_RATE_LIMITED"
    gate.clock.advance(7)
    assert guess(gate, auth={"token": TOKEN}) == "ok"

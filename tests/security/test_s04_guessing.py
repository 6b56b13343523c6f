"""Somebody guesses the token: from this machine, from afar, by other fields and other addresses.

Attacks 4 (from loopback), 5 (a field that disables the limiter) and 6 (many spellings of one address).
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.logger import LogEvent

from gateway.config import Config, ServerConfig
from gateway.core.attempts import Credential
from gateway.testing import TOKEN
from tests.net.gate import CLI, DEVICE, UI, Client, Gate
from tests.unmeasured import unmeasured

FAR = "192.0.2.7"


def guess(gate: Gate, host: str = FAR, text: str = "wrong", **how: Any) -> str:
    """Show a token; return the code of the refusal, or "in"."""
    headers = how.pop("headers", {})
    client = gate.open(host, **headers)
    answer = client.connect(auth={"token": text}, **how)
    client.wire.lose()
    if answer.get("ok"):
        return "in"
    code: str = answer["error"].get("details", {}).get("code", "not even read")
    return code


def alerts(log: list[LogEvent]) -> list[LogEvent]:
    """Return the alerts."""
    return [e for e in log if str(e.get("log_format", "")).startswith("security:")]


def test_s04_guessing_from_this_machine_is_slow(gate: Gate, log: list[LogEvent]) -> None:
    """Each wrong token from loopback is answered later, up to 5 s, and the operator is told."""
    waited = []
    for number in range(12):
        before = gate.clock.seconds()
        assert guess(gate, "127.0.0.1", f"wrong-{number}") == "AUTH_TOKEN_MISMATCH"
        waited.append(gate.clock.seconds() - before)
    assert waited[:5] == [0.25, 0.5, 1.0, 2.0, 4.0]
    assert set(waited[5:]) == {5.0}
    assert len(alerts(log)) == 1


def test_s04_guessing_at_once_is_no_faster(gate: Gate, log: list[LogEvent]) -> None:
    """A thousand at once from loopback: 64 are looked at in any 5 s, others only after they waited 5 s."""
    for _ in range(10):
        for number in range(100):
            client = gate.open()
            _send_connect(client, f"wrong-{number}")
            client.wire.lose()  # before it is told
        gate.clock.advance(5)
    assert _looked_at(gate) <= 64 * 10
    before = _looked_at(gate)
    crowd = [gate.open() for _ in range(164)]
    for number, client in enumerate(crowd):
        _send_connect(client, f"wrong-{number}")
    gate.clock.advance(4.9)
    assert _looked_at(gate) == before + 64
    assert alerts(log)


def test_s04_connections_share_one_delay(gate: Gate) -> None:
    """Guesses at the same moment, each on a connection of its own, do not each begin with the shortest."""
    crowd = [gate.open() for _ in range(8)]
    for number, client in enumerate(crowd):
        _send_connect(client, f"wrong-{number}")
    told: dict[Client, float] = {}
    for tick in range(1, 21):
        gate.clock.advance(0.25)
        for client in crowd:
            if client not in told and client.received():
                told[client] = tick / 4
    assert [told[client] for client in crowd] == [0.25, 0.5, 1.0, 2.0, 4.0, 5.0, 5.0, 5.0]


def test_s04_patient_guessing_has_no_more_than_its_sockets(gate: Gate) -> None:
    """Who keeps every socket busy, also while the owner comes and goes, has one guess of each in 5 s."""
    sockets, rounds = 100, 5
    crowd = [gate.open() for _ in range(sockets)]
    for client in crowd:
        _send_connect(client, "wrong")
    for _ in range(rounds):
        _send_connect(gate.open(), TOKEN)
        gate.clock.advance(5)
        for number, client in enumerate(crowd):
            client.wire.lose()
            crowd[number] = gate.open()
            _send_connect(crowd[number], "wrong")
    assert _looked_at(gate) <= (64 + sockets) * (rounds + 1)


def test_s04_twin_the_owner_waits_no_longer_than_5_s(gate: Gate) -> None:
    """However many guess from this machine: the right token is let in after 5 s, a paired device at once."""
    paired = gate.open().connect(client=UI, device=DEVICE)["payload"]["auth"]["deviceToken"]
    for number in range(200):
        _send_connect(gate.open(), f"wrong-{number}")
    owner = gate.open()
    _send_connect(owner, TOKEN)
    assert owner.server.context is None
    for number in range(20):
        gate.clock.advance(0.25)
        _send_connect(gate.open(), f"wrong-{number}")
    assert owner.server.context is not None
    assert gate.wiring.edge.guard.pause_s(owner.server.remote, (Credential.SHARED,)) == 5
    hello = gate.open().connect(client=UI, device=DEVICE, auth={"deviceToken": paired})
    assert hello["ok"]


def _looked_at(gate: Gate) -> float:
    return sum(
        float(line.rpartition(" ")[2])
        for line in gate.wiring.metrics.render().decode().splitlines()
        if line.startswith('gateway_auth_failures_total{kind="shared-secret"}')
    )


def _send_connect(client: Client, token: str) -> None:
    client.received()
    params = {"minProtocol": 4, "maxProtocol": 4, "client": UI, "auth": {"token": token}}
    client.request("connect", params)


def test_s04_guessing_from_afar_is_locked_out(gate: Gate, log: list[LogEvent]) -> None:
    """After ten wrong tokens nothing is compared any more, not even the right one, for five minutes."""
    codes = [guess(gate, text=f"wrong-{number}") for number in range(15)]
    assert codes == ["AUTH_TOKEN_MISMATCH"] * 10 + ["AUTH_RATE_LIMITED"] * 5
    assert guess(gate, text=TOKEN) == "AUTH_RATE_LIMITED"
    assert len(alerts(log)) == 1
    gate.clock.advance(299)
    assert guess(gate, text=TOKEN) == "AUTH_RATE_LIMITED"
    gate.clock.advance(2)
    assert guess(gate, text=TOKEN) == "in"


def test_s04_a_refusal_says_when_to_come_back(gate: Gate) -> None:
    """Who is locked out is told so, and after how long it is worth trying."""
    for _ in range(10):
        guess(gate)
    client = gate.open(FAR)
    error = client.connect(auth={"token": TOKEN})["error"]
    assert error["retryable"] is True
    assert 290_000 < error["retryAfterMs"] <= 300_000
    assert error["details"]["recommendedNextStep"] == "wait_then_retry"


def test_s04_a_page_on_this_machine_is_locked_out(gate: Gate) -> None:
    """A page guesses no faster than its origin may, though it comes from this machine."""
    headers = {"Origin": "http://localhost:3000"}
    codes = [guess(gate, "127.0.0.1", str(n), client=UI, headers=headers) for n in range(12)]
    assert codes[-2:] == ["AUTH_RATE_LIMITED"] * 2
    assert guess(gate, "127.0.0.1", TOKEN) == "in", "and nobody else is locked out by it"


def test_s04_twin_the_owner_gets_in_meanwhile(gate: Gate) -> None:
    """While somebody guesses from afar and from this machine, the right token is let in at once."""
    for number in range(20):
        guess(gate, FAR, str(number))
        guess(gate, "127.0.0.1", str(number))
    before = gate.clock.seconds()
    assert guess(gate, "127.0.0.1", TOKEN) == "in"
    assert guess(gate, "198.51.100.1", TOKEN) == "in"
    assert gate.clock.seconds() == before


def test_s04_twin_a_typing_error_costs_little(gate: Gate) -> None:
    """Who mistypes some times and then does it right is let in, and starts anew."""
    for _ in range(3):
        for _ in range(9):
            assert guess(gate) == "AUTH_TOKEN_MISMATCH"
        assert guess(gate, text=TOKEN) == "in"


def test_s04_twin_a_client_that_shows_nothing_is_not_locked_out(gate: Gate) -> None:
    """A client without any credential, as one that is set up just now, is refused but not counted."""
    for _ in range(30):
        client = gate.open(FAR)
        assert not client.connect(auth={}, client=UI)["ok"]
        client.wire.lose()
    assert guess(gate, text=TOKEN) == "in"


FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "client": st.sampled_from([CLI, UI, {**UI, "instanceId": "x"}, {**UI, "mode": "probe"}]),
        "role": st.sampled_from(["operator", "node"]),
        "scopes": st.sampled_from([[], ["operator.admin"], ["operator.pairing"]]),
        "caps": st.lists(st.sampled_from(["x", "tool-events"]), max_size=2),
        "commands": st.lists(st.text(max_size=5), max_size=2),
        "permissions": st.dictionaries(st.text(max_size=5), st.booleans(), max_size=2),
        "locale": st.text(max_size=8),
        "userAgent": st.text(max_size=8),
        "pathEnv": st.text(max_size=8),
        "device": st.sampled_from([None, DEVICE]),
        "protocol": st.sampled_from([3, 4]),
        "headers": st.fixed_dictionaries(
            {},
            optional={
                "User_Agent": st.sampled_from(["curl", "probe", ""]),
                "Cookie": st.just("a=b"),
                "Authorization": st.just("Bearer x"),
                "X_Request_Id": st.just("1"),
            },
        ),
    },
)


@unmeasured
@settings(max_examples=10)
@given(st.lists(FIELDS, min_size=11, max_size=14))
def test_s05_no_field_gets_around_the_limiter(guesses: list[dict[str, Any]]) -> None:
    """Whatever else stands in a request or its headers, the eleventh wrong token is not looked at."""
    gate = Gate()
    codes = [guess(gate, text=str(n), **fields) for n, fields in enumerate(guesses)]
    assert "in" not in codes
    looked_at = codes.count("AUTH_TOKEN_MISMATCH")
    assert looked_at <= 10
    assert looked_at < 10 or guess(gate, text=TOKEN) == "AUTH_RATE_LIMITED"


@pytest.mark.parametrize("protocol", [3, 4])
def test_s05_the_same_secret_in_another_field_is_counted_too(gate: Gate, protocol: int) -> None:
    """Token and password are one secret: who tries it in both fields has no more tries."""
    for number in range(10):
        auth = {("token", "password")[number % 2]: f"wrong-{number}"}
        client = gate.open(FAR)
        client.connect(protocol, auth=auth)
        client.wire.lose()
    assert guess(gate, text=TOKEN) == "AUTH_RATE_LIMITED"


SAME = {
    "mapped": ["192.0.2.7", "::ffff:192.0.2.7", "::FFFF:c000:207", "0:0:0:0:0:ffff:192.0.2.7"],
    "one /64": [f"2001:db8:1:2:{n:x}::{n:x}" for n in range(1, 5)],
    "zones": ["fe80::1%eth0", "fe80::1%eth1", "fe80::2%a", "fe80::1"],
}


@pytest.mark.parametrize("name", SAME)
def test_s06_one_host_has_one_budget(gate: Gate, name: str) -> None:
    """An address mapped into IPv6, another of the same /64, a zone: all are the same host's."""
    hosts = SAME[name]
    codes = [guess(gate, hosts[n % len(hosts)], str(n)) for n in range(11)]
    assert codes.count("AUTH_TOKEN_MISMATCH") == 10
    assert guess(gate, hosts[-1], TOKEN) == "AUTH_RATE_LIMITED"


@pytest.mark.parametrize("header", ["X_Forwarded_For", "X_Real_IP", "Forwarded", "X_Client_IP"])
def test_s06_a_header_of_its_own_gives_no_other_address(gate: Gate, header: str) -> None:
    """Who is no proxy of ours and claims another address each time is counted, or turned away at once."""
    for number in range(12):
        value = f"203.0.113.{number}"
        client = gate.open(FAR, **{header: f"for={value}" if header == "Forwarded" else value})
        if " 101 " in client.status:
            client.connect(auth={"token": f"wrong-{number}"})
        client.wire.lose()
    codes = {guess(gate, text=TOKEN), guess(gate, "203.0.113.3", "wrong")}
    assert codes <= {"AUTH_RATE_LIMITED", "AUTH_TOKEN_MISMATCH", "in"}
    if header == "X_Client_IP":
        assert guess(gate, text=TOKEN) == "AUTH_RATE_LIMITED"


@pytest.mark.parametrize("header", ["X_Forwarded_For", "X_Real_IP", "Forwarded"])
def test_s06_a_header_makes_nobody_local(gate: Gate, header: str) -> None:
    """Who claims to be loopback by a header is refused, or has the rights of where it comes from."""
    for host in (FAR, "127.0.0.1"):
        client = gate.open(
            host, **{header: "for=127.0.0.1" if header == "Forwarded" else "127.0.0.1"}
        )
        if " 101 " not in client.status:
            assert " 403 " in client.status
            continue
        client.connect(client=CLI)
        assert client.server.context is None or client.server.caller.scopes == frozenset()


def test_s06_twin_clients_behind_a_trusted_proxy_are_told_apart() -> None:
    """Behind a proxy of the configuration one guesser is locked out, and the next client is not."""
    gate = Gate(config=Config(server=ServerConfig(trusted_proxies=["192.0.2.7"])))
    for number in range(12):
        guess(gate, FAR, str(number), headers={"X_Forwarded_For": "203.0.113.1"})
    assert (
        guess(gate, FAR, TOKEN, headers={"X_Forwarded_For": "203.0.113.1"}) == "AUTH_RATE_LIMITED"
    )
    assert guess(gate, FAR, TOKEN, headers={"X_Forwarded_For": "203.0.113.2"}) == "in"


def test_s06_what_a_client_puts_before_the_proxy_is_not_believed() -> None:
    """Only the last entry is the proxy's: those that a client wrote before it name nobody."""
    gate = Gate(config=Config(server=ServerConfig(trusted_proxies=["192.0.2.7"])))
    for number in range(11):
        forged = f"198.51.100.{number}, 203.0.113.1"
        guess(gate, FAR, str(number), headers={"X_Forwarded_For": forged})
    assert (
        guess(gate, FAR, TOKEN, headers={"X_Forwarded_For": "203.0.113.1"}) == "AUTH_RATE_LIMITED"
    )


@pytest.mark.parametrize(
    "end", ["\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\r", "\n", "\r\n "]
)
def test_s06_a_header_within_another_is_not_believed(end: str) -> None:
    """What the proxy passed on as one value is one: no header of the client's comes behind the proxy's."""
    gate = Gate(config=Config(server=ServerConfig(trusted_proxies=["192.0.2.7"])))
    hidden = {
        "X_Forwarded_For": "203.0.113.1",
        "User_Agent": f"a{end}X-Forwarded-For: 198.51.100.1",
    }
    client = gate.open(FAR, **hidden)
    assert " 400 " in client.status or client.server.remote.address == "203.0.113.1"


def test_s06_twin_a_name_in_utf_8_is_no_line_end() -> None:
    """A letter of which a byte ends a line elsewhere keeps nobody out."""
    gate = Gate(config=Config(server=ServerConfig(trusted_proxies=["192.0.2.7"])))
    headers = {"X_City": "\u00c5lesund", "X_Forwarded_For": "203.0.113.1"}
    assert guess(gate, FAR, TOKEN, headers=headers) == "in"


def test_s06_the_limiter_remembers_a_bounded_number_of_addresses(gate: Gate) -> None:
    """A guesser with very many addresses fills no memory, and frees no address that is locked out."""
    attempts = gate.wiring.edge.guard.attempts
    attempts.maximum = 50
    for number in range(10):
        guess(gate, FAR, str(number))
    for number in range(120):
        guess(gate, f"2001:db8:{number:x}::1", "wrong")
    assert len(attempts) <= 50
    assert guess(gate, FAR, TOKEN) == "AUTH_RATE_LIMITED"

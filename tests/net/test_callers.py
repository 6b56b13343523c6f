"""Who calls over HTTP: the shared limiter, proxies, hashes of passwords, and foreign names."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from gateway.app.setupcodes import Created
from gateway.config import AuthConfig, Config, ServerConfig
from gateway.core.setupcode import NODE
from gateway.limits import LimitsConfig
from gateway.net.callers import Callers
from gateway.net.http import make_root
from gateway.net.port import SwitchFactory
from gateway.net.site import Site
from gateway.testing import TOKEN
from tests.app.test_passwords import CHEAP, Threads
from tests.net.gate import Gate
from tests.net.web import Answer, FakeProbes
from tests.net.wire import Wire, head

REMOTE = "192.0.2.7"


class Web:
    """The HTTP side of a whole gateway in memory."""

    def __init__(self, secret: str | None = TOKEN, **how: Any) -> None:
        self.gate = Gate(secret=secret, **how)
        edge = self.gate.wiring.edge
        callers = Callers(edge)
        root = make_root(FakeProbes(), callers.authorize, lambda: b"up 1\n", callers.join)
        site = Site(root, self.gate.clock, misdirected=callers.misdirected)
        self.factory = SwitchFactory(self.gate.wiring.factory, site, self.gate.clock)

    def send(self, path: str, host: str = REMOTE, **headers: str) -> Wire:
        wire = Wire(host)
        wire.connect(self.factory.buildProtocol(wire.getPeer()))
        wire.receive(head(path, **headers))
        return wire

    def ask(self, path: str = "/metrics", host: str = REMOTE, **headers: str) -> Answer:
        return Answer(self.send(path, host, **headers).sent)

    def guess(self, token: str = "wrong", host: str = REMOTE) -> Answer:
        return self.ask(host=host, Authorization=f"Bearer {token}")


def test_guessing_over_http_is_locked_out() -> None:
    """Ten wrong bearer tokens lock the address: 429, when to come back, the right token included."""
    web = Web()
    assert [web.guess().status for _ in range(10)] == [401] * 10
    answer = web.guess(TOKEN)
    assert (answer.status, answer.headers["retry-after"]) == (429, "300")
    assert answer.json()["error"]["type"] == "rate_limited"
    assert web.guess(TOKEN, "192.0.2.8").status == 200
    web.gate.clock.advance(300)
    assert web.guess(TOKEN).status == 200


def test_http_and_websockets_count_together() -> None:
    """What was tried over the one counts for the other."""
    web = Web(config=Config(limits=LimitsConfig(auth_failures_max=2)))
    web.guess()
    client = web.gate.open(REMOTE)
    assert client.connect(auth={"token": "wrong"})["error"]["details"]["code"] == (
        "AUTH_TOKEN_MISMATCH"
    )
    assert web.guess(TOKEN).status == 429


def test_no_token_is_no_failure() -> None:
    """A scraper without a token is told so as often as it asks."""
    web = Web(config=Config(limits=LimitsConfig(auth_failures_max=1)))
    assert [web.ask().status for _ in range(3)] == [401] * 3
    assert web.guess(TOKEN).status == 200
    assert len(web.gate.wiring.edge.guard.attempts) == 0


def test_loopback_is_slowed_down_but_not_locked() -> None:
    """A program here has to wait after each wrong token, twice as long each time, and no longer."""
    web = Web()
    assert web.guess(host="127.0.0.1").status == 401
    assert web.guess(TOKEN, "127.0.0.1").status == 429
    web.gate.clock.advance(0.25)
    assert web.guess(host="127.0.0.1").status == 401
    web.gate.clock.advance(0.25)
    assert web.guess(TOKEN, "127.0.0.1").headers["retry-after"] == "1"
    web.gate.clock.advance(0.25)
    assert web.guess(TOKEN, "127.0.0.1").status == 200


def test_a_healthy_scraper_is_never_in_the_way() -> None:
    """With the right token any number of requests is answered: the twin of the limits above."""
    web = Web()
    assert {web.guess(TOKEN).status for _ in range(100)} == {200}


def test_a_proxy_that_is_not_known() -> None:
    """Probes still answer; where a credential is asked for, 403 says what to configure."""
    web = Web()
    assert web.ask("/healthz", X_Forwarded_For="9.9.9.9").status == 200
    answer = web.ask(X_Forwarded_For="9.9.9.9", Authorization=f"Bearer {TOKEN}")
    assert answer.status == 403
    error = answer.json()["error"]
    assert error["type"] == "proxy_attribution_required"
    assert "server.trusted_proxies" in error["message"]
    ready = web.ask("/readyz", "127.0.0.1", X_Forwarded_For="9.9.9.9")
    assert ready.json() == {"ready": True}


def test_behind_a_proxy_each_client_has_its_own_budget() -> None:
    """The limiter counts the client that the proxy names, not the proxy."""
    config = Config(
        server=ServerConfig(trusted_proxies=["10.0.0.1"]), limits=LimitsConfig(auth_failures_max=1)
    )
    web = Web(config=config)

    def asked(client: str, token: str) -> int:
        bearer = f"Bearer {token}"
        return web.ask(host="10.0.0.1", X_Forwarded_For=client, Authorization=bearer).status

    assert asked("203.0.113.1", "wrong") == 401
    assert asked("203.0.113.1", TOKEN) == 429
    assert asked("6.6.6.6, 203.0.113.1", TOKEN) == 429
    assert asked("203.0.113.2", TOKEN) == 200


def test_a_password_with_a_hash_is_compared_in_a_thread() -> None:
    """The answer comes when the comparison is done; a client that has left gets none."""
    threads = Threads()
    auth = AuthConfig(mode="password", password=CHEAP)
    web = Web(CHEAP, config=Config(auth=auth))
    web.gate.wiring.edge.passwords._in_thread = threads
    right = web.send("/metrics", Authorization="Bearer correct horse")
    wrong = web.send("/metrics", Authorization="Bearer wrong")
    gone = web.send("/readyz", Authorization="Bearer wrong")
    assert right.sent == b""
    gone.lose()
    for _ in range(3):
        threads.finish()
    assert (Answer(right.sent).status, Answer(wrong.sent).status, gone.sent) == (200, 401, b"")
    assert web.guess("correct horse").status == 200, "it is known again"


def test_passwords_that_are_compared_together_are_no_more_guesses() -> None:
    """However many are sent before the first is compared, only so many are told right from wrong."""
    threads = Threads()
    web = Web(CHEAP, config=Config(auth=AuthConfig(mode="password", password=CHEAP)))
    web.gate.wiring.edge.passwords._in_thread = threads
    wires = [web.send("/metrics", Authorization="Bearer wrong") for _ in range(11)]
    wires.append(web.send("/metrics", Authorization="Bearer correct horse"))
    while threads.jobs:
        threads.finish()
    assert [Answer(wire.sent).status for wire in wires] == [401] * 10 + [429] * 2


def test_too_many_passwords_at_once() -> None:
    """Who finds all places taken is told to come again."""
    auth = AuthConfig(mode="password", password=CHEAP)
    web = Web(CHEAP, config=Config(auth=auth))
    web.gate.wiring.edge.passwords._in_thread = lambda function, *args: Deferred()
    for _ in range(66):
        web.send("/metrics", Authorization="Bearer x")
    answer = web.guess()
    assert (answer.status, answer.headers["retry-after"]) == (503, "2")


def test_a_fault_in_a_late_answer(expected_failures: list[type[BaseException]]) -> None:
    """What breaks after the comparison is logged and answered with 500."""
    expected_failures.append(ZeroDivisionError)
    threads = Threads()
    web = Web(CHEAP, config=Config(auth=AuthConfig(mode="password", password=CHEAP)))
    web.gate.wiring.edge.passwords._in_thread = threads
    wire = web.send("/metrics", Authorization="Bearer x")
    threads.jobs[0][0].errback(ZeroDivisionError("boom"))
    assert Answer(wire.sent).status == 500


def test_without_a_shared_secret() -> None:
    """Mode none asks for nothing; with a trusted proxy only who comes through it is trusted."""
    assert Web(None, config=Config(auth=AuthConfig(mode="none"))).ask().status == 200
    server = ServerConfig(trusted_proxies=["10.0.0.1"])
    web = Web(None, config=Config(server=server, auth=AuthConfig(mode="trusted-proxy")))
    assert web.guess(TOKEN).status == 401
    through = {"X_Forwarded_For": "203.0.113.1", "X_Forwarded_User": "ann"}
    assert web.ask(host="10.0.0.1", **through).status == 200
    assert web.ask(host="10.0.0.1", X_Forwarded_For="203.0.113.1").status == 401


def test_local_requests_under_a_foreign_name() -> None:
    """A page whose name points here is told 421, whatever it asks for; the gateway's names work."""
    web = Web()

    def asked(name: str, host: str = "127.0.0.1") -> int:
        wire = Wire(host)
        wire.connect(web.factory.buildProtocol(wire.getPeer()))
        wire.receive(f"GET /readyz HTTP/1.1\r\nHost: {name}\r\n\r\n".encode())
        return int(wire.sent.split()[1])

    assert asked("evil.example") == 421
    assert asked("localhost\r\nHost: evil.example") == 421
    assert asked("localhost:18789") == asked("test-host") == 200
    assert asked("evil.example", REMOTE) == 200, "a remote caller is not trusted anyway"
    wire = Wire()
    wire.connect(web.factory.buildProtocol(wire.getPeer()))
    wire.receive(b"GET /healthz HTTP/1.0\r\n\r\n")
    assert wire.sent.split()[1] == b"200"


def linked(web: Web) -> Created:
    """Make a setup code with a join link."""
    codes = web.gate.wiring.services.setup_codes
    return codes.create(NODE, (), link_to="wss://gw.example")


def test_a_join_link_leads_to_the_code_once() -> None:
    """Who gets it first has the code; nobody may keep the answer; a look (HEAD) uses nothing up."""
    web = Web()
    made = linked(web)
    path = f"/j/{made.link_code}"
    assert web.send(path, method="HEAD").sent.startswith(b"HTTP/1.1 404 ")
    answer = web.ask(path)
    assert answer.status == 200
    assert answer.headers["cache-control"] == "no-store"
    assert "access-control-allow-origin" not in answer.headers
    assert answer.json() == {
        "url": "wss://gw.example",
        "bootstrapToken": made.secret,
        "expiresAtMs": made.expires_at_ms,
        "profile": "node",
    }
    assert web.ask(path).status == 404


def test_guessing_join_links_is_locked_out() -> None:
    """Ten links that lead nowhere lock the address out of setup codes, a right link included."""
    web = Web()
    made = linked(web)
    for path in ("/j", "/j/", "/j/short", f"/j/{made.link_code}/more"):
        assert web.ask(path).status == 404
    assert len(web.gate.wiring.edge.guard.attempts) == 0, "those are no guesses"
    codes = [web.ask(f"/j/{number:022}").status for number in range(12)]
    assert codes == [404] * 10 + [429] * 2
    answer = web.ask(f"/j/{made.link_code}")
    assert (answer.status, answer.headers["retry-after"]) == (429, "300")
    assert web.guess(TOKEN).status == 200, "tokens are counted apart"
    assert web.ask(f"/j/{made.link_code}", "192.0.2.8").status == 200


def test_join_links_and_proxies() -> None:
    """Through a proxy that nobody knows no link is followed, and none is used up."""
    web = Web()
    path = f"/j/{linked(web).link_code}"
    assert web.ask(path, X_Forwarded_For="203.0.113.1").status == 403
    assert web.ask(path).status == 200

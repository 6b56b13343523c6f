"""A web page of somebody else opens a WebSocket to the gateway (attack 1)."""

from __future__ import annotations

import pytest

from gateway.config import Config, ServerConfig
from tests.net.gate import DEVICE, UI, Gate, closings

CONTROL_UI = {"id": "openclaw-control-ui", "version": "1.0", "platform": "web", "mode": "ui"}
ALLOWED = "https://panel.example:8443"

FOREIGN = [
    "https://evil.example",
    "null",
    "file://",
    "file:///home/user/page.html",
    "http://localhost.evil.example:18789",
    "http://127.0.0.1.evil.example",
    "http://evil.example#http://localhost",
    "http://localhost@evil.example",
    "https://panel.example.evil.example:8443",
    "https://evilpanel.example:8443",
    "https://panel.example",
    "https://panel.example:9443",
    "http://panel.example:8443",
    "https://panel.example:8443/",
    "https://xn--pnel-loa.example:8443",
    "https://pànel.example:8443",
    "https://panel.example:8443, https://evil.example",
    "chrome-extension://abcdefghijklmnop",
    "",
]


@pytest.fixture
def gate() -> Gate:
    """A gateway that one page of another host may use."""
    return Gate(config=Config(server=ServerConfig(allowed_origins=[ALLOWED])))


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("client", [UI, CONTROL_UI], ids=["any client", "control ui"])
@pytest.mark.parametrize("origin", FOREIGN)
def test_s01_a_foreign_page_is_refused(
    gate: Gate, origin: str, client: dict[str, str], protocol: int
) -> None:
    """A page of another origin gets nothing, even with the right token and from this machine."""
    visitor = gate.open(Origin=origin)

    if " 101 " in visitor.status:
        answer = visitor.connect(protocol, client=client, device=DEVICE)

        assert answer["error"]["message"].startswith("origin not allowed")
        closed = visitor.closed()
        assert closed is not None
        assert closed[0] == 1008
    else:
        assert visitor.status == "HTTP/1.1 400 Bad Request", "what is no URL is no origin"
    assert len(gate.wiring.services.hub) == 0


def test_s01_a_page_that_hides_where_it_comes_from_is_refused(gate: Gate) -> None:
    """A client that runs in browsers has to say where its page is from."""
    visitor = gate.open()

    answer = visitor.connect(client=CONTROL_UI, device=DEVICE)

    assert answer["error"]["details"]["reason"] == "origin missing or invalid"


@pytest.mark.parametrize("origin", [None, "null", "http://localhost:18789"])
def test_s01_no_page_gets_in_without_a_credential(gate: Gate, origin: str | None) -> None:
    """An Origin, or none, stands in for no credential: also a page of this machine needs the token."""
    headers = {} if origin is None else {"Origin": origin}
    visitor = gate.open(**headers)

    assert not visitor.connect(client=UI, auth={}, device=DEVICE)["ok"]


def test_s01_twin_a_page_without_an_origin_can_be_allowed() -> None:
    """A page that has no origin of its own works where the operator wrote ``null``, and only there."""
    gate = Gate(config=Config(server=ServerConfig(allowed_origins=["null"])))
    page = gate.open("192.0.2.7", Origin="null")
    assert page.connect(client=UI)["ok"]


@pytest.mark.parametrize("protocol", [3, 4])
def test_s01_twin_the_allowed_page_works(gate: Gate, protocol: int) -> None:
    """The page that is allowed works from another host, as does a client that is no page."""
    page = gate.open("192.0.2.7", Origin=ALLOWED.upper().replace("HTTPS", "https"))
    assert page.connect(protocol, client=UI)["ok"]
    assert gate.join(protocol, host="192.0.2.7").call("health")["ok"]


def test_s01_the_page_is_named_in_the_log(gate: Gate, log: list[dict[str, object]]) -> None:
    """The operator reads which origin was turned away."""
    visitor = gate.open(Origin="https://evil.example")
    visitor.connect()
    visitor.wire.lose()

    (line,) = closings(log)
    assert (line["cause"], line["origin"]) == ("origin-mismatch", "https://evil.example")

"""gateway.net.http: every resource, byte for byte where it counts."""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256
from typing import Any

import pytest
from twisted.internet.address import IPv6Address, UNIXAddress

from tests.net.web import PATHS, TOKEN, Web
from tests.net.wire import Wire, head


@pytest.fixture
def web() -> Web:
    """A gateway's port."""
    return Web()


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/healthz", {"ok": True, "status": "live"}),
        ("/readyz", {"ready": True, "failing": [], "uptimeMs": 1234}),
        (
            "/startupz",
            {"ok": True, "status": "started", "version": "1.2.3", "uptimeMs": 1234},
        ),
    ],
)
def test_probes_of_a_gateway_that_is_well(web: Web, path: str, expected: Any) -> None:
    """A probe of a gateway that is well is 200, under both of its names, and is not to be kept."""
    for name in (path, path.removesuffix("z"), path + "?x=1"):
        answer = web.ask(head(name))
        assert (answer.status, answer.json()) == (200, expected)
        assert answer.headers["cache-control"] == "no-store"


def test_probes_of_a_gateway_that_starts(web: Web) -> None:
    """While it starts, ready and startup are 503 and name what they wait for; it is live already."""
    web.probes.is_started = False
    web.probes.broken = ["store", "agent main"]
    ready = web.ask(head("/readyz"))
    assert (ready.status, ready.json()["failing"]) == (503, ["store", "agent main"])
    startup = web.ask(head("/startupz"))
    assert (startup.status, startup.json()["status"]) == (503, "starting")
    assert startup.json()["pendingReason"] == "store, agent main"
    assert web.ask(head("/healthz")).status == 200


def test_probes_of_a_gateway_that_is_degraded(web: Web) -> None:
    """What fails after the start is told with the reason, to who is local or brings the secret."""
    web.probes.broken = ["store"]
    web.probes.because = {"store": "the disk is full (database or disk is full)"}
    expected = {
        "ready": False,
        "failing": ["store"],
        "uptimeMs": 1234,
        "state": "degraded",
        "reasons": web.probes.because,
    }
    secret = f"Bearer {TOKEN}"
    local = web.ask(head("/readyz"))
    assert (local.status, local.json()) == (503, expected)
    assert web.ask(head("/readyz", Authorization=secret), host="192.0.2.7").json() == expected
    for wrong in ("Bearer wrong", "Basic eA=="):
        answer = web.ask(head("/readyz", Authorization=wrong), host="192.0.2.7")
        assert (answer.status, answer.json()) == (503, {"ready": False})
    web.probes.is_started = False
    assert web.ask(head("/readyz")).json()["state"] == "starting"
    web.probes.broken = ["draining"]
    assert web.ask(head("/readyz")).json()["state"] == "draining"
    web.probes.broken = ["store"]
    assert (
        web.ask(head("/startupz")).json()["pendingReason"]
        == f"store: {web.probes.because['store']}"
    )


def test_stalled_gateway(web: Web) -> None:
    """A gateway that does not do its work says so with 503."""
    web.probes.is_live = False
    answer = web.ask(head("/healthz"))
    assert (answer.status, answer.json()) == (503, {"ok": False, "status": "stalled"})


@pytest.mark.parametrize(
    ("host", "headers"),
    [
        ("192.0.2.7", {}),
        ("127.0.0.1", {"X_Forwarded_For": "127.0.0.1"}),
        ("127.0.0.1", {"Forwarded": "for=127.0.0.1"}),
        ("127.0.0.1", {"X_Real_IP": "127.0.0.1"}),
        ("::ffff:192.0.2.7", {}),
        ("not an address", {}),
    ],
)
def test_strangers_get_no_details(web: Web, host: str, headers: dict[str, str]) -> None:
    """Who comes from elsewhere or through a proxy gets the state and no details."""
    web.probes.broken = ["store"]
    web.probes.is_started = False
    assert web.ask(head("/readyz", **headers), host=host).json() == {"ready": False}
    startup = web.ask(head("/startupz", **headers), host=host)
    assert startup.json() == {"ok": False, "status": "starting"}


def test_the_event_loop_is_for_local_callers(web: Web) -> None:
    """How late the loop is stands in the answer of /readyz where it is known, for local callers only."""
    web.probes.loop_state = {"degraded": False}
    told = [web.ask(head("/readyz"), host=host).json() for host in ("127.0.0.1", "192.0.2.1")]

    assert [answer.get("eventLoop") for answer in told] == [{"degraded": False}, None]


@pytest.mark.parametrize(
    "peer",
    [
        Wire("127.8.9.1").getPeer(),
        IPv6Address("TCP", "::1", 1),
        IPv6Address("TCP", "::ffff:127.0.0.1", 1),
        UNIXAddress(None),
    ],
)
def test_local_callers_get_details(web: Web, peer: Any) -> None:
    """Every form of loopback, and a UNIX socket, is local."""
    assert "uptimeMs" in web.ask(head("/readyz"), peer=peer).json()


@pytest.mark.parametrize("path", PATHS)
def test_head_is_get_without_a_body(web: Web, path: str) -> None:
    """HEAD answers with the headers of GET and no body."""
    got = web.ask(head(path, Authorization=f"Bearer {TOKEN}"))
    only = web.ask(head(path, "HEAD", Authorization=f"Bearer {TOKEN}"))
    got.headers.pop("date"), only.headers.pop("date")
    assert (only.status, only.headers, only.rest) == (got.status, got.headers, b"")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "BREW"])
@pytest.mark.parametrize("path", PATHS)
def test_other_methods(web: Web, path: str, method: str) -> None:
    """Another method on a path that exists is 405 and names those allowed."""
    answer = web.ask(head(path, method))
    assert answer.status == 405
    assert answer.headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize(
    "path",
    [
        "/nope",
        "/health/",
        "/healthz/x",
        "/ready/deep/er",
        "/metrics/",
        "//",
        "/favicon.ico",
        "/v1/models",
        "/api",
        "*",
        "/HEALTHZ",
        "/%2e%2e/healthz",
        "/healthz%00",
    ],
)
def test_unknown_paths(web: Web, path: str, method: str) -> None:
    """What is not there is 404 in plain text, whatever the method."""
    answer = web.ask(head(path, method))
    assert (answer.status, answer.body) == (404, b"Not Found")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"


def test_absolute_target(web: Web) -> None:
    """A target in absolute form, as proxies send it, is found."""
    assert web.ask(head("http://gw.example:18789/healthz")).status == 200
    assert web.ask(head("http://gw.example")).headers["content-type"].startswith("text/html")


def test_page(web: Web) -> None:
    """The page is HTML that may load nothing but its own style."""
    answer = web.ask(head("/"))
    html = answer.body.decode()
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["x-frame-options"] == "DENY"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    (style,) = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    digest = b64encode(sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}';" in policy
    assert not re.search(r"<script|style=|\son\w+=|(?:src|href)=\"(?!data:|/\w+z\")", html)
    assert '<html lang="en">' in html
    assert len(answer.body) < 8000


def test_page_links_lead_somewhere(web: Web) -> None:
    """Every link of the page is answered."""
    links = re.findall(r'href="(/[^"]*)"', web.ask(head("/")).body.decode())
    assert links
    assert [web.ask(head(link)).status for link in links] == [200] * len(links)


@pytest.mark.parametrize(
    "authorization",
    ["", "Bearer", "Bearer wrong", f"Basic {TOKEN}", TOKEN, "Bearer \xff", f"Bearer {TOKEN}x"],
)
def test_metrics_need_the_token(web: Web, authorization: str) -> None:
    """Without the right bearer token the metrics are 401, as JSON, and say which proof is asked for."""
    answer = web.ask(head("/metrics", Authorization=authorization))
    assert answer.status == 401
    assert answer.json() == {"error": {"message": "Unauthorized", "type": "unauthorized"}}
    assert answer.headers["www-authenticate"].startswith("Bearer")


def test_metrics(web: Web) -> None:
    """With the token the metrics are Prometheus text; the scheme may be written in any case."""
    for scheme in ("Bearer", "bearer"):
        answer = web.ask(head("/metrics", Authorization=f"{scheme} {TOKEN}"))
        assert (answer.status, answer.body) == (200, b"gateway_up 1\n")
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")


def test_two_authorizations_are_none(web: Web) -> None:
    """Two Authorization headers prove nothing."""
    data = head("/metrics", Authorization=f"Bearer {TOKEN}", authorization=f"Bearer {TOKEN}")
    assert web.ask(data).status == 401

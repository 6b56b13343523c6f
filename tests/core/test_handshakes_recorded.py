"""Every recorded handshake of both versions, judged by this gateway.

The answer's code, its details and the close code have to be the recorded ones; texts are free. Where
this gateway differs on purpose the case is in :data:`DELIBERATE` with the reason.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest

from gateway.core.access import covers
from gateway.core.connect import Proven
from gateway.core.handshake import Ask, Refuse
from gateway.core.refusals import Refusal, unauthorized
from gateway.errors import MissingScope
from tests.core.door import LOCAL, NOW_MS, TOKEN, client, frame, knock, params, signed
from tests.core.schemas import VERSIONS, load, violations

LOCAL_PAGE = replace(LOCAL, origin="http://127.0.0.1:18789")
WRONG = {"token": "wrong"}
MINUTES = 60_000

ELSEWHERE = {
    "preauth 70KB": "the size of a frame is judged before it is one, by the connection",
    "second connect": "a request like any other: the method table answers it",
    "bad params chat.send": "params of a method: the method table answers it",
    "no frames (handshake timeout)": "the connection's clock, armed when the challenge is written",
}

DELIBERATE = {
    (
        3,
        "protocol too old",
    ): "before a version is chosen version 4's details are sent, which say more",
    (
        3,
        "protocol too new",
    ): "before a version is chosen version 4's details are sent, which say more",
    (3, "protocol 3..4"): "both versions are spoken here, and the highest common one is chosen",
    (4, "protocol 3 probe"): "a client whose range ends at 3 is served in version 3, and told so",
    (3, "good token as password"): "the secret may come in either field, as in version 4",
    (3, "device payload other version"): "payload 3 is accepted first, then 2, on both versions",
    (
        4,
        "control ui device local",
    ): "there is no build of a Control UI to compare the client's with",
}


@dataclass(frozen=True)
class Outcome:
    """What a client sees of a handshake."""

    error: str | None = None
    details: Any = None
    close: int | None = None
    protocol: int | None = None
    scopes: tuple[str, ...] | None = None


def recorded(case: dict[str, Any]) -> Outcome:
    """Return what a recorded gateway answered."""
    result = case["result"] or {}
    error = result.get("error", {})
    auth = result.get("auth", {})
    scopes = tuple(auth["scopes"]) if "scopes" in auth else None
    close = case["close"][0] if case["close"] else None
    return Outcome(error.get("code"), error.get("details"), close, result.get("protocol"), scopes)


def let_in(proven: Proven) -> Outcome:
    """Return how the store decides: a right token is enough for what was proven, a wrong one is not."""
    if proven.shared.ok:
        return Outcome(protocol=proven.protocol, scopes=proven.scopes)
    assert proven.shared.reason is not None
    helps = proven.shared.reason == "token_mismatch"
    return refused(unauthorized(proven.shared.reason, proven.protocol, device_token_may_help=helps))


def refused(refusal: Refusal) -> Outcome:
    """Return what a refusal looks like to the client."""
    error = refusal.error or {}
    return Outcome(error.get("code"), error.get("details"), int(refusal.code))


def first_frames(protocol: int) -> dict[str, Any]:
    """Return the first frame of every case, as text or as params, from a client of a version."""
    versions = (protocol, protocol)
    plain = params("test/test", versions)
    device = params("cli/cli", versions, scopes=[])
    broken = signed(device)["device"]["signature"]
    other_payload = "v3" if protocol == 3 else "v2"
    return {
        "first frame garbage": b"hello",
        "first frame json not req": b'{"hello":1}',
        "first frame other method": frame({}, "health"),
        "connect no params": b'{"type":"req","id":"c1","method":"connect"}',
        "connect bad client id": {**plain, "client": client("nobody/cli")},
        "protocol too old": params("test/test", (1, 2)),
        "protocol too new": params("test/test", (9, 10)),
        "protocol 3..4": params("test/test", (3, 4)),
        "protocol 3 probe": params("openclaw-probe/probe", (3, 3)),
        "bad token no device": {**plain, "auth": WRONG},
        "good token as password": params(
            "gateway-client/backend", versions, auth={"password": TOKEN}
        ),
        "backend no device": params("gateway-client/backend", versions),
        "control ui no device origin localhost": params("openclaw-control-ui/webchat", versions),
        "bad token with device": signed({**device, "auth": WRONG}),
        "device stale": signed(device, signed_at_ms=NOW_MS - 11 * MINUTES),
        "device future": signed(device, signed_at_ms=NOW_MS + 11 * MINUTES),
        "device future ok": signed(device, signed_at_ms=NOW_MS + MINUTES),
        "device wrong nonce": signed(device, nonce="another"),
        "device blank nonce": signed(device, nonce="  "),
        "device bad sig": signed(device, signature=broken[::-1]),
        "device payload other version": signed(device, payload=other_payload),
        "control ui device local": signed(
            params(
                "openclaw-control-ui/webchat",
                versions,
                scopes=["operator.admin", "operator.approvals", "operator.pairing"],
            ),
            payload="v2",
        ),
        "node device local": signed(params("node-host/node", versions, role="node", scopes=[])),
    }


def ours(name: str, protocol: int) -> Outcome:
    """Return what this gateway answers in a case."""
    first = first_frames(protocol)[name]
    peer = LOCAL_PAGE if "control ui" in name else LOCAL
    step = knock(first if isinstance(first, bytes) else frame(first), peer=peer)
    if isinstance(step, Ask):
        assert step.frame_id == "c1"
        return let_in(step.proven)
    assert isinstance(step, Refuse)
    return refused(step.refusal)


def cases(protocol: int) -> dict[str, dict[str, Any]]:
    """Return the recorded handshakes of a version by name."""
    return {case["name"]: case for case in load("handshakes.json")[f"v{protocol}"]["handshake"]}


CASES = [(name, protocol) for protocol in VERSIONS for name in cases(protocol)]


def test_every_recorded_case_is_judged() -> None:
    """No recorded handshake is left out but those that are not for the machine to judge."""
    for protocol in VERSIONS:
        assert set(cases(protocol)) == (
            set(first_frames(protocol)) | set(ELSEWHERE) | {"missing scope"}
        )


@pytest.mark.parametrize(
    ("name", "protocol"),
    [
        (name, protocol)
        for name, protocol in CASES
        if name not in (*ELSEWHERE, "missing scope") and (protocol, name) not in DELIBERATE
    ],
)
def test_a_handshake_goes_as_recorded(name: str, protocol: int) -> None:
    """Code, details and close code of the answer are those of the version's own gateway."""
    expected, got = recorded(cases(protocol)[name]), ours(name, protocol)

    if expected.scopes is None:
        got = replace(got, scopes=None)
    assert got == expected


KNOWINGLY = {
    (3, "protocol too old"): recorded(cases(4)["protocol too old"]),
    (3, "protocol too new"): recorded(cases(4)["protocol too new"]),
    (3, "protocol 3..4"): Outcome(protocol=4, scopes=()),
    (4, "protocol 3 probe"): Outcome(protocol=3, scopes=()),
    (3, "good token as password"): Outcome(protocol=3, scopes=("operator.admin",)),
    (3, "device payload other version"): Outcome(protocol=3, scopes=()),
    (4, "control ui device local"): Outcome(
        protocol=4, scopes=("operator.admin", "operator.approvals", "operator.pairing")
    ),
}


@pytest.mark.parametrize(("protocol", "name"), DELIBERATE)
def test_a_handshake_differs_on_purpose(protocol: int, name: str) -> None:
    """Where this gateway answers otherwise than one of the recorded ones, it does so knowingly."""
    expected = KNOWINGLY[protocol, name]
    assert ours(name, protocol) == expected != recorded(cases(protocol)[name])


def test_the_deliberate_differences_are_all_tested() -> None:
    """Nothing is excused twice, and nothing without a recorded case."""
    assert set(DELIBERATE) == set(KNOWINGLY) <= {(protocol, name) for name, protocol in CASES}
    assert not {name for _, name in DELIBERATE} & set(ELSEWHERE)


@pytest.mark.parametrize("protocol", VERSIONS)
def test_a_missing_scope_is_refused_as_recorded(protocol: int) -> None:
    """Version 4 says FORBIDDEN with details, version 3 INVALID_REQUEST without."""
    recorded_error = cases(protocol)["missing scope"]["result"]["error"]
    assert MissingScope("operator.admin", ("operator.admin",)).shape(protocol) == recorded_error
    assert not covers(["operator.read"], ["operator.admin"])


@pytest.mark.parametrize("protocol", VERSIONS)
def test_every_refusal_fits_the_schema(protocol: int) -> None:
    """The error of a refused handshake is an ErrorShape, and its close frame fits RFC 6455."""
    for first in first_frames(protocol).values():
        step = knock(first if isinstance(first, bytes) else frame(first))
        if isinstance(step, Refuse):
            if step.refusal.error is not None:
                assert violations("ErrorShape", protocol, step.refusal.error) == []
            assert len(step.refusal.close_reason.encode()) <= 120

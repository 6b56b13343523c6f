"""Connect requests that mean harm, and refusals that must give nothing away."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gateway.core import frames, refusals
from gateway.core.access import Peer
from gateway.core.handshake import Ask, Refuse
from gateway.core.refusals import Refusal
from gateway.errors import CloseCause, CloseCode
from tests.core.door import DEVICE, LOCAL, NONCE, POLICY, REMOTE, frame, knock, params, signed
from tests.core.schemas import VERSIONS, violations


def test_a_close_reason_is_cut_to_whole_characters() -> None:
    """At most 120 bytes, and no half character at the end."""
    refusal = Refusal(CloseCause.UNAUTHORIZED, CloseCode.POLICY, "ü" * 70 + "x")
    assert refusal.close_reason == "ü" * 60
    odd = Refusal(CloseCause.UNAUTHORIZED, CloseCode.POLICY, "x" + "ü" * 70)
    assert odd.close_reason == "x" + "ü" * 59
    assert (str(odd), odd.log, odd.error) == (odd.reason, {}, None)


def test_a_refusal_takes_what_python_adds_to_an_exception() -> None:
    """Notes, causes and tracebacks can be set on it, as frameworks do."""
    refusal = refusals.not_connect_first()
    refusal.__traceback__ = None
    refusal.add_note("seen")
    assert refusal.__notes__ == ["seen"]
    assert hash(refusal) == hash(refusal)


def test_no_secret_stands_in_a_representation() -> None:
    """Neither what was proven nor a refusal nor the policy shows a credential."""
    auth = {"token": "canary-a", "deviceToken": "canary-b", "password": "canary-c"}
    let_in = knock(frame(signed(params(auth=auth))))
    turned_away = knock(frame(params(auth=auth)))
    assert isinstance(let_in, Ask)
    assert isinstance(turned_away, Refuse)
    refusal = turned_away.refusal
    shown = (
        f"{let_in!r} {let_in.proven.params!r} {turned_away!r} {refusal} {vars(refusal)} {POLICY!r}"
    )
    assert "canary" not in shown


# -- hostile params

values: Any = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from([10**400, 2**64, "operator", "node", "cli", "webchat", NONCE, " "]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)
DEVICE_FIELDS = ("id", "publicKey", "signature", "signedAt", "nonce")
mutations = st.dictionaries(
    st.sampled_from(
        [
            ("minProtocol",),
            ("maxProtocol",),
            ("client", "id"),
            ("client", "mode"),
            ("client", "platform"),
            ("role",),
            ("scopes",),
            ("auth",),
            ("auth", "token"),
            ("device",),
            *(("device", name) for name in DEVICE_FIELDS),
            ("permissions",),
            ("x",),
        ]
    ),
    values,
    max_size=3,
)


@given(mutations, st.sampled_from([LOCAL, REMOTE, replace(LOCAL, origin="null")]))
def test_hostile_params_are_refused_or_proven(
    changes: dict[tuple[str, ...], Any], peer: Peer
) -> None:
    """Whatever a client sends, it is let in or refused with an answer that can be written."""
    fields = signed(params())
    for path, value in changes.items():
        at = fields
        for name in path[:-1]:
            at[name] = dict(at[name]) if isinstance(at.get(name), dict) else {}
            at = at[name]
        at[path[-1]] = value

    step = knock(frame(fields), peer=peer)

    if isinstance(step, Ask):
        assert step.proven.protocol in VERSIONS
        assert step.proven.device_id in (None, DEVICE.device_id)
        return
    assert isinstance(step, Refuse)
    if step.refusal.error is not None:
        answer = json.loads(frames.error_response(step.frame_id, step.refusal.error))
        assert violations("ResponseFrame", 4, answer) == []
    assert len(step.refusal.close_reason.encode()) <= 120

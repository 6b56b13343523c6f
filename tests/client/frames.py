"""Frames of a gateway and a core to feed them to."""

from __future__ import annotations

import json

from gateway.client.actions import (
    Action,
    Lost,
    Send,
)
from gateway.client.core import ClientCore
from gateway.client.options import (
    ClientOptions,
)

HELLO = {
    "type": "hello-ok",
    "protocol": 4,
    "server": {"version": "1.2.3", "connId": "c-1"},
    "features": {"methods": ["health", "chat.send"], "events": ["tick"]},
    "auth": {"role": "operator", "scopes": ["operator.read"], "deviceToken": "dt"},
    "policy": {"tickIntervalMs": 30_000, "maxPayload": 26_214_400},
}


def event(name, payload=None, seq=None):
    frame = {"type": "event", "event": name, "payload": payload}
    return json.dumps(frame if seq is None else {**frame, "seq": seq})


def challenge(**payload):
    return event("connect.challenge", payload or {"nonce": "n-1", "ts": 1_700_000_000_000})


def answer(request_id, payload=None):
    return json.dumps({"type": "res", "id": request_id, "ok": True, "payload": payload})


def refusal(request_id, code="INVALID_REQUEST", message="no", **more):
    error = {"code": code, "message": message, **more}
    return json.dumps({"type": "res", "id": request_id, "ok": False, "error": error})


def sent(actions: list[Action]):
    """Return the one frame that the actions send."""
    (frame,) = [json.loads(action.frame) for action in actions if isinstance(action, Send)]
    return frame


def connecting(options=None, **payload):
    """Return a core that has sent its connect, and the frame of that."""
    core = ClientCore(options or ClientOptions(), 0.0)
    frame = sent(core.frame_received(challenge(**payload), 0.0))
    return core, frame


def opened(hello=None, options=None):
    core, connect = connecting(options)
    core.frame_received(answer(connect["id"], hello or HELLO), 0.0)
    return core


def request(core, method="health", params=None, now=0.0, **more):
    request_id, actions = core.request(method, params, now, **more)
    assert sent(actions)["id"] == request_id
    return request_id


def lost(actions):
    """Return the error of the Lost that ends the actions, and check that it ends them."""
    assert isinstance(actions[-1], Lost)
    assert sum(isinstance(action, Lost) for action in actions) == 1
    return actions[-1].error

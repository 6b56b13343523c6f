"""The recorded verdicts of both released gateways, for the methods that are served here."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from gateway.core.params import VersionRules
from gateway.rpc import (
    history,
    models,
    nodepairing,
    nodepending,
    nodes,
    session_params,
    system,
    turn_params,
)
from gateway.rpc.families import build_table
from tests.app.harness import Gate, vectors

STRUCTS: dict[str, Any] = {
    "ChatSendParams": turn_params.ChatSendParams,
    "ChatAbortParams": turn_params.ChatAbortParams,
    "AgentParams": turn_params.AgentParams,
    "AgentWaitParams": turn_params.AgentWaitParams,
    "ChatHistoryParams": history.ChatHistoryParams,
    "ChatInjectParams": history.ChatInjectParams,
    "SessionsPatchParams": session_params.SessionsPatchParams,
    "SessionsPreviewParams": session_params.SessionsPreviewParams,
    "SessionsListParams": session_params.SessionsListParams,
    "SessionsResolveParams": session_params.SessionsResolveParams,
    "SessionsDeleteParams": session_params.SessionsDeleteParams,
    "SessionsResetParams": session_params.SessionsResetParams,
    "SessionsDescribeParams": session_params.SessionsDescribeParams,
    "SessionsMessagesSubscribeParams": session_params.SessionsMessagesSubscribeParams,
    "NodeEventParams": nodes.NodeEventParams,
    "NodePairApproveParams": nodepairing.NodePairRequestIdParams,
    "NodePairRequestParams": nodepairing.NodePairRequestParams,
    "NodePairVerifyParams": nodepairing.NodePairVerifyParams,
    "NodePendingEnqueueParams": nodepending.NodePendingEnqueueParams,
    "NodePendingDrainParams": nodepending.NodePendingDrainParams,
    "NodePendingAckParams": nodepending.NodePendingAckParams,
    "LogsTailParams": system.LogsTailParams,
    "ModelsListParams": models.ModelsListParams,
}
CASES = [
    pytest.param(case, protocol, id=f"{case['schema']} {case['label']} v{protocol}")
    for case in vectors("validator_cases")
    for protocol in (3, 4)
    if case["schema"] in STRUCTS and case[f"v{protocol}"] is not None
]


@pytest.mark.parametrize(("case", "protocol"), CASES)
def test_params_get_the_verdict_of_the_version(case: dict[str, Any], protocol: int) -> None:
    """Params are valid exactly where the validator of the released gateway said so."""
    struct = STRUCTS[case["schema"]]
    try:
        params = msgspec.json.decode(json.dumps(case["value"]).encode(), type=struct)
    except msgspec.ValidationError:
        valid = False
    else:
        check = getattr(params, "violation", None)
        extra = check(protocol) if check is not None else None
        valid = VersionRules(struct).violation(params, protocol) is None and extra is None
    assert valid is case[f"v{protocol}"]["valid"]


DELIBERATE = {
    ("v3", '"agent:nope:main"'): "an agent that is not configured is refused in both versions",
    ("v3", '"agent:"'): "a malformed key is refused in both versions",
    ("v4", '{"nodeId": "np1"}'): "methods of version 3 are served to both versions",
}
"""Where our verdict is not the recorded one, and why."""


def recorded() -> list[Any]:
    """Return the recorded calls of served methods."""
    served = {method.name for method in build_table()}
    return [
        pytest.param(version, case, id=f"{version} {case['method']} {number}")
        for version, cases in vectors("rpc").items()
        for number, case in enumerate(cases)
        if case["method"] in served
    ]


@pytest.mark.parametrize(("version", "case"), recorded())
def test_calls_get_the_recorded_verdict(version: str, case: dict[str, Any]) -> None:
    """A recorded call is answered or refused as it was, with the same error code."""
    response = case["response"]
    text = json.dumps(case["params"])
    if any(version == v and part in text for v, part in DELIBERATE):
        pytest.skip("a deliberate difference")
    gate = Gate()
    client = gate.client(int(version[1:]))
    for key in {"agent:main:main", *_keys(case["params"])}:
        if "nope" not in key and case["method"] != "sessions.create":
            client.call("sessions.create", {"key": key})
    if case["method"] == "node.pending.enqueue":
        gate.pair(case["params"]["nodeId"])
    call = client.call(case["method"], case["params"])
    gate.clock.advance(60)
    frame = call.frames[-1]
    assert frame["ok"] is response["ok"], frame
    if not response["ok"]:
        assert frame["error"]["code"] == response["error"]["code"]
        if not response["error"]["message"].startswith(("invalid ", "Error: ")):
            assert frame["error"]["message"] == response["error"]["message"]
    for run in list(gate.runs._drives):
        gate.runs.abort(run, "test")
    gate.clock.advance(2)
    gate.close()


def _keys(params: Any) -> list[str]:
    """Return the session keys that a recorded call relies on."""
    values = [params.get("key"), params.get("sessionKey"), *params.get("keys", [])]
    return [v for v in values if isinstance(v, str) and v.startswith("agent:main:")]

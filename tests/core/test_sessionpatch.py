"""Which settings a session has, and what they may be."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from gateway.core.frames import describe
from gateway.core.params import NonEmpty, VersionRules
from gateway.core.sessionpatch import PatchFields, apply_patch, write_safe
from gateway.errors import InvalidRequest
from tests.core.schemas import VERSIONS, load, validator_cases

SUBAGENT = "agent:main:subagent:1"


class Patch(PatchFields, frozen=True, kw_only=True):
    """A patch with the key of its session, as the method takes it."""

    key: NonEmpty


RULES = VersionRules(Patch)


def decoded(value: Any) -> Patch:
    """Return a patch as a client sends it."""
    return msgspec.json.decode(json.dumps(value).encode(), type=Patch)


def fault(value: Any, protocol: int) -> str | None:
    """Return what a version finds wrong with a patch."""
    try:
        return RULES.violation(decoded(value), protocol)
    except msgspec.ValidationError as error:
        return describe(error)


def patched(settings: dict[str, Any], protocol: int = 4, key: str = "", **fields: Any) -> Any:
    """Return settings after a patch."""
    changes = decoded({"key": "k", **fields}).changes()
    return apply_patch(settings, changes, protocol=protocol, key=key)


def refusal(protocol: int = 4, key: str = "", **fields: Any) -> str:
    """Return the text that refuses a patch."""
    with pytest.raises(InvalidRequest) as caught:
        patched({}, protocol, key, **fields)
    return caught.value.message


@pytest.mark.parametrize("protocol", VERSIONS)
def test_recorded_patches_get_the_verdict_of_the_version(protocol: int) -> None:
    """Patch params are judged as the version's validator judges them."""
    cases = validator_cases("SessionsPatchParams", protocol)
    verdicts = {label: fault(value, protocol) is None for label, value, _ in cases}
    assert cases
    assert verdicts == {label: valid for label, _, valid in cases}


@pytest.mark.parametrize("protocol", VERSIONS)
def test_recorded_patches_are_applied_as_recorded(protocol: int) -> None:
    """A session that is patched as the recorded one has the recorded settings and refusals."""
    settings: dict[str, Any] = {}
    # Ours: which models there are is for the method to say.
    unknown_model = {"key": "agent:main:t-1795402253711", "model": "nope/none"}
    patches = [
        case for case in load("rpc.json")[f"v{protocol}"] if case["method"] == "sessions.patch"
    ]
    for case in patches:
        params, answer = case["params"], case["response"]
        if fault(params, protocol) is not None or params == unknown_model:
            assert not answer["ok"]
            continue
        changes = decoded(params).changes()
        try:
            settings = apply_patch(settings, changes, protocol=protocol, key=params["key"])
        except InvalidRequest as refused:
            told = refused.shape(protocol)
        else:
            told = {}
        assert told == answer.get("error", {})
        if answer["ok"]:
            entry = answer["payload"]["entry"]
            for name in changes:
                if name not in ("label", "model"):
                    assert settings.get(name) == entry.get(name)
    assert len(patches) > 15


@pytest.mark.parametrize(
    ("fields", "three", "four"),
    [
        ({"label": "x" * 65}, False, True),
        ({"label": "x" * 513}, False, False),
        ({"spawnDepth": 1}, True, False),
        ({"spawnedBy": None}, True, False),
        ({"pinned": True}, False, True),
        ({"traceLevel": None}, False, True),
        ({"fastMode": "auto"}, False, True),
        ({"fastMode": "always"}, False, False),
        ({"category": "x" * 513}, False, False),
        ({"expectedMarkedUnreadAt": None}, False, True),
        ({"expectedMarkedUnreadAt": 5}, False, True),
        ({"expectedMarkedUnreadAt": -1}, False, False),
        ({"archived": None}, False, False),
        ({"model": ""}, False, False),
        ({"sendPolicy": "maybe"}, False, False),
    ],
)
def test_the_fields_of_a_version(fields: dict[str, Any], three: bool, four: bool) -> None:
    """Each version has its own fields and bounds."""
    value = {"key": "k", **fields}
    assert (fault(value, 3) is None, fault(value, 4) is None) == (three, four)


def test_what_a_patch_changes() -> None:
    """Only what is named changes; expectations and the agent are no settings."""
    patch = decoded(
        {"key": "k", "label": None, "verboseLevel": "on", "agentId": "a", "expectedSessionId": "s"}
    )
    assert patch.changes() == {"label": None, "verboseLevel": "on"}
    assert patched({"verboseLevel": "off", "model": "m"}, verboseLevel="on") == {
        "verboseLevel": "on",
        "model": "m",
    }


def test_null_clears_a_setting() -> None:
    """A setting that is cleared is gone, whether it was there or not; the label is not a setting."""
    settings = {"verboseLevel": "on", "model": "m"}
    assert patched(settings, verboseLevel=None, sendPolicy=None, label="x") == {"model": "m"}
    assert settings == {"verboseLevel": "on", "model": "m"}


@pytest.mark.parametrize(
    ("fields", "result"),
    [
        ({"thinkingLevel": " HIGH "}, {"thinkingLevel": "high"}),
        ({"execHost": "Gateway"}, {"execHost": "gateway"}),
        ({"responseUsage": "on"}, {"responseUsage": "tokens"}),
        ({"responseUsage": "full"}, {"responseUsage": "full"}),
        ({"model": "p/M"}, {"model": "p/M"}),
        ({"pinned": False}, {"pinned": False}),
        ({"fastMode": True}, {"fastMode": True}),
        ({"verboseLevel": "full"}, {"verboseLevel": "full"}),
    ],
)
def test_words_are_trimmed_and_lower_case(fields: dict[str, Any], result: dict[str, Any]) -> None:
    """A word of a closed list is normalised; everything else stays as it is."""
    assert patched({}, **fields) == result


@pytest.mark.parametrize(
    ("protocol", "fields", "text"),
    [
        (3, {"thinkingLevel": "nope"}, "invalid thinkingLevel (use off|minimal|low|medium|high)"),
        (3, {"thinkingLevel": "xhigh"}, "invalid thinkingLevel (use off|minimal|low|medium|high)"),
        (
            4,
            {"thinkingLevel": "nope"},
            "invalid thinkingLevel (use off|minimal|low|medium|high|xhigh)",
        ),
        (3, {"verboseLevel": "zzz"}, 'invalid verboseLevel (use "on"|"off")'),
        (4, {"verboseLevel": "zzz"}, 'invalid verboseLevel (use "on"|"off"|"full")'),
        (3, {"execHost": "auto"}, 'invalid execHost (use "sandbox"|"gateway"|"node")'),
        (4, {"execHost": "mars"}, 'invalid execHost (use "auto"|"sandbox"|"gateway"|"node")'),
        (4, {"reasoningLevel": "x"}, 'invalid reasoningLevel (use "on"|"off"|"stream")'),
        (4, {"elevatedLevel": "x"}, 'invalid elevatedLevel (use "on"|"off"|"ask"|"full")'),
        (4, {"execSecurity": "x"}, 'invalid execSecurity (use "deny"|"allowlist"|"full")'),
        (4, {"execAsk": "x"}, 'invalid execAsk (use "off"|"on-miss"|"always")'),
    ],
)
def test_another_word_is_refused(protocol: int, fields: dict[str, Any], text: str) -> None:
    """The refusal names the words that are taken."""
    assert refusal(protocol, **fields) == text


def test_who_spawned_a_session_is_said_once() -> None:
    """Only a subagent's session says it, and it neither changes nor goes away again."""
    assert refusal(3, spawnedBy="k") == "spawnedBy is only supported for subagent:* sessions"
    assert refusal(3, spawnDepth=1) == "spawnDepth is only supported for subagent:* sessions"
    settings = patched({}, 3, SUBAGENT, spawnedBy="k", spawnDepth=0)
    assert settings == {"spawnedBy": "k", "spawnDepth": 0}
    assert patched(settings, 3, SUBAGENT, spawnedBy="k") == settings
    assert patched({}, 3, SUBAGENT, spawnedBy=None) == {}
    for changed in ({"spawnedBy": "other"}, {"spawnDepth": 1}):
        with pytest.raises(InvalidRequest, match="cannot be changed once set"):
            patched(settings, 3, SUBAGENT, **changed)
    with pytest.raises(InvalidRequest, match="cannot be cleared once set"):
        patched(settings, 3, SUBAGENT, spawnDepth=None)


def test_what_runs_commands_is_for_admins() -> None:
    """Ordinary fields need the right to write; those that loosen what an agent may do need more."""
    for name in ("label", "thinkingLevel", "verboseLevel", "model", "color"):
        assert write_safe(decoded({"key": "k", name: "x"}))
    for name in ("elevatedLevel", "execHost", "execSecurity", "execAsk", "execNode"):
        assert not write_safe(decoded({"key": "k", name: "x"}))
        assert not write_safe(decoded({"key": "k", name: None}))
    assert not write_safe(decoded({"key": "k", "sendPolicy": "allow"}))

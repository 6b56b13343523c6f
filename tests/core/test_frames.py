"""The frames on the wire: what is read, what is refused and under which id, what is written."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core import frames
from gateway.core.frames import BadFrame, EncodeFailed, NotJson, Request
from gateway.errors import InvalidRequest, MissingScope, Unavailable
from tests.core.schemas import VERSIONS, validator_cases, violations

DEEP = 5_000

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


class Inner(msgspec.Struct, forbid_unknown_fields=True):
    """A struct within a struct."""

    n: int


class Outer(msgspec.Struct):
    """A struct with a struct."""

    inner: Inner


def refusal(data: bytes, protocol: int = 4) -> BadFrame:
    """Return why a message that is JSON is no request."""
    with pytest.raises(BadFrame) as caught:
        frames.decode_request(data, protocol)
    return caught.value


def request(**extra: Any) -> bytes:
    """Return a request frame with other or further keys."""
    return json.dumps({"type": "req", "id": "q", "method": "m", **extra}).encode()


@pytest.mark.parametrize("protocol", VERSIONS)
def test_request_frames_are_judged_by_the_schema_of_the_version(protocol: int) -> None:
    """Every recorded request frame gets the verdict of the version's validator."""
    cases = validator_cases("RequestFrame", protocol)
    verdicts = {}
    for label, value, _ in cases:
        try:
            frames.decode_request(json.dumps(value).encode(), protocol)
            verdicts[label] = True
        except BadFrame:
            verdicts[label] = False

    assert verdicts == {label: valid for label, _, valid in cases}


def test_a_request_keeps_its_params_undecoded() -> None:
    """A request gives its id, its method and the text of its params."""
    whole = frames.decode_request(b' {"method":"m","params":{"a": [1]},"type":"req","id":"q"} ')
    bare = frames.decode_request(b'{"type":"req","id":"q","method":"m"}')

    assert (whole.id, whole.method, bytes(whole.params)) == ("q", "m", b'{"a": [1]}')
    assert bytes(bare.params) == b""
    assert frames.decode_request(request(id="\U0001f600", params="ü")).id == "\U0001f600"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"\xff\xfe",
        b"[" * DEEP,
        b"[" * DEEP + b"]" * DEEP,
        b'{"type":"req","id":"q","method":"m","params":' + b"[" * DEEP + b"]" * DEEP + b"}",
        b'{"type":"req","id":' + b"[" * DEEP + b"]" * DEEP + b',"method":"m"}',
        b'{"type":"req","id":1' + b"0" * DEEP + b',"method":"m"}',
        b'{"type":"req","id":1e999,"method":"m"}',
        b'{"type":"req","id":"q","method":"m","params":NaN}',
        b'{"type":"req","id":"q","method":"m","params":-Infinity}',
        b'{"type":"req","id":"q","method":"m","params":"\xff"}',
        b'{"type":"req","id":"q","method":"m","params":{"\xff":1}}',
        b'{"type":"req","id":"\xff","method":"m"}',
        b'{"type":"req","id":"\\ud800","method":"m"}',
        b'{"type":"req","id":"q","method":"m","params":"\\udc00"}',
        b'{"type":"req","id":"q","method":"m","params":[1,]}',
        b'{"type":"req","id":"q","method":"m"} {}',
        b'{"type":"req","id":"q","method":"m"',
        b'{"type":"nope","id":7',
        b'{"type":"req","id":7,"method":"m","x":"\xff"}',
        b'\xef\xbb\xbf{"type":"req","id":"q","method":"m"}',
    ],
    ids=range(22),
)
def test_what_is_not_json_is_told_apart(data: bytes) -> None:
    """Bad syntax, bad UTF-8, lone surrogates, numbers and nestings beyond reading are not JSON."""
    with pytest.raises(NotJson):
        frames.decode_request(data)


@pytest.mark.parametrize(
    ("data", "frame_id", "text"),
    [
        (b"[]", "invalid", "expected `object`, got `array`"),
        (b"null", "invalid", "expected `object`, got `null`"),
        (b'"req"', "invalid", "expected `object`, got `str`"),
        (b"{}", "invalid", "must have required property 'id'"),
        (b'{"type":"req","method":"m"}', "invalid", "must have required property 'id'"),
        (b'{"type":"nope","id":"q"}', "q", "at /type: invalid enum value 'nope'"),
        (b'{"type":"event","id":"q","event":"tick"}', "q", "at /type: invalid enum value 'event'"),
        (b'{"type":5,"id":"q"}', "q", "at /type: expected `str`"),
        (b'{"id":"q","method":"m"}', "q", "must have required property 'type'"),
        (b'{"type":"req","id":7,"method":"m"}', 7, "at /id: expected `str`, got `int`"),
        (b'{"type":"req","id":1.5,"method":"m"}', 1.5, "at /id: expected `str`, got `float`"),
        (b'{"type":"req","id":null,"method":"m"}', "invalid", "at /id: expected `str`, got `null`"),
        (b'{"type":"req","id":{"a":1},"method":"m"}', {"a": 1}, "at /id: expected `str`, got `obj"),
        (b'{"type":"req","id":"","method":"m"}', "", "at /id: expected `str` of length >= 1"),
        (request(method=""), "q", "at /method: expected `str` of length >= 1"),
        (request(method=5), "q", "at /method: expected `str`, got `int`"),
        (request(x=1), "q", "at root: unexpected property 'x'"),
        (request(traceparent="t" * 129), "q", "at /traceparent: expected `str` of length <= 128"),
        (request(expectedProfileId=""), "q", "at /expectedProfileId: expected `str` of length"),
    ],
)
def test_what_is_json_but_no_request_is_answered_under_its_id(
    data: bytes, frame_id: Any, text: str
) -> None:
    """A bad frame names the place of its fault and the id to answer with, if it has one."""
    bad = refusal(data)

    assert bad.frame_id == frame_id
    assert bad.text.startswith(text)
    assert str(bad) == bad.text


def test_of_a_key_that_stands_twice_the_last_value_counts() -> None:
    """Duplicate keys are read alike by the request and by the refusal."""
    twice = b'{"type":"req","id":"a","id":"b","method":"m"'

    assert frames.decode_request(twice + b"}").id == "b"
    assert refusal(twice + b',"x":1}').frame_id == "b"
    assert refusal(b'{"type":"req","id":"1","id":2,"method":"a"}').frame_id == 2


def test_an_id_is_echoed_only_if_it_is_small() -> None:
    """A refusal does not carry back a huge id."""
    small, huge = "i" * 4_000, "i" * 5_000

    assert refusal(request(id=small, x=1)).frame_id == small
    assert refusal(request(id=huge, x=1)).frame_id == "invalid"


@pytest.mark.parametrize("name", ["traceparent", "expectedProfileId"])
def test_version_3_has_no_tracing(name: str) -> None:
    """What version 4 added to the frame is refused on a connection of version 3."""
    data = request(**{name: "x"})

    assert getattr(frames.decode_request(data, 4), name) == "x"
    bad = refusal(data, 3)
    assert (bad.frame_id, bad.text) == ("q", f"at root: unexpected property '{name}'")


def test_the_text_of_a_refusal_is_short() -> None:
    """However long the fault is, the text that repeats it is not."""
    long = "a" * 1_000_000

    assert len(refusal(request(**{long: 1})).text) < 100
    assert len(refusal(request(type=long)).text) < 400


@given(st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()))
def test_whatever_comes_is_read_or_refused(data: bytes) -> None:
    """Any message is a request, no request or no JSON; nothing else is raised."""
    try:
        assert isinstance(frames.decode_request(data), Request)
    except NotJson:
        pass
    except BadFrame as bad:
        frames.error_response(bad.frame_id, InvalidRequest(bad.text).shape(4))
    frames.peek(data)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "type": st.sampled_from(["req", "res"]) | json_values,
            "id": st.text() | json_values,
            "method": st.text() | json_values,
            "params": json_values,
            "traceparent": json_values,
            "expectedProfileId": json_values,
        },
    ),
    st.sampled_from(VERSIONS),
)
def test_frames_like_requests_get_the_verdict_of_the_schema(
    value: dict[str, Any], protocol: int
) -> None:
    """A frame is taken if and only if the version's own schema takes it."""
    try:
        frames.decode_request(msgspec.json.encode(value), protocol)
        taken = True
    except BadFrame:
        taken = False
    assert taken == (not violations("RequestFrame", protocol, value))


@given(json_values)
def test_what_is_encoded_is_decoded_again(value: Any) -> None:
    """Every JSON value survives being written and read."""
    data = frames.encode(value)
    assert json.loads(data) == value
    assert frames.decode(data) == value


def looped() -> list[Any]:
    """Return a list that holds itself."""
    loop: list[Any] = []
    loop.append(loop)
    return loop


@pytest.mark.parametrize(
    "value",
    [object(), "\ud800", {"\udfff": 1}, {(1, 2): 3}, 1j, looped(), 10**5_000, [print]],
    ids=["object", "surrogate", "key", "tuple", "complex", "loop", "digits", "function"],
)
def test_what_has_no_json_form_fails_with_one_type(value: Any) -> None:
    """A value that can not be written raises EncodeFailed, whatever the reason."""
    with pytest.raises(EncodeFailed):
        frames.encode(value)


def test_a_float_that_is_no_number_is_null() -> None:
    """NaN and infinities are written as JavaScript writes them."""
    values = [float("nan"), float("inf"), float("-inf"), 1.5]
    assert frames.encode(values) == b"[null,null,null,1.5]"


def test_integers_of_any_size_are_written_whole() -> None:
    """An integer beyond 64 bits keeps its digits."""
    assert frames.encode(2**200) == str(2**200).encode()


def test_decode_as_tells_a_wrong_type_from_no_json() -> None:
    """A typed decoder refuses what does not fit, and what is not JSON, by different errors."""
    decoder = msgspec.json.Decoder(dict[str, int])

    assert frames.decode_as(b'{"a":1}', decoder) == {"a": 1}
    with pytest.raises(msgspec.ValidationError):
        frames.decode_as(b'{"a":"b"}', decoder)
    with pytest.raises(NotJson):
        frames.decode_as(b'{"a":', decoder)


@pytest.mark.parametrize(
    ("kind", "data", "text"),
    [
        (dict[str, dict[str, list[int]]], b'{"a":{"b":["x"]}}', "at /.../.../0: expected `int`"),
        (list[int], b"[1,true]", "at /1: expected `int`, got `bool`"),
        (int, b'"x"', "expected `int`, got `str`"),
    ],
)
def test_a_validation_error_is_told_with_its_place(kind: Any, data: bytes, text: str) -> None:
    """The place of a fault is a JSON pointer; keys of a map are not repeated."""
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.json.decode(data, type=kind)
    assert frames.describe(caught.value).startswith(text)


def test_a_missing_or_unknown_field_is_told_with_its_place() -> None:
    """A nested struct's missing and unknown fields are named as the protocol's validators do."""
    texts = []
    for data in (b'{"inner":{}}', b'{"inner":{"n":1,"` - at `$.x`":2}}', b"{}"):
        with pytest.raises(msgspec.ValidationError) as caught:
            msgspec.json.decode(data, type=Outer)
        texts.append(frames.describe(caught.value))

    assert texts[0] == "at /inner: must have required property 'n'"
    assert texts[1].startswith("at /inner: unexpected property '")
    assert texts[2] == "must have required property 'inner'"


@pytest.mark.parametrize(
    ("data", "seen"),
    [
        (b'{"type":"req","method":"m","id":"q"}', ("req", "m", "q")),
        (b'{"type":5,"method":null,"id":["q"]}', (None, None, None)),
        (b'{"type":"x"}', ("x", None, None)),
        (b"[]", (None, None, None)),
        (b"\xff", (None, None, None)),
        (b'{"id":"' + b"i" * 500 + b'"}', (None, None, "i" * 128)),
    ],
)
def test_peek_sees_what_is_a_string(data: bytes, seen: tuple[str | None, ...]) -> None:
    """For the log, type, method and id of a frame are taken as they are, cut, before any check."""
    assert frames.peek(data) == seen


@pytest.mark.parametrize("protocol", VERSIONS)
def test_responses_fit_the_schema(protocol: int) -> None:
    """Every kind of response is a ResponseFrame of both versions."""
    errors = [
        InvalidRequest("no", details={"a": 1}),
        InvalidRequest(""),
        MissingScope("operator.read", ("operator.read",)),
        Unavailable("later", retryable=True, retry_after_ms=500),
    ]
    frames_ = [
        frames.response("q", {"ok": True}),
        frames.response("q", msgspec.Raw(b'{"raw": [1]}')),
        frames.response("q", None),
        *(frames.error_response("q", error.shape(protocol)) for error in errors),
        frames.error_response("q", errors[0].shape(protocol), {"runId": "r"}),
    ]

    for data in frames_:
        frame = json.loads(data)
        assert violations("ResponseFrame", protocol, frame) == []
        assert (
            violations("ErrorShape", protocol, frame.get("error", {"code": "c", "message": "m"}))
            == []
        )
    assert json.loads(frames_[1])["payload"] == {"raw": [1]}
    assert list(json.loads(frames_[-1])) == ["type", "id", "ok", "payload", "error"]


@pytest.mark.parametrize("protocol", VERSIONS)
@pytest.mark.parametrize("schema", ["ResponseFrame", "EventFrame"])
def test_recorded_frames_agree_with_the_schemas_of_these_tests(schema: str, protocol: int) -> None:
    """The schemas that these tests use give the recorded verdict on every recorded frame."""
    for label, value, valid in validator_cases(schema, protocol):
        assert (violations(schema, protocol, value) == []) is valid, label


def test_a_response_that_can_not_be_written_fails() -> None:
    """An answer without a JSON form raises before anything is sent."""
    with pytest.raises(EncodeFailed):
        frames.response("q", object())
    with pytest.raises(EncodeFailed):
        frames.error_response("q", {"details": object()})

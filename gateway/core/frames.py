"""The frames on the wire: one JSON value per WebSocket message, and the only JSON codec of the package.

A request is ``{type: "req", id, method, params?}``, a response ``{type: "res", id, ok, payload? | error?}``,
an event ``{type: "event", event, payload?, seq?, stateVersion?}``. Unknown keys of a request are refused.

msgspec can end a decode in three ways besides a value: ``DecodeError`` (with its child
``ValidationError``), ``UnicodeDecodeError`` and ``RecursionError``. They are told apart here and
nowhere else: *not JSON*, or JSON *that is no request*. What no reader here takes (a number beyond the
range of a double or of some 4,000 digits, a nesting beyond Python's recursion limit) counts as not JSON.

Where a key stands twice the last value counts. A float that is no number is written as ``null``, as
JavaScript does; what has no JSON form at all (an arbitrary object, a lone surrogate) is refused.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec

T = TypeVar("T")

NonEmpty = Annotated[str, msgspec.Meta(min_length=1)]

INVALID_ID: Final = "invalid"
"""The id of an answer to a frame whose own id could not be read."""

MAX_ECHOED_ID_BYTES: Final = 4096

MAX_TEXT: Final = 300
"""Characters of an error's text; what a client sent may stand in it."""


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A decoded request frame; ``params`` stays undecoded until the method is known."""

    id: NonEmpty
    method: NonEmpty
    params: msgspec.Raw = msgspec.Raw(b"")
    traceparent: Annotated[str, msgspec.Meta(max_length=128)] | msgspec.UnsetType = msgspec.UNSET
    expectedProfileId: (  # noqa: N815 - its name on the wire
        Annotated[str, msgspec.Meta(min_length=1, max_length=128)] | msgspec.UnsetType
    ) = msgspec.UNSET


class _RequestFrame(Request, frozen=True, kw_only=True):
    """A request with its type: a field, since a tag of msgspec may be missing."""

    type: Literal["req"]


class NotJson(Exception):
    """The message is not JSON (bad syntax, bad UTF-8, nested too deeply, a lone surrogate)."""


class BadFrame(Exception):
    """JSON, but no request frame. ``frame_id`` is the id to answer with; it may be no string."""

    def __init__(self, text: str, frame_id: Any) -> None:
        super().__init__(text)
        self.text = text
        self.frame_id = frame_id


class EncodeFailed(Exception):
    """A value that was to be sent has no JSON form."""


_decoder = msgspec.json.Decoder(_RequestFrame)
_encoder = msgspec.json.Encoder()
_VALUE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def encode(value: Any) -> bytes:
    """Return the JSON text of a value. Raises EncodeFailed, whatever the value does."""
    try:
        return _encoder.encode(value)
    except Exception as error:
        raise EncodeFailed(f"{type(error).__name__}: {error}") from error


def decode(data: bytes | bytearray | memoryview) -> Any:
    """Return the decoded JSON value. Raises NotJson."""
    try:
        return msgspec.json.decode(data)
    except _VALUE_ERRORS as error:
        raise NotJson(str(error)) from error


def decode_as(data: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """Decode with a typed decoder.

    Raises NotJson, or :class:`msgspec.ValidationError` where the JSON does not fit the type.
    """
    try:
        return decoder.decode(data)
    except msgspec.ValidationError:
        raise
    except _VALUE_ERRORS as error:
        raise NotJson(str(error)) from error


def decode_request(data: bytes, protocol: int = 4) -> Request:
    """Decode a request frame by the schema of a protocol version. Raises NotJson or BadFrame."""
    try:
        request = _decoder.decode(data)
        if not data.isascii():
            # The params were only skipped, and skipping does not look at UTF-8.
            data.decode()
    except msgspec.ValidationError as error:
        raise _bad_frame(data, describe(error)) from error
    except _VALUE_ERRORS as error:
        raise NotJson(str(error)) from error
    if protocol < 4:
        for name in ("traceparent", "expectedProfileId"):
            if getattr(request, name) is not msgspec.UNSET:
                raise BadFrame(f"at root: unexpected property '{name}'", request.id)
    return request


def _bad_frame(data: bytes, text: str) -> BadFrame:
    value = decode(data)
    frame_id = value.get("id") if isinstance(value, dict) else None
    if frame_id is None or len(encode(frame_id)) > MAX_ECHOED_ID_BYTES:
        frame_id = INVALID_ID
    return BadFrame(text, frame_id)


class _Peek(msgspec.Struct):
    type: Any = None
    method: Any = None
    id: Any = None


_peek_decoder = msgspec.json.Decoder(_Peek)


def peek(data: bytes) -> tuple[str | None, str | None, str | None]:
    """Return type, method and id of a frame as far as they are strings: for the log, before any check."""
    try:
        found = _peek_decoder.decode(data)
    except _VALUE_ERRORS:
        return None, None, None
    kind, method, frame_id = (
        value[:128] if isinstance(value, str) else None
        for value in (found.type, found.method, found.id)
    )
    return kind, method, frame_id


def response(frame_id: Any, payload: Any) -> bytes:
    """Return a response frame that carries a payload. Raises EncodeFailed.

    A ``msgspec.Raw`` payload is copied in as it is.
    """
    return b'{"type":"res","id":%b,"ok":true,"payload":%b}' % (encode(frame_id), encode(payload))


def error_response(frame_id: Any, error: dict[str, Any], payload: Any = msgspec.UNSET) -> bytes:
    """Return a response frame that refuses. ``error`` is an error shape. Raises EncodeFailed."""
    body = b"" if payload is msgspec.UNSET else b',"payload":' + encode(payload)
    return b'{"type":"res","id":%b,"ok":false%b,"error":%b}' % (
        encode(frame_id),
        body,
        encode(error),
    )


_MISSING: Final = re.compile(r"Object missing required field `(.+)`", re.DOTALL)
_UNKNOWN: Final = re.compile(r"Object contains unknown field `(.+)`", re.DOTALL)
_STEP: Final = re.compile(r"\.([^.\[\]]+)|\[([^\]]*)\]")


def describe(error: msgspec.ValidationError) -> str:
    """Return the text of a validation error with its place as a JSON pointer.

    Shapes: ``must have required property 'x'``, ``at root: unexpected property 'x'``,
    ``at /a/b: <what is wrong>``. At most :data:`MAX_TEXT` characters and the pointer.
    """
    text, at, path = str(error).rpartition(" - at `$")
    if not at:
        text, path = path, ""
    pointer = "".join(
        "/" + (name or index) for name, index in _STEP.findall(path[:MAX_TEXT].rstrip("`"))
    )
    if missing := _MISSING.fullmatch(text):
        text = f"must have required property '{missing[1]}'"
    elif unknown := _UNKNOWN.fullmatch(text):
        return f"at {pointer or 'root'}: unexpected property '{unknown[1][:64]}'"
    else:
        text = text[:1].lower() + text[1:MAX_TEXT]
    return f"at {pointer}: {text}" if pointer else text

"""Prompts, history, results and errors in the terms of the Agent Client Protocol."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.agents.acp_content import (
    HISTORY_CHARS,
    history_items,
    prompt_blocks,
    prompt_error,
    prompt_meta,
    refusal,
    run_result,
)
from gateway.agents.jsonrpc import RpcError
from gateway.errors import BackendError, BackendErrorKind
from gateway.model import Attachment, Message, RunResult, Usage
from tests.agents.fakes import run_request

PICTURE = Attachment(mime_type="image/png", data=b"\x89PNG", file_name="a.png")
SHEET = Attachment(mime_type="text/csv", data=b"a,b", kind="file")


def message(role: str, content: Any) -> Message:
    return Message(message_id="m", role=role, content=content, timestamp_ms=0)


def test_a_prompt_is_text_and_images() -> None:
    """An agent that takes images gets them; other files are named, so that nobody thinks it saw them."""
    blocks = prompt_blocks(run_request("look", attachments=(PICTURE, SHEET)), images=True)

    assert blocks == [
        {"type": "text", "text": "look"},
        {"type": "image", "mimeType": "image/png", "data": "iVBORw=="},
        {"type": "text", "text": "[file: text/csv, 3 bytes, not shown to you]"},
    ]


def test_an_agent_without_images_is_told_of_them() -> None:
    """An agent that takes no images gets none."""
    blocks = prompt_blocks(run_request("", attachments=(PICTURE,)), images=False)

    assert blocks == [{"type": "text", "text": "[a.png: image/png, 4 bytes, not shown to you]"}]


def test_the_meta_has_what_was_asked_for() -> None:
    """Thinking level and extra instructions go beside the prompt, if there are any."""
    assert prompt_meta(run_request()) == {
        "gateway": {"runId": "run-1", "sessionKey": "agent:main:main"}
    }
    asked = prompt_meta(run_request(thinking="high", extra_system_prompt="be brief"))["gateway"]
    assert (asked["thinking"], asked["extraSystemPrompt"]) == ("high", "be brief")


def test_history_is_the_text_of_both_sides() -> None:
    """Only what user and assistant said in words goes on, oldest first."""
    history = history_items(
        (
            message("user", [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]),
            message("assistant", [{"type": "toolCall", "name": "x"}]),
            message("toolResult", [{"type": "text", "text": "c"}]),
            message("assistant", "d"),
            message("user", {"odd": 1}),
        )
    )

    assert history == [{"role": "user", "text": "a\nb"}, {"role": "assistant", "text": "d"}]


def test_history_keeps_the_newest_text() -> None:
    """A long transcript is cut at its beginning, a single long message too."""
    long = message("user", "x" * (HISTORY_CHARS + 5))

    assert history_items((message("user", "old"), long)) == [
        {"role": "user", "text": "x" * HISTORY_CHARS}
    ]


@pytest.mark.parametrize(
    ("reason", "stop_reason"),
    [
        ("end_turn", "stop"),
        ("max_tokens", "length"),
        ("max_turn_requests", "max_turn_requests"),
        ("something new", "stop"),
        (None, "stop"),
        ({}, "stop"),
    ],
)
def test_stop_reasons(reason: Any, stop_reason: str) -> None:
    """Every way to end in order is a result."""
    assert run_result({"stopReason": reason}) == RunResult(stop_reason=stop_reason)


def test_a_result_has_what_the_agent_counted() -> None:
    """Our worker tells usage and model in the meta, other agents in the result itself."""
    usage = {"inputTokens": 3, "outputTokens": 4}
    ours = {"stopReason": "end_turn", "_meta": {"gateway": {"usage": usage, "model": "m"}}}

    assert run_result(ours) == RunResult(usage=Usage(input_tokens=3, output_tokens=4), model="m")
    assert run_result({"usage": usage}).usage == Usage(input_tokens=3, output_tokens=4)
    assert run_result({"usage": {"inputTokens": "x"}}).usage is None
    assert run_result("odd") == RunResult()


@pytest.mark.parametrize(
    ("reason", "kind"),
    [("refusal", BackendErrorKind.REFUSAL), ("cancelled", BackendErrorKind.UNKNOWN)],
)
def test_refusal_and_cancelled_are_failures(reason: str, kind: BackendErrorKind) -> None:
    """A turn that the agent refused, or gave up unasked, did not go well."""
    with pytest.raises(BackendError) as caught:
        run_result({"stopReason": reason})
    assert caught.value.kind is kind


def test_an_error_is_typed() -> None:
    """What our worker says of a provider's failure becomes the error's kind and detail."""
    data = {
        "kind": "rate_limit",
        "httpStatus": 429,
        "provider": "openai",
        "model": "m",
        "message": "slow down",
        "odd": [1],
    }

    error = prompt_error(RpcError(-32603, "the limit\nis reached", data))

    assert error.message == "the limit is reached"
    assert error.kind is BackendErrorKind.RATE_LIMIT
    assert error.detail == {
        "provider": "openai",
        "model": "m",
        "httpStatus": 429,
        "providerErrorMessagePreview": "slow down",
    }


@pytest.mark.parametrize("data", [None, "text", [1], {"kind": "odd", "provider": 5, "message": {}}])
def test_an_error_of_another_agent_is_its_message(data: Any) -> None:
    """Other programs' data say nothing to us."""
    error = prompt_error(RpcError(-32603, "it broke", data))

    assert (error.message, error.kind, error.detail) == ("it broke", BackendErrorKind.UNKNOWN, None)


def test_an_error_is_bounded_and_never_empty() -> None:
    """A provider's page of HTML does not become the message whole."""
    assert prompt_error(RpcError(1, "x" * 1000, None)).message == "x" * 300
    assert prompt_error(RpcError(1, "", None)).message == "the agent failed"


def test_an_agent_that_wants_a_login_says_so() -> None:
    """The protocol's code for missing authentication is told in words."""
    assert "logged in" in prompt_error(RpcError(-32000, "Authentication required")).message


def test_permission_is_refused_once() -> None:
    """Of the options the one that refuses this once is chosen; without one the request is cancelled."""
    options = [
        {"optionId": "a", "kind": "allow_once"},
        {"optionId": "b", "kind": "reject_always"},
        {"optionId": "c", "kind": "reject_once"},
    ]

    assert refusal(options) == {"outcome": {"outcome": "selected", "optionId": "c"}}
    assert refusal(options[:2]) == {"outcome": {"outcome": "cancelled"}}
    assert refusal("odd") == {"outcome": {"outcome": "cancelled"}}

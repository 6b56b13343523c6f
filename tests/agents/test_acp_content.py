"""Prompts, history, results and errors in the terms of the Agent Client Protocol."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gateway.agents.acp_capabilities import Capabilities
from gateway.agents.acp_content import (
    HISTORY_CHARS,
    HISTORY_FOOT,
    HISTORY_HEAD,
    history_items,
    history_text,
    prompt_blocks,
    prompt_error,
    prompt_meta,
    read_compaction,
    run_result,
)
from gateway.agents.jsonrpc import RpcError
from gateway.errors import BackendError, BackendErrorKind
from gateway.model import Attachment, Compaction, Message, ModelUsage, RunResult, Usage
from tests.agents.fakes import run_request

PICTURE = Attachment(mime_type="image/png", data=b"\x89PNG", file_name="a.png")
ARCHIVE = Attachment(mime_type="application/zip", data=b"PK")
SOUND = Attachment(mime_type="audio/wav", data=b"RIF")
SHEET = Attachment(mime_type="text/csv", data=b"a,b", kind="file")


def message(role: str, content: Any) -> Message:
    return Message(message_id="m", role=role, content=content, timestamp_ms=0)


def test_a_prompt_is_text_and_images() -> None:
    """An agent that takes images gets them; other files are named, so that nobody thinks it saw them."""
    blocks = prompt_blocks("look", (PICTURE, SHEET, ARCHIVE), Capabilities(images=True))

    assert blocks == [
        {"type": "text", "text": "look"},
        {"type": "image", "mimeType": "image/png", "data": "iVBORw=="},
        {"type": "text", "text": "[file: text/csv]\na,b"},
        {"type": "text", "text": "[file: application/zip, 2 bytes, not shown to you]"},
    ]


def test_files_are_embedded_where_the_agent_takes_them() -> None:
    """An agent that takes embedded context gets text as text, and other files as bytes."""
    can = Capabilities(embedded=True, audio=True)
    odd = Attachment(mime_type="text/plain; charset=utf-8", data=b"\xff", file_name="o dd.txt")

    blocks = prompt_blocks("", (SHEET, ARCHIVE, SOUND, odd), can, "before")

    assert blocks == [
        {"type": "text", "text": "before"},
        {
            "type": "resource",
            "resource": {"uri": "attachment:///file", "mimeType": "text/csv", "text": "a,b"},
        },
        {
            "type": "resource",
            "resource": {
                "uri": "attachment:///file",
                "mimeType": "application/zip",
                "blob": "UEs=",
            },
        },
        {"type": "audio", "mimeType": "audio/wav", "data": "UklG"},
        {
            "type": "resource",
            "resource": {
                "uri": "attachment:///o%20dd.txt",
                "mimeType": "text/plain; charset=utf-8",
                "blob": "/w==",
            },
        },
    ]


def test_an_agent_without_images_is_told_of_them() -> None:
    """An agent that takes no images gets none."""
    blocks = prompt_blocks("", (PICTURE,), Capabilities())

    assert blocks == [{"type": "text", "text": "[a.png: image/png, 4 bytes, not shown to you]"}]


def test_the_meta_has_what_was_asked_for() -> None:
    """Thinking level and extra instructions go beside the prompt, if there are any."""
    assert prompt_meta(run_request()) == {
        "gateway": {"runId": "run-1", "sessionKey": "agent:main:main"}
    }
    request = run_request(thinking="high", extra_system_prompt="be brief", model="p/m")
    asked = prompt_meta(request)["gateway"]
    assert (asked["thinking"], asked["extraSystemPrompt"]) == ("high", "be brief")
    assert asked["model"] == "p/m"


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

    of_m = ModelUsage(provider="", model="m", input_tokens=3, output_tokens=4)
    used = Usage(input_tokens=3, output_tokens=4, by_model=(of_m,))
    assert run_result(ours) == RunResult(usage=used, model="m")
    assert run_result({"usage": usage}).usage == Usage(input_tokens=3, output_tokens=4)
    assert run_result({"usage": {"inputTokens": "x"}}).usage is None
    assert run_result("odd") == RunResult()


def test_usage_by_model() -> None:
    """Our worker tells what each model used and cost; entries without a name are left out."""
    entry = {"provider": "p", "model": "m", "inputTokens": 5, "cacheReadTokens": 2, "costUsd": 1}
    usage = {
        "inputTokens": 5,
        "outputTokens": 0,
        "contextTokens": 7,
        "byModel": [entry, {"model": "x"}, 3, entry | {"costUsd": "free", "inputTokens": -1}],
    }

    found = run_result({"_meta": {"gateway": {"usage": usage}}}).usage

    one = ModelUsage(provider="p", model="m", input_tokens=5, cache_read_tokens=2, cost_usd=1.0)
    two = ModelUsage(provider="p", model="m", cache_read_tokens=2)
    assert found == Usage(input_tokens=5, context_tokens=7, by_model=(one, two))


def test_usage_of_other_agents() -> None:
    """ACP's own counts are those of the model that the session is set to, where it says so."""
    usage = {"inputTokens": 5, "outputTokens": 6, "cachedReadTokens": 4, "cachedWriteTokens": 1}

    result = run_result({"usage": usage}, context_tokens=9, provider="opencode", model="m")

    entry = ModelUsage(
        provider="opencode",
        model="m",
        input_tokens=5,
        output_tokens=6,
        cache_read_tokens=4,
        cache_write_tokens=1,
    )
    assert result.usage == Usage(
        input_tokens=5, output_tokens=6, context_tokens=9, by_model=(entry,)
    )
    assert (result.provider, result.model) == ("opencode", "m")
    assert run_result({}, context_tokens=9).usage == Usage(context_tokens=9)
    assert run_result({}, provider="opencode").provider is None


def test_a_summary_comes_first() -> None:
    """What stands for the turns before is told as a summary, the newest one, whatever the bound."""
    old = message("system", [{"type": "text", "text": "we met"}])
    summary = msgspec.structs.replace(old, meta={"kind": "compaction"})
    long = message("user", "x" * HISTORY_CHARS)

    assert history_items((summary, old, message("user", "hi"))) == [
        {"role": "summary", "text": "we met"},
        {"role": "user", "text": "hi"},
    ]
    assert history_items((summary, message("user", "old"), long)) == [
        {"role": "summary", "text": "we met"},
        {"role": "user", "text": "x" * (HISTORY_CHARS - 6)},
    ]


def test_history_as_one_text() -> None:
    """An agent that can not be told otherwise reads who said what, and where it ends."""
    said = [{"role": "summary", "text": "s"}, {"role": "user", "text": "u"}]
    text = history_text([*said, {"role": "assistant", "text": "a"}])

    assert text == "\n\n".join(
        [HISTORY_HEAD, "Summary of what came before: s", "User: u", "You: a", HISTORY_FOOT]
    )
    assert history_text([]) is None


def test_a_summary_of_an_agent() -> None:
    """A summary needs its text and how much was kept; the counts of tokens may be missing."""
    told = {"summary": "s", "keptMessages": 2, "tokensBefore": 9, "tokensAfter": "x"}

    assert read_compaction(told) == Compaction(summary="s", kept_messages=2, tokens_before=9)
    assert read_compaction({}) is None
    assert read_compaction({"summary": "s", "keptMessages": True}) is None


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
    error = prompt_error(RpcError(-32000, "Authentication required"), ("OAuth", "API key"))

    assert "logged in first: Authentication required; log in with" in error.message
    assert "(OAuth, API key)" in error.message

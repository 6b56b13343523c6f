"""One run from its launch to its one end, whatever its backend does."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any
from weakref import ref

import pytest
from twisted.internet.defer import Deferred, fail, succeed

from gateway.app.drive import AGENT_FAILED, UNENCODABLE
from gateway.app.sink import MAX_TEXT_CHARS
from gateway.errors import BackendError, BackendErrorKind, StoreError
from gateway.model import RunResult, Usage
from gateway.testing import result_of
from tests.app.harness import Gate, Live

Gates = Callable[..., Gate]


def raises(error: Exception) -> Callable[[Live], Any]:
    """Return a script that raises before anything started."""

    def script(live: Live) -> Any:
        raise error

    return script


def says(live: Live) -> Deferred[RunResult]:
    """Answer at once."""
    live.sink.text("done")
    return succeed(RunResult(usage=Usage(input_tokens=1, output_tokens=2)))


def gives_up(live: Live) -> Deferred[RunResult]:
    """Cancel its own work."""
    live.done.cancel()
    return live.done


def overflows(live: Live) -> Deferred[RunResult]:
    """Say more than a run may, and go on."""
    live.sink.text("x" * (MAX_TEXT_CHARS + 1))
    live.sink.text("unheard")
    return live.done


ENDINGS: dict[str, tuple[Callable[[Live], Any], str, str]] = {
    "a result": (says, "final", "end"),
    "an error before the start": (raises(ZeroDivisionError()), "error", "error"),
    "a backend error before the start": (raises(BackendError("no")), "error", "error"),
    "a failure": (lambda live: fail(ValueError("no")), "error", "error"),
    "a cancellation of its own": (gives_up, "aborted", "end"),
    "nothing": (lambda live: None, "error", "error"),
    "another type": (lambda live: succeed("text"), "error", "error"),
    "a result that has no JSON form": (
        lambda live: succeed(RunResult(stop_reason=object())),  # type: ignore[arg-type]
        "error",
        "error",
    ),
    "a usage of another type": (
        lambda live: succeed(RunResult(usage="much")),  # type: ignore[arg-type]
        "error",
        "error",
    ),
    "a number beyond JSON": (
        lambda live: succeed(RunResult(usage=Usage(input_tokens=10**30))),
        "error",
        "error",
    ),
    "an error whose parts are of the wrong types": (
        lambda live: fail(BackendError(5, kind=7, detail=3)),  # type: ignore[arg-type]
        "error",
        "error",
    ),
    "too long an answer": (overflows, "error", "error"),
}


@pytest.mark.parametrize("script", ENDINGS)
def test_one_terminal_event(
    gates: Gates, script: str, expected_failures: list[type[BaseException]]
) -> None:
    """Exactly one terminal `chat` event and one lifecycle end per run, also when the session cannot be resolved, the backend raises before it starts, or its result can't be encoded."""  # noqa: E501
    expected_failures += [ZeroDivisionError, ValueError]
    start, chat, phase = ENDINGS[script]
    gate = gates(start)
    three, four = gate.client(3), gate.client(4)

    four.send("hello")
    gate.clock.advance(5)

    assert three.ends() == four.ends() == ([chat], [phase])
    assert len(gate.runs) == 0
    assert not gate.runs.busy("agent:main:main")


def test_a_session_that_can_not_be_resolved(
    gate: Gate, expected_failures: list[type[BaseException]]
) -> None:
    """Exactly one terminal `chat` event and one lifecycle end per run, also when the session cannot be resolved, the backend raises before it starts, or its result can't be encoded."""  # noqa: E501
    expected_failures += [StoreError, LookupError]
    client = gate.client()

    for run, error in (("r1", StoreError("disk full")), ("r2", LookupError("which session?"))):
        gate.store.failing["accept_turn"] = error
        refused = client.send("hello", run=run).error

        assert refused["code"] == "UNAVAILABLE"
        assert client.ends(run) == (["error"], ["error"])
    gate.store.failing.clear()

    assert client.send("hello", run="r1").payload["status"] == "started"
    assert len(gate.runs) == 1


def test_an_agent_that_is_gone(gates: Gates) -> None:
    """A run whose agent is not configured any more ends with an error that names it."""
    gate = gates(others=["other"])
    client = gate.client()
    gate.store.hanging.add("accept_turn")
    client.send("hello", key="agent:other:main")
    del gate.services.agents._agents["other"]

    gate.store.release()

    assert client.ends() == (["error"], ["error"])
    assert client.events("chat")[-1]["errorMessage"] == (
        'Agent "other" no longer exists in configuration'
    )


def test_the_error_of_a_backend(gates: Gates) -> None:
    """A backend's error reaches clients with its kind and detail, in version 3 with its text only."""
    detail = {"provider": "p", "httpStatus": 429, "secret": "s"}
    error = BackendError("slow down", kind=BackendErrorKind.RATE_LIMIT, detail=detail)
    gate = gates(raises(error))
    three, four = gate.client(3), gate.client(4)

    four.send("hello")

    assert four.events("chat")[-1] | {"seq": 0} == {
        "runId": "r1",
        "sessionKey": "agent:main:main",
        "seq": 0,
        "state": "error",
        "errorMessage": "slow down",
        "agentId": "main",
        "errorKind": "rate_limit",
        "errorDetail": {"provider": "p", "httpStatus": 429},
    }
    assert set(three.events("chat")[-1]) == {"runId", "sessionKey", "seq", "state", "errorMessage"}


def test_the_text_of_an_unforeseen_error_stays_here(
    gates: Gates, expected_failures: list[type[BaseException]], logged_failures: list[Any]
) -> None:
    """What a backend did not mean to say is logged whole, and clients are told that it failed."""
    expected_failures.append(RuntimeError)
    gate = gates(raises(RuntimeError("password: hunter2")))
    client = gate.client()

    client.send("hello")

    assert client.events("chat")[-1]["errorMessage"] == AGENT_FAILED
    assert len(logged_failures) == 1


def test_an_unencodable_result_keeps_the_text(gates: Gates) -> None:
    """The text of a run whose result can't be encoded was said, and is kept."""

    def script(live: Live) -> Any:
        live.sink.text("partial")
        return succeed(RunResult(stop_reason=object()))  # type: ignore[arg-type]

    gate = gates(script)
    client = gate.client()
    client.send("hello")

    assert client.events("chat")[-1]["errorMessage"] == UNENCODABLE
    assert gate.messages() == [("user", "hello"), ("assistant", "partial")]


# -- backends that do not behave


def test_a_backend_that_ignores_its_cancellation(gate: Gate) -> None:
    """A backend that goes on after an abort is not heard any more and keeps nothing of the run alive."""
    client = gate.client()
    deaf: Deferred[RunResult] = Deferred(lambda d: None)
    deaf.cancel = lambda: None  # type: ignore[method-assign]
    kept: list[Live] = []

    def script(live: Live) -> Any:
        kept.append(live)
        return deaf

    gate.backend.script = script
    client.send("hello")
    watched: list[ref[Any]] = [ref(gate.runs._drives["r1"]), ref(gate.runs.get("r1"))]
    client.ok("chat.abort", {"sessionKey": "main"})
    frames = len(client.frames)
    kept[0].sink.text("still here")
    kept[0].sink.replace("still here")
    kept[0].sink.emit("tool", {"phase": "start"})
    gate.clock.advance(2)
    gc.collect()

    assert len(client.frames) == frames
    assert [watch() for watch in watched] == [None, None]
    assert result_of(kept[0].sink.history(5)) == ()
    deaf.errback(RuntimeError("too late"))
    assert client.ends() == (["aborted"], ["end"])


def test_a_backend_whose_cancellation_raises(
    gate: Gate, expected_failures: list[type[BaseException]]
) -> None:
    """A backend that fails to be cancelled does not keep the end of its run from being told."""
    expected_failures.append(ZeroDivisionError)
    client = gate.client()

    def broken(_: Any) -> None:
        raise ZeroDivisionError

    gate.backend.script = lambda live: Deferred(broken)
    client.send("hello")

    client.ok("chat.abort", {"sessionKey": "main"})

    assert client.ends() == (["aborted"], ["end"])
    assert len(gate.runs) == 0


def test_a_backend_that_ends_its_run_before_it_returns(gates: Gates) -> None:
    """Where the first text of a run ends it, the backend's work is cancelled when start() returns."""
    gate = gates(overflows)
    client = gate.client()

    client.send("hello")

    assert gate.live().cancelled
    assert client.ends() == (["error"], ["error"])
    assert "longer than" in client.events("chat")[-1]["errorMessage"]

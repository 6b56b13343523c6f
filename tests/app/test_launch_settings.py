"""A run has the settings that its session has when it starts, and takes none of them back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail

from gateway.errors import StoreError
from gateway.model import ModelInfo, Usage
from gateway.store.store import SQLStore
from gateway.testing import FakeClock, memory_store, result_of
from tests.app.harness import Call, Client, Gate
from tests.app.test_recovery import recovered

Gates = Callable[..., Gate]
MAIN = "agent:main:main"


def patch(client: Client, **settings: Any) -> None:
    """Change the settings of the main session."""
    client.ok("sessions.patch", {"key": "main", **settings})


def asked(gate: Gate, run: str) -> tuple[str | None, str | None]:
    """Return the model and the thinking level that a run was started with."""
    request = gate.live(run).request
    return request.model, request.thinking


def test_a_run_that_goes_at_once(gate: Gate) -> None:
    """A run in a free session has its settings without another look into the store."""
    client = gate.client()
    patch(client, model="fake/large", thinkingLevel="high")
    gate.store.calls.clear()
    client.send("hello")

    assert asked(gate, "r1") == ("fake/large", "high")
    assert gate.store.calls == ["get_session", "accept_turn"]


def test_a_run_that_waited(gate: Gate) -> None:
    """A run that waited has the settings of the moment when it starts, not of when it was sent."""
    client = gate.client()
    client.send("one", run="r1")
    client.send("two", run="r2")
    client.send("three", run="r3", thinking="low")
    patch(client, model="large", thinkingLevel="high")
    gate.live("r1").end()
    patch(client, model=None, thinkingLevel="off")
    gate.live("r2").end()

    assert [asked(gate, run) for run in ("r1", "r2", "r3")] == [
        (None, None),
        ("fake/large", "high"),
        (None, "low"),
    ]


def test_a_model_that_the_request_names(gate: Gate) -> None:
    """A turn may ask for a model of its own, by its name alone too; that of its session is for the others."""
    client = gate.client()
    patch(client, model="fake/large")

    def ask(run: str, **params: Any) -> Call:
        return client.call("agent", {"message": "hi", "idempotencyKey": run, **params})

    for run, named in (
        ("r1", {"model": "small"}),
        ("r2", {"model": "fake/tiny"}),
        ("r3", {"model": "tiny", "provider": "fake"}),
        ("r4", {"model": " ", "provider": "fake"}),
    ):
        ask(run, **named)
        gate.clock.advance(1)
        gate.live(run).end()
        gate.clock.advance(1)

    models = [asked(gate, f"r{number}")[0] for number in range(1, 5)]
    assert models == ["fake/small", "fake/tiny", "fake/tiny", "fake/large"]
    refused = ask("r5", model="nobody/tiny").error
    assert refused["message"].startswith('Unknown provider "nobody"')


def test_the_model_that_is_told(gate: Gate) -> None:
    """A session is shown with the model that answers: the one it asks for, where the agent has that."""
    client = gate.client()
    gate.backend.models += (ModelInfo(id="big", name="Big", provider="fake", context_window=9),)

    def told(model: str | None) -> Any:
        answer = client.ok("sessions.patch", {"key": "main", "model": model})
        (row,) = client.ok("sessions.list", {})["sessions"]
        assert answer["resolved"] == {"modelProvider": row["modelProvider"], "model": row["model"]}
        return row["model"], row["contextTokens"]

    assert [told(model) for model in ("fake/big", "big", "fake/none", None)] == [
        ("big", 9),
        ("big", 9),
        ("echo-1", 1000),
        ("echo-1", 1000),
    ]


def test_a_run_that_survived_a_restart(gate: Gate) -> None:
    """A run that is taken up by the next process has the settings of then."""
    client = gate.client()
    client.send("one", run="r1")
    client.send("two", run="r2")
    patch(client, thinkingLevel="high")

    again = gate.restarted()
    recovered(again)

    assert asked(again, "r2") == (None, "high")


def test_a_run_that_was_stored_although_the_store_said_no(gate: Gate) -> None:
    """A run that the client had to ask for again has the settings of its session too."""
    client = gate.client()
    patch(client, thinkingLevel="high")
    accept = gate.store.accept_turn

    def fails_afterwards(*args: Any) -> Deferred[Any]:
        stored: Deferred[Any] = accept(*args)
        return stored.addCallback(lambda _: fail(StoreError("no answer")))

    gate.store.accept_turn = fails_afterwards
    refused = client.send("hello").error
    del gate.store.accept_turn
    client.send("hello")

    assert refused["retryable"] is True
    assert asked(gate, "r1") == (None, "high")


def test_what_the_backend_called_the_conversation(gate: Gate) -> None:
    """A run gets back what an earlier run of the session has bound to it."""
    client = gate.client()
    client.send("one", run="r1")
    gate.live("r1").sink.bind("conversation 5")
    gate.live("r1").end()
    client.send("two", run="r2")
    client.send("three", run="r3")
    gate.live("r2").end()

    bound = [gate.live(run).request.agent_session for run in ("r1", "r2", "r3")]
    assert bound == [None, "conversation 5", "conversation 5"]


# -- nothing is written back


@pytest.fixture(params=["memory", "disk"])
def stored_gate(request: pytest.FixtureRequest, tmp_path: Path, gates: Gates) -> Gate:
    """Return a gateway whose store is in memory, or on the disk."""
    clock = FakeClock()
    if request.param == "memory":
        return gates(clock=clock, store=memory_store(clock))
    store = SQLStore(
        f"sqlite:///{tmp_path}/gateway.db",
        clock=clock,
        call_from_thread=lambda f, *a, **k: f(*a, **k),
        threads=False,
    )
    store.open()
    return gates(clock=clock, store=store)


def test_patches_while_runs_end(stored_gate: Gate) -> None:
    """Of 64 patches and runs of one session at once no field and no token is lost."""
    gate = stored_gate
    client = gate.client()
    names = ("thinkingLevel", "verboseLevel", "responseUsage", "category", "color", "icon")
    values = ("high", "full", "full", "work", "red", "star")
    for number in range(64):
        client.send("hello", run=f"r{number}")
        at = number % len(names)
        patch(client, **{names[at]: values[at]})
        if number % 3 == 0:
            patch(client, label=f"label {number}")
        gate.live(f"r{number}").end(usage=Usage(input_tokens=2, output_tokens=1))

    session = result_of(gate.store.get_session(MAIN))
    assert session.settings == dict(zip(names, values, strict=True))
    assert session.label == "label 63"
    assert (session.input_tokens, session.output_tokens, session.total_tokens) == (128, 64, 192)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(0, 5)),
        st.tuples(st.just("end"), st.integers(0, 5)),
        st.tuples(st.just("go on"), st.integers(0, 5)),
        st.tuples(st.sampled_from(("thinkingLevel", "verboseLevel", "color")), st.integers(0, 2)),
    ),
    max_size=30,
)
WORDS: dict[str, tuple[str | None, ...]] = {
    "thinkingLevel": ("high", "low", None),
    "verboseLevel": ("on", "full", None),
    "color": ("red", "blue", None),
}


@hypothesis.settings(max_examples=40)
@given(steps=STEPS)
def test_any_interleaving_equals_the_serial_one(steps: list[tuple[str, int]]) -> None:
    """However writes are delayed among each other, the settings are those of the patches alone."""
    gate = Gate(limits={"lane_depth": 64})
    client = gate.client()
    settings: dict[str, str] = {}
    gate.store.hanging = {"update_session", "finish_turn", "start_run"}
    ended = 0
    for number, (step, at) in enumerate(steps):
        if step == "send":
            client.send("hello", run=f"r{number}")
        elif step == "go on":
            for _ in range(min(at, len(gate.store.held))):
                gate.store.held.pop(0)()
        elif step == "end":
            for live in list(gate.backend.live.values()):
                if not live.done.called:
                    live.end(usage=Usage(input_tokens=1, output_tokens=1))
                    ended += 1
                    break
        else:
            value = WORDS[step][at]
            client.call("sessions.patch", {"key": "main", step: value})
            settings.pop(step, None)
            if value is not None:
                settings[step] = value
    gate.store.hanging.clear()
    for _ in range(50):
        while gate.store.held:
            gate.store.held.pop(0)()
        for live in list(gate.backend.live.values()):
            if not live.done.called:
                live.end(usage=Usage(input_tokens=1, output_tokens=1))
                ended += 1
        gate.clock.advance(2)

    session = result_of(gate.store.get_session(MAIN))
    if session is not None:
        assert (session.settings, session.input_tokens) == (settings, ended)
    assert len(gate.runs) == 0
    gate.close()

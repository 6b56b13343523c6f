"""Models as clients choose from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer

from gateway.app.modelhealth import STANDS_S
from gateway.errors import BackendError, BackendErrorKind
from gateway.interfaces import IModelsBackend
from gateway.model import ModelInfo
from tests.app.harness import Client, Gate, ScriptedBackend, assert_fits

MODEL = ModelInfo(
    id="m",
    name="M",
    provider="p",
    context_window=8192,
    reasoning=True,
    input=("text", "image"),
    thinking_levels=("off", "low", "high"),
    thinking_default="low",
)


@pytest.fixture(params=[3, 4])
def client(request: pytest.FixtureRequest, gate: Gate) -> Client:
    """An admin's client of either version."""
    return gate.client(request.param)


def protocol_of(client: Client) -> int:
    """Return the version a client speaks."""
    return client.connection.protocol


def fail_with(gate: Gate, run: str, **error: Any) -> None:
    """Let a run of the agent main fail."""
    gate.client().send("hello", run=run)
    gate.live(run).done.errback(BackendError("it failed", **error))
    gate.clock.advance(1)


def test_models_that_tell_little(gate: Gate, client: Client) -> None:
    """Of a model nobody knows more of, its name and provider are listed."""
    gate.backend.models = (ModelInfo(id="m", name="M", provider="p"),)

    (model,) = client.ok("models.list", {})["models"]
    assert model == {"id": "m", "name": "M", "provider": "p"} | (
        {"available": True} if protocol_of(client) == 4 else {}
    )
    assert client.ok("status")["sessions"]["defaults"]["contextTokens"] > 0


def test_models_that_tell_all(gate: Gate, client: Client) -> None:
    """What is known of a model is listed, as far as the client's version has a word for it."""
    gate.backend.models = (MODEL,)

    answer = client.ok("models.list", {})
    assert_fits(protocol_of(client), "ModelsListResult", answer)
    (model,) = answer["models"]
    assert (model["contextWindow"], model["reasoning"]) == (8192, True)
    if protocol_of(client) == 4:
        assert_fits(4, "ModelChoice", model)
        assert model["input"] == ["text", "image"]
        assert [level["id"] for level in model["thinkingLevels"]] == ["off", "low", "high"]
        assert model["thinkingDefault"] == "low"


def test_models_of_one_agent() -> None:
    """Models are those of the agent that is named, by itself or by a session, or of one provider."""
    gate = Gate(others=["other"])
    client = gate.client()
    backend: Any = gate.services.agents.require("other").backend
    backend.models = (MODEL,)

    def ids(**params: Any) -> list[str]:
        return [row["id"] for row in client.ok("models.list", params)["models"]]

    assert ids() == ["echo-1", "m"]
    assert ids(agentId="Other ") == ids(sessionKey="agent:other:main") == ["m"]
    assert ids(provider="P") == ["m"]
    assert ids(provider="nobody") == []
    assert "unknown agent id" in client.refused("models.list", {"agentId": "x"})["message"]
    assert (
        "no longer exists" in client.refused("models.list", {"sessionKey": "agent:x:y"})["message"]
    )
    gate.close()


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        ({"detail": {"httpStatus": 401}}, "auth-failed"),
        ({"detail": {"httpStatus": 429, "provider": "fake", "model": "echo-1"}}, "cooldown"),
        ({"kind": BackendErrorKind.RATE_LIMIT}, "cooldown"),
        ({"detail": {"httpStatus": 500}}, None),
        ({"kind": BackendErrorKind.TIMEOUT}, None),
    ],
)
def test_what_runs_have_shown(gate: Gate, error: dict[str, Any], reason: str | None) -> None:
    """A model whose provider refused a run's key or quota is not available, for five minutes at most."""
    client = gate.client()

    def row() -> Any:
        (model,) = client.ok("models.list", {})["models"]
        assert_fits(4, "ModelChoice", model)
        return model

    fail_with(gate, "r1", **error)
    assert row()["available"] is (reason is None)
    assert row().get("unavailableReason") == reason
    if reason is not None:
        assert row()["unavailableUntil"] > gate.clock.now_ms()

    gate.clock.advance(STANDS_S)
    assert row()["available"]
    assert len(gate.services.model_health) == (reason is not None)
    gate.services.model_health.sweep(gate.clock.seconds())
    assert len(gate.services.model_health) == 0


def test_a_run_that_ends_well_clears_its_model(gate: Gate) -> None:
    """A model that has answered is available again; an aborted run says nothing of it."""
    client = gate.client()
    fail_with(gate, "r1", detail={"httpStatus": 401})

    client.send("hello", run="r2")
    client.ok("chat.abort", {"sessionKey": "main"})
    assert not client.ok("models.list", {})["models"][0]["available"]
    client.send("hello", run="r3")
    gate.live("r3").end(provider="fake", model="echo-1")
    gate.clock.advance(1)
    assert client.ok("models.list", {})["models"][0]["available"]


def test_the_end_of_a_run_whose_agent_is_gone() -> None:
    """A run that ends after its agent was removed says nothing of anybody's models."""
    gate = Gate(others=["other"])
    client = gate.client()
    client.send("hello", key="agent:other:main")
    backend: Any = gate.services.agents.remove("other").backend
    backend.live["r1"].done.errback(BackendError("no", detail={"httpStatus": 401}))
    gate.clock.advance(1)

    assert len(gate.services.model_health) == 0
    gate.close()


def test_an_agent_that_can_not_work(gate: Gate) -> None:
    """Models of an agent that is not ready, or that its provider does not have, are not available."""
    client = gate.client()
    gate.backend.ready = lambda: False  # type: ignore[method-assign]
    assert not client.ok("models.list", {})["models"][0]["available"]
    assert client.ok("agents.list", {})["agents"][0]["status"] == "degraded"
    del gate.backend.ready
    gate.backend.models = (ModelInfo(id="m", name="M", provider="p", available=False),)
    assert not client.ok("models.list", {})["models"][0]["available"]


def test_a_model_that_one_of_two_agents_can_use() -> None:
    """A model is listed once, and as available if one of its agents can use it."""
    gate = Gate(others=["other", "third"])
    gate.backend.ready = lambda: False  # type: ignore[method-assign]

    (model,) = gate.client().ok("models.list", {})["models"]
    assert model["available"]
    gate.close()


@implementer(IModelsBackend)
class Asking(ScriptedBackend):
    """A backend that can ask its provider."""

    answer: Deferred[Sequence[ModelInfo]]

    def refresh_models(self) -> Deferred[Sequence[ModelInfo]]:
        """Take over what the provider answers."""
        return self.answer.addCallback(self._take)

    def _take(self, models: Sequence[ModelInfo]) -> Sequence[ModelInfo]:
        self.models = tuple(models)
        return models


@pytest.mark.parametrize("outcome", ["answer", "failure", "silence"])
def test_a_fresh_list(outcome: str) -> None:
    """A fresh list is asked of the backends that can; where that fails, the one there is stands."""
    gate = Gate(others=["other"])
    asking = Asking()
    answers: dict[str, Any] = {
        "answer": lambda: succeed((MODEL,)),
        "failure": lambda: fail(BackendError("no")),
        "silence": Deferred,
    }
    asking.answer = answers[outcome]()
    agents = gate.services.agents
    agents.put(agents.require("other").with_backend(asking))
    call = gate.client().call("models.list", {"refresh": True})
    gate.clock.advance(10)

    ids = [model["id"] for model in call.payload["models"]]
    assert ids == (["echo-1", "m"] if outcome == "answer" else ["echo-1"])
    gate.close()

"""The models of agent programs, as they tell of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.agents.acp_models import refreshed
from gateway.errors import BackendError
from gateway.model import ModelInfo
from gateway.testing import result_of
from tests.agents.acp_setup import Setup, initialized
from tests.agents.test_acp_opening import only, opened

MODEL = ModelInfo(id="m", name="M", provider="p")


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    """A backend whose processes the test plays."""
    return Setup(tmp_path)


def test_models_that_are_offered(setup: Setup) -> None:
    """The models that an agent lets choose from are listed after its own choice."""
    assert [model.id for model in setup.backend.models] == ["main"]
    ids: list[Any] = ["p/small", "big", "main", "", "x" * 201, "a\nb", "big", 5]
    models = {"currentModelId": "big", "availableModels": [{"modelId": id_} for id_ in ids]}
    process = opened(setup, {"models": models})
    process.answer(setup.prompt()["id"], {"stopReason": "end_turn"})

    assert [(model.provider, model.id) for model in setup.backend.models] == [
        ("acp", "main"),
        ("acp", "p/small"),
        ("acp", "big"),
    ]
    setup.run(model="acp/p/small")
    chosen = only(process)
    assert chosen["params"]["modelId"] == "p/small"


def test_models_of_an_agent_of_ours(setup: Setup) -> None:
    """An agent of ours is asked for a fresh list, and what its providers tell is listed from then on."""
    setup.backend.models = (MODEL, ModelInfo(id="n", name="N", provider="p"))
    process = setup.start(initialized("models"))
    asked = setup.backend.refresh_models()
    request = only(process)
    assert request["method"] == "_gateway/models"
    row = {"provider": "p", "id": "m", "contextWindow": 4096, "input": ["text", "image", 5]}
    process.answer(request["id"], {"models": [row | {"available": False, "reasoning": True}, 7]})

    first, second = result_of(asked)
    assert first == ModelInfo(
        id="m",
        name="M",
        provider="p",
        context_window=4096,
        input=("text", "image"),
        reasoning=True,
        available=False,
    )
    assert second.available is None
    assert setup.backend.models == (first, second)


def test_models_of_other_agents(setup: Setup) -> None:
    """An agent of somebody else's is not asked, and its list stands."""
    process = setup.start(initialized())
    assert [model.id for model in result_of(setup.backend.refresh_models())] == ["main"]
    assert process.messages() == []


def test_models_that_are_not_told(setup: Setup) -> None:
    """An agent that refuses, or does not answer, fails the call, and the list stands."""
    process = setup.start(initialized("models"))
    refused = setup.backend.refresh_models()
    process.send(id=only(process)["id"], error={"code": -32000, "message": "no"})
    with pytest.raises(BackendError, match="did not list its models"):
        result_of(refused)
    silent = setup.backend.refresh_models()
    setup.clock.advance(8)
    with pytest.raises(BackendError, match="did not list its models"):
        result_of(silent)
    assert [model.id for model in setup.backend.models] == ["main"]


@pytest.mark.parametrize("answer", [None, [], {"models": 1}, {"models": [{}, {"id": "m"}]}])
def test_answers_that_tell_nothing(answer: Any) -> None:
    """Whatever an agent answers, a list comes of it."""
    assert refreshed((MODEL,), answer) == (MODEL,)

"""What the model worker knows of its models, and asks of their providers."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("pydantic_ai")

from gateway.agents.llmspec import ModelSpec
from gateway.agents.workers.listing import listed
from gateway.agents.workers.models import Candidate


class Provider:
    """Plays the client of a provider: lists models, or fails to."""

    def __init__(self, *models: Any, error: Exception | None = None) -> None:
        self.models, self._data, self._error, self.asked = self, models, error, 0

    async def list(self) -> Any:
        """List the models there are."""
        self.asked += 1
        if self._error is not None:
            raise self._error
        return SimpleNamespace(data=self._data)


def candidate(
    provider: Provider | None, model: str = "openai-chat:m", key: int = 0, **profile: Any
) -> Candidate:
    """Return a model behind a provider."""
    played: Any = SimpleNamespace(client=provider, profile=profile)
    return Candidate(ModelSpec(model=model), played, key)


def rows(*candidates: Candidate) -> list[dict[str, Any]]:
    """List models, on a loop of their own as in the worker's process."""

    def work() -> list[dict[str, Any]]:
        return asyncio.run(listed(candidates))

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


def has(id_: str, **more: Any) -> Any:
    """Return a model as a provider lists it."""
    return SimpleNamespace(id=id_, **more)


def test_what_the_library_knows() -> None:
    """Without a provider to ask, a model is listed with what the library knows of it."""
    known = {"context_window": 1000, "supports_thinking": True, "supports_image_input": False}
    assert rows(candidate(None, "anthropic:m", **known)) == [
        {
            "provider": "anthropic",
            "id": "m",
            "input": ["text"],
            "contextWindow": 1000,
            "reasoning": True,
        }
    ]
    assert rows(candidate(Provider(has("x")), "anthropic:m"))[0].keys() == {
        "provider",
        "id",
        "input",
    }


def test_each_model_once_in_order() -> None:
    """A model with several keys is asked for once, with the first of them."""
    first, second = Provider(has("m"), has("n")), Provider()
    found = rows(
        candidate(first),
        candidate(second, key=1),
        candidate(first, "openai-chat:n"),
        candidate(None, "a:b"),
    )
    assert [(row["id"], row.get("available")) for row in found] == [
        ("m", True),
        ("n", True),
        ("b", None),
    ]
    assert (first.asked, second.asked) == (2, 0)


@pytest.mark.parametrize(
    ("models", "told"),
    [
        ((has("m"), has("n")), {"available": True}),
        ((has("n"), has("o")), {"available": False}),
        ((), {"available": False}),
        ((has("m.gguf", meta={"n_ctx_train": 4096}),), {"contextWindow": 4096}),
        (
            (has("m", meta={"n_ctx": 512, "n_ctx_train": 9}),),
            {"available": True, "contextWindow": 512},
        ),
        ((has("m", max_model_len=2048),), {"available": True, "contextWindow": 2048}),
        ((has("m", max_model_len="x"),), {"available": True}),
    ],
)
def test_what_a_provider_tells(models: tuple[Any, ...], told: dict[str, Any]) -> None:
    """Availability and context are the provider's word; a server of one model may answer to any name."""
    (row,) = rows(candidate(Provider(*models)))
    assert {k: v for k, v in row.items() if k in ("available", "contextWindow")} == told


def test_a_provider_that_fails(capsys: pytest.CaptureFixture[str]) -> None:
    """A provider that fails leaves it open, and what it said stays out of the log."""
    (row,) = rows(candidate(Provider(error=ValueError("bad key sk-123"))))
    assert "available" not in row
    assert capsys.readouterr().err == "models of openai-chat: ValueError\n"

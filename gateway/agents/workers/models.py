"""The models of an agent: made from their names and keys, chosen for a turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast, get_args

from pydantic_ai.models import Model, infer_model
from pydantic_ai.settings import ModelSettings, ThinkingEffort

from gateway.agents.llmspec import ModelSpec, WorkerSecrets, WorkerSpec

CACHED = ("anthropic", "openrouter")
"""Providers that cache a prompt only when told to; an agent sends the same beginning again and again."""
OLLAMA_URL = "http://127.0.0.1:11434/v1"


@dataclass(frozen=True)
class Candidate:
    """One model with one key: what a single request goes to.

    :ivar key: which of the model's keys it is, from 0; candidates with one ``spec`` differ in nothing else.
    """

    spec: ModelSpec
    model: Model
    key: int = 0

    @property
    def provider(self) -> str:
        """The provider, as the configuration names it."""
        return self.spec.provider

    @property
    def id(self) -> str:
        """The model's id at its provider, as the configuration names it."""
        return self.spec.id

    @property
    def context_window(self) -> int | None:
        """How many tokens a request may have, as far as it is configured or known."""
        return self.spec.context_window or self.model.profile.get("context_window")

    @property
    def images(self) -> bool:
        """Whether it takes images."""
        if self.spec.images is not None:
            return self.spec.images
        return bool(self.model.profile.get("supports_image_input", True))


def build_candidates(spec: WorkerSpec, secrets: WorkerSecrets) -> tuple[Candidate, ...]:
    """Return the models of the specification in its order, each with every key it has.

    Raises UserError or ImportError if one can not be made.
    """
    made: list[Candidate] = []
    for index, each in enumerate(spec.models):
        for number, key in enumerate(secrets.keys(index) or (None,)):
            made.append(Candidate(each, build_model(each, key), number))
    return tuple(made)


def choose(
    candidates: Sequence[Candidate], wanted: str | None
) -> tuple[tuple[Candidate, ...], str | None]:
    """Return the candidates for a turn: those of the model ``PROVIDER/ID`` first, then the others.

    An id alone does where one model has it. A model that is not there (any more) changes nothing: a session
    that asks for it goes on, and people are told the text that is returned then.
    """
    if not wanted:
        return tuple(candidates), None
    first = [each for each in candidates if each.spec.ref == wanted]
    first = first or [each for each in candidates if each.id == wanted]
    if not first:
        known = ", ".join(dict.fromkeys(each.spec.ref for each in candidates))
        text = f"the agent has no model {wanted[:100]}; it answers with its own: {known}"
        return tuple(candidates), text
    return (*first, *(each for each in candidates if each not in first)), None


def model_settings(spec: ModelSpec) -> ModelSettings:
    """Return what every request to this model is made with."""
    settings = ModelSettings()
    if spec.max_tokens is not None:
        settings["max_tokens"] = spec.max_tokens
    if spec.temperature is not None:
        settings["temperature"] = spec.temperature
    if spec.thinking is not None:
        settings["thinking"] = False if spec.thinking == "off" else spec.thinking
    if spec.provider in CACHED:
        settings["cache"] = True
    return settings


def thinking_settings(level: str | None) -> ModelSettings | None:
    """Return the settings for a session's thinking level; a word that is none of them changes nothing."""
    if level == "off":
        return ModelSettings(thinking=False)
    if level in get_args(ThinkingEffort):
        return ModelSettings(thinking=cast(ThinkingEffort, level))
    return None


def build_model(spec: ModelSpec, key: str | None) -> Model:
    """Return the model with the settings of its table. Raises UserError or ImportError.

    Requests are not repeated here: whoever runs the agent decides what to do about a failure.
    """
    model = _infer(spec, key)
    # What infer_model has no parameter for.
    model._settings = model_settings(spec)
    return model


def _infer(spec: ModelSpec, key: str | None) -> Model:
    if spec.provider in ("openai", "openai-chat", "openai-responses"):
        from openai import AsyncOpenAI
        from pydantic_ai.exceptions import UserError
        from pydantic_ai.providers.openai import OpenAIProvider

        if key is None and spec.base_url is None:
            raise UserError("api_key is missing in the agent's configuration")
        # Servers on one's own machine want no key, the client wants one in any case.
        client = AsyncOpenAI(base_url=spec.base_url, api_key=key or "none", max_retries=0)
        return infer_model(spec.model, lambda _: OpenAIProvider(openai_client=client))
    from pydantic_ai.providers import infer_provider_class

    base_url = spec.base_url or (OLLAMA_URL if spec.provider == "ollama" else None)
    options: dict[str, Any] = {"base_url": base_url, "api_key": key}
    given = {option: value for option, value in options.items() if value is not None}

    def make(name: str) -> Any:
        provider = infer_provider_class(name)(**given)
        client = provider.client
        if hasattr(client, "max_retries"):
            client.max_retries = 0
        return provider

    return infer_model(spec.model, make)

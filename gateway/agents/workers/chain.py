"""A model that is many: a request goes to one candidate after the other until one of them answers.

An answer that breaks off is taken back and begun anew, by the same model or the next: in the stream of
events a :class:`~gateway.agents.workers.attempts.Restarted` stands where this happens.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

from pydantic_ai.messages import (
    FinalResultEvent,
    ModelMessage,
    ModelResponse,
    ModelResponseStreamEvent,
)
from pydantic_ai.models import ModelRequestParameters, StreamedResponse
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import RunContext
from pydantic_ai.usage import RequestUsage

from gateway.agents.workers.attempts import Chain, ChainRequest


class ChainModel(WrapperModel):
    """The candidates of a turn as one model, the first choice first."""

    def __init__(self, chain: Chain) -> None:
        super().__init__(chain.candidates[0].model)
        self._chain = chain

    @property
    def settings(self) -> ModelSettings | None:
        """None: each candidate adds its own."""
        return None

    def customize_request_parameters(
        self, model_request_parameters: ModelRequestParameters
    ) -> ModelRequestParameters:
        """Leave them to the candidate."""
        return model_request_parameters

    def prepare_request(
        self,
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> tuple[ModelSettings | None, ModelRequestParameters]:
        """Leave them to the candidate."""
        return model_settings, model_request_parameters

    def prepare_messages(
        self,
        messages: list[ModelMessage],
        model_request_parameters: ModelRequestParameters | None = None,
    ) -> list[ModelMessage]:
        """Leave them to the candidate."""
        return messages

    def _start_request_deadline(
        self, model_settings: ModelSettings | None, *, stream: bool
    ) -> None:
        return None  # each attempt has its own

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        """Return the whole answer. Raises ChainExhausted, or what the only candidate raised."""
        async with self.request_stream(
            messages, model_settings, model_request_parameters
        ) as stream:
            async for _ in stream:
                pass
            return stream.get()

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncIterator[StreamedResponse]:
        """Return the answer as it comes, once it has begun."""
        request = ChainRequest(
            self._chain, messages, model_settings, model_request_parameters, run_context
        )
        try:
            await request.begin()
            yield ChainStream(model_request_parameters, request)
        finally:
            await request.close()


class ChainStream(StreamedResponse):
    """The answer of whichever candidate gives it."""

    def __init__(self, parameters: ModelRequestParameters, request: ChainRequest) -> None:
        super().__init__(parameters)
        self._request = request

    @property
    def _inner(self) -> StreamedResponse:
        assert self._request.stream is not None
        return self._request.stream

    def __aiter__(self) -> AsyncIterator[ModelResponseStreamEvent]:
        """Return the events, each candidate's own in full."""
        if self._event_iterator is None:
            self._event_iterator = self._get_event_iterator()
        return self._event_iterator

    async def _get_event_iterator(self) -> AsyncIterator[ModelResponseStreamEvent]:
        async for event in self._request.events():
            if isinstance(event, FinalResultEvent):
                self.final_result_event = event
            yield event

    def get(self) -> ModelResponse:
        """Return what there is of the answer."""
        return self._inner.get()

    async def close_stream(self) -> None:
        """Close the connection of the candidate that answers."""
        await self._inner.cancel()

    @property
    def usage(self) -> RequestUsage:
        """What the answer cost so far."""
        return self._inner.usage

    @property
    def model_name(self) -> str:
        """The model that answers, as its provider names it."""
        return self._inner.model_name

    @property
    def provider_name(self) -> str | None:
        """The provider that answers."""
        return self._inner.provider_name

    @property
    def provider_url(self) -> str | None:
        """Where it answers from."""
        return self._inner.provider_url

    @property
    def timestamp(self) -> datetime:
        """When the answer began."""
        return self._inner.timestamp

"""A request on its way through a chain of models, against a provider that fails. Needs the extra llm."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from twisted.internet.defer import Deferred

pytest.importorskip("pydantic_ai")
pytest.importorskip("openai")

from pydantic_ai import Agent
from pydantic_ai import exceptions as failures
from pydantic_ai.messages import PartDeltaEvent, PartStartEvent, TextPart, TextPartDelta

from gateway.agents.llmspec import ModelSpec
from gateway.agents.workers.attempts import Chain, Restarted, Shared, key_name
from gateway.agents.workers.chain import ChainModel
from gateway.agents.workers.llm_errors import ChainExhausted
from gateway.agents.workers.models import Candidate, build_model
from gateway.core.cooldown import Cooldowns, Failure
from gateway.core.failover import Policy
from tests.agents.fake_provider import OK, Behaviour, FakeProvider, fails

pytestmark = pytest.mark.model

QUICK = Policy(first_token_s=0.3, budget_s=5.0)


class Talk:
    """What a request through a chain did.

    :ivar text: what a reader of the stream has at the end, after what was taken back.
    :ivar steps: the events told, without the shape that is always the same.
    """

    def __init__(self, policy: Policy = QUICK, idle_s: float = 0.3) -> None:
        self.text = ""
        self.restarts = 0
        self.steps: list[tuple[Any, ...]] = []
        self.asked: list[str] = []
        self.slept: list[float] = []
        self.spent: list[int] = []
        self.shared = Shared(
            policy,
            Cooldowns(policy.cooldown),
            idle_s=idle_s,
            secrets=("sk-SECRET",),
            jitter=lambda: 0.5,
            sleep=self._sleep,
        )

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    async def notify(self, stream: str, data: dict[str, Any]) -> None:
        assert stream == "lifecycle"
        if data["phase"] == "model":
            self.steps.append(("model", data["model"]))
        else:
            self.steps.append(
                (
                    data["fallbackStepFinalOutcome"],
                    data["fallbackStepFromModel"],
                    data["fallbackStepFromFailureReason"],
                    data.get("fallbackStepToModel"),
                )
            )

    async def ask(self, *candidates: Candidate) -> str:
        chain = ChainModel(
            Chain(
                candidates,
                self.shared,
                self.notify,
                lambda each: self.asked.append(key_name(each)),
                spent=lambda each, response: self.spent.append(response.usage.input_tokens),
            )
        )
        self.text = ""
        async with Agent(chain).run_stream_events("hello") as events:
            async for event in events:
                match event:
                    case Restarted():
                        self.text = ""
                        self.restarts += 1
                    case PartStartEvent(part=TextPart(content=text)):
                        self.text += text
                    case PartDeltaEvent(delta=TextPartDelta(content_delta=text)):
                        self.text += text
                    case _:
                        pass
            return str(events.result.output) if events.result else ""


def candidate(provider: FakeProvider, name: str = "m", key: int = 0) -> Candidate:
    """Return a model of a provider that runs."""
    spec = ModelSpec(model=f"openai-chat:{name}", base_url=provider.url)
    return Candidate(spec, build_model(spec, f"sk-{name}-{key}"), key)


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> Deferred[None]:
    """Run a scenario in the reactor's loop."""
    return Deferred.fromFuture(asyncio.ensure_future(asyncio.wait_for(scenario(), 20)))


@pytest.mark.parametrize(
    ("behaviour", "reason", "restarts"),
    [
        (fails(429, "slow down", Retry_After="40"), "rate_limit", 0),
        (fails(429, "no money", code="insufficient_quota"), "billing", 0),
        (fails(500), "server_error", 0),
        (fails(502), "server_error", 0),
        (fails(503, "overloaded"), "overloaded", 0),
        (fails(529), "overloaded", 0),
        (fails(401, "bad key sk-SECRET"), "auth", 0),
        (fails(403), "auth", 0),
        (fails(404, "no such model"), "model_not_found", 0),
        (fails(400, "no such field"), "format", 0),
        (Behaviour(wait=True), "timeout", 0),
        (Behaviour(words=()), "empty_response", 0),
        (Behaviour(words=("x",), cut_after=0), "server_error", 0),
        (Behaviour(words=("some ", "words"), cut_after=1), "server_error", 1),
        (Behaviour(words=("some ", "words"), stall_after=1), "timeout", 1),
        (Behaviour(words=("some ", "words"), malformed_after=1), "server_error", 1),
        (Behaviour(words=("x" * 1_000_001,) * 5), "empty_response", 1),
    ],
)
def test_each_failure_goes_on_with_the_next_model(
    behaviour: Behaviour, reason: str, restarts: int
) -> Deferred[None]:
    """The next model answers, what was shown before is taken back, and each step is told."""

    async def scenario() -> None:
        async with FakeProvider(behaviour) as bad, FakeProvider(OK) as good:
            talk = Talk()
            output = await talk.ask(candidate(bad, "bad"), candidate(good, "good"))

            assert output == talk.text == "all is well"
            assert talk.restarts == restarts
            said = [("model", "bad")] if restarts else []
            assert talk.steps == [
                *said,
                ("next_fallback", "openai-chat/bad", reason, "openai-chat/good"),
                ("model", "good"),
                ("succeeded", "openai-chat/bad", reason, "openai-chat/good"),
            ]
            assert len(bad.requests) == len(good.requests) == 1

    return run(scenario)


def test_an_answer_without_an_end_is_not_whole() -> Deferred[None]:
    """A stream that ends in good order, yet without the reason that this model always gives, was cut."""

    async def scenario() -> None:
        half = Behaviour(words=("half",), ends_early=True)
        async with FakeProvider(half, OK, half, OK) as provider:
            talk = Talk()
            assert await talk.ask(candidate(provider)) == "half"  # nobody knows better yet
            assert await talk.ask(candidate(provider)) == "all is well"
            assert await talk.ask(candidate(provider)) == talk.text == "all is well"
            assert talk.restarts == 1

    return run(scenario)


def test_another_key_of_the_same_model_is_first() -> Deferred[None]:
    """A key at its limit, or refused, is followed by the next key; it rests for the next request too."""

    async def scenario() -> None:
        async with FakeProvider(fails(429, retry_after="30"), OK) as provider:
            talk = Talk()
            first, second = candidate(provider, key=0), candidate(provider, key=1)

            assert await talk.ask(first, second) == "all is well"
            assert await talk.ask(first, second) == "all is well"

            assert provider.keys == ["sk-m-0", "sk-m-1", "sk-m-1"]
            assert talk.slept == []

    return run(scenario)


def test_retry_after_is_waited_for_where_there_is_one_model() -> Deferred[None]:
    """The only model is asked again when it said, and not before."""

    async def scenario() -> None:
        async with FakeProvider(fails(429, retry_after="3"), OK) as provider:
            talk = Talk(Policy(first_token_s=1, budget_s=10))

            assert await talk.ask(candidate(provider)) == "all is well"

            (slept,) = talk.slept
            assert 3.0 <= slept <= 3.3

    return run(scenario)


def test_the_only_models_own_error_comes_out() -> Deferred[None]:
    """With one model nothing hides what the provider said."""

    async def scenario() -> None:
        async with FakeProvider(fails(401, "bad key")) as provider:
            talk = Talk()
            with pytest.raises(failures.ModelHTTPError) as caught:
                await talk.ask(candidate(provider))

            assert caught.value.status_code == 401
            assert talk.steps == []
            assert len(provider.requests) == 1

    return run(scenario)


def test_if_all_fail_each_is_named() -> Deferred[None]:
    """Every model was asked, and the error says of each why; no secret is in it."""

    async def scenario() -> None:
        async with (
            FakeProvider(fails(401, "bad sk-SECRET")) as one,
            FakeProvider(fails(404, "what model?")) as two,
        ):
            talk = Talk()
            with pytest.raises(ChainExhausted) as caught:
                await talk.ask(candidate(one, "a"), candidate(two, "b"))

            assert caught.value.failure is Failure.AUTH
            assert str(caught.value) == (
                "all 2 models failed: openai-chat/a: the provider refuses the key (HTTP 401: bad [secret]); "
                "openai-chat/b: the provider has no such model or address (HTTP 404: what model?)"
            )
            assert talk.steps[-1] == ("chain_exhausted", "openai-chat/b", "model_not_found", None)

    return run(scenario)


def test_the_time_is_bounded() -> Deferred[None]:
    """Models that never answer are given up within the budget, each after its share."""

    async def scenario() -> None:
        policy = Policy(first_token_s=10, budget_s=1.2, attempts_per_key=1)
        async with (
            FakeProvider(Behaviour(wait=True)) as one,
            FakeProvider(Behaviour(wait=True)) as two,
        ):
            talk = Talk(policy)
            began = asyncio.get_running_loop().time()
            with pytest.raises(ChainExhausted) as caught:
                await talk.ask(candidate(one, "a"), candidate(two, "b"))

            assert asyncio.get_running_loop().time() - began < 3
            assert len(one.requests) == len(two.requests) == 1
            assert caught.value.failure is Failure.TIMEOUT

    return run(scenario)


def test_a_model_that_is_not_there_is_no_end() -> Deferred[None]:
    """A server that went away is passed over; next time it is asked last."""

    async def scenario() -> None:
        async with FakeProvider(OK) as gone:
            lost = candidate(gone, "lost")
        async with FakeProvider(OK) as good:
            talk = Talk()
            assert await talk.ask(lost, candidate(good, "good")) == "all is well"
            talk.asked.clear()
            assert await talk.ask(lost, candidate(good, "good")) == "all is well"
            assert talk.asked == ["openai-chat/good#0"]

    return run(scenario)


def test_cancel_asks_nobody_else() -> Deferred[None]:
    """A request that is cancelled ends at once, its connection closed."""

    async def scenario() -> None:
        async with FakeProvider(Behaviour(wait=True)) as one, FakeProvider(OK) as two:
            talk = Talk(Policy())
            task = asyncio.ensure_future(talk.ask(candidate(one, "a"), candidate(two, "b")))
            while not one.requests:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            while not one.closed:
                await asyncio.sleep(0.01)

            assert two.requests == []

    return run(scenario)


def test_a_refusal_stays_unless_the_policy_says_otherwise() -> Deferred[None]:
    """A model's refusal is the answer; with ``refusal`` the next model is asked."""

    async def scenario() -> None:
        refuses = Behaviour(words=(), finish="content_filter")
        async with FakeProvider(refuses) as one, FakeProvider(OK) as two:
            talk = Talk()
            with pytest.raises((failures.ContentFilterError, ChainExhausted)):
                await talk.ask(candidate(one, "a"), candidate(two, "b"))
            assert two.requests == []

            talk = Talk(Policy(failover_refusal=True))
            assert await talk.ask(candidate(one, "a"), candidate(two, "b")) == "all is well"

    return run(scenario)

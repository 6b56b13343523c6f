"""What keeps an agent's turns going: its chain of models and the room in their windows. It outlives turns."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from pydantic_ai.messages import ModelResponse

from gateway.agents.llmspec import WorkerSpec
from gateway.agents.workers.attempts import Chain, Shared
from gateway.agents.workers.chain import ChainModel
from gateway.agents.workers.context import Compacted, ContextKeeper, Notify, Sizes
from gateway.agents.workers.conversation import Conversation
from gateway.agents.workers.models import Candidate
from gateway.agents.workers.summary import Summariser
from gateway.core.cooldown import Cooldowns

Spent = Callable[[Candidate, ModelResponse], None]


class Recovery:
    """One for each agent: keys that rest, windows that were learned, and the tables that say how."""

    def __init__(self, spec: WorkerSpec, secrets: Sequence[str] = ()) -> None:
        policy = spec.failover.policy()
        self.config = spec.context
        self.shared = Shared(
            policy, Cooldowns(policy.cooldown), idle_s=spec.failover.idle_s, secrets=secrets
        )
        self.sizes = Sizes()

    def model(
        self,
        conversation: Conversation,
        candidates: Sequence[Candidate],
        *,
        notify: Notify,
        compacted: Callable[[Compacted], Awaitable[None]],
        chosen: Callable[[Candidate], None],
        spent: Spent,
    ) -> ChainModel:
        """Return the model of one turn."""
        summariser = Summariser(candidates, self.shared, self.config, self.sizes, spent=spent)
        keeper = self._keeper(conversation, summariser, notify, compacted)
        return ChainModel(
            Chain(tuple(candidates), self.shared, notify, chosen, spent=spent, context=keeper)
        )

    async def compact(
        self,
        conversation: Conversation,
        candidates: Sequence[Candidate],
        *,
        notify: Notify,
        instructions: str | None = None,
    ) -> Compacted | None:
        """Shorten a conversation between turns; None if there is nothing to shorten."""
        summariser = Summariser(
            candidates,
            self.shared,
            self.config,
            self.sizes,
            spent=lambda _candidate, _response: None,
            instructions=instructions,
        )

        async def told(_: Compacted) -> None:
            """Nobody is told: whoever asked gets it as the answer."""

        keeper = self._keeper(conversation, summariser, notify, told)
        return await keeper.compact(candidates[0])

    def _keeper(
        self,
        conversation: Conversation,
        summariser: Summariser,
        notify: Notify,
        compacted: Callable[[Compacted], Awaitable[None]],
    ) -> ContextKeeper:
        return ContextKeeper(
            conversation,
            self.config,
            self.sizes,
            summariser.summarise,
            notify=notify,
            compacted=compacted,
        )

"""How the llm agent passes from one model to the next, and how it shortens conversations: both tables."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from gateway.core.failover import Policy
from gateway.limits import Table

Seconds = Annotated[float, Meta(ge=0.1, le=3_600)]


class FailoverConfig(Table, frozen=True, omit_defaults=True):
    """What happens when a model fails, ``[agents.ID.failover]``."""

    attempts: Annotated[int, Meta(ge=1, le=10)] = 2
    """How often one request is tried with one key of one model."""
    first_token_s: Seconds = 60.0
    """How long one attempt may take until the answer begins."""
    budget_s: Seconds = 150.0
    """How long all attempts of one request may take until an answer begins or the run fails."""
    idle_s: Seconds = 60.0
    """How long an answer that has begun may stand still."""
    wait_s: Annotated[float, Meta(ge=0, le=600)] = 20.0
    """How long a request waits at most for a model that asked to be left alone, if no other is left."""
    refusal: bool = False
    """Whether a request that a model refuses to answer is put to the next model."""

    def policy(self) -> Policy:
        """Return it as the core has it."""
        return Policy(
            attempts_per_key=self.attempts,
            first_token_s=self.first_token_s,
            budget_s=self.budget_s,
            longest_wait_s=self.wait_s,
            failover_refusal=self.refusal,
        )


class ContextConfig(Table, frozen=True, omit_defaults=True):
    """How a conversation is kept within a model's window, ``[agents.ID.context]``."""

    compaction: bool = True
    """Whether older turns are put into a summary when the conversation no longer fits."""
    reserve_tokens: Annotated[int, Meta(ge=1)] | None = None
    """Kept free for the answer; without it the model's max_tokens, or a fifth of the window up to 8192."""
    target: Annotated[float, Meta(ge=0.1, le=0.9)] = 0.5
    """The share of the room that is full after a compaction."""
    summary_tokens: Annotated[int, Meta(ge=16, le=16_384)] = 800
    """Most tokens of a summary; it never takes more than a quarter of the window."""
    summary_s: Seconds = 60.0
    """How long a model may take for a summary; after it the older turns are cut down without one."""
    attempts: Annotated[int, Meta(ge=1, le=10)] = 3
    """How often a conversation is shortened in one turn."""

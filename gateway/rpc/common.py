"""What several families of methods share: session keys, ids and agents as clients give them."""

from __future__ import annotations

from msgspec import UNSET, UnsetType

from gateway.app.agents import Agent
from gateway.app.context import Context
from gateway.core.sessionkey import agent_of, is_malformed, parse
from gateway.errors import InvalidRequest

MAX_KEY_CHARS = 1024
"""Session keys and run ids ride on every event, so nobody may make them long."""

MAX_OFFSET = 2**53
"""The largest whole number of JavaScript; databases hold it too."""

_SENTINELS = frozenset({"global", "unknown"})


def session_key(context: Context, key: str, agent_id: str | UnsetType = UNSET) -> str:
    """Return the canonical key; ``agent_id`` names the agent of a key that has none.

    Raises InvalidRequest for a key that is malformed, blank or too long.
    """
    text = key.strip()
    if not text:
        raise InvalidRequest("session key must not be blank")
    if (
        not isinstance(agent_id, UnsetType)
        and not is_malformed(text)
        and parse(text) is None
        and text.lower() not in _SENTINELS
    ):
        text = f"agent:{agent_id.strip()}:{text}"
    if is_malformed(text) or len(text) > MAX_KEY_CHARS:
        raise InvalidRequest(f'malformed session key "{key[:128]}"')
    return context.services.agents.keys.canonical(text)


def check_run_id(run_id: str) -> str:
    """Return the id that a client chose for a run. Raises InvalidRequest if it is too long."""
    if len(run_id) > MAX_KEY_CHARS:
        raise InvalidRequest(f"the id of a run has at most {MAX_KEY_CHARS} characters")
    return run_id


def agent_for(context: Context, key: str) -> Agent:
    """Return the agent that owns a canonical key. Raises InvalidRequest if it is not configured."""
    agents = context.services.agents
    return agents.require(agent_of(key, agents.keys))


def named_agent(context: Context, agent_id: str | UnsetType = UNSET) -> Agent:
    """Return the agent with an id, or the default one. Raises InvalidRequest for an unknown id."""
    agents = context.services.agents
    if isinstance(agent_id, UnsetType):
        return agents.default
    agent = agents.get(agent_id.strip().lower())
    if agent is None:
        raise InvalidRequest(f'unknown agent id "{agent_id[:64]}"')
    return agent


def check_model(context: Context, model: str | None) -> None:
    """Raise InvalidRequest for a model of a provider that no agent has (version 4's rule)."""
    provider, slash, _ = (model or "").partition("/")
    providers = {known.provider for known in context.services.agents.models()}
    if slash and provider not in providers:
        raise InvalidRequest(f'Unknown provider "{provider[:64]}". Use /models to list providers.')

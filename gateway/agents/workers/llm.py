"""The gateway's own model worker: ``python -m gateway.agents.workers.llm``.

An agent program for the Agent Client Protocol on pydantic-ai. What it is comes in the environment
variable GATEWAY_LLM_SPEC, the keys in GATEWAY_LLM_KEYS, which is removed at once (see
:mod:`gateway.agents.llmspec`). Several sessions are served at the same time. ``session/new`` takes a
transcript to go on from in ``_meta.gateway.history`` (``[{role, text}]``, oldest first), ``session/prompt``
takes ``_meta.gateway {model, thinking, extraSystemPrompt}`` and answers ``_meta.gateway {usage,
provider, model}``.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys

import msgspec

from gateway.agents.launcher import forget
from gateway.agents.llmspec import SECRETS_VARIABLE, SPEC_VARIABLE, WorkerSecrets, WorkerSpec

try:  # the libraries take most of the worker's memory: where it is too little, it shows here
    from gateway.agents.workers.acp_server import serve_stdio, take_stdout
    from gateway.agents.workers.agent import LlmAgent
    from gateway.agents.workers.models import build_candidates
except MemoryError:
    sys.exit("the worker's libraries do not fit into memory_bytes of the agent's table: raise it")


def main() -> None:
    """Run the worker until its standard input ends."""
    stdout = take_stdout()
    # It writes a traceback for every line of a server's that is no message.
    logging.getLogger("mcp.client.stdio").setLevel(logging.CRITICAL)
    try:
        secrets = msgspec.json.decode(take_secret(SECRETS_VARIABLE) or "{}", type=WorkerSecrets)
        spec = msgspec.json.decode(os.environ.pop(SPEC_VARIABLE, ""), type=WorkerSpec)
    except msgspec.DecodeError as error:
        sys.exit(f"the gateway starts this program, with {SPEC_VARIABLE} set: {error}")
    try:
        candidates = build_candidates(spec, secrets)
    except Exception as error:
        sys.exit(f"the model can not be made: {type(error).__name__}: {error}")
    asyncio.run(_serve(LlmAgent(spec, candidates, secrets), stdout))
    sys.stderr.flush()
    os._exit(0)  # all is closed; to take the libraries apart holds up the gateway's stop for 0.3 s


def take_secret(name: str) -> str | None:
    """Return an environment variable and remove it, also from what other programs can read of this one."""
    value = os.environ.get(name)
    forget(name)
    os.environ.pop(name, None)
    return value


async def _serve(agent: LlmAgent, stdout: int) -> None:
    try:
        await serve_stdio(agent, stdout)
    finally:
        await agent.close()


if __name__ == "__main__":
    main()

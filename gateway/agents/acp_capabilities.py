"""What an agent program said in its answer to ``initialize``."""

from __future__ import annotations

from typing import Any, NamedTuple

from gateway.agents.acp_values import items, mapping, text_of
from gateway.errors import BackendError

PROTOCOL_VERSION = 1


class Capabilities(NamedTuple):
    """What an agent can do.

    ``load`` to ``http`` are ACP's; ``history`` (takes the conversation when it opens a session),
    ``events``, ``steer``, ``compact``, ``models`` and ``forget`` are of agents that were made for the
    gateway.
    """

    name: str | None = None
    load: bool = False
    resume: bool = False
    close: bool = False
    images: bool = False
    audio: bool = False
    embedded: bool = False
    http: bool = False
    history: bool = False
    events: bool = False
    steer: bool = False
    compact: bool = False
    models: bool = False
    forget: bool = False
    logins: tuple[str, ...] = ()
    """The ways to log in that it names, for people."""

    @property
    def ours(self) -> bool:
        """Whether it takes what the gateway tells beside the prompt: model, thinking, history."""
        return self.history


def read_capabilities(answer: Any) -> Capabilities:
    """Return what an answer to ``initialize`` says. Raises BackendError for another protocol version."""
    shape = mapping(answer)
    version = shape.get("protocolVersion")
    if version != PROTOCOL_VERSION or isinstance(version, bool):
        raise BackendError(f"speaks version {version!r:.20} of the protocol, not 1")
    agent = mapping(shape.get("agentCapabilities"))
    prompt = mapping(agent.get("promptCapabilities"))
    session = mapping(agent.get("sessionCapabilities"))
    ours = mapping(mapping(agent.get("_meta")).get("gateway"))
    name = text_of(mapping(shape.get("agentInfo")).get("name"))
    return Capabilities(
        name=name and name[:100],
        load=agent.get("loadSession") is True,
        resume=isinstance(session.get("resume"), dict),
        close=isinstance(session.get("close"), dict),
        images=prompt.get("image") is True,
        audio=prompt.get("audio") is True,
        embedded=prompt.get("embeddedContext") is True,
        http=mapping(agent.get("mcpCapabilities")).get("http") is True,
        history=ours.get("history") is True,
        events=ours.get("events") is True,
        steer=ours.get("steer") is True,
        compact=ours.get("compact") is True,
        models=ours.get("models") is True,
        forget=ours.get("forget") is True,
        logins=_logins(shape.get("authMethods")),
    )


def login_hint(logins: tuple[str, ...]) -> str:
    """Return what to do about an agent that wants to be logged in first."""
    ways = f" ({', '.join(logins)})" if logins else ""
    return (
        f"log in with the agent's own program{ways} as the user that the gateway runs as, "
        "or give it its key in the agent's env"
    )


def _logins(methods: Any) -> tuple[str, ...]:
    names = [
        text_of(mapping(method).get("name")) or text_of(mapping(method).get("id"))
        for method in items(methods)[:10]
    ]
    return tuple(name[:100] for name in names if name is not None)

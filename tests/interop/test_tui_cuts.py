"""The terminal interface of both generations, when the network between it and the gateway breaks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .clients import OpenClaw
from .install import Generation, Installation
from .link import Link
from .server import Gateway
from .terminal import Terminal

pytestmark = [pytest.mark.interop, pytest.mark.timeout(180, func_only=True)]

TURN_SECONDS = 20.0
SETTLED_SECONDS = 0.7
"""How long after a message stands on the screen it has been accepted, and the client knows."""


@pytest.fixture
def link(gateway: Gateway) -> Iterator[Link]:
    """Return a network to the gateway that can be cut."""
    with Link(gateway.port) as link:
        yield link


@pytest.fixture
def session(generation: Generation) -> str:
    """Return the key of a session that no other test uses: nothing of it is on the screen."""
    return f"agent:main:cuts-{generation.name}"


@pytest.fixture
def terminal(
    installations: dict[Generation, Installation],
    generation: Generation,
    gateway: Gateway,
    link: Link,
    session: str,
    tmp_path: Path,
) -> Iterator[Terminal]:
    """Return a terminal interface that reaches the gateway by the link."""
    home = tmp_path / generation.name
    openclaw = OpenClaw(installations[generation], home, link.url, gateway.token)
    terminal = openclaw.tui("--session", session)
    try:
        terminal.wait_for("connected | idle", 45)
        yield terminal
    finally:
        terminal.close()


def test_a_message_that_was_queued_when_the_network_broke_is_over(
    terminal: Terminal, link: Link, gateway: Gateway, session: str
) -> None:
    """A message that waited behind a run and was answered out of sight does not block the next one.

    The newer client says for ever that the agent is busy if it was told that the message is part of the
    conversation, and not how its run went.
    """
    queued, later = ("words that wait", "words of later")
    terminal.type("/tokens 200")
    terminal.wait_for("word5", TURN_SECONDS)
    terminal.type(queued)
    settled = time.monotonic() + SETTLED_SECONDS
    terminal.wait(lambda: time.monotonic() > settled, TURN_SECONDS, "pause")
    assert not gateway.ended_runs(session), "the first run was to go still"

    link.cut()
    terminal.wait(lambda: len(gateway.ended_runs(session)) == 2, TURN_SECONDS, "end of both runs")
    link.mend()

    terminal.wait(
        lambda: terminal.screen.lines.count(queued) == 2, TURN_SECONDS, f"answer to {queued!r}"
    )
    terminal.wait_for("connected | idle", TURN_SECONDS)
    terminal.type(later)
    terminal.wait(
        lambda: terminal.screen.lines.count(later) == 2, TURN_SECONDS, f"answer to {later!r}"
    )
    terminal.wait(
        lambda: [run["state"] for run in gateway.ended_runs(session)] == ["done"] * 3,
        TURN_SECONDS,
        "three runs that are done",
    )

"""The terminal interface of both generations on a pseudo-terminal, against a real gateway."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from .clients import OpenClaw
from .install import V3, V4, Generation
from .server import Gateway
from .terminal import ESCAPE, Terminal

pytestmark = [pytest.mark.interop, pytest.mark.timeout(180, func_only=True)]

MAIN = "agent:main:main"
TURN_SECONDS = 20.0


def wait_for_turn(terminal: Terminal, words: str) -> None:
    """Wait until the words can be read twice, as a person's and as the agent's, and all is quiet."""
    terminal.wait(
        lambda: terminal.screen.lines.count(words) == 2, TURN_SECONDS, f"echo of {words!r}"
    )
    terminal.wait_for("connected | idle", TURN_SECONDS)


def wait_for_run(terminal: Terminal, gateway: Gateway, session: str, states: list[str]) -> None:
    """Wait until the gateway's log says that the session's newest runs ended in these states."""
    terminal.wait(
        lambda: [run["state"] for run in gateway.ended_runs(session)][-len(states) :] == states,
        TURN_SECONDS,
        f"runs in {session} that ended as {states}",
    )


def test_tui_shows_the_words_of_the_agent(
    openclaw: OpenClaw, open_tui: Callable[[OpenClaw], Terminal], gateway: Gateway
) -> None:
    """A message that is typed is answered on the screen, by a run of the gateway."""
    words = f"seven {openclaw.generation.name} swans a-swimming"
    terminal = open_tui(openclaw)
    before = len(gateway.ended_runs(MAIN))

    terminal.type(words)

    wait_for_turn(terminal, words)
    wait_for_run(terminal, gateway, MAIN, ["done"])
    assert len(gateway.ended_runs(MAIN)) == before + 1


def test_tui_copes_with_turns_that_end_at_once(
    openclaw: OpenClaw, open_tui: Callable[[OpenClaw], Terminal], gateway: Gateway
) -> None:
    """A turn of one word and a turn that fails at once leave the screen ready for the next message.

    The newer client waits for ever when the end of a run reaches it together with the answer to its
    request.
    """
    name = openclaw.generation.name
    terminal = open_tui(openclaw)

    for word in (f"hello-{name}", f"again-{name}"):
        terminal.type(word)
        wait_for_turn(terminal, word)
    terminal.type("/error out of marbles")
    terminal.wait_for("run error: out of marbles")

    terminal.wait_for("connected | error")
    terminal.type(f"still-there-{name}")
    wait_for_turn(terminal, f"still-there-{name}")
    wait_for_run(terminal, gateway, MAIN, ["done", "done", "failed", "done"])


def test_tui_shows_the_conversation_so_far(
    openclaw: OpenClaw, open_tui: Callable[[OpenClaw], Terminal]
) -> None:
    """A terminal that is opened anew shows both sides of the last turn."""
    words = f"remember the {openclaw.generation.name} milk"
    first = open_tui(openclaw)
    first.type(words)
    wait_for_turn(first, words)
    first.type("/exit")
    first.wait_for_end()

    second = open_tui(openclaw)

    wait_for_turn(second, words)


def test_tui_shows_a_conversation_that_was_shortened(
    openclaw: OpenClaw, open_tui: Callable[[OpenClaw], Terminal]
) -> None:
    """A terminal opened on a conversation that was shortened shows what was said, and goes on."""
    words = f"never mind the {openclaw.generation.name} weather"
    first = open_tui(openclaw)
    first.type(words)
    wait_for_turn(first, words)
    first.type("/exit")
    first.wait_for_end()
    cut = json.loads(openclaw.call("sessions.compact", key="main", maxLines=1).stdout)
    assert (cut["ok"], cut["compacted"], cut["kept"]) == (True, True, 1)

    second = open_tui(openclaw)

    wait_for_turn(second, words)
    more = f"and another {openclaw.generation.name} thing"
    second.type(more)
    wait_for_turn(second, more)


def test_tui_aborts_a_run_with_escape(
    openclaw: OpenClaw, open_tui: Callable[[OpenClaw], Terminal], gateway: Gateway
) -> None:
    """Esc aborts a run that hangs, the screen says so, and the next message is answered."""
    terminal = open_tui(openclaw)
    terminal.type("/hang")
    terminal.wait(
        lambda: any(line.endswith("s | connected") for line in terminal.screen.lines),
        TURN_SECONDS,
        "sign of a running turn",
    )

    terminal.press(ESCAPE)

    terminal.wait_for("run aborted")
    wait_for_run(terminal, gateway, MAIN, ["aborted"])
    words = f"awake again {openclaw.generation.name}"
    terminal.type(words)
    wait_for_turn(terminal, words)
    wait_for_run(terminal, gateway, MAIN, ["aborted", "done"])


def test_tui_new_begins_an_empty_conversation(
    openclaw: OpenClaw, open_tui: Callable[[OpenClaw], Terminal], gateway: Gateway
) -> None:
    """The command ``/new`` clears the screen, and what follows is answered in a new session."""
    old, new = (f"{age} {openclaw.generation.name} story" for age in ("old", "new"))
    terminal = open_tui(openclaw)
    terminal.type(old)
    wait_for_turn(terminal, old)

    terminal.type("/new")

    terminal.wait(lambda: old not in terminal.screen.lines, TURN_SECONDS, "empty screen")
    terminal.type(new)
    wait_for_turn(terminal, new)
    wait_for_run(terminal, gateway, session_shown(terminal), ["done"])


def session_shown(terminal: Terminal) -> str:
    """Return the session key that the terminal interface shows in its second line."""
    prefix = "session "
    titles = [line for line in terminal.screen.lines if line.startswith(f"{prefix}agent:")]
    assert titles, f"no session on the screen:\n{terminal.screen}"
    return titles[0].removeprefix(prefix)


@pytest.mark.parametrize(("writer", "reader"), [(V3, V4), (V4, V3)], ids=["v3-to-v4", "v4-to-v3"])
def test_tuis_of_both_generations_share_a_conversation(
    writer: Generation,
    reader: Generation,
    make_client: Callable[[Generation], OpenClaw],
    open_tui: Callable[[OpenClaw], Terminal],
) -> None:
    """What one generation's person asks is answered on the other generation's screen as well."""
    words = f"hello from {writer.name} to {reader.name}"
    watching = open_tui(make_client(reader))
    typing = open_tui(make_client(writer))

    typing.type(words)

    wait_for_turn(typing, words)
    watching.wait_for(words)

"""Stop words and slash commands."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.stopwords import Command, is_stop_command, parse_command

ORDINARY = (
    "the a bus train can you me at build server when before tomorrow first don't never why go to"
)


@pytest.mark.parametrize(
    "text", "stop|esc|abort|wait|exit|interrupt|stop run|stop agent|/stop".split("|")
)
def test_a_stop_word_is_a_command(text: str) -> None:
    """The words of the protocol stop."""
    assert is_stop_command(text)


@pytest.mark.parametrize(
    "text",
    "STOP| Stop \n|stop\t run|Stop.|stop !|stop…|STOP！|stop)|/STOP!|ｓｔｏｐ|／ｓｔｏｐ".split(
        "|"
    ),
)
def test_a_whole_message_of_a_stop_word_is_a_command(text: str) -> None:
    """A stop word counts whatever its case, width, inner blanks and trailing punctuation."""
    assert is_stop_command(text)


@pytest.mark.parametrize(
    "text",
    "aufhören|AUFHÖREN|aufho\u0308ren|arrête|detén|pare|ferma|przestań|стоп|Прекрати!|dur|"
    "توقف|עצור|रुको|停止。|やめて|멈춰|dừng lại".split("|"),
)
def test_stop_words_come_in_several_languages(text: str) -> None:
    """People are obeyed in their own language, composed or decomposed."""
    assert is_stop_command(text)


@pytest.mark.parametrize(
    "text",
    [
        *"| |!|no|cancel|quit|stopped|non-stop|/stop now|/stopp|stop/|/new|'stop'|don't stop".split(
            "|"
        ),
        "stop\x00",
        "s t o p",
        "stop " * 20,
        "stop" + " " * 70 + "x",
    ],
)
def test_anything_else_is_an_ordinary_message(text: str) -> None:
    """A message that merely contains a stop word goes to the agent."""
    assert not is_stop_command(text)


@given(
    before=st.lists(st.sampled_from(ORDINARY.split())),
    after=st.lists(st.sampled_from(ORDINARY.split())),
    word=st.sampled_from(["stop", "Stop", "abort", "wait", "exit", "/stop", "halt"]),
    end=st.sampled_from(["", ".", "!", "?"]),
)
@settings(deadline=None)
def test_sentences_about_stopping_are_not_commands(
    before: list[str], after: list[str], word: str, end: str
) -> None:
    """A sentence with a stop word in it is a command only if there is nothing else in it."""
    sentence = " ".join([*before, word, *after]) + end

    assert is_stop_command(sentence) is (not before and not after)


@given(text=st.text())
@settings(deadline=None)
def test_no_text_makes_the_recognition_raise(text: str) -> None:
    """Any text is a command or none; a recognised ``/stop`` is a stop command too."""
    command = parse_command(text)

    assert is_stop_command(text) or command is None or command.name != "stop"


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("/stop", Command("stop")),
        (" /Stop! ", Command("stop")),
        ("/new", Command("new")),
        ("/NEW  hello\nthere ", Command("new", "hello\nthere")),
        ("\n/reset", Command("reset")),
        ("/Reset\tplease.", Command("reset", "please.")),
        ("/new /reset", Command("new", "/reset")),
    ],
)
def test_a_slash_command_begins_a_message(text: str, command: Command) -> None:
    """``/new`` and ``/reset`` take what follows as their text, ``/stop`` stands alone."""
    assert parse_command(text) == command


@pytest.mark.parametrize(
    "text",
    ["", "stop", "new", "/stop now", "/newer", "/new!", "say /new", "/ new", "//new", "/error x"],
)
def test_other_messages_are_no_slash_commands(text: str) -> None:
    """A message without one of the three commands at its start is the agent's."""
    assert parse_command(text) is None


@given(name=st.sampled_from(["new", "reset"]), rest=st.text())
@settings(deadline=None)
def test_the_text_after_a_command_is_kept(name: str, rest: str) -> None:
    """What follows ``/new`` or ``/reset`` comes back trimmed and otherwise untouched."""
    command = parse_command(f"/{name} {rest}")

    assert command is not None
    assert (command.name, command.rest) == (name, rest.strip())


def test_blanks_around_a_stop_word_do_not_make_it_long() -> None:
    """The length that rules a message out is that of its trimmed text."""
    assert is_stop_command(" " * 50 + "stop" + "\n" * 50)

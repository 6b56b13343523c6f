"""Every ``gatewayctl`` command that people are told of exists, with the options that it is told with."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from gateway.cli import cli
from gateway.core.catalogue import CATALOGUE
from gateway.core.causes import EXPLANATIONS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
INLINE = re.compile(r"`gatewayctl(?: ([^`]+))?`")
LINE = re.compile(r"^(?:\$ )?gatewayctl (.+)$", re.MULTILINE)
MENDS = re.compile(r"gatewayctl ([a-z-]+(?: [a-z]+ [A-Z]+)?(?: --[a-z-]+)*)")
"""In a sentence a command ends at the first word of the sentence that goes on."""


def wrong_in(words: list[str]) -> str | None:
    """Return the word that the command line does not know, if there is one.

    What begins with a dash is an option of the command before it, with its value; anything else behind a
    command is an argument.
    """
    command: click.Command = cli
    rest = iter(words)
    for word in rest:
        if isinstance(command, click.Group) and word in command.commands:
            command = command.commands[word]
        elif word.startswith("-"):
            name, equals, _ = word.partition("=")
            known = {
                name: each for each in command.params for name in (*each.opts, *each.secondary_opts)
            }
            if name not in known and name not in ("--help", "--version"):
                return word
            if not equals and name in known and not getattr(known[name], "is_flag", True):
                next(rest, None)
        elif command is cli or (isinstance(command, click.Group) and word[0].islower()):
            return word
    return None


def told(path: Path) -> Iterator[list[str]]:
    """Yield the commands of a page, as words; ``a|b`` stands for the first of several."""
    text = path.read_text(encoding="utf-8")
    for command in (*INLINE.findall(text), *LINE.findall(text)):
        bare = re.sub(r"\[|\]|…|\.\.\.", " ", command)
        words = shlex.split(bare.partition(" && ")[0].partition(" > ")[0], comments=True)
        yield [word.split("|")[0] for word in words]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_commands_of_a_page(path: Path) -> None:
    """What a page says to type can be typed."""
    assert [words for words in told(path) if wrong_in(words) is not None] == []


def test_commands_of_refusals_and_closes() -> None:
    """What a refusal or a close says mends it can be typed."""
    found = [words for advice in CATALOGUE.values() for words in MENDS.findall(advice.mend)]
    found += [words for each in EXPLANATIONS.values() for words in INLINE.findall(" ".join(each))]
    assert len(found) > 10
    assert [words for words in found if wrong_in(words.split()) is not None] == []


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("devices approve ID --latest", None),
        ("--version", None),
        ("devices aprove ID", "aprove"),
        ("device", "device"),
        ("token --shown", "--shown"),
    ],
)
def test_what_does_not_exist_is_found(line: str, word: str | None) -> None:
    """A misspelt command or option is named."""
    assert wrong_in(line.split()) == word

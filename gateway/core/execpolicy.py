"""The policy of exec approvals: whether a command is denied, asked for, or allowed unasked.

Requirements
    The verdict depends on the server's policy, on the agent as the server knows it, and on the command as it
    is run. What a client says of itself, or wishes, can only make it stricter. In doubt somebody is
    asked: quoting, paths, case and look-alikes never turn a question into permission.

Design
    A policy is resolved for an agent: its own values, then those of ``*``, then the defaults, then
    asking for everything that no list names. The list of an agent is its own and that of ``*``.

    An entry names a program by its absolute path, compared name by name and character by character.
    ``*`` stands for any ASCII characters within a name, ``**`` for any number of directories. The path
    must be written in normal form; if the caller has looked it up (symbolic links), both the
    path that is called and the one that was found must match, and their last names be equal.

    An entry may name arguments: one pattern each, ``**`` as the last for all that follow. A ``*`` at
    the beginning of a pattern matches no argument that begins with ``-``, since that is an option. An
    entry with ``commandText`` means exactly these words. For a program that starts others only an entry
    whose words are all literal counts.

    ``security`` deny denies all, full allows all, allowlist what the list names. What it does not
    name is asked (``ask`` on-miss, always) or denied (off); always asks for everything. ``askFallback``
    is what may go where nobody answers, and never more than ``security``.

Rejected
    Regular expressions in entries (they can take any time, and read as something else than they
    are); normalising a path that is not in normal form (with symbolic links it may be another one); names
    without a path (whoever sets the search path would decide); ignoring case.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeVar

from msgspec import UNSET, UnsetType

from gateway.core.execcommand import Command, normal_path, plain, starts_others
from gateway.core.sessionkey import normalise_agent_id
from gateway.model.execpolicy import (
    ExecAgentPolicy,
    ExecAllowlistEntry,
    ExecAsk,
    ExecDefaults,
    ExecPolicyFile,
    ExecSecurity,
)

T = TypeVar("T")

EVERY_AGENT: Final = "*"
MAX_PATTERN_CHARS: Final = 512
MAX_ENTRIES: Final = 500
"""Entries of one agent's list."""

_STRICTNESS: Final = tuple(ExecSecurity)


class Outcome(StrEnum):
    """What is to become of a command, the strictest first."""

    DENY = "deny"
    ASK = "ask"
    ALLOW = "allow"


_OUTCOMES: Final = tuple(Outcome)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The policy of one agent, resolved."""

    security: ExecSecurity
    ask: ExecAsk
    ask_fallback: ExecSecurity
    auto_allow_skills: bool
    allowlist: tuple[ExecAllowlistEntry, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruling:
    """What becomes of a command, and why."""

    outcome: Outcome
    reason: str
    """In a word or two, for the log and for people."""
    matched: ExecAllowlistEntry | None = None
    """The entry that names the command."""
    unanswered: bool = False
    """Whether it may go where it was asked and nobody answered."""
    lasting: ExecAllowlistEntry | None = None
    """The entry that would allow exactly this from now on; None where none can."""


def resolve(policy: ExecPolicyFile | None, agent_id: str | None) -> Settings:
    """Return what holds for an agent; without an id what holds for any."""
    agents = {} if policy is None or policy.agents is UNSET else policy.agents
    every = agents.get(EVERY_AGENT, ExecAgentPolicy())
    own = ExecAgentPolicy()
    if agent_id is not None:
        own = agents.get(normalise_agent_id(agent_id), own)
    defaults = ExecDefaults()
    if policy is not None and policy.defaults is not UNSET:
        defaults = policy.defaults
    said = (own, every, defaults)
    return Settings(
        security=_first([s.security for s in said], ExecSecurity.ALLOWLIST),
        ask=_first([s.ask for s in said], ExecAsk.ON_MISS),
        ask_fallback=_first([s.ask_fallback for s in said], ExecSecurity.DENY),
        auto_allow_skills=_first([s.auto_allow_skills for s in said], False),
        allowlist=(*_entries(own), *_entries(every)),
    )


def decide(settings: Settings, command: Command | None) -> Ruling:
    """Judge a command; None stands for one of which it is not certain what would be run."""
    words = None if command is None else _certain(command)
    matched = None
    if words is not None and command is not None:
        names = (words[0],) if command.resolved is None else (words[0], command.resolved)
        matched = next((e for e in settings.allowlist if _matches(e, names, words)), None)
    outcome, reason = _outcome(settings, listed=matched is not None)
    fallback = min(settings.ask_fallback, settings.security, key=_STRICTNESS.index)
    return Ruling(
        outcome=outcome,
        reason=reason,
        matched=matched,
        unanswered=fallback is ExecSecurity.FULL
        or (fallback is ExecSecurity.ALLOWLIST and matched is not None),
        lasting=None if settings.ask is ExecAsk.ALWAYS else _lasting(command, words),
    )


def stricter(ruling: Ruling, other: Ruling) -> Ruling:
    """Return the stricter of two verdicts on one command, the first where they are the same."""
    return min(ruling, other, key=lambda each: _OUTCOMES.index(each.outcome))


def as_wished(ruling: Ruling, security: str | None, ask: str | None) -> Ruling:
    """Return a verdict as a client wants it, as far as that is stricter.

    A word that is not known counts as the wish to be asked.
    """
    if security == ExecSecurity.DENY:
        wished = Outcome.DENY
    elif (
        ask not in (None, ExecAsk.OFF, ExecAsk.ON_MISS)
        or security not in (None, *ExecSecurity)
        or (security == ExecSecurity.ALLOWLIST and ruling.matched is None)
    ):
        wished = Outcome.ASK
    else:
        wished = Outcome.ALLOW
    return stricter(
        ruling,
        Ruling(outcome=wished, reason="as the client wants it", lasting=ruling.lasting),
    )


def flaw(entry: ExecAllowlistEntry) -> str | None:
    """Return why an entry could never match, or says something else than it seems to."""
    pattern = entry.pattern
    texts = (pattern, *(t for t in (entry.arg_pattern, entry.command_text) if t is not UNSET))
    if not pattern.startswith("/"):
        return "a pattern is an absolute path: names without one, and ~, match nothing"
    if max(map(len, texts)) > MAX_PATTERN_CHARS:
        return f"a pattern has at most {MAX_PATTERN_CHARS} characters"
    if not normal_path(pattern):
        return "a pattern is written without //, /./, /../, backslashes, final dots and hidden characters"
    if not all(map(plain, texts)):
        return "a pattern has no hidden or look-alike characters"
    if all(name.strip("*") == "" for name in pattern[1:].split("/")):
        return "a pattern of wildcards alone allows everything; say so by security full"
    return None


def exact_entry(argv: Sequence[str]) -> ExecAllowlistEntry:
    """Return the entry that means these words and nothing else."""
    return ExecAllowlistEntry(pattern=argv[0], command_text=shlex.join(argv))


def _outcome(settings: Settings, *, listed: bool) -> tuple[Outcome, str]:
    if settings.security is ExecSecurity.DENY:
        return Outcome.DENY, "security deny"
    full = settings.security is ExecSecurity.FULL
    if settings.ask is ExecAsk.ALWAYS:
        return Outcome.ASK, "ask always"
    if listed:
        return Outcome.ALLOW, "allowlist"
    if full:
        return Outcome.ALLOW, "security full"
    if settings.ask is ExecAsk.OFF:
        return Outcome.DENY, "not on the allowlist, and ask off"
    return Outcome.ASK, "not on the allowlist"


def _certain(command: Command) -> tuple[str, ...] | None:
    """Return the words of a command whose program is known for certain, else None."""
    words = command.words()
    if words is None or not all(map(plain, words)):
        return None
    called, found = words[0], command.resolved
    if found is None:
        return words if normal_path(called) else None
    same_name = called.rpartition("/")[2] == found.rpartition("/")[2]
    absolute = not called.startswith("/") or normal_path(called)
    return words if absolute and same_name and normal_path(found) else None


def _matches(entry: ExecAllowlistEntry, names: Sequence[str], words: tuple[str, ...]) -> bool:
    """Whether an entry names a command, whose program is called and was found by these names."""
    paths = [name for name in names if name.startswith("/")]
    pattern = entry.pattern[1:].split("/")
    if not all(_path_fits(pattern, path[1:].split("/")) for path in paths):
        return False
    if flaw(entry) is not None:
        return False
    if entry.command_text is not UNSET:
        return entry.command_text == shlex.join(words)
    literal, arguments = entry.arg_pattern is not UNSET, words[1:]
    if entry.arg_pattern is not UNSET:
        literal = "*" not in entry.pattern + entry.arg_pattern
        if not _arguments_fit(entry.arg_pattern.split(), arguments):
            return False
    return literal or not starts_others(paths, arguments)


def _lasting(command: Command | None, words: tuple[str, ...] | None) -> ExecAllowlistEntry | None:
    """Return the entry that means a command; None for one that is known only by what a caller looked up."""
    if command is None or words is None or command.resolved not in (None, words[0]):
        return None
    if not words[0].startswith("/") or "*" in words[0]:
        return None
    entry = exact_entry(words)
    return entry if flaw(entry) is None else None


def _path_fits(pattern: Sequence[str], path: Sequence[str]) -> bool:
    """Whether a path fits a pattern, both as lists of names."""
    at, position = 0, 0
    star, resume = -1, 0
    while position < len(path):
        if at < len(pattern) and pattern[at] == "**":
            star, resume = at, position
            at += 1
        elif at < len(pattern) and _name_fits(pattern[at], path[position]):
            at += 1
            position += 1
        elif star >= 0 and path[resume].isascii():
            resume += 1
            at, position = star + 1, resume
        else:
            return False
    return at == len(pattern)


def _arguments_fit(patterns: Sequence[str], arguments: Sequence[str]) -> bool:
    if patterns and patterns[-1] == "**":
        patterns, rest = patterns[:-1], len(arguments) - (len(patterns) - 1)
        if rest < 0:
            return False
        arguments = arguments[: len(patterns)]
    return len(patterns) == len(arguments) and all(
        not (pattern.startswith("*") and argument.startswith("-")) and _name_fits(pattern, argument)
        for pattern, argument in zip(patterns, arguments, strict=True)
    )


def _name_fits(pattern: str, name: str) -> bool:
    """Whether a name fits a pattern, in which ``*`` stands for any ASCII characters."""
    head, *rest = pattern.split("*")
    if not rest:
        return name == pattern
    tail = rest.pop()
    if len(name) < len(head) + len(tail) or not (name.startswith(head) and name.endswith(tail)):
        return False
    middle = name[len(head) : len(name) - len(tail)]
    free = []
    for piece in filter(None, rest):
        before, found, middle = middle.partition(piece)
        if not found:
            return False
        free.append(before)
    return all(map(str.isascii, (*free, middle)))


def _entries(agent: ExecAgentPolicy) -> tuple[ExecAllowlistEntry, ...]:
    return () if agent.allowlist is UNSET else agent.allowlist


def _first(values: Sequence[T | UnsetType], default: T) -> T:
    return next((value for value in values if not isinstance(value, UnsetType)), default)

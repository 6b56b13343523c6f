"""What a policy makes of a command: tricks never turn a question into permission."""

from __future__ import annotations

import shlex
from typing import Any

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gateway.core.execcommand import Command
from gateway.core.execpolicy import (
    MAX_PATTERN_CHARS,
    Outcome,
    Ruling,
    as_wished,
    decide,
    exact_entry,
    flaw,
    resolve,
    stricter,
)
from gateway.model import ExecAllowlistEntry, ExecPolicyFile

ENTRIES = [
    {"pattern": "/usr/bin/git"},
    {"pattern": "/opt/tools/*/run"},
    {"pattern": "/srv/**/lint"},
    {"pattern": "/home/jörg/bin/tool"},
    {"pattern": "/usr/bin/grep", "argPattern": "-n * **"},
    {"pattern": "/usr/bin/wc", "argPattern": "-l *.txt"},
    {"pattern": "/usr/bin/touch", "argPattern": ""},
    {"pattern": "/usr/bin/python3", "argPattern": "/srv/check.py"},
    {"pattern": "/usr/bin/env"},
    {"pattern": "/usr/bin/sudo", "argPattern": "**"},
    {"pattern": "/usr/bin/find"},
    {"pattern": "/usr/bin/*sh"},
    {"pattern": "/bin/bash", "commandText": "/bin/bash -c 'make all'"},
    {"pattern": "/data/**"},
    {"pattern": "/x/a*b*c/t"},
    {"pattern": "rg"},
]


def policy(entries: Any = ENTRIES, **values: Any) -> ExecPolicyFile:
    """Return a policy for the agent main."""
    agents = {"main": {"allowlist": entries, **values}}
    return msgspec.convert({"version": 1, "agents": agents}, ExecPolicyFile)


SETTINGS = resolve(policy(), "main")


def judged(command: str | list[str], resolved: str | None = None) -> Outcome:
    """Return the verdict on a text, or on words."""
    if isinstance(command, str):
        return decide(SETTINGS, Command(text=command, resolved=resolved)).outcome
    return decide(SETTINGS, Command(argv=tuple(command), resolved=resolved)).outcome


ALLOWED: list[Any] = [
    "/usr/bin/git",
    "/usr/bin/git status",
    "/usr/bin/git commit -m 'a; b $c'",
    ["/usr/bin/git", "log", "--format=%H"],
    "/opt/tools/v1.2/run --all",
    "/srv/lint",
    "/srv/a/lint",
    "/srv/a/b/c/lint x",
    "/home/jörg/bin/tool Grüße",
    "/usr/bin/grep -n x",
    "/usr/bin/grep -n x a -r b",
    "/usr/bin/wc -l notes.txt",
    "/usr/bin/touch",
    "/usr/bin/python3 /srv/check.py",
    "/usr/bin/find . -name x",
    "/bin/bash -c 'make all'",
    "/data/x",
    "/data/x/y z",
    "/x/a1b2c/t",
    "/x/abc/t",
]

TRICKS: list[Any] = [
    # another program, or none
    "",
    "/usr/bin/gitx",
    "/usr/bin/gi",
    "/usr/bin/git-shell",
    "/tmp/usr/bin/git",
    "/usr/bin",
    [""],
    # no path: whoever sets the search path decides
    "git status",
    "./git",
    "../usr/bin/git",
    "usr/bin/git",
    "rg x",
    "~/bin/git",
    "$HOME/bin/git",
    # case
    "/usr/bin/GIT",
    "/USR/bin/git",
    "/Usr/Bin/Git status",
    "/opt/tools/x/RUN",
    # paths that are written otherwise
    "//usr/bin/git",
    "/usr//bin/git",
    "/usr/./bin/git",
    "/usr/bin/./git",
    "/usr/bin/../bin/git",
    "/tmp/../usr/bin/git",
    "/usr/bin/git/",
    "/usr/bin/git.",
    "/usr/bin/git ./../git/../../../tmp/x;",
    ["/usr/bin/git "],
    [" /usr/bin/git"],
    ["/usr/bin/git\x00"],
    "/usr/bin\\git",
    "C:/usr/bin/git",
    "file:///usr/bin/git",
    # wildcards stay within a name, and name at least one
    "/opt/tools/run",
    "/opt/tools/a/b/run",
    "/opt/tools/../../tmp/run",
    "/opt/tools/./run",
    "/srv/../tmp/lint",
    "/srv/a/../../tmp/lint",
    "/srv/a/lint/x",
    "/data",
    "/data/",
    "/data/../etc/x",
    "/x/acb/t",
    "/x/ab/t",
    "/x/axxc/t",
    # look-alikes and what is not seen
    "/usr/bin/gіt",
    "/usr/bin/ｇit",
    "/usr/bin/g\u200bit",
    "/usr/bin/git\u200b status",
    "/usr/bin/git\u00a0status",
    "/usr/bin\u2215git",
    "/usr/bin/git \u202ereversed",
    "/opt/tools/ünter/run",
    "/srv/ünter/lint",
    "/data/ünter",
    "/home/jo\u0308rg/bin/tool",
    ["/usr/bin/git", "a\nb"],
    ["/usr/bin/git", "a\x00b"],
    ["/usr/bin/git", "a\x1b[2Jb"],
    ["/usr/bin/git\n/bin/rm"],
    # syntax of shells
    "/usr/bin/git status; rm -rf /",
    "/usr/bin/git status && rm x",
    "/usr/bin/git status || rm x",
    "/usr/bin/git status | sh",
    "/usr/bin/git status & rm x",
    "/usr/bin/git $(rm x)",
    "/usr/bin/git `rm x`",
    "/usr/bin/git > /etc/passwd",
    "/usr/bin/git < x",
    "/usr/bin/git *",
    "/usr/bin/git {a,b}",
    "/usr/bin/git ~",
    "/usr/bin/git # x",
    "/usr/bin/git \\\nrm",
    "/usr/bin/git\nrm x",
    "/usr/bin/git\rrm x",
    "/usr/bin/git 'a",
    '/usr/bin/git "$(rm x)"',
    '/usr/bin/git "`rm x`"',
    "GIT_PAGER=evil /usr/bin/git log",
    "PATH=/tmp /usr/bin/git log",
    "! /usr/bin/git",
    "(/usr/bin/git)",
    "{ /usr/bin/git; }",
    "exec /usr/bin/git",
    ". /usr/bin/git",
    # programs that start others
    "/usr/bin/env",
    "/usr/bin/env /usr/bin/git",
    "/usr/bin/env -S rm x",
    "/usr/bin/sudo /usr/bin/git",
    "/usr/bin/python3 -c 'import os'",
    "/usr/bin/python3 /srv/check.py extra",
    "/usr/bin/python3",
    "/usr/bin/zsh",
    "/usr/bin/ksh x",
    "/bin/bash -c 'make all; rm x'",
    "/bin/bash -c make all",
    "/usr/bin/git -c core.pager=rm log",
    "/usr/bin/git --exec-path=/tmp status",
    "/usr/bin/find . -exec rm {} +",
    "/usr/bin/find . -delete",
    "/data/bin/sh -c x",
    # arguments that the entry does not name
    "/usr/bin/grep x",
    "/usr/bin/grep -n",
    "/usr/bin/grep -n -f/etc/shadow",
    "/usr/bin/wc -l notes.txt.sh",
    "/usr/bin/wc -l -x.txt",
    "/usr/bin/wc -l a.txt b.txt",
    "/usr/bin/wc -l ünter.txt",
    "/usr/bin/touch x",
]


@pytest.mark.parametrize("command", ALLOWED, ids=repr)
def test_what_the_list_names_is_allowed(command: Any) -> None:
    """A command whose program and arguments an entry names is allowed, as text and as words."""
    assert judged(command) is Outcome.ALLOW
    if isinstance(command, str):
        assert judged(shlex.split(command)) is Outcome.ALLOW


@pytest.mark.parametrize("command", TRICKS, ids=repr)
def test_a_trick_is_asked(command: Any) -> None:
    """What only resembles something that is allowed is put to an operator."""
    assert judged(command) is Outcome.ASK


def test_there_are_many_tricks() -> None:
    """The table of tricks stays long, and no row is in it twice."""
    assert len(TRICKS) == len(set(map(repr, TRICKS))) >= 100


@pytest.mark.parametrize(
    ("called", "found", "outcome"),
    [
        ("git", "/usr/bin/git", Outcome.ALLOW),
        ("/usr/bin/git", "/usr/bin/git", Outcome.ALLOW),
        ("/opt/tools/a/run", "/opt/tools/b/run", Outcome.ALLOW),
        ("git", "/tmp/git", Outcome.ASK),
        ("rm", "/usr/bin/git", Outcome.ASK),
        ("/tmp/git", "/usr/bin/git", Outcome.ASK),
        ("/usr/bin/git", "/tmp/git", Outcome.ASK),
        ("/usr/bin/./git", "/usr/bin/git", Outcome.ASK),
        ("git", "/usr/bin/../bin/git", Outcome.ASK),
        ("git", "git", Outcome.ASK),
        ("git", "", Outcome.ASK),
        ("GIT", "/usr/bin/git", Outcome.ASK),
    ],
)
def test_a_program_that_was_looked_up(called: str, found: str, outcome: Outcome) -> None:
    """A name counts as the path that was found for it, and a path must be allowed by both."""
    assert judged([called], found) is outcome


def test_nothing_certain_is_asked() -> None:
    """A command of which nothing is certain is asked, and nothing lasting comes of it."""
    ruling = decide(SETTINGS, None)

    assert (ruling.outcome, ruling.lasting) == (Outcome.ASK, None)


ASCII = "".join(map(chr, range(32, 127)))
WORD = st.text("abcXYZ019._/-=+,", min_size=1, max_size=8)
META = "|&;<>()$`\\\"'*?[]{}#~!^\n\t\r\x00"


@given(st.lists(st.text(min_size=0, max_size=8), max_size=4))
def test_quoting_changes_nothing(arguments: list[str]) -> None:
    """Words, and the text that quotes them, get the same verdict unless the text is not certain."""
    argv = ["/usr/bin/git", *arguments]

    as_words, as_text = judged(argv), judged(shlex.join(argv))

    assert as_text is as_words or as_text is Outcome.ASK
    if all(word.isascii() and word.isprintable() and "\\" not in word for word in argv):
        assert as_text is as_words


@given(st.lists(WORD, max_size=3), st.sampled_from(META), st.integers(0, 40))
def test_a_character_of_a_shell_is_never_allowed(words: list[str], char: str, at: int) -> None:
    """A character that a shell gives a meaning to, anywhere in an allowed text, makes it a question."""
    text = " ".join(["/usr/bin/git", *words])
    at %= len(text) + 1

    assert judged(text[:at] + char + text[at:]) is not Outcome.ALLOW


@given(st.sampled_from(["/usr/bin/git", "/opt/tools/x/run", "/srv/x/lint"]), st.data())
def test_another_case_is_never_allowed(path: str, data: Any) -> None:
    """A path in which the case of a literal letter is changed is another path."""
    letters = [i for i, char in enumerate(path) if char.isalpha() and path[i - 1 : i + 2] != "/x/"]
    at = data.draw(st.sampled_from(letters))
    changed = path[:at] + path[at].swapcase() + path[at + 1 :]

    assert judged([changed, "x"]) is not Outcome.ALLOW


@given(
    st.sampled_from(["/usr/bin/git", "/opt/tools/a/run", "/srv/x/lint", "/data/q"]),
    st.sampled_from(["/", "./", "../", "x/../", ".", "..", "/.", "\\"]),
    st.integers(0, 20),
)
def test_another_way_to_write_a_path_is_never_allowed(path: str, part: str, at: int) -> None:
    """Slashes, dots and steps up in a path make it a question, unless it is in normal form again."""
    at %= len(path) + 1
    changed = path[:at] + part + path[at:]
    dotted = [name for name in changed[1:].split("/") if not name.strip(".") or name.endswith(".")]
    assume(dotted or "\\" in changed or not changed.startswith("/"))

    assert judged([changed]) is not Outcome.ALLOW


@given(st.lists(st.text(ASCII + "äñ日", max_size=10), min_size=1, max_size=4))
def test_an_exact_entry_allows_its_words_only(argv: list[str]) -> None:
    """The entry that an answer for always makes allows these words again, and no others."""
    lasting = decide(resolve(None, "main"), Command(argv=("/bin/sh", *argv))).lasting
    assert lasting is not None
    settings = resolve(policy([msgspec.to_builtins(lasting)]), "main")

    def allowed(*words: str) -> bool:
        return decide(settings, Command(argv=("/bin/sh", *words))).outcome is Outcome.ALLOW

    assert allowed(*argv)
    assert not allowed(*argv, "x")
    assert not allowed(*argv[:-1])
    assert not allowed(" ".join(argv), "")


@pytest.mark.parametrize(
    ("security", "ask", "listed", "other"),
    [
        ("deny", "off", "deny", "deny"),
        ("deny", "on-miss", "deny", "deny"),
        ("deny", "always", "deny", "deny"),
        ("allowlist", "off", "allow", "deny"),
        ("allowlist", "on-miss", "allow", "ask"),
        ("allowlist", "always", "ask", "ask"),
        ("full", "off", "allow", "allow"),
        ("full", "on-miss", "allow", "allow"),
        ("full", "always", "ask", "ask"),
    ],
)
def test_security_and_ask(security: str, ask: str, listed: str, other: str) -> None:
    """Security and ask decide of what the list names, and of what it does not."""
    settings = resolve(policy(security=security, ask=ask), "main")

    assert decide(settings, Command(text="/usr/bin/git")).outcome == listed
    assert decide(settings, Command(text="rm x")).outcome == other


@pytest.mark.parametrize(
    ("security", "fallback", "listed", "other"),
    [
        ("full", "full", True, True),
        ("full", "allowlist", True, False),
        ("full", "deny", False, False),
        ("allowlist", "full", True, False),
        ("allowlist", "deny", False, False),
        ("deny", "full", False, False),
    ],
)
def test_what_goes_unanswered(security: str, fallback: str, listed: bool, other: bool) -> None:
    """Without an answer goes what askFallback says, and never more than security says."""
    settings = resolve(policy(security=security, ask="always", askFallback=fallback), "main")

    assert decide(settings, Command(text="/usr/bin/git")).unanswered is listed
    assert decide(settings, Command(text="rm x")).unanswered is other


def test_where_values_come_from() -> None:
    """An agent's own values count before those of all agents, and these before the defaults."""
    file = msgspec.convert(
        {
            "version": 1,
            "defaults": {"security": "deny", "ask": "always", "askFallback": "allowlist"},
            "agents": {
                "*": {"ask": "off", "allowlist": [{"pattern": "/bin/a"}]},
                "main": {"security": "full", "allowlist": [{"pattern": "/bin/b"}]},
            },
        },
        ExecPolicyFile,
    )
    main, other, any_ = resolve(file, "Main"), resolve(file, "other"), resolve(file, None)

    assert (main.security, main.ask, main.ask_fallback) == ("full", "off", "allowlist")
    assert [entry.pattern for entry in main.allowlist] == ["/bin/b", "/bin/a"]
    assert (other.security, [entry.pattern for entry in other.allowlist]) == ("deny", ["/bin/a"])
    assert any_ == other
    assert resolve(None, "main") == resolve(ExecPolicyFile(version=1), None)
    assert resolve(None, None).auto_allow_skills is False


@pytest.mark.parametrize(
    ("security", "ask", "of_listed", "of_full"),
    [
        (None, None, "allow", "allow"),
        ("full", "off", "allow", "allow"),
        ("allowlist", "on-miss", "allow", "ask"),
        ("allowlist", "always", "ask", "ask"),
        (None, "sometimes", "ask", "ask"),
        ("lax", None, "ask", "ask"),
        ("deny", "off", "deny", "deny"),
    ],
)
def test_a_wish_only_makes_it_stricter(
    security: str | None, ask: str | None, of_listed: str, of_full: str
) -> None:
    """What a client wants is done where it is stricter, and never loosens the policy."""
    listed = decide(SETTINGS, Command(text="/usr/bin/git"))
    full = decide(resolve(policy(security="full"), "main"), Command(text="rm x"))
    asked = decide(SETTINGS, Command(text="rm x"))
    denied = decide(resolve(policy(security="deny"), "main"), Command(text="rm x"))

    assert as_wished(listed, security, ask).outcome == of_listed
    assert as_wished(full, security, ask).outcome == of_full
    assert as_wished(asked, security, ask).outcome == ("deny" if security == "deny" else "ask")
    assert as_wished(denied, security, ask).outcome == "deny"


def test_the_stricter_of_two() -> None:
    """Of two verdicts the stricter counts, of two alike the first."""
    allow, ask, deny = (
        Ruling(outcome=o, reason=o) for o in (Outcome.ALLOW, Outcome.ASK, Outcome.DENY)
    )

    assert stricter(allow, ask) is stricter(ask, allow) is ask
    assert stricter(deny, allow) is deny
    again = Ruling(outcome=Outcome.ASK, reason="again")
    assert stricter(ask, again) is ask


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"pattern": "/usr/bin/git"}, None),
        ({"pattern": "/usr/**/git", "argPattern": "status *"}, None),
        ({"pattern": "git"}, "absolute path"),
        ({"pattern": "~/bin/git"}, "absolute path"),
        ({"pattern": ""}, "absolute path"),
        ({"pattern": "/usr//git"}, "written without"),
        ({"pattern": "/usr/../git"}, "written without"),
        ({"pattern": "/usr/bin/"}, "written without"),
        ({"pattern": "/usr/g\u200bit"}, "written without"),
        ({"pattern": "/usr/git", "argPattern": "a\u200b"}, "look-alike"),
        ({"pattern": "/usr/git", "commandText": "a\nb"}, "look-alike"),
        ({"pattern": "/**"}, "wildcards alone"),
        ({"pattern": "/*/**/*"}, "wildcards alone"),
        ({"pattern": "/" + "a" * MAX_PATTERN_CHARS}, "at most"),
        ({"pattern": "/a", "argPattern": "a" * (MAX_PATTERN_CHARS + 1)}, "at most"),
    ],
)
def test_flaws_of_entries(entry: dict[str, str], words: str | None) -> None:
    """An entry that could never match, or means everything, is told so."""
    found = flaw(msgspec.convert(entry, ExecAllowlistEntry))

    assert found is None if words is None else words in (found or "")


@pytest.mark.parametrize("pattern", ["/**", "/*/*/*"])
def test_an_entry_of_wildcards_alone_allows_nothing(pattern: str) -> None:
    """A list that came from elsewhere with an entry for everything allows no program by it."""
    settings = resolve(policy([{"pattern": pattern}]), "main")

    assert decide(settings, Command(text="/usr/bin/git")).outcome is Outcome.ASK


@pytest.mark.parametrize(
    ("command", "lasts"),
    [
        (Command(text="/bin/rm -rf 'a b'"), True),
        (Command(argv=("/bin/rm", "x"), resolved="/bin/rm"), True),
        (Command(argv=("/bin/rm", "x"), resolved="/usr/bin/rm"), False),
        (Command(argv=("rm", "x"), resolved="/bin/rm"), False),
        (Command(text="rm x"), False),
        (Command(text="/bin/rm $x"), False),
        (Command(argv=("/bin/*", "x")), False),
        (Command(argv=("/bin/rm", "x" * MAX_PATTERN_CHARS)), False),
    ],
)
def test_what_can_be_allowed_for_always(command: Command, lasts: bool) -> None:
    """Exactly a command's words can be allowed from now on, if its program is known by its path."""
    lasting = decide(SETTINGS, command).lasting

    words = command.words() or ()
    assert lasting == (exact_entry(words) if lasts else None)


def test_nothing_lasts_where_everything_is_asked() -> None:
    """Where the policy asks for everything no answer lasts."""
    settings = resolve(policy(ask="always"), "main")

    assert decide(settings, Command(text="/bin/rm x")).lasting is None

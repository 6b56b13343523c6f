"""What a command is: words that are certain, plain words, normal paths, programs that start others."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.execcommand import (
    MAX_PATH_CHARS,
    Command,
    normal_path,
    plain,
    simple_words,
    starts_others,
    texts_of,
)

SIMPLE = [
    ("ls", ("ls",)),
    ("  ls   -l ", ("ls", "-l")),
    ("/usr/bin/git commit -m 'two words'", ("/usr/bin/git", "commit", "-m", "two words")),
    ('/usr/bin/git commit -m "two words"', ("/usr/bin/git", "commit", "-m", "two words")),
    ("/usr/bin/g'i't", ("/usr/bin/git",)),
    ("echo ''", ("echo", "")),
    ("echo 'a;b' \"c|d\"", ("echo", "a;b", "c|d")),
    ("grep --color=auto a=b x:y 50%", ("grep", "--color=auto", "a=b", "x:y", "50%")),
    ("echo Grüße", ("echo", "Grüße")),
]

NOT_SIMPLE = [
    *("", "   ", "a; b", "a && b", "a || b", "a | b", "a & b", "a &", "a > f", "a < f", "a << E"),
    *("a $(b)", "a `b`", "a $HOME", 'a "$(b)"', 'a "`b`"', 'a "\\$"', 'a "!1"', "a \\; b", "a b\\"),
    *("a *", "a b?", "a [bc]", "a {b,c}", "a ~", "a ~root/x", "# a", "a # b", "!a", "a ^b", "(a)"),
    *("a\nb", "a\tb", "a\rb", "a\x0bb", "a\x00b", "a\x1bb", "a\u2028b", "a\u00a0b", "a\u200bb"),
    *("X=1 a", "a=b", "a =b", "a %1", "a @b", ": a", "'a", "a 'b\\'", 'a "b', "a 'b' 'c", "a 'b"),
]


@pytest.mark.parametrize(("text", "words"), SIMPLE)
def test_a_simple_command_has_words(text: str, words: tuple[str, ...]) -> None:
    """A text without anything that a shell gives a meaning to is its words."""
    assert simple_words(text) == words


@pytest.mark.parametrize("text", NOT_SIMPLE)
def test_shell_syntax_is_no_simple_command(text: str) -> None:
    """A text with any syntax of a shell has no words that could be trusted."""
    assert simple_words(text) is None


@given(st.lists(st.text("abc .-/'\"$;|*\\", max_size=6), min_size=1, max_size=4))
def test_what_is_split_is_what_a_shell_splits(argv: list[str]) -> None:
    """A text that has words here has the same words by the rules of POSIX."""
    for text in (shlex.join(argv), " ".join(argv)):
        words = simple_words(text)
        assert words is None or list(words) == shlex.split(text)
    safe = [word for word in argv if word and "\\" not in word]
    assert simple_words(shlex.join(safe)) == (tuple(safe) or None)


@given(st.lists(st.text("ab -/'\"$;|&#>\\{},()\t", max_size=5), min_size=1, max_size=4))
def test_a_text_of_words_is_read_as_these_words(argv: list[str]) -> None:
    """Whoever reads a text that stands for words, as a shell does, reads these words and no others."""
    for text in texts_of(argv):
        lexer = shlex.shlex(text, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        assert list(lexer) == argv


@pytest.mark.parametrize(
    ("text", "argv"),
    [
        ("find / -name 'x -delete y'", ["find", "/", "-name", "'x", "-delete", "y'"]),
        ("rm -r ./a && ls /", ["rm", "-r", "./a", "&&", "ls", "/"]),
        ("find /tmp # -delete", ["find", "/tmp", "#", "-delete"]),
        ("cp a $HOME", ["cp", "a", "$HOME"]),
    ],
)
def test_a_text_that_reads_otherwise_does_not_stand_for_words(text: str, argv: list[str]) -> None:
    """Quotes, operators and comments within words are no reason to take a text for them."""
    assert text in texts_of(argv, certain=False)
    assert text not in texts_of(argv)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (Command(text="ls -l"), ("ls", "-l")),
        (Command(argv=("ls", "a b")), ("ls", "a b")),
        (Command(text="ls 'a b'", argv=("ls", "a b")), ("ls", "a b")),
        (Command(), None),
        (Command(text="rm x", argv=("ls", "x")), None),
        (Command(text="ls a b", argv=("ls", "a b")), None),
        (Command(text="ls a; rm b", argv=("ls", "a;", "rm", "b")), None),
        (Command(text="ls | sh", argv=("ls",)), None),
    ],
)
def test_text_and_words_must_agree(command: Command, words: tuple[str, ...] | None) -> None:
    """Words beside a text that says something else are no words: either could be run."""
    assert command.words() == words


@pytest.mark.parametrize(
    ("word", "is_plain"),
    [
        ("abc -_;", True),
        ("", True),
        ("Grüße", True),
        ("日本", True),
        ("a\tb", False),
        ("a\nb", False),
        ("a\x00", False),
        ("a\x7f", False),
        ("a\u200bb", False),
        ("a\u202eb", False),
        ("a\u00a0b", False),
        ("ａbc", False),
        ("ﬁle", False),
        ("u\u0308ber", False),
        ("a\u3164", False),
        ("a\u2800", False),
        ("a\ufe0f", False),
        ("a\ud800", False),
        ("a\ue000", False),
    ],
)
def test_plain_words(word: str, is_plain: bool) -> None:
    """A word with anything hidden, or that only looks like another one, is not plain."""
    assert plain(word) is is_plain


@pytest.mark.parametrize(
    ("path", "is_normal"),
    [
        ("/usr/bin/git", True),
        ("/home/jörg/bin/x.sh", True),
        ("/usr/bin/a b", True),
        ("usr/bin/git", False),
        ("./git", False),
        ("", False),
        ("/", False),
        ("//usr/bin/git", False),
        ("/usr//bin/git", False),
        ("/usr/./bin/git", False),
        ("/usr/bin/../bin/git", False),
        ("/usr/bin/git/", False),
        ("/usr/bin/git.", False),
        ("/usr/bin/git ", False),
        ("/usr/ bin/git", False),
        ("/usr/bin\\git", False),
        ("C:\\git.exe", False),
        ("~/bin/git", False),
        ("/usr/bin/\u200bgit", False),
        ("/" + "a" * MAX_PATH_CHARS, False),
    ],
)
def test_normal_paths(path: str, is_normal: bool) -> None:
    """A path that could be written otherwise is not in normal form."""
    assert normal_path(path) is is_normal


@pytest.mark.parametrize(
    ("command", "starts"),
    [
        ("/bin/ls -l", False),
        ("/usr/bin/git status", False),
        ("/usr/bin/git log --oneline -p", False),
        ("/usr/bin/git -c core.pager=x log", True),
        ("/usr/bin/git -ccore.pager=x log", True),
        ("/usr/bin/git --exec-path=/tmp log", True),
        ("/usr/bin/git --exec-pa=/tmp log", True),
        ("/usr/bin/git submodule foreach x", True),
        ("/usr/bin/find . -name x", False),
        ("/usr/bin/find . -exec rm", True),
        ("/usr/bin/find . -execdir rm", True),
        ("/usr/bin/find . -delete", True),
        ("/usr/bin/tar xf a.tar", False),
        ("/usr/bin/tar -xf a --checkpoint-action=exec=sh", True),
        ("/usr/bin/tar -xf a --checkpoint-act=exec=sh", True),
        ("/usr/bin/tar -xIsh", True),
        ("/usr/bin/tar -- a", False),
        ("/usr/bin/find . --", False),
        ("/bin/sh x", True),
        ("/bin/BASH x", True),
        ("/usr/bin/python3.12 -c x", True),
        ("/usr/bin/pypy3 x", True),
        ("/opt/lua5.4 x", True),
        ("/bin/bash-5.2 x", True),
        ("/mnt/c/cmd.exe x", True),
        ("/usr/bin/env ls", True),
        ("/usr/bin/sudo ls", True),
        ("/bin/busybox ls", True),
        ("/lib64/ld-linux-x86-64.so.2 /bin/ls", True),
        ("/usr/bin/xdg-open x", True),
        ("/usr/bin/7z l", False),
        ("/usr/bin/md5sum x", False),
    ],
)
def test_programs_that_start_others(command: str, starts: bool) -> None:
    """Shells, interpreters and wrappers are known by any name, others by the options that start programs."""
    program, *arguments = command.split()

    assert starts_others([program], arguments) is starts


def test_either_name_of_a_program_counts() -> None:
    """A program called by a harmless name is what the name says that was found for it."""
    assert starts_others(["/usr/bin/view-log", "/usr/bin/python3"], [])


@pytest.mark.parametrize(
    "command",
    [
        # the letters of tar need no dash
        *("/usr/bin/tar cIf sh a b", "/usr/bin/tar xfI a sh", "/usr/bin/gtar xFf sh a"),
        *(
            "/usr/bin/bsdtar --use-compress-program=sh xf a",
            "/usr/bin/tar czf a --checkpoint-action=exec=id .",
        ),
        # a repository of somebody else brings its own hooks and programs
        *("/usr/bin/git -C /tmp/evil status", "/usr/bin/git --git-dir=/tmp/e status"),
        *("/usr/bin/git clone --template=/tmp/e a", "/usr/bin/git init --templ /tmp/e"),
        *("/usr/bin/git clone -u /tmp/e a", "/usr/bin/git fetch --upload-p=/tmp/e a"),
        *(
            "/usr/bin/git remote-ext o id",
            "/usr/bin/git merge-index id -a",
            "/usr/bin/git hook run x",
        ),
        *(
            "/usr/bin/git for-each-repo --config=a b",
            "/usr/bin/git shell -c id",
            "/usr/bin/git help -w x",
        ),
        *(
            "/usr/bin/git rebase --exec=id x",
            "/usr/bin/git grep -Oid x",
            "/usr/bin/git difftool -x id",
        ),
        *(
            "/usr/bin/git --config-env=core.pager=X log",
            "/usr/bin/git imap-send",
            "/usr/bin/git p4",
        ),
        # the same program by another name, as distributions have it
        *(
            "/usr/bin/vim.basic x",
            "/usr/bin/nc.openbsd x",
            "/bin/busybox.static sh",
            "/bin/bash-static",
        ),
        *(
            "/usr/bin/python3-dbg x",
            "/usr/bin/python3.12d x",
            "/usr/bin/perl5.36-x86_64-linux-gnu x",
        ),
        *(
            "/usr/bin/python3.11-dbg",
            "/usr/bin/lua5.4.6",
            "/usr/bin/env.real ls",
            "/bin/sh.distrib x",
        ),
        *(
            "/usr/bin/ksh93 x",
            "/usr/bin/luajit-2.1.0 x",
            "/usr/bin/emacs-gtk x",
            "/usr/bin/PHP8.2 x",
        ),
        *("/usr/bin/qemu-x86_64 /bin/sh", "/usr/bin/qemu-aarch64-static x", "/bin/busybox-i686 id"),
        # others that start what they are told to
        *("/usr/bin/watchexec id", "/usr/bin/setarch -R id", "/sbin/ip netns exec x id"),
        *(
            "/usr/bin/gcc -wrapper sh,-c,id x.c",
            "/usr/bin/tcpdump -z id",
            "/usr/bin/ssh-keygen -D x.so",
        ),
        *(
            "/usr/bin/rsync -M--rsh=id a b",
            "/usr/bin/rsync --daemon",
            "/usr/bin/hg --config x=y log",
        ),
        *(
            "/usr/bin/ag --pager=id x",
            "/usr/bin/gsort --compress-prog=id x",
            "/usr/bin/systemd-nspawn x",
        ),
        *(
            "/usr/bin/ssh -o ProxyCommand=id x",
            "/usr/bin/less x",
            "/usr/bin/awk x",
            "/usr/bin/sed x",
        ),
        *("/usr/bin/find . -okdir id", "/usr/bin/bfs . -exec id", "/usr/bin/find -files0-from=x"),
        # options that name a program, or a file of options that does
        *("/usr/bin/wget --config=/tmp/rc x", "/usr/bin/wget --conf /tmp/rc x"),
        *("/usr/bin/curl --engine /tmp/x.so x", "/usr/bin/tar -cf a -T /tmp/list"),
        *("/usr/bin/tar cfT a /tmp/list", "/usr/bin/tar -cf a --files-fr=/tmp/list"),
        *("/usr/bin/diff3 --diff-program=id a b c", "/usr/bin/sdiff --diff-prog=id a b"),
        "/usr/bin/install -s --strip-program=id a b",
        # a beginning of a word that is taken for the whole of it
        *("/sbin/ip netns e x id", "/sbin/ip vrf exe x id"),
        # built into shells, by whose rules a command in a subscript is run
        *("/usr/bin/printf -v a[$(id)] x", "/usr/bin/test -v a[$(id)]"),
        # tools for another machine, many programs in one file, and more names
        *("/usr/bin/x86_64-linux-gnu-gcc-12 -wrapper id x.c", "/usr/bin/aarch64-none-elf-g++ x"),
        *("/usr/bin/coreutils --coreutils-prog=env id", "/usr/bin/s6-setlock x id"),
        *("/usr/bin/original-awk x", "/usr/bin/vim.athena x", "/usr/bin/python3-intel64 x"),
        *("/usr/bin/arch -arm64 id", "/usr/bin/caffeinate id", "/usr/bin/xcrun id", "/bin/lksh x"),
        *("/usr/bin/systemd-inhibit id", "/usr/bin/bunx x", "/usr/bin/sensible-pager x"),
    ],
)
def test_more_ways_to_start_others(command: str) -> None:
    """Letters without a dash, repositories with hooks, names of distributions: they are known too."""
    program, *arguments = command.split()

    assert starts_others([program], arguments)


@pytest.mark.parametrize(
    "command",
    [
        *(
            "/usr/bin/tar xzf a",
            "/usr/bin/tar -tvf a",
            "/usr/bin/git log -p",
            "/usr/bin/git diff --stat",
        ),
        *(
            "/usr/bin/git add .",
            "/usr/bin/git push origin main",
            "/sbin/ip addr",
            "/usr/bin/git-lfs ls",
        ),
        *(
            "/usr/bin/printf %s x",
            "/usr/bin/install -d a",
            "/usr/bin/wget -q x",
            "/sbin/ip -s link",
        ),
        *("/usr/bin/x86_64-linux-gnu-strip x", "/usr/bin/diff3 a b c", "/usr/bin/base64 x"),
        *(
            "/opt/vim-like x",
            "/usr/bin/makeinfo x",
            "/usr/bin/shasum x",
            "/opt/lessons x",
            "/bin/tar xf If",
        ),
    ],
)
def test_twin_what_starts_nothing_is_left_alone(command: str) -> None:
    """Programs that only begin like one that starts others, and everyday options, are no reason to ask."""
    program, *arguments = command.split()

    assert not starts_others([program], arguments)

"""A command that somebody wants to run: its words, and whether they can be trusted to be what they seem.

Requirements
    What is compared with a list of allowed programs must be what is run. A text that a shell would read
    in another way than this module, a word that looks like another one, and a program that only
    starts another program must not pass for the harmless thing that they resemble.

Design
    A text is split only if it is one simple command: words, blanks, and quotes around what has no
    meaning inside them. Everything a shell gives a meaning to, in any of the common ones, makes it
    no simple command. What is split here is therefore split alike by all of them.

    A word is plain if it consists of characters that are seen, and that no other character looks the
    same as by Unicode's own tables (compatibility forms, marks, blanks and what is invisible).

    Programs that start others (shells, interpreters, wrappers, editors, build tools) are known by
    their name without case, version and ending; some start others only with certain options. The
    list errs on the side of asking.

Rejected
    ``shlex.split`` (it knows nothing of ``;``, ``$`` or globs, and takes a backslash); a full shell grammar
    (what it accepts more, nobody has to be spared the question for); asking the file system (that is
    the caller's, and may change before the command runs).
"""

from __future__ import annotations

import re
import shlex
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_SHELL_CALLS: Final = (("/bin/sh", "-lc"), ("/bin/sh", "-c"), ("cmd.exe", "/d", "/s", "/c"))
"""How nodes run a text that was approved as such."""

MAX_PATH_CHARS: Final = 1024
"""A longer path of a program matches nothing."""

_SPECIAL: Final = frozenset("|&;<>()$`\\\"'*?[]{}#~!^\t\n\r\v\f")
"""What some shell gives a meaning to outside of quotes, wherever it stands."""
_SPECIAL_QUOTED: Final = {'"': frozenset("$`\\!"), "'": frozenset("\\")}
"""What keeps a meaning inside of quotes, in some shell."""
_MISREAD: Final = frozenset("|&;<>()$`\\'{}#")
"""What in a word without quotes would be read as another word, or as the end of the command."""
_MISREAD_QUOTED: Final = frozenset("$`\\")
"""The same, between double quotes."""
_SPECIAL_FIRST: Final = frozenset("=%@:")
"""What some shell gives a meaning to at the beginning of a word."""
_UNSEEN: Final = frozenset("\u115f\u1160\u2800")
"""Letters and signs that are blank."""

_ENDING: Final = re.compile(r"\.(?:exe|com|bat|cmd|ps1)$")
_VERSION: Final = re.compile(
    r"(?:(?<=[a-z+])[-.]?[0-9][0-9.]*[a-z]?"
    r"|[-._](?:static|dbg|debug|real|distrib|basic|tiny|nox|p?gtk[23]?|lucid|athena|motif|gnome|openbsd"
    r"|traditional|huge|minimal|wrapper|bin|orig)"
    r"|-(?:intel)?(?:32|64)"
    r"|-(?:x86_64|i[3-6]86|aarch64|arm|riscv64|ppc64le|s390x)(?:-[a-z0-9-]*)?)$"
)
"""What is added to a name for a version or a way in which a program was built."""
_TARGET: Final = re.compile(
    r"^(?:x86_64|i[3-6]86|aarch64|arm\w*|riscv\w*|powerpc\w*|s390x|mips\w*|sparc\w*)-(?:\w+-)+(?=[a-z])"
)
"""What stands before the name of a tool that builds for another machine."""

_SHELLS = (
    "sh bash rbash dash ash zsh ksh rksh mksh lksh oksh pdksh yash posh mrsh osh ysh fish csh tcsh rc es "
    "scsh sash elvish nu xonsh murex ion pwsh powershell cmd"
)
_INTERPRETERS = (
    "python pythonw pypy ipython perl ruby irb node nodejs deno bun lua luajit php tclsh wish expect "
    "awk gawk mawk nawk sed gsed osascript java jshell groovy scala kotlin r rscript julia ghci runghc "
    "guile sbcl swift erl elixir escript iex m4 bc dc gnuplot octave sqlite3 sqlite psql mysql mongo "
    "mongosh redis-cli jython micropython bpython ptpython jupyter raku rakudo jrunscript jjs jdb gjs "
    "cjs qjs d8 jsc racket clisp ecl ccl clojure clj lein bb ocaml ocamlrun swipl gprolog runhaskell stack "
    "cabal janet gforth maxima sage zig crystal nim dart tcc rdmd dmd instantfpc original-awk bioawk mlr "
    "slsh pdb perldoc cpan prove erb ri gdbtui groff troff nroff pic ghostscript gs ctags msgexec msgfilter"
)
_WRAPPERS = (
    "env sudo sudoedit doas su runuser pkexec xargs parallel nice ionice chrt taskset timeout gtimeout "
    "nohup setsid stdbuf unbuffer script time watch entr strace ltrace gdb lldb valgrind perf chroot "
    "unshare nsenter bwrap firejail systemd-run at batch crontab flock exec eval command builtin source "
    "trap coproc start-stop-daemon run-parts capsh setpriv prlimit numactl catchsegv faketime "
    "proxychains torsocks torify dbus-run-session dbus-launch xvfb-run busybox toybox toolbox open "
    "xdg-open rlwrap fakeroot runcon sg newgrp chpst setuidgid softlimit envdir s6-setuidgid tini dumb-init "
    "gosu su-exec direnv watchexec nodemon hyperfine setarch linux32 linux64 cgexec choom cpulimit "
    "aa-exec proot schroot fakechroot systemd-nspawn chronic ifne pee vipe mispipe scriptlive ssh-agent "
    "ssh-keygen ssh-add ldd logrotate systemctl service wine mono bpftrace stap rr xterm uxterm "
    "alacritty kitty konsole gnome-terminal wezterm foot xinit startx xdotool run0 run-one systemd-cat "
    "systemd-inhibit systemd-notify systemd-socket-activate varlinkctl coredumpctl logsave daemon daemonize "
    "caffeinate arch xcrun sandbox-exec launchctl leaks dtrace dtruss truss ktrace jexec jail cpuset rtprio "
    "idprio genv gnice gnohup gstdbuf gchroot gxargs gtime gruncon sem rush runsv runsvdir multilog "
    "execlineb tcpserver pm2 forever supervisorctl supervisord catatonit step keychain gpg-agent iptables "
    "ip6tables modprobe insmod kmod mount agetty getty login vipw vigr visudo crond anacron sshfs patch "
    "sensible-editor sensible-pager sensible-browser select-editor editor pager x-terminal-emulator "
    "x-www-browser www-browser"
)
_REMOTE = (
    "ssh sshpass autossh mosh rsh rlogin telnet scp sftp docker podman nerdctl kubectl oc lxc "
    "lxc-attach machinectl vagrant ansible ansible-playbook salt screen tmux dtach abduco socat nc ncat "
    "netcat docker-compose buildah runc crun ctr crictl apptainer singularity terraform tofu pulumi helm "
    "slogin rcp pssh pdsh clush parallel-ssh ssh-copy-id tmate zellij byobu ttyd websocat rclone restic borg "
    "nomad consul etcdctl envconsul aws-vault chamber sops doppler stunnel openvpn virsh knife puppet"
)
_TOOLS = (
    "make gmake cmake ninja meson just task tox nox npm npx pnpm pnpx yarn corepack pip pipx uv uvx "
    "poetry hatch cargo rustup go gradle mvn ant dotnet msbuild bundle gem composer brew apt apt-get "
    "dpkg dnf yum rpm pacman snap flatpak nix nix-shell guix conda mamba vi vim nvim view vimdiff ex ed "
    "emacs emacsclient nano pico micro less more most man info ftp lftp mail mailx mutt gpg openssl ld "
    "cpio zip gcc g++ cc c++ clang clang++ rustc pytest rake ts-node tsx fzf bat tig lazygit hg svn gh "
    "tcpdump pandoc latex pdflatex xelatex lualatex tex nmap kak hx joe mc ranger nnn lf vifm w3m lynx "
    "bunx pipenv pdm rye poe pyenv rbenv nodenv asdf mise volta fnm nvm micromamba "
    "coverage mypy pylint flake8 eslint jest mocha gulp grunt vite webpack rollup rspec rails thor scons "
    "waf bazel buck pants samu ctest cpack autoreconf libtool gfortran gccgo cpp c89 c99 gold lld mold "
    "ccache distcc sccache bear opam dune flutter rview rvim gvim gview evim eview vimtutor vimx nvi elvis "
    "mg jed ne tilde zless zmore bzless bzmore xzless xzmore lzless zstdless lesspipe lessopen pg apk zypper "
    "emerge xbps-install opkg aptitude apt-key update-alternatives rpmbuild rpmquery rpmverify tshark "
    "smbclient htop ncdu magick convert mpv zathura s-nail bsd-mailx heirloom-mailx"
)
LAUNCHERS: Final = frozenset(" ".join((_SHELLS, _INTERPRETERS, _WRAPPERS, _REMOTE, _TOOLS)).split())
"""Programs that start whatever their arguments, their input or a file of the directory name."""

_LOADERS = ("ld-linux", "ld-musl", "ld.so")
_MANY_IN_ONE = ("busybox", "toybox", "qemu", "coreutils", "s6-")

_FIND = ("-exec", "-ok", "-delete", "-fprint", "-fls", "-files0-from")
_GIT = (
    "--config-env --exec --upload-pack --receive-pack --open-files-in-pager --ext-diff --textconv --paginate "
    # another repository or template brings hooks and programs of its own
    "--git-dir --template --tool"
).split()
_GIT_COMMANDS = (
    "bisect submodule submodule--helper difftool mergetool filter-branch config daemon hook maintenance "
    "for-each-repo remote-ext remote-fd shell web--browse instaweb send-email imap-send merge-index gui "
    "citool svn p4 cvsserver http-backend credential help"
).split()
_TAR = (
    "--to-command --checkpoint-action --use-compress-program --info-script --new-volume-script "
    # older ones take all options from a list of names
    "--rsh-command --rmt-command --files-from"
).split()
_OPTIONS: Final[dict[str, tuple[str, Sequence[str], Sequence[str]]]] = {
    **dict.fromkeys(("find", "gfind", "bfs"), ("", _FIND, ())),
    **dict.fromkeys(("fd", "fdfind"), ("xX", ("--exec",), ())),
    **dict.fromkeys(("rg", "ugrep"), ("", ("--pre", "--hostname-bin", "--filter", "--pager"), ())),
    **dict.fromkeys(("ag", "ack"), ("", ("--pager",), ())),
    **dict.fromkeys(("tar", "gtar", "bsdtar"), ("IFT", _TAR, ())),
    "git": ("cCOxu", _GIT, _GIT_COMMANDS),
    "rsync": ("eM", ("--rsh", "--rsync-path", "--remote-option", "--daemon", "--config"), ()),
    **dict.fromkeys(("sort", "gsort"), ("", ("--compress-program",), ())),
    **dict.fromkeys(("split", "gsplit"), ("", ("--filter",), ())),
    "curl": ("K", ("--config", "--engine"), ()),
    "wget": ("e", ("--execute", "--use-askpass", "--config"), ()),
    # ip takes the beginning of a word for the whole of it
    "ip": ("b", (), ("exec", "exe", "ex", "e")),
    **dict.fromkeys(("diff3", "sdiff", "gdiff3", "gsdiff"), ("", ("--diff-program",), ())),
    **dict.fromkeys(("install", "ginstall"), ("", ("--strip-program",), ())),
    # built into shells they evaluate the name of a variable, commands in its subscript included
    **dict.fromkeys(("test", "[", "printf"), ("vR", (), ())),
    "journalctl": ("", ("--pager",), ()),
}
"""Programs that start others with some options: letters, other options, and words that mean the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What is to be run, as far as it is known."""

    text: str = ""
    """As it was given as text, if it was."""
    argv: tuple[str, ...] = ()
    """The words, where they were given as such."""
    resolved: str | None = None
    """The absolute path of the program, where who asks has looked it up."""

    def words(self) -> tuple[str, ...] | None:
        """Return the words that are run; None where they are not known for certain.

        Where both a text and words are given, they must say the same: who asks may run either.
        """
        if not self.text:
            return self.argv or None
        words = simple_words(self.text)
        return words if words == (self.argv or words) else None


def texts_of(argv: Sequence[str], *, certain: bool = True) -> list[str]:
    """Return every text that means these words and, if ``certain``, no others."""
    texts = [shlex.join(argv)]
    if not certain or all(map(_quoted_well, argv)):
        texts.append(" ".join(map(_as_clients_quote, argv)))
    if tuple(argv[:-1]) in _SHELL_CALLS:
        texts.append(argv[-1])
    return texts


def simple_words(text: str) -> tuple[str, ...] | None:
    """Return the words of a text that is one simple command to every shell, else None."""
    words: list[str] = []
    position, size = 0, len(text)
    while position < size:
        if text[position] == " ":
            position += 1
            continue
        found = _word(text, position, first=not words)
        if found is None:
            return None
        word, position = found
        words.append(word)
    return tuple(words) or None


def plain(word: str) -> bool:
    """Whether a word is what it looks like."""
    if word.isascii():
        return word.isprintable()
    return unicodedata.normalize("NFKC", word) == word and all(map(_seen, word))


def normal_path(path: str) -> bool:
    """Whether a path is absolute and written in the one way that needs no reading."""
    if not path.startswith("/") or len(path) > MAX_PATH_CHARS or "\\" in path or not plain(path):
        return False
    return all(
        name and not name.endswith((".", " ")) and name[0] != " " for name in path[1:].split("/")
    )


def starts_others(paths: Sequence[str], arguments: Sequence[str]) -> bool:
    """Whether a program, known by these paths, runs something else than itself with these arguments."""
    for path in paths:
        name = _program(path)
        if name in LAUNCHERS or name.startswith(_LOADERS):
            return True
        if name.startswith(_MANY_IN_ONE):
            return True
        if name in _OPTIONS:
            # The first word of tar is its letters, with a dash or without one.
            first = [f"-{word}" for word in arguments[:1]] if name.endswith("tar") else []
            if any(_starts(each, *_OPTIONS[name]) for each in (*first, *arguments)):
                return True
    return False


def _quoted_well(word: str) -> bool:
    """Whether a word as the protocol's clients quote it reads as this word: they know of blanks alone."""
    misread = _MISREAD_QUOTED if _as_clients_quote(word) != word else _MISREAD
    return misread.isdisjoint(word)


def _as_clients_quote(word: str) -> str:
    """Quote a word as the protocol's own clients do where they show a command."""
    if word.strip() and not any(char.isspace() or char == '"' for char in word):
        return word
    return '"' + word.replace('"', '\\"') + '"'


def _word(text: str, position: int, *, first: bool) -> tuple[str, int] | None:
    """Return the word that begins at a position, and where it ends."""
    parts: list[str] = []
    start = position
    while position < len(text) and (char := text[position]) != " ":
        if char in ("'", '"'):
            end = text.find(char, position + 1)
            inside = text[position + 1 : end]
            if end < 0 or not _SPECIAL_QUOTED[char].isdisjoint(inside):
                return None
            parts.append(inside)
            position = end + 1
            continue
        if char in _SPECIAL or (first and char == "=") or not char.isprintable():
            return None
        if position == start and char in _SPECIAL_FIRST:
            return None
        parts.append(char)
        position += 1
    return "".join(parts), position


def _seen(char: str) -> bool:
    return char == " " or (unicodedata.category(char)[0] in "LNPS" and char not in _UNSEEN)


def _program(path: str) -> str:
    """Return the name of a program without case, ending and version."""
    name, before = _ENDING.sub("", path.rpartition("/")[2].casefold()), ""
    name = _TARGET.sub("", name)
    while name != before and name not in LAUNCHERS and name not in _OPTIONS:
        name, before = _VERSION.sub("", name), name
    return name


def _starts(argument: str, letters: str, options: Sequence[str], words: Sequence[str]) -> bool:
    if argument in words:
        return True
    if not argument.startswith("-"):
        return False
    name = argument.partition("=")[0]
    if any(name.startswith(option) for option in options):
        return True
    if name.startswith("--"):
        # GNU programs take the beginning of an option for the whole of it.
        return len(name) > 2 and any(option.startswith(name) for option in options)
    return any(letter in name[1:] for letter in letters)

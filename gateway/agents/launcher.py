"""Runs an agent program in a session of its own: ``launcher.py [--parent PID] -- COMMAND ARG…``.

A program of its own, standard library only, which replaces itself by the command:

- ``setsid``: the agent and what it starts form one process group, which the gateway can end as one
  without ending itself; a Ctrl-C in the gateway's terminal does not reach it.
- ``PR_SET_PDEATHSIG`` (Linux): the agent is killed when the gateway dies without a word. ``--parent``
  closes the gap before: if that process is gone already, the launcher ends.

Exit status 127: no such command; 126: it can not be run. It does not make the agent a child
subreaper: programs do not reap children that are not theirs, so these would stay as zombies.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Ask the kernel for SIGKILL when the parent dies. Does nothing where the kernel has no such thing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def main(argv: list[str]) -> int:
    """Become the command after ``--``. Returns an exit status if that fails."""
    options, separator, command = _split(argv)
    if not separator or not command:
        sys.stderr.write("usage: launcher.py [--parent PID] -- COMMAND ARG…\n")
        return 2
    os.setsid()
    die_with_parent()
    if len(options) == 2 and options[0] == "--parent" and os.getppid() != int(options[1]):
        return 1
    # Twisted and Python ignore SIGPIPE; a program that is started must not inherit that.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        os.execvp(command[0], command)  # noqa: S606 - the configured command, without a shell
    except FileNotFoundError:
        sys.stderr.write(f"no such command: {command[0]}\n")
        return 127
    except OSError as error:
        sys.stderr.write(f"can not run {command[0]}: {error.strerror}\n")
        return 126


def _split(argv: list[str]) -> tuple[list[str], bool, list[str]]:
    if "--" not in argv:
        return argv, False, []
    at = argv.index("--")
    return argv[:at], True, argv[at + 1 :]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

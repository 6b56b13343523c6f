"""Runs one agent program and stays as its parent, so that nothing of it is left at its end.

    launcher.py --parent PID --status FD [--memory BYTES] [--files N] [--nice N] -- COMMAND ARG…
    launcher.py --sweep NAME=VALUE

A program of its own, standard library only: it starts in some 15 ms and costs about 5 MB of memory.
On Linux it is to the agent what init is to the machine:

- ``setsid``: a Ctrl-C in the gateway's terminal reaches neither it nor the agent. The agent has a
  process group of its own in that session, so that what it sends to its group does not hit the launcher.
- ``PR_SET_CHILD_SUBREAPER``: what the agent leaves behind becomes a child of the launcher, which reaps it.
- ``PR_SET_PDEATHSIG``: the gateway's death ends the launcher and all below it; the launcher's death kills
  the agent. ``--parent`` closes the gap before: if that process is gone already, the launcher ends.
- Limits, of the agent alone: address space, open files, no core files, niceness, and a word to the
  kernel's killer on memory shortage that the agent goes first. The number of processes is not limited:
  ``RLIMIT_NPROC`` counts all of the user's, the gateway's too, and none of root's.

SIGTERM is handed on to the agent's group, and everything is killed if the agent is not gone in
:data:`GRACE_S`; SIGUSR1 kills everything at once. When the agent has ended, for whatever reason, every
descendant is killed: first all are stopped, until no new one appears, so that who forks faster than it is
killed loses too. Those of another user (a setuid program) can not be signalled, and stay.

Lines on the descriptor of ``--status``: ``pid N``; at the agent's end ``exit N`` or ``signal N`` (exit 127:
no such command, 126: it can not be run); ``left N`` if so many processes could not be ended in
:data:`KILL_S`. The launcher's own exit status is 0 if none is left, whatever the agent's was.

``--sweep`` ends every process that has this variable in its environment, and what it started: what is left
of an agent whose launcher was killed. Who has cleared its environment is not found.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import time

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
SECRETS_VARIABLE = "GATEWAY_LLM_KEYS"
"""The one variable that its reader removes, and that must not be found here then."""
GRACE_S = 2.0
"""How long the agent has to heed SIGTERM."""
KILL_S = 2.5
"""How long all that is left may take to die of SIGKILL."""
OOM_SCORE = 500
"""Of 1000: how much sooner than others the agent is killed when memory runs out."""
WATCHED = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)

# typing is not imported: every import is paid for at every start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Ours = Callable[[int, int], bool]
    """Says of a process, and its parent, whether it has to end."""


def prctl(option: int, value: int) -> None:
    """Ask the kernel for something for this process. Does nothing where the kernel has no such thing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def main(argv: list[str]) -> int:
    """Run the command after ``--``. Returns the launcher's exit status."""
    options, command = _split(argv)
    if "--sweep" in options:
        variable = os.fsencode(options["--sweep"])
        return 1 if end_all(lambda pid, _: has_variable(pid, variable), bool) else 0
    if not command or "--status" not in options:
        sys.stderr.write("usage: launcher.py --parent PID --status FD [OPTION…] -- COMMAND ARG…\n")
        return 2
    status = int(options["--status"])
    os.set_inheritable(status, False)
    os.set_blocking(status, False)
    # Blocked, they wait until they are asked for; from here on none is missed, none ends the launcher.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
    os.setsid()
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    prctl(PR_SET_PDEATHSIG, int(signal.SIGUSR1))
    if "--parent" in options and os.getppid() != int(options["--parent"]):
        return 1
    launcher = os.getpid()
    agent = os.fork()
    if agent == 0:
        os._exit(_become(command, options, before, launcher))
    # The child does it too: whoever comes first, the group is there before it is signalled.
    _own_group(agent)
    _let_go_of_pipes()
    forget(SECRETS_VARIABLE)
    return Launcher(agent, status).run()


def _split(argv: list[str]) -> tuple[dict[str, str], list[str]]:
    at = argv.index("--") if "--" in argv else len(argv)
    words = argv[:at]
    return dict(zip(words[::2], words[1::2], strict=False)), argv[at + 1 :]


class Launcher:
    """The life of the agent, seen from its parent."""

    def __init__(self, agent: int, status: int) -> None:
        self._agent = agent
        self._status = status
        self._ended = False

    def run(self) -> int:
        """Wait for the agent's end, end what is left of it; return the launcher's exit status."""
        self._tell(f"pid {self._agent}")
        deadline = None
        while not self._ended:
            if deadline is None:
                number = signal.sigwaitinfo(WATCHED).si_signo
            else:
                info = signal.sigtimedwait(WATCHED, max(0.0, deadline - time.monotonic()))
                number = info.si_signo if info else signal.SIGUSR1
            if number == signal.SIGCHLD:
                self._reap()
            elif number == signal.SIGUSR1:
                break
            else:
                deadline = deadline or time.monotonic() + GRACE_S
                send(-self._agent, signal.SIGTERM)
        launcher = os.getpid()
        left = end_all(lambda _, parent: parent == launcher, self._more)
        if left:
            self._tell(f"left {left}")
        return 1 if left else 0

    def _more(self, killed: set[int]) -> bool:
        if not os.path.isdir("/proc"):
            # Then its group is all that is known of it.
            send(-self._agent, signal.SIGKILL)
        return self._reap()

    def _reap(self) -> bool:
        """Reap all that have ended; return whether there are children still."""
        try:
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return True
                if pid == self._agent:
                    self._ended = True
                    code = os.waitstatus_to_exitcode(status)
                    self._tell(f"exit {code}" if code >= 0 else f"signal {-code}")
        except ChildProcessError:
            return False

    def _tell(self, line: str) -> None:
        try:
            os.write(self._status, line.encode() + b"\n")
        except OSError:
            # The gateway is gone, or does not read: there is nobody to tell.
            return


def _become(
    command: list[str], options: dict[str, str], mask: set[int | signal.Signals], launcher: int
) -> int:
    """In the child: become the command. Returns an exit status if that fails."""
    try:
        _own_group(0)
        prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
        if os.getppid() != launcher:
            return 1
        # Python ignores SIGPIPE; a program that is started must not inherit that.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        _limit(options)
        os.execvp(command[0], command)  # noqa: S606 - the configured command, without a shell
    except FileNotFoundError:
        sys.stderr.write(f"no such command: {command[0]}\n")
        return 127
    except (OSError, ValueError) as error:
        sys.stderr.write(f"can not run {command[0]}: {getattr(error, 'strerror', None) or error}\n")
        return 126


def _limit(options: dict[str, str]) -> None:
    _lower(resource.RLIMIT_CORE, 0)
    if "--files" in options:
        _lower(resource.RLIMIT_NOFILE, int(options["--files"]))
    os.nice(int(options.get("--nice", "0")))
    try:
        # Raising it wants no privilege; inside some containers the file can not be written at all.
        with open("/proc/self/oom_score_adj", "r+") as file:
            if int(file.read()) < OOM_SCORE:
                file.seek(0)
                file.write(str(OOM_SCORE))
    except OSError:
        pass
    if "--memory" in options:
        _lower(resource.RLIMIT_AS, int(options["--memory"]))


def _lower(which: int, value: int) -> None:
    _, hard = resource.getrlimit(which)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(which, (value, value))


def _own_group(pid: int) -> None:
    try:
        os.setpgid(pid, pid)
    except OSError:
        # It has done so itself, and has become the command by now.
        return


def _let_go_of_pipes() -> None:
    """The agent's pipes are between it and the gateway: held here too, their ends would not be seen."""
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)


def forget(name: str) -> None:
    """Overwrite the value of a variable where others can read it: the environment of this process's start.

    That is what /proc/PID/environ shows to every program of the same user; to remove a variable does not
    change it. Does nothing but on Linux.
    """
    if sys.platform != "linux":
        return
    start = os.fsencode(name) + b"="
    place = ctypes.POINTER(ctypes.c_void_p).in_dll(ctypes.CDLL(None), "environ")
    at = 0
    while entry := place[at]:
        text = ctypes.string_at(entry)
        if text.startswith(start):
            ctypes.memset(entry + len(start), 0, len(text) - len(start))
        at += 1


def send(pid: int, number: int) -> None:
    """Signal a process, or a group if negative. Nothing happens to who is gone, or another user's."""
    try:
        os.kill(pid, number)
    except OSError:
        return


def end_all(ours: Ours, more: Callable[[set[int]], bool]) -> int:
    """Kill the processes that ``ours`` knows, and all below them, until there are no more.

    ``more`` gets what was killed, and says whether there may be anything left. Returns how many are left
    when it was given up, after 2.5 s.
    """
    deadline = time.monotonic() + KILL_S
    _hurry()
    while True:
        victims = _freeze(ours, deadline)
        for pid in victims:
            send(pid, signal.SIGKILL)
        if not more(victims):
            return 0
        if time.monotonic() > deadline:
            return len(victims)
        time.sleep(0.002)


def _freeze(ours: Ours, deadline: float) -> set[int]:
    """Stop them all, until a look at all processes finds none that is new; return them.

    A stopped process does not fork, so each look takes less time than the one before, in which fewer are
    made.
    """
    victims: set[int] = set()
    while time.monotonic() < deadline:
        before = len(victims)
        for pid in processes():
            if pid not in victims:
                parent = parent_of(pid)
                if parent is not None and (parent in victims or ours(pid, parent)):
                    send(pid, signal.SIGSTOP)
                    victims.add(pid)
        if len(victims) == before:
            break
    return victims


def _hurry() -> None:
    """Come before a thousand processes that all want to run, if this one may."""
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    except (AttributeError, OSError):
        return


def processes() -> list[int]:
    """Return the ids of all processes; none where there is no /proc."""
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except FileNotFoundError:
        return []


def parent_of(pid: int) -> int | None:
    """Return the parent of a process; None if that has ended."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            # The name before the last parenthesis is the program's to choose.
            state, parent = file.read(1024).rpartition(b")")[2].split(None, 2)[:2]
    except OSError:
        return None
    return None if state in (b"Z", b"X") else int(parent)


def has_variable(pid: int, variable: bytes) -> bool:
    """Whether a process other than this one has ``NAME=VALUE`` in its environment."""
    try:
        with open(f"/proc/{pid}/environ", "rb", buffering=0) as file:
            return variable in file.read().split(b"\0") and pid != os.getpid()
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

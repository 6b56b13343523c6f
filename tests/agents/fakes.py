"""Doubles for agent backends: a recording sink, and a reactor whose processes are plain objects."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from signal import Signals
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.interfaces import IProcessTransport, IReactorProcess
from twisted.python.failure import Failure
from zope.interface import implementer

from gateway.interfaces import BackendEnvironment, IClock, IRunSink
from gateway.model import ApprovalRequest, Compaction, Decision, Message, RunRequest
from gateway.testing import FakeEntropy


def _split(argv: list[str]) -> tuple[list[str], str, list[str]]:
    at = argv.index("--") if "--" in argv else len(argv)
    return argv[:at], "--", argv[at + 1 :]


@implementer(IRunSink)
class RecordingSink:
    """Keeps what a backend puts into it."""

    def __init__(self, messages: tuple[Message, ...] = ()) -> None:
        self.parts: list[str] = []
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.messages = messages
        self.on_text: Callable[[str], None] = self.parts.append
        self.asked: list[ApprovalRequest] = []
        self.decide: Callable[[ApprovalRequest], Deferred[Decision | None]] = lambda _: succeed(
            None
        )
        self.bound: list[str | None] = []
        self.compactions: list[Compaction] = []
        self.note: Callable[[Compaction], Deferred[None]] = lambda _: succeed(None)

    @property
    def said(self) -> str:
        return "".join(self.parts)

    def text(self, delta: str) -> None:
        self.on_text(delta)

    def replace(self, text: str) -> None:
        self.parts[:] = [text]

    def emit(self, stream: str, data: dict[str, Any]) -> None:
        self.events.append((stream, data))

    def history(self, limit: int) -> Deferred[tuple[Message, ...]]:
        return succeed(self.messages[-limit:])

    def ask(self, request: ApprovalRequest) -> Deferred[Decision | None]:
        self.asked.append(request)
        return self.decide(request)

    def bind(self, agent_session: str | None) -> None:
        self.bound.append(agent_session)

    def compacted(self, compaction: Compaction) -> Deferred[None]:
        self.compactions.append(compaction)
        return self.note(compaction)


def run_request(text: str = "hello", **changes: Any) -> RunRequest:
    """Return a request in session ``agent:main:main``."""
    values: dict[str, Any] = {
        "run_id": "run-1",
        "session_key": "agent:main:main",
        "session_id": "session-1",
        "agent_id": "main",
        "text": text,
    }
    return RunRequest(**(values | changes))


def make_environment(state_dir: Path, clock: IClock, reactor: Any = None) -> BackendEnvironment:
    return BackendEnvironment(
        agent_id="main",
        reactor=reactor,
        clock=clock,
        entropy=FakeEntropy(),
        state_dir=str(state_dir),
    )


class FakePipe:
    """The gateway's end of a pipe: ``full`` makes it hold up its producer, as one that nobody reads does."""

    def __init__(self, process: FakeProcess) -> None:
        self._process = process
        self.producer: Any = None
        self.reading = True
        self.full = False

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        assert streaming
        self.producer = producer

    def unregisterProducer(self) -> None:
        self.producer = None

    def write(self, data: bytes) -> None:
        self._process.writeToChild(0, data)
        if self.full and self.producer is not None:
            self.producer.pauseProducing()

    def drain(self) -> None:
        """Somebody reads again."""
        self.full = False
        self.producer.resumeProducing()

    def stopReading(self) -> None:
        self.reading = False

    def startReading(self) -> None:
        self.reading = True

    def connectionLost(self, reason: Failure) -> None:
        self._process.pipes_closed = True


@implementer(IProcessTransport)
class FakeProcess:
    """A child under its launcher, which does what the test says."""

    def __init__(self, pid: int, protocol: Any, argv: list[str], env: Any, path: str) -> None:
        self.pid = pid
        self.options, _, self.argv = _split(argv)
        self.pipes = {number: FakePipe(self) for number in range(4)}
        self.env = env
        self.path = path
        self.protocol = protocol
        self.written = b""
        self.taken = 0
        self.signals: list[str] = []
        self.input_closed = False
        self.pipes_closed = False
        self.exited = False

    # What the backend does with it.

    def write(self, data: bytes) -> None:
        self.written += data

    def writeToChild(self, child_fd: int, data: bytes) -> None:
        assert child_fd == 0
        assert not self.input_closed
        self.written += data

    def writeSequence(self, data: Any) -> None:
        self.write(b"".join(data))

    def getHost(self) -> Any: ...

    def getPeer(self) -> Any: ...

    def closeStdin(self) -> None:
        self.input_closed = True

    def closeStdout(self) -> None: ...

    def closeStderr(self) -> None: ...

    def closeChildFD(self, descriptor: int) -> None:
        if descriptor == 0:
            self.input_closed = True
        else:
            self.pipes_closed = True

    def loseConnection(self) -> None:
        self.pipes_closed = True

    def signalProcess(self, signal_id: str | int) -> None:
        if self.exited:
            raise ProcessExitedAlready
        self.signals.append(Signals(signal_id).name if isinstance(signal_id, int) else signal_id)

    # What the test does with it.

    def messages(self) -> list[dict[str, Any]]:
        """Return the messages written to it since the last call."""
        lines = self.written[self.taken :].splitlines()
        self.taken = len(self.written)
        return [json.loads(line) for line in lines]

    def send(self, **message: Any) -> None:
        self.protocol.childDataReceived(
            1, json.dumps({"jsonrpc": "2.0"} | message).encode() + b"\n"
        )

    def answer(self, id_: int, result: Any) -> None:
        self.send(id=id_, result=result)

    def update(self, session_id: str, kind: str, **update: Any) -> None:
        params = {"sessionId": session_id, "update": {"sessionUpdate": kind} | update}
        self.send(method="session/update", params=params)

    def say(self, session_id: str, text: str) -> None:
        content = {"type": "text", "text": text}
        self.update(session_id, "agent_message_chunk", content=content)

    def tell(self, line: str) -> None:
        """Have the launcher tell something."""
        self.protocol.childDataReceived(3, line.encode() + b"\n")

    def exit(self, code: int | None = None, signal: int | None = None) -> None:
        """Exit, and the launcher with it, its pipes still open."""
        self.tell(f"exit {code}" if signal is None else f"signal {signal}")
        self.lose_launcher(0)

    def lose_launcher(self, code: int | None = None, signal: int | None = None) -> None:
        """End the launcher, without a word."""
        self.exited = True
        done = code == 0 and signal is None
        self.reason = Failure(ProcessDone(0) if done else ProcessTerminated(code, signal))
        self.protocol.processExited(self.reason)
        self.lose(3)

    def lose(self, descriptor: int) -> None:
        """Close a pipe from its other end."""
        del self.pipes[descriptor]
        self.protocol.childConnectionLost(descriptor)

    def end(self, code: int | None = None, signal: int | None = None) -> None:
        """Exit, and be read to the end."""
        if not self.exited:
            self.exit(code, signal)
        for descriptor in tuple(self.pipes):
            self.lose(descriptor)
        self.protocol.processEnded(self.reason)


@implementer(IReactorProcess)
class FakeReactor:
    """Spawns :class:`FakeProcess`; ``sweeps`` has those that look for what others have left."""

    def __init__(self) -> None:
        self.processes: list[FakeProcess] = []
        self.sweeps: list[FakeProcess] = []
        self.refuse: OSError | None = None

    def spawnProcess(
        self,
        process_protocol: Any,
        executable: Any,
        args: Any = (),
        env: Any = None,
        path: Any = None,
        uid: Any = None,
        gid: Any = None,
        use_pty: Any = False,
        childFDs: Any = None,  # noqa: N803 - Twisted's name
    ) -> FakeProcess:
        if self.refuse is not None:
            raise self.refuse
        group = self.sweeps if "--sweep" in args else self.processes
        pid = 1000 + len(self.processes) + 1000 * len(self.sweeps)
        process = FakeProcess(pid, process_protocol, list(args), env, path)
        group.append(process)
        process_protocol.makeConnection(process)
        return process

    def callFromThread(self, call: Any, *args: Any) -> None:
        call(*args)

    def getThreadPool(self) -> FakeReactor:
        return self

    def callInThreadWithCallback(self, done: Any, work: Any, *args: Any) -> None:
        """What would run in a thread runs at once."""
        try:
            result = work(*args)
        except Exception:
            done(False, Failure())
        else:
            done(True, result)

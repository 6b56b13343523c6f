"""gateway.net.transport: a TCP connection that sends at once, and is Twisted's in all else."""

from __future__ import annotations

import errno
import socket
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.internet import tcp
from twisted.internet.error import ConnectionAborted, ConnectionLost
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Protocol, ServerFactory
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
from zope.interface import implementer

from gateway.net.transport import (
    NOT_ACCEPTED_LOG_S,
    PAUSE_ABOVE,
    SLICE,
    Dismissal,
    FastPort,
    FastServer,
    pending_bytes,
    trust,
)
from tests.app.faults import Lines


class Kernel:
    """A socket whose buffer takes ``room`` bytes, and that fails on demand."""

    def __init__(self, room: int = 1 << 30) -> None:
        self.room = room
        self.error: int | None = None
        self.taken = b""
        self.calls = 0
        self.shut: list[int] = []

    def send(self, data: bytes | memoryview, flags: int = 0) -> int:
        self.calls += 1
        if self.error is not None:
            raise OSError(self.error, "failed")
        if self.room == 0:
            raise BlockingIOError(errno.EWOULDBLOCK, "full")
        part = bytes(data[: self.room])
        self.taken += part
        self.room -= len(part)
        return len(part)

    def shutdown(self, how: int) -> None:
        self.shut.append(how)

    def setblocking(self, flag: bool) -> None:
        pass

    def fileno(self) -> int:
        return 99

    def setsockopt(self, *args: Any) -> None:
        pass

    def close(self) -> None:
        pass


class Ends(Protocol):
    """Notes why the connection was lost."""

    lost: Any = None

    def connectionLost(self, reason: Any = None) -> None:
        self.lost = reason.type


@implementer(IPushProducer)
class Producer:
    """Counts how often it was paused and resumed."""

    paused = resumed = 0

    def pauseProducing(self) -> None:
        self.paused += 1

    def resumeProducing(self) -> None:
        self.resumed += 1

    def stopProducing(self) -> None:
        pass


class Link:
    """A server transport over a Kernel, driven by hand."""

    def __init__(self, kind: Any = FastServer, room: int = 1 << 30) -> None:
        self.kernel: Any = Kernel(room)
        self.reactor: Any = MemoryReactorClock()
        self.protocol = Ends()
        port: Any = type("Port", (), {"_realPortNumber": 1})
        self.transport: Any = kind(
            self.kernel, self.protocol, ("127.0.0.1", 1), port, 1, self.reactor
        )
        self.protocol.makeConnection(self.transport)

    @property
    def waits(self) -> bool:
        """Whether the reactor is asked to tell when it can be written."""
        return self.transport in self.reactor.getWriters()

    def turn(self) -> None:
        """One turn of the reactor, in which the socket can be written."""
        self.reactor.advance(0)
        if self.waits:
            reason = self.transport.doWrite()
            if reason is not None:
                self.transport.connectionLost(Failure(reason))


def test_sends_at_once() -> None:
    """What the kernel takes is sent by write itself, and no writer is registered."""
    link = Link()
    link.transport.write(b"hello")
    link.transport.writeSequence([b" ", b"world"])
    assert link.kernel.taken == b"hello world"
    assert not link.waits
    assert link.transport.pending_bytes == 0


def test_partial_send_keeps_the_rest() -> None:
    """What the kernel does not take is pending, and later writes queue up behind it."""
    link = Link(room=3)
    link.transport.write(b"hello")
    link.transport.write(b" world")
    assert (link.kernel.taken, link.transport.pending_bytes) == (b"hel", 8)
    assert link.kernel.calls == 1
    link.kernel.room = 4
    link.turn()
    assert (link.kernel.taken, link.transport.pending_bytes) == (b"hello w", 4)
    link.kernel.room = 100
    link.transport.write(b"!")
    assert link.transport.pending_bytes == 5
    link.turn()
    assert (link.kernel.taken, link.transport.pending_bytes) == (b"hello world!", 0)
    assert not link.waits
    link.transport.write(b"!")
    assert link.kernel.taken == b"hello world!!"


def test_full_kernel_buffers() -> None:
    """A kernel that takes nothing raises nothing here: all is pending."""
    link = Link(room=0)
    link.transport.write(b"hello")
    assert link.waits
    assert link.transport.pending_bytes == 5


@pytest.mark.parametrize("code", [errno.EPIPE, errno.ECONNRESET, errno.ENOBUFS, errno.EBADF])
@pytest.mark.parametrize("kind", [tcp.Server, FastServer])
def test_failed_send_is_reported_by_the_reactor(kind: type[tcp.Server], code: int) -> None:
    """A send that fails raises nothing: the next turn meets the error and loses the connection."""
    link = Link(kind)
    link.kernel.error = code
    link.transport.write(b"hello")
    assert link.protocol.lost is None
    link.turn()
    if code == errno.ENOBUFS:
        assert link.protocol.lost is None
        assert link.waits
    else:
        assert link.protocol.lost is ConnectionLost
        assert not link.waits
        link.transport.write(b"more")
        assert link.kernel.taken == b""


def test_nothing_is_sent_after_abort() -> None:
    """Once aborted, the connection sends no byte more."""
    link = Link()
    link.transport.abortConnection()
    link.transport.write(b"late")
    link.turn()
    assert link.kernel.taken == b""
    assert link.protocol.lost is not None


def test_nothing_is_sent_after_half_close() -> None:
    """Once the sending half is closed, writes are dropped as in the base class."""
    link = Link()
    link.transport.write(b"all")
    link.transport.loseWriteConnection()
    link.turn()
    assert link.kernel.shut == [1]
    link.transport.write(b"late")
    assert link.kernel.taken == b"all"


def test_close_sends_what_is_pending() -> None:
    """Closing sends the rest first, and what is written until then too."""
    link = Link(room=2)
    link.transport.write(b"hello")
    link.transport.loseConnection()
    link.transport.write(b" there")
    link.kernel.room = 100
    link.turn()
    assert link.kernel.taken == b"hello there"
    assert link.protocol.lost is not None


@pytest.mark.parametrize("data", ["text", bytearray(b"array"), None])
def test_only_bytes(data: Any) -> None:
    """What is not bytes is a TypeError, as in the base class, and empty bytes are nothing."""
    link = Link()
    with pytest.raises(TypeError):
        link.transport.write(data)
    link.transport.write(b"")
    assert link.kernel.calls == 0


def test_pause_and_resume() -> None:
    """A producer is paused above 16 KiB and resumed when all is sent; 64 KiB at most are pending."""
    link = Link(room=0)
    producer = Producer()
    link.transport.registerProducer(producer, True)
    link.transport.write(b"x" * PAUSE_ABOVE)
    assert producer.paused == 0
    link.transport.write(b"x" * SLICE)
    assert producer.paused == 1
    assert link.transport.pending_bytes == PAUSE_ABOVE + SLICE == 65_536
    link.kernel.room = 65_535
    link.turn()
    assert producer.resumed == 0
    link.kernel.room = 1
    link.turn()
    assert producer.resumed == 1


def test_a_stranger_is_read_in_small_pieces() -> None:
    """Who is not known is read 4 KiB at once; the lower limit of sending leaves the others at 64 KiB."""
    transport = Link().transport
    assert transport.bufferSize == 4096

    trust(transport)

    assert transport.bufferSize == 65_536


class Writer(Producer):
    """Writes again as soon as it is resumed."""

    def __init__(self, transport: Any) -> None:
        self.transport = transport

    def resumeProducing(self) -> None:
        super().resumeProducing()
        if self.resumed == 1:
            self.transport.write(b"y" * 10)


def test_write_from_resume() -> None:
    """What a producer writes while it is resumed goes out at once, behind everything else."""
    link = Link(room=0)
    link.transport.registerProducer(Writer(link.transport), True)
    link.transport.write(b"x" * (PAUSE_ABOVE + 1))
    link.kernel.room = 1 << 20
    link.turn()
    assert link.kernel.taken.endswith(b"xy" + b"y" * 9)
    assert not link.waits


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 40_000)),
        st.tuples(st.just("sequence"), st.integers(1, 300)),
        st.tuples(st.just("room"), st.integers(0, 60_000)),
        st.tuples(st.just("turn"), st.just(0)),
        st.tuples(st.sampled_from(["lose", "half"]), st.just(0)),
        st.tuples(st.just("error"), st.sampled_from([errno.EPIPE, errno.ECONNRESET])),
    ),
    max_size=30,
)


def play(kind: type[tcp.Server], steps: list[tuple[str, int]]) -> tuple[bytes, Any, list[int]]:
    """Do the steps on a transport of this kind, then drain it; return what a peer would see."""
    link = Link(kind, room=1000)
    for number, (step, value) in enumerate(steps):
        if link.protocol.lost is not None:
            break
        data = bytes([number]) * value
        if step == "write":
            link.transport.write(data)
        elif step == "sequence":
            link.transport.writeSequence([data, data])
        elif step == "room":
            link.kernel.room += value
        elif step == "error":
            link.turn()
            link.kernel.error = value
        elif step == "turn":
            link.turn()
        elif step == "lose":
            link.transport.loseConnection()
        else:
            link.transport.loseWriteConnection()
    link.kernel.room = 1 << 30
    for _ in range(50):
        link.turn()
    return link.kernel.taken, link.protocol.lost, link.kernel.shut


@given(STEPS.filter(lambda steps: all(step != "error" for step, _ in steps)))
def test_same_as_base(steps: list[tuple[str, int]]) -> None:
    """Any sequence of writes, closes and full kernels gives a peer what the base class gives."""
    assert play(FastServer, steps) == play(tcp.Server, steps)


@given(STEPS)
@example([("error", 32), ("sequence", 0)])
def test_same_end_as_base(steps: list[tuple[str, int]]) -> None:
    """With errors in between, bytes may be sent earlier, but in order, and the end is the same."""
    fast, base = play(FastServer, steps), play(tcp.Server, steps)
    assert fast[0].startswith(base[0])
    assert fast[1:] == base[1:]


def test_port_makes_fast_servers() -> None:
    """Connections of a FastPort are FastServers."""
    port, reactor = FastPort(0, ServerFactory(), reactor=MemoryReactorClock()), MemoryReactorClock()
    made = port.transport(Kernel(), Protocol(), ("192.0.2.7", 1), port, 1, reactor)
    assert type(made) is FastServer


class Unheard(Ends):
    """Says one thing."""

    unheard = True

    def connectionMade(self) -> None:
        transport: Any = self.transport
        transport.write(b"no")
        transport.loseWriteConnection()


class FailingListener:
    """A listening socket from which nobody can be accepted."""

    def __init__(self, code: int) -> None:
        self.code = code

    def accept(self) -> Any:
        raise OSError(self.code, "no")


def test_who_is_not_heard_costs_the_reactor_nothing() -> None:
    """The one answer is sent at once, the reactor never knows the socket, and it is closed once."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer = socket.create_connection(listener.getsockname())
        accepted, address = listener.accept()
    reactor = MemoryReactorClock()
    port = FastPort(0, ServerFactory(), reactor=reactor)
    protocol = Unheard()
    transport = port.transport(accepted, protocol, address, port, 1, reactor)
    protocol.makeConnection(transport)
    with peer:
        assert (peer.recv(10), peer.recv(10)) == (b"no", b"")
    assert not reactor.readers
    assert protocol.lost is None

    transport.abortConnection()
    transport.abortConnection()

    assert accepted.fileno() == -1
    assert protocol.lost is ConnectionAborted


def test_who_is_not_heard_may_be_gone() -> None:
    """A socket that fails fails nobody else."""
    kernel = Kernel()
    kernel.error = errno.EPIPE
    protocol = Unheard()
    protocol.makeConnection(Dismissal(kernel, protocol))
    assert kernel.taken == b""


def test_a_port_tells_that_it_accepted() -> None:
    """After each turn the hook is called with the port."""
    told: list[FastPort] = []
    port = FastPort(0, ServerFactory(), interface="127.0.0.1", reactor=MemoryReactorClock())
    port.startListening()
    try:
        port.doRead()
        port.accepted = told.append
        port.doRead()
    finally:
        port.connectionLost(Failure(ConnectionAborted()))
    assert told == [port]


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENOMEM])
def test_who_can_not_be_accepted_fills_no_log(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody can be accepted the log says so once a minute, however many come."""
    reactor = MemoryReactorClock()
    port = FastPort(0, ServerFactory(), interface="127.0.0.1", reactor=reactor)
    port.startListening()
    try:
        with monkeypatch.context() as patched, Lines() as lines:
            patched.setattr(port, "socket", FailingListener(code))
            for _ in range(100):
                port.doRead()
            told = list(lines.texts)
            reactor.advance(NOT_ACCEPTED_LOG_S)
            port.doRead()
    finally:
        port.connectionLost(Failure(ConnectionAborted()))
    (line,) = told
    assert line.startswith("connections can not be accepted: E")
    assert lines.texts == [line, line]


def test_pending_bytes_of_layers() -> None:
    """The pending bytes of a wrapped transport are those of all layers; an unknown one has none."""

    class Layer:
        def __init__(self, transport: Any) -> None:
            self.transport = transport
            self._appSendBuffer = [b"abc", b"d"]

    link = Link(room=0)
    link.transport.write(b"xy")
    assert pending_bytes(Layer(link.transport)) == 6
    assert pending_bytes(object()) == 0

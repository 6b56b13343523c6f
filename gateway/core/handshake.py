"""The handshake of one connection, as a machine without I/O.

The gateway speaks first (``connect.challenge``); the client answers with one ``connect`` request. While
that request is judged against the store, further frames wait, at most fifteen, and are handled in
order afterwards. Deadlines are values: the connection arms them on its clock, counted from the moment
the challenge was written, so that the gateway's own slowness is never held against a client.

States::

    fresh --challenge--> challenged --frame--> admitting --admit--> connected
                              |                    |
                              +-----refuse---------+--> failed

While a password is compared with its hash the machine is ``admitting`` already; ``verified`` then says
the outcome, and what follows is judged. So it is while the request has to wait before it is looked at,
until ``paused``.

The inputs return what the connection has to do; a refusal is returned, not raised, so that every
ending of a handshake takes the same way out. A machine that has refused has failed already; refusing
it again changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from automat import TypeMachineBuilder

from gateway.core.access import Peer
from gateway.core.attempts import Credential
from gateway.core.catalogue import CATALOGUE
from gateway.core.connect import DoorPolicy, Locked, Proven, judge, never_locked, shown
from gateway.core.connectparams import ClientParams, InvalidConnect, decode_connect
from gateway.core.credentials import Unverified
from gateway.core.frames import BadFrame, NotJson, Request, decode_request
from gateway.core.refusals import (
    Refusal,
    bad_first_frame,
    first_frame_not_json,
    invalid_params,
    not_connect_first,
)
from gateway.errors import CloseCause, CloseCode
from gateway.model import ClientInfo

MAX_CLAIMS = 300
"""Characters that are kept of what a client says of itself."""


@dataclass(frozen=True, slots=True)
class Ask:
    """The connect request is sound: ask the store whether it may come in, then admit or refuse."""

    frame_id: str
    proven: Proven


@dataclass(frozen=True, slots=True)
class Verify:
    """The password has to be compared with its hash, which takes time: do it, then say the outcome."""

    frame_id: str
    candidate: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Pause:
    """Too much is guessed where the client is: wait so many seconds, then go on."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Refuse:
    """Answer the error (if there is one) under this id, then close.

    ``shown`` are the kinds of credential that the client showed.
    """

    refusal: Refusal
    frame_id: str | None = None
    shown: tuple[Credential, ...] = ()


@dataclass(frozen=True, slots=True)
class Queued:
    """The frame waits until the handshake is over."""


@dataclass(frozen=True, slots=True)
class Pass:
    """The connection is established: the frame is a request like any other."""


@dataclass(frozen=True, slots=True)
class Ignore:
    """The handshake failed; what still comes in is not looked at."""


Step = Ask | Verify | Pause | Refuse | Queued | Pass | Ignore


class Handshake(Protocol):
    """The inputs of the machine."""

    def challenge(self, nonce: str) -> None:
        """The challenge was written."""

    def receive(self, data: bytes, now_ms: int) -> Step:
        """A frame arrived."""

    def paused(self) -> Step:
        """The pause is over: go on with the connect request."""

    def verified(self, right: bool) -> Step:
        """The password was compared: go on with the connect request that showed it."""

    def admit(self) -> list[bytes]:
        """The store let it in; returns the frames that waited, in order."""

    def refuse(self) -> None:
        """The connection is refused or gone: nothing of the handshake is needed any more."""

    def phase(self) -> str:
        """Return how far it came: pending, connected or failed."""


@dataclass(slots=True)
class Core:
    """What one handshake remembers."""

    policy: Callable[[], DoorPolicy]
    peer: Peer
    max_queued: int
    max_bytes: int
    locked: Locked = never_locked
    slowed: Locked = never_locked
    nonce: str = ""
    held: tuple[Request, int] | None = field(default=None, repr=False)
    """The connect request that waits, or whose password is being compared, and when it came."""
    queued: list[bytes] = field(default_factory=list, repr=False)


builder = TypeMachineBuilder(Handshake, Core)

fresh = builder.state("fresh")
challenged = builder.state("challenged")
admitting = builder.state("admitting")
connected = builder.state("connected")
failed = builder.state("failed")


@fresh.upon(Handshake.challenge).to(challenged)
def _challenge(_machine: Handshake, core: Core, nonce: str) -> None:
    core.nonce = nonce


@challenged.upon(Handshake.receive).to(admitting)
def _first_frame(machine: Handshake, core: Core, data: bytes, now_ms: int) -> Step:
    try:
        request = decode_request(data)
    except NotJson:
        step: Step = Refuse(first_frame_not_json())
    except BadFrame:
        step = Refuse(bad_first_frame())
    else:
        step = _paused_first(core, request, now_ms)
    return _after(machine, step)


@admitting.upon(Handshake.paused).loop()
def _paused(machine: Handshake, core: Core) -> Step:
    assert core.held is not None
    (request, now_ms), core.held = core.held, None
    return _after(machine, _judged(core, request, now_ms, None))


@admitting.upon(Handshake.verified).loop()
def _verified(machine: Handshake, core: Core, right: bool) -> Step:
    assert core.held is not None
    (request, now_ms), core.held = core.held, None
    return _after(machine, _judged(core, request, now_ms, right))


def _after(machine: Handshake, step: Step) -> Step:
    if isinstance(step, Refuse):
        machine.refuse()
    return step


def _paused_first(core: Core, request: Request, now_ms: int) -> Step:
    """Judge the first request, unless what it shows has to wait before it is looked at."""
    if request.method == "connect":
        with suppress(InvalidConnect):
            seconds = core.slowed(shown(decode_connect(request.params)))
            if seconds > 0:
                core.held = request, now_ms
                return Pause(seconds)
    return _judged(core, request, now_ms, None)


def _judged(core: Core, request: Request, now_ms: int, verified: bool | None) -> Step:
    """Judge the first request; the time is when it came, since what we take is not the client's."""
    if request.method != "connect":
        return Refuse(not_connect_first(), request.id)
    try:
        params = decode_connect(request.params)
        proven = judge(
            params,
            policy=core.policy(),
            peer=core.peer,
            nonce=core.nonce,
            now_ms=now_ms,
            locked=core.locked,
            verified=verified,
        )
    except InvalidConnect as error:
        return Refuse(invalid_params(str(error)), request.id)
    except Unverified as wanted:
        core.held = request, now_ms
        return Verify(request.id, wanted.candidate)
    except Refusal as refusal:
        refusal.log["claims"] = claims(params.client)
        return Refuse(refusal, request.id, shown(params))
    return Ask(request.id, proven)


@admitting.upon(Handshake.receive).loop()
def _wait(machine: Handshake, core: Core, data: bytes, now_ms: int) -> Step:
    size = sum(map(len, core.queued)) + len(data)
    if len(core.queued) >= core.max_queued or size > core.max_bytes:
        machine.refuse()
        reason = CATALOGUE["too-many-frames"].text
        return Refuse(Refusal(CloseCause.HANDSHAKE_OVERFLOW, CloseCode.POLICY, reason))
    core.queued.append(data)
    return Queued()


@admitting.upon(Handshake.admit).to(connected)
def _admit(_machine: Handshake, core: Core) -> list[bytes]:
    queued, core.queued = core.queued, []
    return queued


@connected.upon(Handshake.receive).loop()
def _pass(_machine: Handshake, core: Core, data: bytes, now_ms: int) -> Step:
    return Pass()


@failed.upon(Handshake.receive).loop()
@fresh.upon(Handshake.receive).loop()
def _ignore(_machine: Handshake, core: Core, data: bytes, now_ms: int) -> Step:
    return Ignore()


@fresh.upon(Handshake.refuse).to(failed)
@challenged.upon(Handshake.refuse).to(failed)
@admitting.upon(Handshake.refuse).to(failed)
def _refuse(_machine: Handshake, core: Core) -> None:
    core.queued.clear()


@failed.upon(Handshake.refuse).loop()
@connected.upon(Handshake.refuse).loop()
def _over(_machine: Handshake, core: Core) -> None:
    """The handshake is over already."""


@fresh.upon(Handshake.phase).loop()
@challenged.upon(Handshake.phase).loop()
@admitting.upon(Handshake.phase).loop()
def _pending(_machine: Handshake, core: Core) -> str:
    return "pending"


@connected.upon(Handshake.phase).loop()
def _connected(_machine: Handshake, core: Core) -> str:
    return "connected"


@failed.upon(Handshake.phase).loop()
def _failed(_machine: Handshake, core: Core) -> str:
    return "failed"


def claims(client: ClientInfo | ClientParams) -> str:
    """Return what a client says of itself, in one line: ``ID MODE vVERSION``."""
    return f"{client.id} {client.mode} v{client.version}"[:MAX_CLAIMS]


_machines = builder.build()


def new_handshake(
    policy: Callable[[], DoorPolicy],
    peer: Peer,
    *,
    max_queued: int,
    max_bytes: int,
    locked: Locked = never_locked,
    slowed: Locked = never_locked,
) -> Handshake:
    """Return the machine of a new connection.

    It is judged by the policy that holds when its credential comes, not by one from before a change.
    While it is decided ``max_queued`` frames of ``max_bytes`` in all may wait.
    ``locked`` tells what is not looked at from there, ``slowed`` what has to wait first.
    """
    return _machines(Core(policy, peer, max_queued, max_bytes, locked, slowed))

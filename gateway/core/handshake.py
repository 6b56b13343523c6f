"""The handshake of one connection, as a machine without I/O.

The gateway speaks first (``connect.challenge``); the client answers with one ``connect`` request. While
that request is judged against the store, further frames wait, at most fifteen, and are handled in
order afterwards. Deadlines are values: the connection arms them on its clock, counted from the moment
the challenge was written, so that the gateway's own slowness is never held against a client.

States::

    fresh --challenge--> challenged --frame--> admitting --admit--> connected
                              |                    |
                              +-----refuse---------+--> failed

The inputs return what the connection has to do; a refusal is returned, not raised, so that every
ending of a handshake takes the same way out. A machine that has refused has failed already; refusing
it again changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from automat import TypeMachineBuilder

from gateway.core.access import Peer
from gateway.core.connect import (
    DoorPolicy,
    InvalidConnect,
    Proven,
    Refusal,
    bad_first_frame,
    decode_connect,
    first_frame_not_json,
    invalid_params,
    judge,
    not_connect_first,
)
from gateway.core.connectparams import ClientParams
from gateway.core.frames import BadFrame, NotJson, decode_request
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
class Refuse:
    """Answer the error (if there is one) under this id, then close."""

    refusal: Refusal
    frame_id: str | None = None


@dataclass(frozen=True, slots=True)
class Queued:
    """The frame waits until the handshake is over."""


@dataclass(frozen=True, slots=True)
class Pass:
    """The connection is established: the frame is a request like any other."""


@dataclass(frozen=True, slots=True)
class Ignore:
    """The handshake failed; what still comes in is not looked at."""


Step = Ask | Refuse | Queued | Pass | Ignore


class Handshake(Protocol):
    """The inputs of the machine."""

    def challenge(self, nonce: str) -> None:
        """The challenge was written."""

    def receive(self, data: bytes, now_ms: int) -> Step:
        """A frame arrived."""

    def admit(self) -> list[bytes]:
        """The store let it in; returns the frames that waited, in order."""

    def refuse(self) -> None:
        """The connection is refused or gone: nothing of the handshake is needed any more."""

    def phase(self) -> str:
        """Return how far it came: pending, connected or failed."""


@dataclass(slots=True)
class Core:
    """What one handshake remembers."""

    policy: DoorPolicy
    peer: Peer
    max_queued: int
    nonce: str = ""
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
    step = _judged(core, data, now_ms)
    if isinstance(step, Refuse):
        machine.refuse()
    return step


def _judged(core: Core, data: bytes, now_ms: int) -> Ask | Refuse:
    try:
        request = decode_request(data)
    except NotJson:
        return Refuse(first_frame_not_json())
    except BadFrame:
        return Refuse(bad_first_frame())
    if request.method != "connect":
        return Refuse(not_connect_first(), request.id)
    try:
        params = decode_connect(request.params)
        proven = judge(params, policy=core.policy, peer=core.peer, nonce=core.nonce, now_ms=now_ms)
    except InvalidConnect as error:
        return Refuse(invalid_params(str(error)), request.id)
    except Refusal as refusal:
        refusal.log["claims"] = claims(params.client)
        return Refuse(refusal, request.id)
    return Ask(request.id, proven)


@admitting.upon(Handshake.receive).loop()
def _wait(machine: Handshake, core: Core, data: bytes, now_ms: int) -> Step:
    if len(core.queued) >= core.max_queued:
        machine.refuse()
        reason = "too many pending handshake frames"
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


def new_handshake(policy: DoorPolicy, peer: Peer, *, max_queued: int) -> Handshake:
    """Return the machine of a new connection."""
    return _machines(Core(policy, peer, max_queued))

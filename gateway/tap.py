"""``twistd gateway``: options, and the service made of them. The only module that names the reactor."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twisted.application.service import IService
from twisted.python import usage

from gateway.config import load
from gateway.descriptors import fitted, raise_limit
from gateway.errors import StartError
from gateway.runtime import SystemClock, SystemEntropy, use_steady_time
from gateway.statedir import StateDirectory, default_path
from gateway.watchdog import WatchedSelector

if TYPE_CHECKING:
    from gateway.service import GatewayService

DEFAULT_PIDFILE = "twistd.pid"


def install_default_reactor() -> None:
    """Install the asyncio reactor, unless ``--reactor`` named another: asyncio libraries work on it."""
    if "twisted.internet.reactor" in sys.modules:
        return
    from twisted.internet import asyncioreactor

    selector = WatchedSelector(time.monotonic)
    loop = asyncio.SelectorEventLoop(selector)
    asyncio.set_event_loop(loop)
    asyncioreactor.install(loop)
    reactor: Any = sys.modules["twisted.internet.reactor"]
    reactor.turns = selector.turns  # for the watchdog; another reactor has none


class Options(usage.Options):
    """The options of ``twistd gateway``. An option beats the environment, which beats the file."""

    synopsis = "[options]"
    longdesc = (
        "Serve an agent gateway. Without options it listens on 127.0.0.1:18789, keeps its state in "
        "your state directory and makes a token on its first start. Environment: GATEWAY_CONFIG, "
        "GATEWAY_LISTEN, GATEWAY_STATE_DIR, GATEWAY_TOKEN."
    )
    optParameters = [
        ["config", "c", None, "Configuration file (TOML)."],
        ["state-dir", "s", None, "Directory of the gateway's state."],
        ["token-file", None, None, "File that holds the shared token."],
    ]

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self["listen"] = []

    def opt_listen(self, spec: str) -> None:
        """HOST:PORT or a Twisted endpoint string to listen on; may be repeated."""
        self["listen"].append(spec)

    opt_l = opt_listen

    def postOptions(self) -> None:
        """Install the reactor, and leave twistd's pidfile aside: the state directory has a lock."""
        install_default_reactor()
        parent: Any = self.parent
        if parent is not None and parent.get("pidfile") == DEFAULT_PIDFILE and not _pidfile_named():
            parent["pidfile"] = ""


def _pidfile_named() -> bool:
    return any(argument.startswith("--pidfile") for argument in sys.argv)


def makeService(options: Options) -> IService:
    """Return the gateway and its pruner. Raises SystemExit with one line where it can not be made.

    For a command it takes what it needs at once: before twistd forks and writes its pidfile, a failure
    is one line on the terminal, and nothing stays behind.
    """
    install_default_reactor()
    parent: Any = options.parent
    try:
        gateway = _gateway(options)
        if parent is not None:
            gateway.take(forks=not parent.get("nodaemon", True))
            gateway.reactor.addSystemEventTrigger("after", "startup", _take_signals, gateway)
    except StartError as error:
        raise SystemExit(f"gateway: {error}") from error
    from gateway.service import make_gateway

    return make_gateway(gateway)


def _take_signals(gateway: GatewayService) -> None:
    """Handle signals in the loop's turn; the second one hurries the stop.

    The reactor's own handlers write to the log at once, and fail where a line is just being written; and
    the second of them would log that a reactor can't be stopped twice.
    """
    reactor = gateway.reactor
    stopping = False

    def handle(number: int) -> None:
        nonlocal stopping
        if stopping or gateway.shutdown.order is not None:
            gateway.shutdown.hurry()
            return
        stopping = True
        stop = reactor.sigInt if number == signal.SIGINT else reactor.sigTerm
        stop(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, stack: reactor.callFromThread(handle, number))


def _gateway(options: Options) -> GatewayService:
    environ = os.environ
    config = options["config"]
    # First of all, since nearly every mistake is found here and the rest takes time to load.
    loaded = fitted(load(Path(config) if config else None, environ), raise_limit())
    from twisted.internet import reactor

    from gateway.service import GatewayService

    if not (reactor.running or reactor.getDelayedCalls()):
        use_steady_time(reactor)
    token_file = options["token-file"]
    return GatewayService(
        loaded=loaded,
        listen_specs=options["listen"] or loaded.config.server.listen,
        state=_state_directory(options["state-dir"] or environ.get("GATEWAY_STATE_DIR")),
        # Absolute, since a daemon changes its directory.
        token_file=Path(token_file).absolute() if token_file else None,
        environ=environ,
        reactor=reactor,
        clock=SystemClock(reactor),
        entropy=SystemEntropy(),
        turns=getattr(reactor, "turns", None),
    )


def _state_directory(named: str | None) -> StateDirectory:
    try:
        return StateDirectory(Path(named) if named else default_path())
    except RuntimeError as error:  # a ~ that is nobody's
        raise StartError(f"state directory {named or ''}: {error}") from error

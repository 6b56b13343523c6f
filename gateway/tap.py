"""``twistd gateway``: options, and the service made of them. The only module that names the reactor."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

from twisted.application.service import IService
from twisted.python import usage

from gateway.config import load
from gateway.errors import StartError
from gateway.runtime import SystemClock, SystemEntropy, use_steady_time
from gateway.statedir import StateDirectory, default_path

DEFAULT_PIDFILE = "twistd.pid"


def install_default_reactor() -> None:
    """Install the asyncio reactor, unless ``--reactor`` named another: asyncio libraries work on it."""
    if "twisted.internet.reactor" in sys.modules:
        return
    from twisted.internet import asyncioreactor

    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    asyncioreactor.install(loop)


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
    """Return the gateway and its pruner. Raises SystemExit with one line where it can not be made."""
    install_default_reactor()
    from twisted.internet import reactor

    from gateway.service import GatewayService, make_gateway

    if not reactor.getDelayedCalls():
        use_steady_time(reactor)
    environ = os.environ
    try:
        config = options["config"]
        loaded = load(Path(config) if config else None, environ)
        state = options["state-dir"] or environ.get("GATEWAY_STATE_DIR")
        token_file = options["token-file"]
        gateway = GatewayService(
            loaded=loaded,
            listen_specs=options["listen"] or loaded.config.server.listen,
            state=StateDirectory(Path(state) if state else default_path()),
            token_file=Path(token_file) if token_file else None,
            environ=environ,
            reactor=reactor,
            clock=SystemClock(reactor),
            entropy=SystemEntropy(),
        )
    except StartError as error:
        raise SystemExit(f"gateway: {error}") from error
    return make_gateway(gateway)

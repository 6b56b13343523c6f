"""The gateway as a service: the order in which it starts and stops.

Start, all of it before the reactor runs, so that every failure is one line and an exit status: state
directory, lock, log, credential, store, port. Then, with the reactor: agents, runs that a crash left
open, the first health snapshot. From then on the gateway is ready.

Stop, in this order (children of a MultiService would be stopped at once): no more connections; tell
the clients; end the runs and store their ends; close the connections, flushed; stop the agents; close
the store; give up the state directory.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from twisted.application.service import MultiService, Service
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger, globalLogPublisher

from gateway import __version__, logfile
from gateway.app.operations import ConfigView, Operations
from gateway.app.periodic import Pruner
from gateway.backends import make_agents
from gateway.config import LoadedConfig, redacted, resolve_secret
from gateway.core.access import is_loopback, same_secret
from gateway.core.events import Event
from gateway.errors import CloseCause, CloseCode, StartError
from gateway.interfaces import IClock, IEntropy
from gateway.logfile import LogFile, Redactor
from gateway.net.http import make_root
from gateway.net.listen import Listener, listen
from gateway.net.port import SwitchFactory
from gateway.net.site import Site
from gateway.statedir import StateDirectory
from gateway.store.sqlite import url_of
from gateway.store.store import SQLStore
from gateway.wiring import Wiring


class GatewayService(Service):
    """The gateway: everything but the pruner, which is a service of its own beside it."""

    name = "gateway"
    version = __version__
    _log = Logger()

    def __init__(
        self,
        *,
        loaded: LoadedConfig,
        listen_specs: Sequence[str],
        state: StateDirectory,
        token_file: Path | None,
        environ: Mapping[str, str],
        reactor: Any,
        clock: IClock,
        entropy: IEntropy,
    ) -> None:
        self.config = loaded.config
        self.reactor = reactor
        self.clock = clock
        self.entropy = entropy
        self.state = state
        self._loaded = loaded
        self._listen_specs = tuple(listen_specs)
        self._token_file = token_file
        self._environ = environ
        self._redactor = Redactor()
        self._log_file: LogFile | None = None
        self._listeners: list[Listener] = []
        self._ready = False
        self._started_at = clock.seconds()
        self.store = SQLStore(
            self.config.store.url or url_of(str(state.database)),
            synchronous=self.config.store.synchronous,
            clock=clock,
            call_from_thread=reactor.callFromThread,
        )
        agents = make_agents(
            loaded, reactor=reactor, clock=clock, entropy=entropy, state_dir=str(state.path)
        )
        self.wiring = Wiring(
            config=self.config,
            clock=clock,
            entropy=entropy,
            store=self.store,
            agents=agents,
            operations=self._operations(),
            reactor=reactor,
        )
        self.services = self.wiring.services
        root = make_root(self, authorize=self._authorized, exposition=self.wiring.metrics.render)
        self.port = SwitchFactory(
            self.wiring.factory,
            Site(root, clock, websocket=self.wiring.factory),
            clock,
            head_timeout=self.config.limits.handshake_timeout_s,
        )

    @property
    def urls(self) -> list[str]:
        """Where clients connect, while the ports are open."""
        return [listener.url for listener in self._listeners]

    # -- probes

    def live(self) -> bool:
        """Whether the process does its work: whoever is answered is served by the loop."""
        return True

    def started(self) -> bool:
        """Whether the start has come to its end."""
        return self._ready

    def failing(self) -> list[str]:
        """Return what is not ready: port, start, store, agent."""
        facts = {
            "port": bool(self._listeners),
            "start": self._ready,
            "store": self.store.failing is None,
            "agent": self.services.agents.ready(),
        }
        return [name for name, good in facts.items() if not good]

    def uptime_ms(self) -> int:
        """Return the milliseconds since the start."""
        return round((self.clock.seconds() - self._started_at) * 1000)

    # -- start

    def privilegedStartService(self) -> None:
        """Take the state directory, open the store and the port. Raises SystemExit with one line."""
        try:
            self._take()
        except StartError as error:
            raise SystemExit(f"gateway: {error}") from error
        super().privilegedStartService()  # type: ignore[no-untyped-call]

    def _take(self) -> None:
        warnings = [*self._loaded.warnings, *self.state.ensure()]
        self.state.lock(self.clock)
        limits = self.config.limits
        self._log_file = LogFile(
            self.state.logs,
            self._redactor,
            keep=limits.log_files,
            max_bytes=limits.log_file_bytes,
        )
        self._log_file.install(globalLogPublisher)
        secret, source, more = self._shared_secret()
        for warning in (*warnings, *more):
            self._log.warn("{warning}", warning=warning)
        if secret is not None:
            self._redactor.add(secret)
        self._secret_source = source
        self.wiring.edge.policy = self.wiring.door(secret)
        self.store.open()
        self._listeners = listen(self._listen_specs, self.port, self.reactor)
        self._refuse_open_door()
        self.state.announce(self.urls[0])

    def _refuse_open_door(self) -> None:
        """Stay closed where anybody on the network could come in. Raises StartError."""
        if self.config.auth.mode != "none":
            return
        for listener in self._listeners:
            host = getattr(listener.port.getHost(), "host", "127.0.0.1")
            if not is_loopback(host):
                for each in self._listeners:
                    each.stopListening()
                raise StartError(
                    f'{listener.spec}: auth.mode "none" is for loopback addresses only; '
                    "set a token or listen on 127.0.0.1 (server.listen)"
                )

    def _shared_secret(self) -> tuple[str | None, str, tuple[str, ...]]:
        """Return the secret clients share, where it lies, and warnings. Raises StartError."""
        auth, base = self.config.auth, self._base_dir()
        if auth.mode == "none":
            return None, "none is asked for (auth.mode)", ()
        if auth.mode == "password":
            assert auth.password is not None
            value = resolve_secret(auth.password, self._environ, base, key="auth.password")
            return value, "auth.password of the configuration", ()
        token = self.state.load_token(
            self._token_file, self._environ, auth.token, base, self.entropy
        )
        return token.value, token.source, token.warnings

    def startService(self) -> None:
        """Start everything that needs the reactor."""
        super().startService()  # type: ignore[no-untyped-call]
        self.store.startService()
        starting = Deferred.fromCoroutine(self._start())
        starting.addErrback(
            lambda failure: self._log.failure("the start did not come to its end", failure=failure)
        )

    async def _start(self) -> None:
        for agent in self.services.agents:
            agent.backend.startService()  # type: ignore[no-untyped-call]
        await self.services.runs.recover()
        await self.services.health.refresh()
        if not self.running:
            return
        for beat in self.wiring.beats:
            beat.startService()
        self._ready = True
        for url in self.urls:
            self._log.info("gateway ready url={url}", url=url, version=__version__)
        kind = self.config.auth.mode if self.config.auth.mode != "none" else "no credential"
        self._log.info("{kind}: {source}", kind=kind, source=self._secret_source)
        self._log.info(
            "connect with: gatewayctl chat (here), or any OpenClaw client at that address"
        )

    # -- stop

    def stopService(self) -> Deferred[None]:
        """Drain and stop; takes at most a few seconds whatever hangs."""
        super().stopService()  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self._ready = False
        for listener in self._listeners:
            await maybeDeferred(listener.stopListening)
        for beat in self.wiring.beats:
            await maybeDeferred(beat.stopService)
        self.services.hub.broadcast(Event("shutdown", {"reason": "gateway stopping"}))
        await self._within(
            self.config.limits.drain_grace_s, Deferred.fromCoroutine(self.services.runs.stop())
        )
        backends = [maybeDeferred(agent.backend.stopService) for agent in self.services.agents]
        for connection in self.wiring.factory.open_connections:
            connection.close(CloseCause.DRAIN, CloseCode.RESTART, "service restart")
        await self._connections_gone()
        await DeferredList(backends, consumeErrors=True)
        await self.store.stopService()
        self._log.info("gateway stopped")
        if self._log_file is not None:
            self._log_file.remove(globalLogPublisher)
        self.state.unlock()

    async def _connections_gone(self) -> None:
        """Wait until every close frame was answered or its grace is over."""
        deadline = self.clock.seconds() + self.config.limits.close_grace_s + 0.2
        while len(self.wiring.factory) and self.clock.seconds() < deadline:
            await deferLater(self.clock, 0.02, lambda: None)

    async def _within(self, seconds: float, work: Deferred[Any]) -> None:
        work.addTimeout(seconds, self.clock)
        try:
            await work
        except Exception:
            self._log.failure("draining took too long; going on")

    # -- parts

    def _operations(self) -> Operations:
        raw, parsed = redacted(self._loaded)
        path = self._loaded.path
        return Operations(
            version=__version__,
            boot_id=self.entropy.uuid4(),
            host=platform.node() or "gateway",
            pid=os.getpid(),
            started_at_ms=self.clock.now_ms(),
            state_dir=str(self.state.path),
            auth_mode=self.config.auth.mode,
            config=ConfigView(
                path=str(path) if path is not None else str(self.state.path / "gateway.toml"),
                exists=path is not None,
                raw=raw,
                parsed=parsed,
                hash=sha256((self._loaded.raw_text or "").encode()).hexdigest(),
                warnings=self._loaded.warnings,
            ),
            tail_logs=self._tail_logs,
        )

    def _tail_logs(
        self, cursor: int | None, limit: int, max_bytes: int
    ) -> Deferred[dict[str, Any]]:
        pool = self.reactor.getThreadPool()
        reading: Deferred[Any] = deferToThreadPool(
            self.reactor, pool, logfile.tail, self.state.logs, cursor, limit, max_bytes
        )
        return reading.addCallback(_tail_payload)

    def _authorized(self, bearer: str | None) -> bool:
        auth = self.wiring.edge.policy.auth
        if auth.mode == "none":
            return True
        return bearer is not None and auth.secret is not None and same_secret(bearer, auth.secret)

    def _base_dir(self) -> Path:
        path = self._loaded.path
        return path.parent if path is not None else Path.cwd()


def _tail_payload(result: logfile.TailResult) -> dict[str, Any]:
    return {
        "file": result.file,
        "cursor": result.cursor,
        "size": result.size,
        "lines": result.lines,
        "truncated": result.truncated,
        "reset": result.reset,
    }


def make_gateway(gateway: GatewayService) -> MultiService:
    """Return the service that runs a gateway: itself and its pruner, one beside the other."""
    whole = MultiService()
    gateway.setServiceParent(whole)  # type: ignore[no-untyped-call]
    pruner = Pruner(gateway.clock, gateway.wiring.registries)
    pruner.setServiceParent(whole)  # type: ignore[no-untyped-call]
    return whole

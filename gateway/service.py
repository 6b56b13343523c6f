"""The gateway as a service: the order in which it starts and stops.

Start, all of it before the reactor runs, so that every failure is one line and an exit status: state
directory, lock, log, credential, store, port, agents. Then, with the reactor: runs that a crash left
open, the first health snapshot. From then on the gateway is ready.

Stop: as :mod:`gateway.drain` has it, then the state directory is given up.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from twisted.application.service import MultiService, Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger, LoggingFile, globalLogPublisher
from twisted.python.failure import Failure

from gateway import __version__, logfile
from gateway.app.operations import ConfigView, Operations
from gateway.app.periodic import Periodic, Pruner
from gateway.app.threads import in_thread
from gateway.backends import AgentMaker, ConfiguredAgents
from gateway.config import LoadedConfig
from gateway.core.credentials import is_hash
from gateway.drain import Shutdown
from gateway.errors import StartError, StoreError
from gateway.exposure import far_warning, open_door_warnings, own_url
from gateway.interfaces import IClock, IEntropy
from gateway.logfile import LogFile, Redactor
from gateway.net.callers import Callers
from gateway.net.certificates import certificate_beats, look_at_certificates
from gateway.net.http import make_root
from gateway.net.listen import Listener, listen
from gateway.net.port import SwitchFactory
from gateway.net.site import Site
from gateway.runtime import keep_for_good
from gateway.sharedsecret import LOOK_S, SecretWatch, SharedSecret
from gateway.statedir import StateDirectory
from gateway.store.sqlite import url_of
from gateway.store.store import SQLStore
from gateway.watchdog import Turns, Watchdog
from gateway.wiring import Wiring

START_PAUSE_S = 5.0
"""When the start is tried again where the store fails."""


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
        turns: Turns | None = None,
    ) -> None:
        self.config = loaded.config
        self.reactor = reactor
        self.clock = clock
        self.entropy = entropy
        self.state = state
        self._loaded = loaded
        self._listen_specs = tuple(listen_specs)
        self._redactor = Redactor()
        self._log_file: LogFile | None = None
        self._listeners: list[Listener] = []
        self._forks = False
        self._starting: Deferred[None] | None = None
        self._ready = False
        self._started_at = clock.seconds()
        self.store = SQLStore(
            self.config.store.url or url_of(str(state.database)),
            synchronous=self.config.store.synchronous,
            clock=clock,
            call_from_thread=reactor.callFromThread,
        )
        self._in_thread = in_thread(reactor)
        maker = AgentMaker(
            loaded, reactor=reactor, clock=clock, entropy=entropy, state_dir=str(state.path)
        )
        roster = ConfiguredAgents(maker, state.agents, self._in_thread)
        self.wiring = Wiring(
            config=self.config,
            clock=clock,
            entropy=entropy,
            store=self.store,
            agents=roster.read(),
            operations=self._operations(),
            reactor=reactor,
            roster=roster,
            in_thread=self._in_thread,
        )
        self.services = self.wiring.services
        self.shutdown = Shutdown(self.wiring, reactor.stop)
        self.watchdog = self._make_watchdog(turns)
        path = loaded.path
        self.secret = SharedSecret(
            self.config.auth,
            state,
            token_file=token_file,
            environ=environ,
            base_dir=path.absolute().parent if path is not None else Path.cwd(),
            entropy=entropy,
        )
        self.port = self._make_port()

    def _make_watchdog(self, turns: Turns | None) -> Watchdog:
        return Watchdog(
            self.clock,
            self.wiring.metrics,
            self.services.health.tell_event_loop,
            limit_s=self.config.limits.loop_lag_ms / 1000,
            turns=turns,
        )

    def _make_port(self) -> SwitchFactory:
        edge = self.wiring.edge
        callers, strangers, turnstile = Callers(edge), edge.strangers, edge.turnstile
        root = make_root(self, callers.authorize, self._exposition, callers.join)
        site = Site(
            root,
            self.clock,
            websocket=self.wiring.factory,
            strangers=strangers,
            turnstile=turnstile,
            misdirected=callers.misdirected,
        )
        return SwitchFactory(
            self.wiring.factory,
            site,
            self.clock,
            head_timeout=self.config.limits.handshake_timeout_s,
            strangers=strangers,
            turnstile=turnstile,
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
        """Return what is not ready: it drains, port, start, store, agent."""
        facts = {
            "draining": self.shutdown.order is None,
            "port": bool(self._listeners),
            "start": self._ready,
            "store": self.store.failing is None,
            "agent": self.services.agents.ready(),
        }
        return [name for name, good in facts.items() if not good]

    def reasons(self) -> dict[str, str]:
        """Return why the store does not work, if it doesn't."""
        return {} if self.store.failing is None else {"store": self.store.failing}

    def uptime_ms(self) -> int:
        """Return the milliseconds since the start."""
        return round((self.clock.seconds() - self._started_at) * 1000)

    def event_loop(self) -> dict[str, Any] | None:
        """Return how late the event loop is, once it is watched."""
        return self.services.health.event_loop

    # -- start

    def take(self, *, forks: bool = False) -> None:
        """Take the state directory; open the log, the store and the ports. Raises StartError.

        What privilegedStartService does, unless it was done before. As locks name their owner, who
        ``forks`` signs them afterwards.
        """
        warnings = [*self._loaded.warnings, *self.state.ensure()]
        self.state.lock(self.clock)
        try:
            self._open(warnings)
        except StartError:
            self._let_go()
            raise
        self._forks = forks
        if forks:
            self.state.unlock()

    def privilegedStartService(self) -> None:
        """Take what is needed, if that is not done. Raises SystemExit with one line."""
        try:
            if self._log_file is None:
                self.take()
            elif self._forks:
                self._sign_locks()
        except StartError as error:
            raise self._refusal(error) from error
        self.services.operations.pid = os.getpid()
        super().privilegedStartService()  # type: ignore[no-untyped-call]

    def _sign_locks(self) -> None:
        """After a fork, put this process's id in the place of its parent's. Raises StartError."""
        self.state.lock(self.clock)
        self.state.announce(own_url(self._listeners))
        for listener in self._listeners:
            lock = getattr(listener.port, "lockFile", None)  # that of a Unix socket
            if lock is not None:
                os.unlink(lock.name)
                lock.lock()

    def _refusal(self, error: StartError) -> BaseException:
        """Return what ends the start, so that the line reaches whoever started it."""
        line = f"gateway: {error}"
        if self._forks:
            return error  # twistd waits for ever for a child that leaves by SystemExit
        if isinstance(sys.stderr, LoggingFile) and sys.__stderr__ is not None:
            # twistd has made it a part of its log.
            sys.__stderr__.write(f"{line}\n")
            return SystemExit(1)
        return SystemExit(line)

    def _open(self, warnings: Sequence[str]) -> None:
        limits = self.config.limits
        self._log_file = LogFile(
            self.state.logs,
            self._redactor,
            keep=limits.log_files,
            max_bytes=limits.log_file_bytes,
        )
        self._log_file.install(globalLogPublisher, self.reactor)
        with self._naming_the_file("auth"):
            shared = self.secret.load()
        for warning in (*warnings, *shared.warnings):
            self._log.warn("{warning}", warning=warning)
        self._secret_source = shared.source
        self._take_secret(shared.value)
        if self.secret.file is not None:
            watch = SecretWatch(self.secret, shared.value, self._secret_changed, self._in_thread)
            self.wiring.beats += (Periodic("secret", self.clock, LOOK_S, watch.look),)
        with self._naming_the_file("store"):
            self.store.open()
        with self._naming_the_file("server", "listen", list(self._listen_specs)):
            for warning in look_at_certificates(self._listen_specs, self.clock.now_ms()):
                self._log.warn("{warning}", warning=warning)
            self._listeners = listen(self._listen_specs, self.port, self.reactor)
        self.wiring.beats += certificate_beats(self._listeners, self.clock, self._in_thread)
        with self._naming_the_file("auth"):
            for warning in open_door_warnings(self.config, self._listeners):
                self._log.error("{warning}", warning=warning)
        if (far := far_warning(self._listeners)) is not None:
            self._log.warn("{warning}", warning=far)
        self.state.announce(own_url(self._listeners))

    def _let_go(self) -> None:
        """Give up what the process holds beside its ports."""
        if self._log_file is not None:
            self._log_file.remove(globalLogPublisher)
            self._log_file = None
        self.state.unlock()

    @contextmanager
    def _naming_the_file(self, table: str, key: str = "", value: object = None) -> Iterator[None]:
        """Name the configuration's file in an error if the table, or the key's value, is from there."""
        try:
            yield
        except StartError as error:
            found = self._loaded.parsed.get(table)
            if found is None or (key and found.get(key) != value):
                raise
            raise StartError(f"{self._loaded.path}: {error}") from error

    def _take_secret(self, value: str | None) -> None:
        """Ask for this secret from now on."""
        if value is not None and not is_hash(value):
            self._redactor.add(value)
        self.wiring.edge.policy = self.wiring.door(value)

    def _secret_changed(self, value: str) -> None:
        """Ask for another secret, and close what came in by the one before."""
        self._take_secret(value)
        self.services.revocations.shared(self.config.auth.mode)

    def startService(self) -> None:
        """Start everything that needs the reactor. Raises SystemExit with one line."""
        super().startService()  # type: ignore[no-untyped-call]
        keep_for_good()
        self.watchdog.startService()
        self.store.startService()
        try:
            for agent in self.services.agents:
                agent.backend.startService()  # type: ignore[no-untyped-call]
        except StartError as error:
            raise self._refusal(error) from error
        self._starting = Deferred.fromCoroutine(self._start())
        self._starting.addErrback(self._not_started)

    async def _start(self) -> None:
        while not await self._recovered():
            await deferLater(self.clock, START_PAUSE_S, lambda: None)
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

    async def _recovered(self) -> bool:
        """Do what a start needs of the store; return whether it could be done."""
        try:
            await self.services.runs.recover()
            await self.services.health.refresh()
        except StoreError as error:
            self._log.error("the start waits for the store: {error}", error=error)
            return False
        return True

    def _not_started(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            self._log.failure("the start did not come to its end", failure=failure)

    # -- stop

    def stopService(self) -> Deferred[None]:
        """Drain and stop; takes a few seconds more than the grace at most, whatever hangs."""
        super().stopService()  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        if self._starting is not None:
            self._starting.cancel()
        await self.shutdown.run(self._listeners)
        self.watchdog.stopService()
        self._log.info("gateway stopped")
        self._let_go()

    # -- parts

    def _operations(self) -> Operations:
        return Operations(
            version=__version__,
            boot_id=self.entropy.uuid4(),
            host=platform.node() or "gateway",
            pid=os.getpid(),
            started_at=self.clock.seconds(),
            state_dir=str(self.state.path),
            auth_mode=self.config.auth.mode,
            config=ConfigView.of(self._loaded, self.state.path / "gateway.toml"),
            tail_logs=self._tail_logs,
        )

    def _tail_logs(
        self, cursor: int | None, limit: int, max_bytes: int
    ) -> Deferred[dict[str, Any]]:
        args = self.state.logs, cursor, limit, max_bytes
        return self._in_thread(logfile.tail, *args).addCallback(logfile.TailResult.payload)

    def _exposition(self) -> bytes:
        metrics = self.wiring.metrics
        metrics.store_state(failing=self.store.failing is not None)
        metrics.outbox_bytes = self.wiring.edge.outboxes.held
        metrics.timers(len(self.clock.getDelayedCalls()))
        metrics.loop_lag(*self.watchdog.lag())
        return metrics.render()


def make_gateway(gateway: GatewayService) -> MultiService:
    """Return the service that runs a gateway: itself and its pruner, one beside the other."""
    whole = MultiService()
    gateway.setServiceParent(whole)  # type: ignore[no-untyped-call]
    pruner = Pruner(gateway.clock, gateway.wiring.registries)
    pruner.setServiceParent(whole)  # type: ignore[no-untyped-call]
    return whole

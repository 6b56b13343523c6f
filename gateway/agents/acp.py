"""Agents that are programs speaking the Agent Client Protocol (JSON-RPC 2.0 over standard in/output)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.plugin import IPlugin
from zope.interface import implementer

from gateway.agents.acp_worker import AcpWorker
from gateway.agents.process import ChildProcess, Command, Exit, clean_environment
from gateway.agents.supervisor import Supervisor
from gateway.config import AgentConfig, Secret, resolve_secret
from gateway.errors import BackendError, ConfigError, StartError
from gateway.interfaces import (
    BackendEnvironment,
    IAgentBackend,
    IAgentBackendFactory,
    IRunSink,
    IWorkerBackend,
    IWorkspaceBackend,
)
from gateway.model import ModelInfo, RunRequest, RunResult


class AcpConfig(AgentConfig, frozen=True):
    """An agent program that speaks the Agent Client Protocol."""

    command: Annotated[list[str], Meta(min_length=1)] = msgspec.field(default_factory=list)
    """The program and its arguments, such as ["opencode", "acp"]."""
    env: dict[str, Secret] = {}
    """Environment variables for it, beside a few harmless ones of the gateway such as PATH and HOME."""
    cwd: str | None = None
    """Its working directory; without it its workspace, and with it this is its workspace."""
    pool: int = 1
    """How many processes run it; only 1 so far."""

    def __post_init__(self) -> None:
        if not self.command or not self.command[0]:
            raise ValueError('"command" is missing: the program and its arguments')
        if self.pool != 1:
            raise ValueError(
                "pool: one process serves all sessions; more than 1 is not possible yet"
            )


@implementer(IAgentBackend, IWorkerBackend, IWorkspaceBackend)
class AcpBackend(Service):
    """Runs turns in one supervised process, which serves all sessions of the agent.

    ``command`` is what to run, ``models`` what it answers with. A turn can be run again: its process died
    with the gateway, and the new one is told the transcript before it.
    """

    reruns = True

    def __init__(
        self,
        command: Command,
        models: tuple[ModelInfo, ...],
        environment: BackendEnvironment,
        kill_group: Callable[[int, int], None] = os.killpg,
    ) -> None:
        self.models = models
        self.workspace = command.cwd
        self._command = command
        self._environment = environment
        self._kill_group = kill_group
        self._supervisor: Supervisor[AcpWorker] = Supervisor(
            environment.agent_id, self._worker, environment.clock, environment.entropy
        )

    def startService(self) -> None:
        """Start the process. Makes its workspace in the state directory; raises StartError if it can't."""
        super().startService()  # type: ignore[no-untyped-call]
        try:
            Path(self._command.cwd).mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            where = f"workspace of agent {self._environment.agent_id}"
            raise StartError(f"{where}: {self._command.cwd}: {error.strerror}") from error
        self._supervisor.start()

    def stopService(self) -> Deferred[None]:
        """Fail the runs that go on and end the process; the Deferred fires when it is gone."""
        super().stopService()  # type: ignore[no-untyped-call]
        return self._supervisor.stop()

    def ready(self) -> bool:
        """Whether the process runs and has answered ``initialize``."""
        return self._supervisor.ready is not None

    def describe_worker(self, run_id: str) -> dict[str, Any]:
        """Return what is known of the process, which serves all runs."""
        worker = self._supervisor.worker
        facts: dict[str, Any] = self._supervisor.describe()
        if worker is not None and worker.pid is not None:
            facts["pid"] = worker.pid
        return facts

    def workers(self) -> tuple[dict[str, Any], ...]:
        """Return what is known of the process."""
        return (self.describe_worker(""),)

    def start(self, request: RunRequest, sink: IRunSink) -> Deferred[RunResult]:
        """Run one turn; while the process starts, wait for it.

        Fails with BackendError: for what the agent answers, and at once when its process dies.
        """
        return Deferred.fromCoroutine(self._run(request, sink))

    async def _run(self, request: RunRequest, sink: IRunSink) -> RunResult:
        worker = await self._supervisor.when_ready()
        return await worker.run(request, sink)

    def _worker(
        self, on_ready: Callable[[], None], on_end: Callable[[BackendError], None]
    ) -> AcpWorker:
        environment = self._environment

        def make_child(
            on_output: Callable[[bytes], None], on_exit: Callable[[Exit], None]
        ) -> ChildProcess:
            return ChildProcess(
                environment.agent_id,
                reactor=environment.reactor,
                clock=environment.clock,
                on_output=on_output,
                on_exit=on_exit,
                kill_group=self._kill_group,
            )

        return AcpWorker(
            environment.agent_id, self._command, make_child, environment.clock, on_ready, on_end
        )


@implementer(IPlugin, IAgentBackendFactory)
class AcpFactory:
    """Makes agents of any ACP program: ``backend = "acp"``."""

    name = "acp"
    summary = "Runs any program that speaks the Agent Client Protocol."
    config_type = AcpConfig

    def make(self, config: AcpConfig, environment: BackendEnvironment) -> IAgentBackend:
        """Make the backend. Raises ConfigError if there is no such program, or a secret is missing."""
        key = f"agents.{environment.agent_id}"
        env = clean_environment(os.environ) | {
            name: secret_of(secret, environment, f"{key}.env.{name}")
            for name, secret in config.env.items()
        }
        cwd = workspace(config.cwd, environment)
        program = config.command[0]
        found = str(Path(cwd, program)) if "/" in program else program
        if shutil.which(found, path=env.get("PATH")) is None:
            raise ConfigError(f"{key}.command: no such program: {program}")
        title = config.name or environment.agent_id
        models = (ModelInfo(id=environment.agent_id, name=title, provider="acp"),)
        return AcpBackend(Command(tuple(config.command), env, cwd), models, environment)


def workspace(cwd: str | None, environment: BackendEnvironment) -> str:
    """Return the absolute working directory of an agent; a relative ``cwd`` starts at the configuration's."""
    if cwd is not None:
        return str(Path(_base(environment), Path(cwd).expanduser()).absolute())
    return environment.workspace


def secret_of(secret: Secret, environment: BackendEnvironment, key: str) -> str:
    """Return a secret of an agent's table. Raises ConfigError, naming ``key``, if it is missing."""
    return resolve_secret(secret, os.environ, _base(environment), key=key)


def _base(environment: BackendEnvironment) -> Path:
    return Path(environment.config_dir or environment.state_dir)

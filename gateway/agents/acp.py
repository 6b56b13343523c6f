"""Agents that are programs speaking the Agent Client Protocol (JSON-RPC 2.0 over standard in/output)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta
from twisted.application.service import Service
from twisted.internet.defer import Deferred, TimeoutError, succeed
from twisted.plugin import IPlugin
from zope.interface import implementer

from gateway.agents.acp_access import AccessConfig, access_of, terminal_maker
from gateway.agents.acp_models import PROVIDER, refreshed, with_offered
from gateway.agents.acp_requests import Access
from gateway.agents.acp_worker import AcpWorker
from gateway.agents.jsonrpc import RpcError
from gateway.agents.mcpconfig import check_variables
from gateway.agents.pool import Pool
from gateway.agents.process import ChildProcess, Command, Exit, Limits, clean_environment
from gateway.agents.processconfig import ProcessConfig
from gateway.app.threads import in_thread
from gateway.config import Secret, resolve_secret
from gateway.errors import BackendError, ConfigError, StartError
from gateway.interfaces import (
    BackendEnvironment,
    IAgentBackend,
    IAgentBackendFactory,
    ICompactingBackend,
    IModelsBackend,
    IRunSink,
    ISteerableBackend,
    IWorkerBackend,
    IWorkspaceBackend,
)
from gateway.model import Attachment, Compaction, ModelInfo, RunRequest, RunResult
from gateway.settings import find_secrets

T = TypeVar("T")

NO_ACCESS = Access(files=False, terminal="off")
"""For agents that use no files, terminals or servers of the gateway."""


class AcpConfig(AccessConfig, frozen=True):
    """An agent program that speaks the Agent Client Protocol."""

    command: Annotated[list[str], Meta(min_length=1)] = msgspec.field(default_factory=list)
    """The program and its arguments, such as ["opencode", "acp"]."""
    env: dict[str, Secret] = {}
    """Environment variables for it, beside a few harmless ones of the gateway such as PATH and HOME."""
    cwd: str | None = None
    """Its working directory, which is then its workspace; without it workspace/ID in the state directory."""

    def __post_init__(self) -> None:
        if not self.command or not self.command[0]:
            raise ValueError('"command" is missing: the program and its arguments')
        check_variables(self.env)


@implementer(
    IAgentBackend,
    IWorkerBackend,
    ISteerableBackend,
    ICompactingBackend,
    IWorkspaceBackend,
    IModelsBackend,
)
class AcpBackend(Service):
    """Runs turns in supervised processes, each of which serves many sessions of the agent.

    ``command`` is what to run, ``models`` what it answers with, ``settings`` how many processes there may be,
    and what each may take. A turn can be run again: its process died
    with the gateway, and the new one is told the transcript before it.
    """

    reruns = True

    def __init__(
        self,
        command: Command,
        models: tuple[ModelInfo, ...],
        environment: BackendEnvironment,
        settings: ProcessConfig,
        access: Access = NO_ACCESS,
    ) -> None:
        self.models = models
        self.workspace = command.cwd
        self._access = access
        self._settings = settings
        self._command = command
        self._environment = environment
        self._pool: Pool[AcpWorker] = Pool(
            environment.agent_id,
            self._worker,
            environment.clock,
            environment.entropy,
            size=settings.pool,
            idle_s=settings.idle_s,
        )

    def startService(self) -> None:
        """Start the first process, in a workspace that is made for it. Raises StartError if it can't be."""
        super().startService()  # type: ignore[no-untyped-call]
        try:
            Path(self._command.cwd).mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            where = f"workspace of agent {self._environment.agent_id}"
            raise StartError(f"{where}: {self._command.cwd}: {error.strerror}") from error
        self._pool.start()

    def stopService(self) -> Deferred[None]:
        """Fail the runs that go on and end the processes; the Deferred fires when they are gone."""
        super().stopService()  # type: ignore[no-untyped-call]
        return self._pool.stop()

    def ready(self) -> bool:
        """Whether a process runs and has answered ``initialize``."""
        return self._pool.ready

    def describe_worker(self, run_id: str) -> dict[str, Any]:
        """Return what is known of the process behind a run; of a single process also for an unknown run.

        ``{process, state, restarts, runs, sessions, questions?, terminals?, pid?, launcherPid?,
        startedAtMs?, lastError?, nextStartInMs?}``
        """
        return self._pool.describe(run_id)

    def workers(self) -> tuple[dict[str, Any], ...]:
        """Return the same of every process there is or should be."""
        return self._pool.describe_all()

    def start(self, request: RunRequest, sink: IRunSink) -> Deferred[RunResult]:
        """Run one turn; while the process starts, wait for it.

        Fails with BackendError: for what the agent answers, and at once when its process dies.
        """
        return self._in_pool(
            request, lambda worker: worker.run(request, sink).addBoth(self._learn, worker)
        )

    def _in_pool(
        self, request: RunRequest, work: Callable[[AcpWorker], Deferred[T]]
    ) -> Deferred[T]:
        key, session_id = request.session_key, request.session_id
        return Deferred.fromCoroutine(self._pool.run(request.run_id, key, session_id, work))

    def _learn(self, result: T, worker: AcpWorker) -> T:
        self.models = with_offered(self.models, worker.models)
        return result

    def refresh_models(self) -> Deferred[Sequence[ModelInfo]]:
        """Have an agent of ours ask its providers; of others what they have offered stands.

        Fails with BackendError.
        """
        return Deferred.fromCoroutine(self._refresh_models())

    async def _refresh_models(self) -> Sequence[ModelInfo]:
        try:
            answer = await self._pool.run("", "", "", AcpWorker.list_models)
        except (RpcError, TimeoutError) as error:
            raise BackendError(f"the agent did not list its models: {error}") from error
        self.models = refreshed(self.models, answer)
        return self.models

    def steer(self, run_id: str, text: str, attachments: Sequence[Attachment]) -> Deferred[bool]:
        """Give a running run another message; whether its agent took it."""
        worker = self._pool.worker_of(run_id)
        return succeed(False) if worker is None else worker.steer(run_id, text, attachments)

    def compact(self, request: RunRequest, sink: IRunSink) -> Deferred[Compaction | None]:
        """Have the agent summarise a session's older turns. Fails with BackendError."""
        return self._in_pool(request, lambda worker: worker.compact(request, sink))

    def _worker(
        self, on_ready: Callable[[], None], on_end: Callable[[BackendError], None]
    ) -> AcpWorker:
        environment, settings = self._environment, self._settings
        limits = Limits(settings.memory_bytes, settings.open_files, settings.nice)

        def make_child(
            on_output: Callable[[bytes], None],
            on_death: Callable[[Exit], None],
            on_exit: Callable[[Exit], None],
        ) -> ChildProcess:
            return ChildProcess(
                environment.agent_id,
                reactor=environment.reactor,
                clock=environment.clock,
                on_output=on_output,
                on_death=on_death,
                on_exit=on_exit,
                mark=environment.entropy.uuid4(),
                limits=limits,
            )

        return AcpWorker(
            environment.agent_id,
            self._command,
            make_child,
            environment.clock,
            on_ready,
            on_end,
            settings.hang_timeout_s,
            access=self._access,
            make_terminal=terminal_maker(environment, limits),
            in_thread=in_thread(environment.reactor),
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
        models = (ModelInfo(id=environment.agent_id, name=title, provider=PROVIDER),)
        command = Command(tuple(config.command), env, cwd, _secrets(config.env, env))
        access = access_of(config, os.environ, _base(environment), key)
        return AcpBackend(command, models, environment, config, access)


def workspace(cwd: str | None, environment: BackendEnvironment) -> str:
    """Return the absolute working directory of an agent; a relative ``cwd`` starts at the configuration's."""
    if cwd is not None:
        return str(Path(_base(environment), Path(cwd).expanduser()).absolute())
    return environment.workspace


def secret_of(secret: Secret, environment: BackendEnvironment, key: str) -> str:
    """Return a secret of an agent's table. Raises ConfigError, naming ``key``, if it is missing."""
    return resolve_secret(secret, os.environ, _base(environment), key=key)


def _secrets(table: Mapping[str, Secret], env: Mapping[str, str]) -> tuple[str, ...]:
    """Return what of an agent's environment is secret: what is kept elsewhere, or is named like a secret."""
    plain = {name: value for name, value in table.items() if isinstance(value, str)}
    named = (text for _, text in find_secrets({"env": plain}))
    return (*(env[name] for name in table if name not in plain), *named)


def _base(environment: BackendEnvironment) -> Path:
    return Path(environment.config_dir or environment.state_dir)

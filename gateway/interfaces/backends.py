"""Agent backends: what they provide, what they are given, and the plugins that make them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from twisted.application.service import IService
from twisted.internet.defer import Deferred
from twisted.plugin import IPlugin
from zope.interface import Attribute, Interface

from gateway.interfaces.base import IClock, IEntropy
from gateway.model import (
    ApprovalRequest,
    Attachment,
    Compaction,
    Decision,
    Message,
    ModelInfo,
    RunRequest,
    RunResult,
)


class IRunSink(Interface):
    """Where an agent backend puts what a run produces. Calls after the run's end are ignored."""

    def text(delta: str) -> None:
        """Append to the visible answer."""

    def replace(text: str) -> None:
        """Rewrite the visible answer as a whole."""

    def emit(stream: str, data: dict[str, Any]) -> None:
        """Emit an event on another stream: tool, thinking, plan, usage, compaction ..."""

    def history(limit: int) -> Deferred[tuple[Message, ...]]:
        """Return the transcript before this run's own message, for a backend that starts afresh.

        The newest ``limit`` messages of turns that are over, oldest first. Where the conversation was
        shortened the first is the newest summary: a message of role ``system`` (see
        :func:`gateway.core.transcript.is_summary`), after it what it does not stand for.
        """

    def ask(request: ApprovalRequest) -> Deferred[Decision | None]:
        """Ask an operator; None if nobody could decide, or nobody did in time.

        The end of the run answers None; cancel the Deferred to take the question back.
        """

    def bind(agent_session: str | None) -> None:
        """Remember the backend's own name of this conversation: later runs of the session get it back.

        None forgets it. So does a reset of the session, and the gateway where the agent has to start
        afresh: a request without it, in a session for which one was bound, asks for a new conversation.
        """

    def compacted(compaction: Compaction) -> Deferred[None]:
        """Note in the transcript that older turns were summarised; they stay in it.

        From then on :meth:`history` gives the summary in their place.
        """


class IAgentBackend(IService):
    """An agent that runs turns. A service: started before the first run, stopped after the last."""

    models: Sequence[ModelInfo] = Attribute("What it answers with; the first is the default.")
    reruns: bool = Attribute(
        "Whether a turn that a crash cut off may be started again from its message; without it, not."
    )

    def start(request: RunRequest, sink: IRunSink) -> Deferred[RunResult]:
        """Run one turn. Abort is ``Deferred.cancel()``: the backend stops at once and the Deferred ends.

        Raises or fails with :class:`gateway.errors.BackendError` for failures worth telling the user.
        """

    def ready() -> bool:
        """Whether a run could start now."""


class IWorkerBackend(Interface):
    """What a backend may provide beside IAgentBackend, if its runs go on in processes of its own."""

    def describe_worker(run_id: str) -> Mapping[str, Any]:
        """Return facts of the process behind a run: ``pid``, ``state``, ``restarts``, ``lastError`` ...

        Texts and numbers only, no secrets: who may read sessions sees them. Called while the run goes
        on; it must not block.
        """

    def workers() -> Sequence[Mapping[str, Any]]:
        """Return the same facts of every process there is or should be, for people."""


class ISteerableBackend(Interface):
    """What a backend may provide beside IAgentBackend, if a run that goes on can be told more."""

    def steer(run_id: str, text: str, attachments: Sequence[Attachment]) -> Deferred[bool]:
        """Give a running run another message of the user; whether its agent took it."""


class ICompactingBackend(Interface):
    """What a backend may provide beside IAgentBackend, if it can shorten a conversation when told to."""

    def compact(request: RunRequest, sink: IRunSink) -> Deferred[Compaction | None]:
        """Summarise the older turns of the request's session; None if there is nothing to shorten.

        ``request.text`` is what the summary should heed, or empty. Called while no run of the session
        goes on. Fails with :class:`gateway.errors.BackendError`.
        """


class IModelsBackend(Interface):
    """What a backend may provide beside IAgentBackend, if it can ask which models there are.

    ``models`` of IAgentBackend may change at any time; who lists models reads it anew. This is for a
    list that somebody wants to be fresh.
    """

    def refresh_models() -> Deferred[Sequence[ModelInfo]]:
        """Ask the providers, bring ``models`` up to date, and return it.

        Fails with :class:`gateway.errors.BackendError`; what was known before then stands.
        """


class IWorkspaceBackend(Interface):
    """What a backend may provide beside IAgentBackend, if it decides where the agent's files lie."""

    workspace: str = Attribute("The agent's workspace, an absolute path of a directory.")


class BackendEnvironment:
    """What a backend is made with.

    :ivar agent_id: the agent's id in the configuration.
    :ivar reactor: provides IReactorProcess, IReactorCore and IReactorTCP.
    :ivar state_dir: the directory of the gateway's state.
    :ivar config_dir: the configuration file's directory, None without a file: what relative paths of
        the configuration are relative to.
    :ivar workspace: the directory for the agent's files, an absolute path; it need not exist yet.
    """

    def __init__(
        self,
        *,
        agent_id: str,
        reactor: Any,
        clock: IClock,
        entropy: IEntropy,
        state_dir: str,
        config_dir: str | None = None,
        workspace: str | None = None,
    ) -> None:
        self.agent_id = agent_id
        self.reactor = reactor
        self.clock = clock
        self.entropy = entropy
        self.state_dir = state_dir
        self.config_dir = config_dir
        self.workspace = workspace or os.path.join(
            os.path.abspath(state_dir), "workspace", agent_id
        )


class IAgentBackendFactory(IPlugin):
    """Makes agent backends of one kind: ``[agents.NAME] backend = "<name>"``."""

    name: str = Attribute("The name in the configuration.")
    summary: str = Attribute("One line for people.")
    config_type: type = Attribute("A msgspec.Struct (forbid_unknown_fields) for the agent's table.")

    def make(config: Any, environment: BackendEnvironment) -> IAgentBackend:
        """Make a backend from its decoded configuration. Raises ConfigError."""


RunListener = Callable[[Any], None]
"""Called with every :class:`gateway.core.run.RunOutput`, in order."""

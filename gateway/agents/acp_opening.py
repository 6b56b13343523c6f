"""How a conversation of the gateway is opened in an agent program, and set as its session wants it."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.logger import Logger
from twisted.python.failure import Failure

from gateway.agents.acp_capabilities import Capabilities
from gateway.agents.acp_content import (
    HISTORY_MESSAGES,
    history_items,
    history_text,
    prompt_error,
)
from gateway.agents.acp_session import ID_CHARS, AgentSession, bound_id, bound_name
from gateway.agents.acp_updates import choices
from gateway.agents.acp_values import mapping, text_of
from gateway.agents.jsonrpc import AUTH_REQUIRED, RpcError
from gateway.agents.mcpconfig import ResolvedServer, acp_servers
from gateway.agents.rpc import Conversation
from gateway.errors import BackendError, BackendErrorKind
from gateway.interfaces import IRunSink
from gateway.model import RunRequest

NEW_SESSION_S = 60.0
"""How long an agent has to open a session."""
SETTING_S = 15.0
"""How long it has to change a setting of one."""
CLOSE_S = 10.0
"""How long it has to close one."""

Notices = list[tuple[str, str]]
"""Kind and text of what people should know of a session that could not be had as it was wanted."""


class Opener:
    """Opens sessions in one agent process.

    ``name`` is what the agent is called in what is bound to sessions: what another agent has bound means
    nothing to this one.
    """

    def __init__(
        self,
        rpc: Conversation,
        can: Capabilities,
        *,
        name: str,
        cwd: str,
        servers: tuple[ResolvedServer, ...],
        log: Logger,
    ) -> None:
        self._rpc = rpc
        self._can = can
        self._name = name
        self._log = log
        self._place = {"cwd": cwd, "mcpServers": acp_servers(servers, http=can.http)}
        left_out = [server.name for server in servers if server.url is not None and not can.http]
        if left_out:
            self._log.warn("the agent can not use MCP servers by HTTP: {names}", names=left_out)

    async def open(self, session: AgentSession, request: RunRequest, sink: IRunSink) -> str:
        """Return the agent's id of a session: found again if the agent can, else a fresh one.

        A fresh one is told the conversation so far. Raises BackendError.
        """
        known = bound_id(request.agent_session, self._name, request.session_id)
        if known is None or not await self._find(session, known, request):
            known = await self._make(session, request, sink)
        session.acp_id = known
        session.bound = True
        bound = bound_name(self._name, request.session_id, known)
        if bound != request.agent_session:
            sink.bind(bound)
        return known

    def close(self, acp_id: str, *, for_good: bool = False) -> None:
        """Tell the agent that a session is not used any more, if it wants to know.

        ``for_good``: nobody will ask for it again, so that an agent of ours need not keep it.
        """
        if for_good and self._can.forget:
            method = "_gateway/forget"
        elif self._can.close:
            method = "session/close"
        else:
            return
        closed = self._rpc.request(method, {"sessionId": acp_id}, CLOSE_S)
        closed.addErrback(
            lambda failure: self._log.debug("no close: {error!s:.200}", error=failure.value)
        )

    async def settle(self, session: AgentSession, request: RunRequest) -> Notices:
        """Set the model and the thinking that a request asks for, where the agent offers them."""
        if self._can.ours or session.acp_id is None:
            return []
        notices = await self._settle_model(session, session.acp_id, request.model)
        option = session.facts.option("thought_level")
        if option is not None and request.thinking in choices(option):
            await self._choose(session, session.acp_id, option, request.thinking or "")
        return notices

    async def _find(self, session: AgentSession, acp_id: str, request: RunRequest) -> bool:
        """Open a session that the agent had before; whether it has it still."""
        methods = [
            method
            for method, can in (
                ("session/resume", self._can.resume),
                ("session/load", self._can.load),
            )
            if can
        ]
        params = {"sessionId": acp_id, **self._place, "_meta": self._meta(request, None)}
        for method in methods:
            # What it reports of the session belongs to no run from here on, but is remembered.
            session.acp_id = acp_id
            try:
                answer = await self._ask(method, params)
            except RpcError as error:
                session.acp_id = None
                if error.code == AUTH_REQUIRED:
                    raise prompt_error(error, self._can.logins) from None
                self._log.info(
                    "{method} of an earlier session was refused: {error:.200}",
                    method=method,
                    error=error.message,
                )
            except BaseException:
                session.acp_id = None
                raise
            else:
                session.facts.opened(mapping(answer))
                return True
        return False

    async def _make(self, session: AgentSession, request: RunRequest, sink: IRunSink) -> str:
        said = history_items(await sink.history(HISTORY_MESSAGES))
        params = {**self._place, "_meta": self._meta(request, said)}
        try:
            answer = mapping(await self._ask("session/new", params))
        except RpcError as error:
            raise prompt_error(error, self._can.logins) from None
        acp_id = text_of(answer.get("sessionId"))
        if acp_id is None or len(acp_id) > ID_CHARS:
            raise BackendError("the agent opened a session without an id")
        session.facts.opened(answer)
        session.preface = None if self._can.history else history_text(said)
        return acp_id

    def _meta(self, request: RunRequest, said: list[dict[str, str]] | None) -> dict[str, Any]:
        meta: dict[str, Any] = {}
        if said is not None and self._can.history:
            meta["history"] = said
        if request.model is not None:
            meta["model"] = request.model
        return {"gateway": meta}

    async def _ask(self, method: str, params: dict[str, Any]) -> Any:
        new = method == "session/new"
        try:
            asked = self._rpc.request(method, params, NEW_SESSION_S)
            return await (self._unless_given_up(asked) if new else asked)
        except DeferredTimeout:
            text = f"the agent did not open a session within {NEW_SESSION_S:.0f} s"
            raise BackendError(text, kind=BackendErrorKind.TIMEOUT) from None

    def _unless_given_up(self, asked: Deferred[Any]) -> Deferred[Any]:
        """Return an answer to ``session/new``; is that cancelled, the session is closed once there is one."""
        wanted: Deferred[Any] = Deferred()

        def answered(result: Any) -> None:
            if not wanted.called:
                wanted.callback(result)
            elif not isinstance(result, Failure):
                acp_id = text_of(mapping(result).get("sessionId"))
                if acp_id is not None:
                    self.close(acp_id)

        asked.addBoth(answered)
        return wanted

    async def _settle_model(
        self, session: AgentSession, acp_id: str, wanted: str | None
    ) -> Notices:
        facts = session.facts
        option = facts.option("model")
        current = facts.model if option is None else text_of(option.get("currentValue"))
        offered = facts.models if option is None else choices(option)
        if wanted is None:
            model = session.default_model
        else:
            model = next((name for name in _names(wanted) if name in offered), None)
            if model is None:
                return [("model", f"the agent does not offer {wanted}; it answers with its own")]
        if model is None or model == current:
            return []
        try:
            if option is not None:
                await self._choose(session, acp_id, option, model, strict=True)
            else:
                params = {"sessionId": acp_id, "modelId": model}
                await self._rpc.request("session/set_model", params, SETTING_S)
                facts.model = model
        except (RpcError, DeferredTimeout) as error:
            self._log.warn(
                "model {model:.100} was refused: {error!s:.200}", model=model, error=error
            )
            return [("model", f"the agent did not change to {model}; it answers with its own")]
        session.default_model = current if session.default_model is None else session.default_model
        return []

    async def _choose(
        self,
        session: AgentSession,
        acp_id: str,
        option: dict[str, Any],
        value: str,
        *,
        strict: bool = False,
    ) -> None:
        """Set an option. A refusal is logged; with ``strict`` it is raised."""
        if option.get("currentValue") == value:
            return
        params = {"sessionId": acp_id, "configId": option["id"], "value": value}
        try:
            answer = await self._rpc.request("session/set_config_option", params, SETTING_S)
        except (RpcError, DeferredTimeout) as error:
            if strict:
                raise
            self._log.info("{option} was refused: {error!s:.200}", option=option["id"], error=error)
            return
        option["currentValue"] = value
        session.facts.update({"sessionUpdate": "config_option_update"} | mapping(answer))


def _names(model: str) -> tuple[str, ...]:
    """Return what an agent may call a model that the gateway calls ``PROVIDER/ID``."""
    return (model, model.partition("/")[2]) if "/" in model else (model,)

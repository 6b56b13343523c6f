"""The servers of the Model Context Protocol whose tools an agent has.

Requirements. A server is started when its tools are first needed, and serves all sessions. Its death, its
silence and its nonsense are the failure of one call, which the model is told; the next call starts it
again. None of it ends the worker or a turn. What a server is told and what it answers is bounded.

Design. Each connection lives in a task of its own, since the library wants it closed by the task that
opened it. A call that fails in any other way than by the tool's own answer gives the connection up.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import msgspec
from pydantic_ai import RunContext
from pydantic_ai.exceptions import ModelRetry, ToolFailed
from pydantic_ai.toolsets import AbstractToolset, ToolsetTool

from gateway.agents.mcpconfig import ResolvedServer
from gateway.agents.workers.toolspec import OUTPUT_CHARS, cut

if TYPE_CHECKING:
    from pydantic_ai.mcp import MCPToolset

CONNECT_S = 30.0
"""How long a server has to start and to say what it has."""
CALL_S = 120.0
"""How long one call may take."""
PING_S = 5.0
"""How long a server that was slow with a call has to show that it lives."""
IDLE_S = 900.0
"""A server that nobody has used for so long is stopped, until it is needed again."""
RETRY_S = 30.0
"""A server that could not be started is left alone for so long."""
MAX_SERVERS = 64
MAX_TOOLS = 128
"""Tools of one server that a model is told of."""
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""The names of tools that providers take: a request with another one is refused as a whole."""
DESCRIPTION_CHARS = 10_000
NO_ANSWER = (-32000, -32001, 408)
"""Codes that the library itself gives to a closed connection and to a request without an answer."""


class ToolServer(AbstractToolset[Any]):
    """One server, as a set of tools whose names begin with its own. ``say`` gets lines for the log."""

    def __init__(
        self,
        server: ResolvedServer,
        cwd: str,
        say: Callable[[str], None] = lambda line: print(line, file=sys.stderr),
    ) -> None:
        self._server = server
        self._cwd = cwd
        self._say = say
        self._prefix = re.sub(r"[^A-Za-z0-9_-]", "_", server.name)
        self._lock = asyncio.Lock()
        self._toolset: MCPToolset[Any] | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._failed: tuple[float, str] | None = None
        self._used = 0.0

    @property
    def id(self) -> str:
        """Its name in the configuration."""
        return self._server.name

    async def get_tools(self, ctx: RunContext[Any]) -> dict[str, ToolsetTool[Any]]:
        """Return its tools; none, and a line in the log, if it can not be reached."""
        try:
            toolset = await self._connected()
            async with asyncio.timeout(CONNECT_S):
                tools = await toolset.get_tools(ctx)
        except ToolFailed:
            return {}
        except Exception as error:
            await self._give_up(error)
            return {}
        found: dict[str, ToolsetTool[Any]] = {}
        for name, tool in tools.items():
            full = f"{self._prefix}_{name}"
            if not NAME.fullmatch(full) or len(found) >= MAX_TOOLS:
                continue
            told = cut(tool.tool_def.description or "", DESCRIPTION_CHARS)
            definition = replace(tool.tool_def, name=full, description=told)
            found[full] = ToolsetTool(
                toolset=self,
                tool_def=definition,
                max_retries=tool.max_retries,
                args_validator=tool.args_validator,
            )
        return found

    async def call_tool(
        self, name: str, tool_args: dict[str, Any], ctx: RunContext[Any], tool: ToolsetTool[Any]
    ) -> Any:
        """Call a tool. Raises ToolFailed, with the reason."""
        toolset = await self._connected()
        try:
            async with asyncio.timeout(CALL_S):
                result = await toolset.direct_call_tool(
                    name.removeprefix(f"{self._prefix}_"), tool_args
                )
        except Exception as error:
            if self._alive() and _answered(error):
                raise ToolFailed(cut(str(error), OUTPUT_CHARS)) from None
            late = f"no answer within {CALL_S:.0f} s"
            if _late(error) and await self._pings(toolset):
                # Only this call is slow; others may be going on.
                raise ToolFailed(f"the server {self._server.name}: {late}") from None
            await self._give_up(error)
            why = late if _late(error) else _words(error)
            text = f"the server {self._server.name} failed: {why}; it is started again when needed"
            raise ToolFailed(text) from None
        return _bounded(result)

    async def close(self) -> None:
        """End the connection, and with it a program that was started for it."""
        keeper, self._keeper, self._toolset = self._keeper, None, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)

    async def _connected(self) -> MCPToolset[Any]:
        """Return the connection, made if there is none. Raises ToolFailed."""
        loop = asyncio.get_running_loop()
        async with self._lock:
            self._used = loop.time()
            if self._toolset is not None and self._alive():
                return self._toolset
            await self.close()
            if self._failed is not None and loop.time() < self._failed[0]:
                raise ToolFailed(self._failed[1])
            ready: asyncio.Future[MCPToolset[Any]] = loop.create_future()
            self._keeper = asyncio.create_task(self._keep(ready))
            try:
                async with asyncio.timeout(CONNECT_S):
                    self._toolset = await ready
            except Exception as error:
                await self.close()
                why = f"did not start within {CONNECT_S:.0f} s" if _late(error) else _words(error)
                text = f"the server {self._server.name} can not be used: {why}"
                self._failed = (loop.time() + RETRY_S, text)
                self._say(text)
                raise ToolFailed(text) from None
            except BaseException:
                await self.close()
                raise
            self._failed = None
            return self._toolset

    async def _keep(self, ready: asyncio.Future[MCPToolset[Any]]) -> None:
        """Hold the connection until nobody has used it for long."""
        try:
            if find_spec("fastmcp") is not None:
                # Seconds of imports: not in the loop, where other turns go on.
                await asyncio.to_thread(import_module, "pydantic_ai.mcp")
            toolset = make_toolset(self._server, self._cwd)
            async with toolset:
                if not ready.done():
                    ready.set_result(toolset)
                loop = asyncio.get_running_loop()
                while (rest := self._used + IDLE_S - loop.time()) > 0:
                    await asyncio.sleep(rest)
        except Exception as error:
            if ready.done():
                self._say(f"the server {self._server.name} failed: {_words(error)}")
            else:
                ready.set_exception(error)
        finally:
            if self._keeper is asyncio.current_task():
                self._toolset = None

    def _alive(self) -> bool:
        keeper, toolset = self._keeper, self._toolset
        if keeper is None or keeper.done() or toolset is None:
            return False
        return bool(toolset.client.is_connected())

    async def _pings(self, toolset: MCPToolset[Any]) -> bool:
        try:
            async with asyncio.timeout(PING_S):
                return bool(await toolset.client.ping())
        except Exception:
            return False

    async def _give_up(self, error: BaseException) -> None:
        self._say(f"the server {self._server.name} failed: {_words(error)}")
        await self.close()


class ServerPool:
    """The servers of all sessions: those with the same definition are one."""

    def __init__(self, cwd: str) -> None:
        self._cwd = cwd
        self._servers: dict[bytes, ToolServer] = {}

    def get(self, servers: Iterable[ResolvedServer]) -> list[ToolServer]:
        """Return the servers, the first of several with the same name; at most MAX_SERVERS in all."""
        found: dict[str, ToolServer] = {}
        for server in servers:
            key = msgspec.json.encode(server)
            if server.name in found:
                continue
            if key not in self._servers and len(self._servers) >= MAX_SERVERS:
                continue
            if key not in self._servers:
                self._servers[key] = ToolServer(server, self._cwd)
            found[server.name] = self._servers[key]
        return list(found.values())

    async def close(self) -> None:
        """End all of them."""
        await asyncio.gather(*(server.close() for server in self._servers.values()))


def make_toolset(server: ResolvedServer, cwd: str) -> MCPToolset[Any]:
    """Return the library's client of a server."""
    if find_spec("fastmcp") is None:
        raise ToolFailed("a library is missing: pip install 'txgateway[mcp]'")
    from fastmcp.client.transports import StdioTransport
    from pydantic_ai.mcp import MCPToolset

    common: dict[str, Any] = {
        "id": server.name,
        "tool_error_behavior": "failed",
        "init_timeout": CONNECT_S,
        "read_timeout": CALL_S,
    }
    if server.command is None:
        return MCPToolset(str(server.url), headers=server.headers or None, **common)
    transport = StdioTransport(
        server.command, list(server.args), env=dict(server.env), cwd=cwd, keep_alive=False
    )
    return MCPToolset(transport, **common)


def session_servers(shapes: Any) -> list[ResolvedServer]:
    """Return the servers of ``mcpServers`` of ACP; what has not its shape is left out."""
    found: list[ResolvedServer] = []
    for shape in shapes if isinstance(shapes, list) else []:
        match shape:
            case {"name": str(name), "command": str(command)}:
                args = tuple(str(each) for each in shape.get("args") or ())
                env = _pairs(shape.get("env"))
                found.append(ResolvedServer(name=name, command=command, args=args, env=env))
            case {"name": str(name), "url": str(url)}:
                headers = _pairs(shape.get("headers"))
                found.append(ResolvedServer(name=name, url=url, headers=headers))
            case _:
                pass
    return found


def _pairs(items: Any) -> dict[str, str]:
    pairs = {}
    for item in items if isinstance(items, list) else []:
        with suppress(KeyError, TypeError):
            pairs[str(item["name"])] = str(item["value"])
    return pairs


def _bounded(result: Any) -> Any:
    """Return a result that is not longer than a model should be given."""
    if isinstance(result, str):
        return cut(result, OUTPUT_CHARS)
    try:
        text = json.dumps(result, ensure_ascii=False)
    except (TypeError, ValueError):
        return result
    return result if len(text) <= OUTPUT_CHARS else cut(text, OUTPUT_CHARS)


def _answered(error: BaseException) -> bool:
    """Whether a call failed by what the server answered, not for want of an answer."""
    if isinstance(error, ModelRetry):
        code = getattr(getattr(error.__cause__, "error", None), "code", None)
        return isinstance(code, int) and code not in NO_ANSWER
    return isinstance(error, ToolFailed)


def _late(error: BaseException) -> bool:
    return isinstance(error, TimeoutError)


def _words(error: BaseException) -> str:
    """Return an error in one line; of a group the first."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}".rstrip(": ")

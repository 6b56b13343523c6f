"""What an agent program may do through the gateway: its files, terminals and servers of tools."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from gateway.agents.acp_requests import Access
from gateway.agents.acp_terminals import MakeTerminal, TerminalProcess
from gateway.agents.mcpconfig import McpServer, resolve_servers
from gateway.agents.process import Exit, Limits, clean_environment
from gateway.agents.processconfig import ProcessConfig
from gateway.interfaces import BackendEnvironment


class AccessConfig(ProcessConfig, frozen=True):
    """An agent program that has files, terminals and servers of tools through the gateway."""

    fs: bool = True
    """Whether it may read and write text files of its workspace through the gateway."""
    terminal: bool | Literal["ask", "allow"] = "ask"
    """Whether it may run commands through the gateway: "ask" an operator (as true), "allow", or false."""
    mcp_servers: dict[str, McpServer] = {}
    """Servers of the Model Context Protocol that it is told to use, by name."""


def access_of(config: AccessConfig, environ: Mapping[str, str], base_dir: Path, key: str) -> Access:
    """Return what a table gives an agent, its servers' secrets read.

    ``environ`` is the gateway's environment, of which commands get the harmless part; ``key`` is the
    dotted key of the table. Raises ConfigError.
    """
    return Access(
        files=config.fs,
        terminal="off" if config.terminal is False else _word(config.terminal),
        terminal_env=clean_environment(environ),
        servers=resolve_servers(config.mcp_servers, environ, base_dir, key),
    )


def _word(value: bool | str) -> Literal["ask", "allow"]:
    return "allow" if value == "allow" else "ask"


def terminal_maker(environment: BackendEnvironment, limits: Limits) -> MakeTerminal:
    """Return what makes the processes of an agent's terminals."""

    def make(
        on_output: Callable[[bytes], None], on_exit: Callable[[Exit], None]
    ) -> TerminalProcess:
        return TerminalProcess(
            environment.agent_id,
            reactor=environment.reactor,
            clock=environment.clock,
            on_output=on_output,
            on_death=lambda _: None,
            on_exit=on_exit,
            mark=environment.entropy.uuid4(),
            limits=limits,
        )

    return make

"""The tool that runs commands: asked for, in a process group of its own, bounded in time and output."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from io import FileIO
from typing import Literal

from pydantic_ai import RunContext
from pydantic_ai.exceptions import ToolFailed

from gateway.agents.workers.toolspec import Permission, ToolContext
from gateway.workspace import Workspace, WorkspaceError

TIMEOUT_S = 120
MAX_TIMEOUT_S = 1800
HEAD_BYTES = 24_576
TAIL_BYTES = 24_576
"""Of a longer output the middle is left out."""
TERM_S = 2.0
"""How long a command has to heed SIGTERM when its time is up."""
LINGER_S = 1.0
"""How long something that the command left behind may hold its output."""
GONE_S = 0.5
"""How long is waited for what was killed to be gone; what has left the group may hold the output on."""

ShellPolicy = Literal["ask", "allow", "off"]


class Output:
    """The first and the last bytes of a stream."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._tail = bytearray()
        self._left_out = 0

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        room = HEAD_BYTES - len(self._head)
        self._head += data[:room]
        self._tail += data[room:]
        over = len(self._tail) - TAIL_BYTES
        if over > 0:
            self._left_out += over
            del self._tail[:over]

    def text(self) -> str:
        """Return what was kept, and how much was not."""
        head, tail = (bytes(part).decode("utf-8", "replace") for part in (self._head, self._tail))
        gap = f"\n[… {self._left_out} bytes are left out here …]\n" if self._left_out else ""
        return head + gap + tail


class ShellTool:
    """Runs commands in the workspace; ``ask`` says that each of them wants a permission first."""

    def __init__(self, workspace: Workspace, environ: Mapping[str, str], *, ask: bool) -> None:
        self._workspace = workspace
        self._environ = dict(environ)
        self._ask = ask

    async def shell(
        self,
        ctx: RunContext[ToolContext],
        command: str,
        directory: str = "",
        timeout_s: int = TIMEOUT_S,
    ) -> str:
        """Run a command of the shell (/bin/sh) and return its exit status and output.

        It has no standard input. What it started and left running is ended with it.

        Args:
            command: The command line.
            directory: Where to run it, relative to the workspace.
            timeout_s: After how many seconds it is ended.
        """
        timeout = min(max(1, timeout_s), MAX_TIMEOUT_S)
        try:
            cwd = await asyncio.to_thread(self._workspace.subdirectory, directory)
        except WorkspaceError as error:
            raise ToolFailed(error.message) from None
        if self._ask:
            raw_input = {"command": command, "cwd": cwd, "timeoutS": timeout}
            wanted = Permission(ctx.tool_call_id or "", command, raw_input)
            if not await ctx.deps.permitted(wanted):
                raise ToolFailed("this command was not allowed; it has not run")
        return await self._run(command, cwd, timeout)

    async def _run(self, command: str, cwd: str, timeout_s: int) -> str:
        output = Output()
        process, reading = await self._start(command, cwd, output)
        late = False
        try:
            try:
                await asyncio.wait_for(process.wait(), timeout_s)
            except TimeoutError:
                late = True
                _signal(process.pid, signal.SIGTERM)
                with suppress(TimeoutError):
                    await asyncio.wait_for(process.wait(), TERM_S)
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(reading), 0 if late else LINGER_S)
        finally:
            # The group is ended whatever happened: a cancelled turn leaves nothing behind.
            _signal(process.pid, signal.SIGKILL)
            await asyncio.wait([reading], timeout=GONE_S)
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            await process.wait()
        if late:
            raise ToolFailed(f"ended after {timeout_s} s, its time was up\n{output.text()}")
        return f"exit status {process.returncode}\n{output.text()}"

    async def _start(
        self, command: str, cwd: str, output: Output
    ) -> tuple[asyncio.subprocess.Process, asyncio.Task[None]]:
        # A pipe of our own: with asyncio's, a process has not ended before everything that it left
        # behind has let go of its output.
        reading, writing = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                "/bin/sh",
                "-c",
                command,
                cwd=cwd,
                env=self._environ,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=writing,
                stderr=writing,
                start_new_session=True,
            )
        except BaseException as error:
            os.close(reading)
            if isinstance(error, OSError | ValueError):
                raise ToolFailed(f"the command can not be run: {error}") from None
            raise
        finally:
            os.close(writing)
        return process, asyncio.create_task(_read(os.fdopen(reading, "rb", buffering=0), output))


async def _read(pipe: FileIO, output: Output) -> None:
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), pipe
    )
    try:
        while data := await reader.read(65_536):
            output.feed(data)
    finally:
        transport.close()


def _signal(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)

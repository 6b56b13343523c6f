"""The tools for files: read, list, search, write and edit, all of them inside the workspace."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from time import monotonic
from typing import Any, TypeVar

from pydantic_ai import ToolReturn
from pydantic_ai.exceptions import ToolFailed

from gateway.agents.workers.toolspec import OUTPUT_CHARS
from gateway.workspace import Entry, Workspace, WorkspaceError

T = TypeVar("T")

READ_LINES = 2000
READ_BYTES = 1024 * 1024
LIST_ENTRIES = 500
SEARCH_MATCHES = 200
SEARCH_FILES = 5000
SEARCH_BYTES = 1024 * 1024
"""A larger file is not searched."""
SEARCH_S = 10.0
LINE_CHARS = 300
DIFF_CHARS = 32_768
"""Of a larger file a change is reported without the texts before and after it."""
SKIPPED = (".git", ".hg", "node_modules", "__pycache__", ".venv")


class FileTools:
    """The tools; each raises ToolFailed with the reason, which the model sees."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    async def read(self, path: str, line: int = 1, limit: int = READ_LINES) -> str:
        """Read a text file of the workspace.

        Args:
            path: The file, relative to the workspace.
            line: The first line to read; lines count from 1.
            limit: The most lines to read.
        """
        limit = min(max(1, limit), READ_LINES)
        # One line more says whether there is more.
        text = await self._call(
            lambda: self._workspace.read_text(
                path, line=line, limit=limit + 1, max_bytes=READ_BYTES
            )
        )
        lines = text.splitlines(keepends=True)
        kept, size = 0, 0
        for each in lines[:limit]:
            size += len(each)
            if size > OUTPUT_CHARS and kept:
                break
            kept += 1
        shown = "".join(lines[:kept])
        if len(shown) > OUTPUT_CHARS:
            shown = shown[:OUTPUT_CHARS] + f"\n[line {line} is longer than this]"
        if kept < len(lines):
            shown += f"\n[there is more: go on with line {max(1, line) + kept}]"
        return shown or "[no such lines]" if line > 1 else shown

    async def list_directory(self, path: str = "") -> str:
        """List a directory of the workspace: a name in each line, directories with a slash, files with bytes.

        Args:
            path: The directory, relative to the workspace; the workspace itself if it is empty.
        """
        entries = await self._call(lambda: self._workspace.entries(path, limit=LIST_ENTRIES + 1))
        lines = [_entry(entry) for entry in entries[:LIST_ENTRIES]]
        if len(entries) > LIST_ENTRIES:
            lines.append(f"[there are more than these {LIST_ENTRIES}]")
        return "\n".join(lines) or "[empty]"

    async def search(
        self, text: str, path: str = "", name: str = "*", ignore_case: bool = False
    ) -> str:
        """Find lines that contain a text (not a pattern) in the files of the workspace.

        Args:
            text: The text to find, as it stands.
            path: The directory to search, relative to the workspace.
            name: Which files by their names, such as "*.py".
            ignore_case: Whether upper and lower case are the same.
        """
        if not text:
            raise ToolFailed("text: is empty")
        return await self._call(lambda: self._search(text, path, name, ignore_case))

    async def write(self, path: str, content: str) -> ToolReturn[str]:
        """Make a text file in the workspace, or replace one as a whole.

        Args:
            path: The file, relative to the workspace.
            content: What is to be in it.
        """
        before = await self._call(lambda: self._before(path))
        data = content.encode("utf-8", "replace")
        await self._call(lambda: self._workspace.write(path, data))
        return ToolReturn(f"wrote {len(data)} bytes", metadata=_diff(path, before, content))

    async def edit(
        self, path: str, old_text: str, new_text: str, replace_all: bool = False
    ) -> ToolReturn[str]:
        """Replace a text in a file of the workspace.

        Args:
            path: The file, relative to the workspace.
            old_text: The text that is there, exactly; it must be there once.
            new_text: The text to put in its place.
            replace_all: Whether to replace every occurrence, however many there are.
        """
        before = await self._call(lambda: self._workspace.read_text(path))
        count = before.count(old_text) if old_text else 0
        if not count:
            raise ToolFailed(f"{path}: old_text is not in it; nothing was changed")
        if count > 1 and not replace_all:
            text = f"{path}: old_text is in it {count} times; nothing was changed"
            raise ToolFailed(f"{text}; give more of the text around it, or replace_all")
        after = before.replace(old_text, new_text)
        await self._call(lambda: self._workspace.write(path, after.encode("utf-8", "replace")))
        return ToolReturn(f"replaced {count}", metadata=_diff(path, before, after))

    async def _call(self, call: Callable[[], T]) -> T:
        try:
            return await asyncio.to_thread(call)
        except WorkspaceError as error:
            raise ToolFailed(error.message) from None

    def _before(self, path: str) -> str | None:
        """Return what is in a file that will be replaced; nothing where it is no text."""
        try:
            return self._workspace.read_text(path)
        except WorkspaceError:
            return None

    def _search(self, text: str, path: str, name: str, ignore_case: bool) -> str:
        wanted = text.casefold() if ignore_case else text
        deadline = monotonic() + SEARCH_S
        found: list[str] = []
        notes: list[str] = []
        files = 0
        for file in self._files(path):
            files += 1
            if files > SEARCH_FILES or monotonic() > deadline:
                notes.append(f"[not everything was searched: stopped at {file}]")
                break
            if not fnmatchcase(file.rpartition("/")[2], name):
                continue
            found += self._matches(file, wanted, ignore_case)
            if len(found) > SEARCH_MATCHES:
                notes.append(f"[there are more matches than these {SEARCH_MATCHES}]")
                break
        return "\n".join(found[:SEARCH_MATCHES] + notes) or "[nothing found]"

    def _matches(self, file: str, wanted: str, ignore_case: bool) -> Iterator[str]:
        try:
            content = self._workspace.read_text(file, max_bytes=SEARCH_BYTES)
        except WorkspaceError:
            return
        for number, line in enumerate(content.splitlines(), 1):
            if wanted in (line.casefold() if ignore_case else line):
                yield f"{file}:{number}: {line.strip()[:LINE_CHARS]}"

    def _files(self, path: str) -> Iterator[str]:
        """Yield the files under a directory; links are not followed."""
        waiting = [path.rstrip("/")]
        first = True
        while waiting:
            directory = waiting.pop()
            try:
                entries = self._workspace.entries(directory)
            except WorkspaceError:
                if first:
                    raise
                continue
            first = False
            below = []
            for entry in entries:
                full = f"{directory}/{entry.name}" if directory else entry.name
                if entry.kind == "file":
                    yield full
                elif entry.kind == "directory" and entry.name not in SKIPPED:
                    below.append(full)
            waiting += reversed(below)


def _entry(entry: Entry) -> str:
    if entry.kind == "directory":
        return f"{entry.name}/"
    return (
        f"{entry.name} ({entry.size} bytes)"
        if entry.kind == "file"
        else f"{entry.name} ({entry.kind})"
    )


def _diff(path: str, before: str | None, after: str) -> dict[str, Any]:
    """Return a change in ACP's terms, for the report of the call."""
    if len(before or "") > DIFF_CHARS or len(after) > DIFF_CHARS:
        return {}
    return {"diff": {"path": path, "oldText": before, "newText": after}}

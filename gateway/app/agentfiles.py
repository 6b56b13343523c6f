"""The files in agents' workspaces, as clients read and write them.

Two views of one directory. A few files at its top tell an agent who it is; clients may write them, and must
not overwrite what somebody else wrote meanwhile: each has a hash. The whole of the workspace can be looked
at, but for what is hidden: names that begin with a dot hold keys more often than work. Where an agent works
around the gateway's own state or configuration, those are hidden as well.
"""

from __future__ import annotations

import mimetypes
import os
from base64 import b64encode
from hashlib import sha256
from typing import Any, Final, NamedTuple

from twisted.internet.defer import Deferred, DeferredLock

from gateway.app.agents import Agent
from gateway.app.deferreds import shielded
from gateway.app.threads import InThread
from gateway.errors import InvalidRequest, Unavailable
from gateway.workspace import KNOWN_FILES, Entry, Refused, Workspace, WorkspaceError

EXPECTED: Final = frozenset({"AGENTS.md", "BOOTSTRAP.md"})
"""Those of them that a workspace is expected to have."""
MAX_ENTRIES: Final = 10_000
"""Entries of one directory that are looked at."""


class Private(NamedTuple):
    """What nobody is shown who looks around in a workspace."""

    state_dir: str
    config: str


class AgentFiles:
    """Reads and writes in threads; every path stays in its agent's workspace."""

    def __init__(self, in_thread: InThread, max_bytes: int, private: Private) -> None:
        self._in_thread = in_thread
        self._private = private
        self._max_bytes = max_bytes
        self._writing = (
            DeferredLock()
        )  # between the look at a file and its writing there is nobody else

    def known(self, agent: Agent) -> Deferred[list[dict[str, Any]]]:
        """Return an entry for each of the well-known files, without their content."""
        return self._do(_known, _workspace(agent), self._max_bytes)

    def get(self, agent: Agent, name: str) -> Deferred[dict[str, Any]]:
        """Return a well-known file with its content. Fails with InvalidRequest for any other name."""
        return self._do(_get, _workspace(agent), _checked(name), self._max_bytes)

    def set(
        self, agent: Agent, name: str, content: str, expected: str | None
    ) -> Deferred[dict[str, Any]]:
        """Write a well-known file; with ``expected`` only if the SHA-256 of what is there is that.

        Who cancels the Deferred only stops waiting. Fails with InvalidRequest.
        """
        args = (_workspace(agent), _checked(name), content, expected, self._max_bytes)
        return shielded(self._writing.run(self._do, _set, *args))

    def list(self, agent: Agent, path: str, offset: int, limit: int) -> Deferred[dict[str, Any]]:
        """Return a page of a directory's entries: directories first, then by name."""
        return self._do(_list, _workspace(agent), path, offset, limit, self._private)

    def read(self, agent: Agent, path: str) -> Deferred[dict[str, Any]]:
        """Return a file of the workspace. Fails with InvalidRequest for what can not be shown."""
        return self._do(_read, _workspace(agent), path, self._max_bytes, self._private)

    def _do(self, function: Any, /, *args: Any) -> Deferred[Any]:
        return self._in_thread(_answered, function, *args)


def _workspace(agent: Agent) -> Workspace:
    if not agent.workspace:
        raise InvalidRequest(f'agent "{agent.agent_id}" has no workspace')
    return Workspace(agent.workspace)


def _checked(name: str) -> str:
    if name not in KNOWN_FILES:
        raise InvalidRequest(f'unsupported file "{name[:128]}"')
    return name


# -- what follows runs in a thread


def _answered(function: Any, *args: Any) -> Any:
    """Call a function; what the workspace refuses is the client's to mend, or nobody's."""
    try:
        return function(*args)
    except WorkspaceError as error:
        if error.reason is Refused.FAILED:
            raise Unavailable(error.message) from error
        details = {"reason": error.reason.value}
        raise InvalidRequest(error.message, details=details) from error


def _stat(workspace: Workspace, name: str) -> Entry | None:
    try:
        return workspace.stat(name)
    except WorkspaceError as error:
        if error.reason is Refused.NOT_FOUND:
            return None
        raise


def _found(workspace: Workspace, name: str, max_bytes: int) -> tuple[dict[str, Any], bytes | None]:
    """Return the entry of a well-known file, and its content if it is one that can be read."""
    row: dict[str, Any] = {"name": name, "path": str(workspace.root / name)}
    entry = _stat(workspace, name)
    if entry is None:
        return {**row, "missing": True, "expectedAbsent": name not in EXPECTED}, None
    data = workspace.read(name, max_bytes=max_bytes)
    row |= {"missing": False, "size": len(data), "updatedAtMs": max(0, entry.modified_ms)}
    return {**row, "hash": sha256(data).hexdigest()}, data


def _known(workspace: Workspace, max_bytes: int) -> list[dict[str, Any]]:
    rows = []
    for name in KNOWN_FILES:
        try:
            row, _ = _found(workspace, name, max_bytes)
        except WorkspaceError:
            # A link, a directory, too large: nothing that could be shown or written.
            row = {"name": name, "path": str(workspace.root / name), "missing": True}
        rows.append(row)
    return rows


def _get(workspace: Workspace, name: str, max_bytes: int) -> dict[str, Any]:
    row, data = _found(workspace, name, max_bytes)
    return row if data is None else {**row, "content": data.decode(errors="replace")}


def _set(
    workspace: Workspace, name: str, content: str, expected: str | None, max_bytes: int
) -> dict[str, Any]:
    if expected is not None:
        row, _ = _found(workspace, name, max_bytes)
        if row.get("hash") != expected.lower():
            text = "file changed since last load; re-run agents.files.get and retry"
            raise InvalidRequest(text, details={"reason": "file-changed"})
    workspace.write(name, content.encode(), max_bytes=max_bytes)
    return _get(workspace, name, max_bytes)


def _list(
    workspace: Workspace, path: str, offset: int, limit: int, private: Private
) -> dict[str, Any]:
    names = _visible(workspace, path, private)
    try:
        entries = workspace.entries("/".join(names), limit=MAX_ENTRIES)
    except WorkspaceError as error:
        if names or error.reason is not Refused.NOT_FOUND:
            raise
        entries = ()  # nothing has been put into it yet
    shown = [e for e in entries if e.kind in ("file", "directory") and not e.name.startswith(".")]
    shown.sort(key=lambda entry: (entry.kind != "directory", entry.name))
    rows = [_entry(names, entry) for entry in shown[offset : offset + limit]]
    answer: dict[str, Any] = {"path": "/".join(names), "entries": rows, "offset": offset}
    answer["totalEntries"] = len(shown)
    return answer | ({"parentPath": "/".join(names[:-1])} if names else {})


def _entry(names: list[str], entry: Entry) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": _text(entry.name),
        "path": _text("/".join([*names, entry.name])),
        "kind": entry.kind,
        "updatedAtMs": max(0, entry.modified_ms),
    }
    return row | ({"size": entry.size} if entry.kind == "file" else {})


def _read(workspace: Workspace, path: str, max_bytes: int, private: Private) -> dict[str, Any]:
    names = _visible(workspace, path, private)
    shown = "/".join(names)
    data = workspace.read(shown, max_bytes=max_bytes)
    file: dict[str, Any] = {
        "path": shown,
        "name": names[-1],
        "size": len(data),
        "updatedAtMs": max(0, workspace.stat(shown).modified_ms),
    }
    try:
        text = data.decode()
    except UnicodeDecodeError:
        mime = mimetypes.guess_type(names[-1])[0] or "application/octet-stream"
        return file | {"mimeType": mime, "encoding": "base64", "content": b64encode(data).decode()}
    mime = mimetypes.guess_type(names[-1])[0] or "text/plain"
    return file | {"mimeType": mime, "encoding": "utf8", "content": text}


def _visible(workspace: Workspace, path: str, private: Private) -> list[str]:
    """Return the names of a path relative to the workspace. Raises InvalidRequest for hidden ones."""
    if path.startswith("/"):
        raise InvalidRequest("path: it is relative to the workspace", details={"reason": "outside"})
    names = [name for name in path.split("/") if name not in ("", ".")]
    if any(name.startswith(".") for name in names):
        raise InvalidRequest("path: hidden files are not shown", details={"reason": "outside"})
    # Below the root no link is followed, so this is the real path.
    real = os.path.join(os.path.realpath(workspace.root), *names)
    state = os.path.realpath(private.state_dir)
    own = _within(real, state) and not _within(real, os.path.join(state, "workspace"))
    if own or real == os.path.realpath(private.config):
        text = "path: the gateway's own files are not shown"
        raise InvalidRequest(text, details={"reason": "outside"})
    return names


def _within(path: str, directory: str) -> bool:
    return os.path.commonpath((path, directory)) == directory


def _text(name: str) -> str:
    """Return a name as it can be sent; one that is not UTF-8 can be seen, and not opened."""
    return name.encode(errors="surrogateescape").decode(errors="replace")

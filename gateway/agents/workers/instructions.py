"""The files of a workspace that say who an agent is and how it works, put into its instructions."""

from __future__ import annotations

from gateway.workspace import KNOWN_FILES, Refused, Workspace, WorkspaceError

FILE_CHARS = 20_000
TOTAL_CHARS = 60_000
READ_BYTES = 256 * 1024


def workspace_instructions(workspace: Workspace) -> str | None:
    """Return the files that there are, each under its name; None if there is none.

    A file that is too long is cut, and says so; so is everything beyond the bound of all of them.
    Blocks.
    """
    parts: list[str] = []
    room = TOTAL_CHARS
    for name in KNOWN_FILES:
        text = _text(workspace, name)
        if not text or not room:
            continue
        kept = text[: min(FILE_CHARS, room)]
        room -= len(kept)
        if len(kept) < len(text):
            kept += f"\n[{name} is longer; the tool read shows the rest]"
        parts.append(f"## {name}\n\n{kept}")
    if not parts:
        return None
    return "\n\n".join(["# Files of your workspace", *parts])


def _text(workspace: Workspace, name: str) -> str:
    try:
        return workspace.read(name, max_bytes=READ_BYTES).decode("utf-8", "replace").strip()
    except WorkspaceError as error:
        if error.reason is Refused.TOO_LARGE:
            return "[too large to be shown here; the tool read shows it]"
        return ""

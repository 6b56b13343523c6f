"""Conversations on disk, so that they survive the worker: one JSON file each, readable for its owner only."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_ai.messages import ModelMessagesTypeAdapter

from gateway.agents.workers.conversation import Conversation

VERSION = 1
MAX_FILES = 500
"""Conversations that are kept; beyond, the one that was written longest ago is forgotten."""
MAX_AGE_S = 90 * 86_400
"""A conversation that was not written for so long is forgotten."""
MAX_FILE_BYTES = 16 * 1024 * 1024

_ID = re.compile(r"[0-9a-f]{32}")
_TURNS: TypeAdapter[Any] = TypeAdapter(list[Any])


class UnknownConversation(Exception):
    """There is no such conversation, or its file can not be used; the text says which."""


class ConversationStore:
    """The files in one directory. Every method blocks; a conversation has one writer at a time."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def save(self, conversation: Conversation) -> None:
        """Write a conversation as a whole. Raises OSError."""
        shape = {
            "version": VERSION,
            "summary": conversation.summary,
            "turns": [
                ModelMessagesTypeAdapter.dump_python(turn, mode="json")
                for turn in conversation.turns
            ],
        }
        data = json.dumps(shape, ensure_ascii=False).encode("utf-8", "replace")
        path = self._path(conversation.session_id)
        if len(data) > MAX_FILE_BYTES:
            path.unlink(missing_ok=True)
            return
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        descriptor = os.open(
            temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600
        )
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        self._prune()

    def load(self, session_id: str) -> Conversation:
        """Read a conversation. Raises UnknownConversation."""
        try:
            path = self._path(session_id)
            if path.stat().st_size > MAX_FILE_BYTES:
                raise UnknownConversation("its file is too large")
            shape = json.loads(path.read_bytes())
            if not isinstance(shape, dict) or shape.get("version") != VERSION:
                raise UnknownConversation("its file is of another version")
            turns = [
                ModelMessagesTypeAdapter.validate_python(turn)
                for turn in _TURNS.validate_python(shape.get("turns"))
            ]
        except FileNotFoundError:
            raise UnknownConversation("no such session") from None
        except (OSError, ValueError, ValidationError, RecursionError) as error:
            name = type(error).__name__
            print(f"session {session_id} can not be read: {name}", file=sys.stderr)
            raise UnknownConversation(f"its file can not be read: {name}") from None
        summary = shape.get("summary")
        return Conversation(session_id, summary if isinstance(summary, str) else None, turns)

    def remove(self, session_id: str) -> None:
        """Remove a conversation; there may be none."""
        with suppress(UnknownConversation, OSError):
            self._path(session_id).unlink(missing_ok=True)

    def _path(self, session_id: str) -> Path:
        if not _ID.fullmatch(session_id):
            raise UnknownConversation("no such session")
        return self._directory / f"{session_id}.json"

    def _prune(self) -> None:
        """Forget old files, the oldest over the cap, and what a crash left behind."""
        files = []
        with os.scandir(self._directory) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    files.append((entry.stat(follow_symlinks=False).st_mtime, entry.path))
        files.sort()
        oldest = time.time() - MAX_AGE_S
        for number, (written, path) in enumerate(files):
            if number < len(files) - MAX_FILES or written < oldest:
                Path(path).unlink(missing_ok=True)

"""What an agent program reports of a turn (ACP ``session/update``), put into a run's sink.

::

    agent_message_chunk   text
    agent_thought_chunk   emit thinking {text: so far, delta}
    tool_call             emit tool {phase: start, name, toolCallId, args, title, locations}
    tool_call_update      emit tool {phase: update, …, partialResult} or {phase: result, …, result, isError}
    plan                  emit plan {phase: update, steps, entries}
    usage_update          emit usage {contextTokens, contextWindow, cost}
    current_mode_update   emit notice {kind: mode, …}

What else there is (commands, options, titles) is kept with the session (:class:`SessionFacts`); the user's
own words are told when a session is loaded, and say nothing about a run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gateway.agents.acp_pacer import Pacer, Report
from gateway.agents.acp_tools import ToolCalls
from gateway.agents.acp_values import bounded, count_of, items, mapping, text_of
from gateway.interfaces import IClock, IRunSink

THINKING_CHARS = 65_536
"""Of a longer thought, ``text`` keeps the newest so many characters."""
THINKING_INTERVAL_S = 0.1
"""Thoughts arrive token by token and are reported cumulatively: at most one report in this time."""
EXTENSION_STREAMS = frozenset({"compaction", "usage", "notice", "run_status"})
"""Streams that an agent of ours may report on; of ``lifecycle`` only what follows."""
LIFECYCLE_PHASES = frozenset({"model", "fallback_step"})


class TurnUpdates:
    """The reports of one turn, in order, at most 20 events a second.

    Nothing here raises for what the program sends: what has not the shape of the protocol is left out.

    :ivar context_tokens: tokens in the agent's context, as it last said.
    """

    def __init__(
        self,
        sink: IRunSink,
        clock: IClock,
        on_error: Callable[[Exception], None],
        terminal: Callable[[str], str | None] = lambda _: None,
    ) -> None:
        self._seconds = clock.seconds
        self._pacer = Pacer(sink, clock, on_error)
        self._tools = ToolCalls(self._pacer, clock.seconds, terminal)
        self._thinking = ""
        self._thinking_delta = ""
        self._thinking_due = 0.0
        self._plan: list[Any] = []
        self._usage: dict[str, Any] = {}
        self._said: list[str] = []
        self._paragraphs: set[int] = set()
        self._tool_since_text = False
        self.context_tokens: int | None = None

    def update(self, update: dict[str, Any]) -> None:
        """Put one ``update`` object into the sink."""
        match update.get("sessionUpdate"):
            case "agent_message_chunk":
                self._say(_text(update.get("content")))
            case "agent_thought_chunk":
                self._think(_text(update.get("content")))
            case "tool_call" | "tool_call_update":
                self._tool_since_text = True
                self._tools.update(update)
            case "plan":
                if isinstance(update.get("entries"), list):
                    self._plan = update["entries"][:200]
                    self._pacer.report(self._planned, key="plan")
            case "usage_update":
                self._use(update)
            case "current_mode_update":
                mode = text_of(update.get("currentModeId"))
                if mode is not None:
                    self.notice("mode", f"the agent is in mode {mode[:100]}")

    def event(self, stream: Any, data: Any) -> bool:
        """Report what an agent of ours tells in its own words; whether that stream is let through."""
        if not isinstance(data, dict) or not isinstance(stream, str):
            return False
        if stream == "assistant":
            return self._take_back(data.get("takeBack"))
        phase = data.get("phase")
        told = isinstance(phase, str) and phase in LIFECYCLE_PHASES
        if stream not in EXTENSION_STREAMS and not (stream == "lifecycle" and told):
            return False
        shape = bounded(data)
        self._pacer.report(lambda: (stream, shape))
        return True

    def notice(self, kind: str, text: str) -> None:
        """Tell people something beside the answer."""
        data = {"kind": kind, "text": text}
        self._pacer.report(lambda: ("notice", data), key=("notice", kind, text))

    def flush(self) -> None:
        """Let out all that waits."""
        self._pacer.flush()

    def finish(self) -> None:
        """The turn has its answer: let out all that waits."""
        self._tools.finish()
        self._pacer.flush()

    def close(self) -> None:
        """The turn is over: forget what waits."""
        self._pacer.close()

    def _say(self, text: str) -> None:
        if not text:
            return
        # What an agent says before and after a tool call are paragraphs, not one word.
        apart = self._tool_since_text and bool(self._said) and not self._said[-1][-1].isspace()
        self._tool_since_text = False
        self._said.append(text)
        if apart:
            self._paragraphs.add(len(self._said) - 1)
        self._pacer.text("\n\n" + text if apart else text)

    def _take_back(self, chars: Any) -> bool:
        """Forget the newest characters of the answer: an attempt broke off, and another one begins."""
        if isinstance(chars, bool) or not isinstance(chars, int) or chars <= 0:
            return False
        while chars > 0 and self._said:
            piece = self._said.pop()
            if len(piece) > chars:
                self._said.append(piece[:-chars])
            elif len(self._said) in self._paragraphs:
                self._paragraphs.discard(len(self._said))
                self._tool_since_text = True
            chars -= len(piece)
        texts = ("\n\n" * (n in self._paragraphs) + text for n, text in enumerate(self._said))
        self._pacer.replace("".join(texts))
        return True

    def _think(self, text: str) -> None:
        if text:
            self._thinking = (self._thinking + text)[-THINKING_CHARS:]
            self._thinking_delta = (self._thinking_delta + text)[-THINKING_CHARS:]
            self._pacer.report(self._thought, key="thinking", ready_at=self._thinking_due)

    def _thought(self) -> Report:
        delta, self._thinking_delta = self._thinking_delta, ""
        self._thinking_due = self._seconds() + THINKING_INTERVAL_S
        return "thinking", {"text": self._thinking, "delta": delta}

    def _use(self, update: dict[str, Any]) -> None:
        used, size = count_of(update.get("used")), count_of(update.get("size"))
        if used is None:
            return
        self.context_tokens = used
        self._usage = {"contextTokens": used}
        if size is not None:
            self._usage["contextWindow"] = size
        cost = mapping(update.get("cost"))
        if isinstance(cost.get("amount"), int | float) and text_of(cost.get("currency")):
            self._usage["cost"] = {"amount": cost["amount"], "currency": cost["currency"][:10]}
        self._pacer.report(lambda: ("usage", self._usage), key="usage")

    def _planned(self) -> Report:
        shapes = [entry for entry in self._plan if isinstance(entry, dict)]
        steps = [str(entry.get("content", ""))[:1000] for entry in shapes]
        kept = [
            {"content": step, "priority": entry.get("priority"), "status": entry.get("status")}
            for step, entry in zip(steps, shapes, strict=True)
        ]
        return "plan", bounded({"phase": "update", "steps": steps, "entries": kept})


KINDS = frozenset(
    {
        *("agent_message_chunk", "agent_thought_chunk", "user_message_chunk", "tool_call"),
        *("tool_call_update", "plan", "available_commands_update", "current_mode_update"),
        *("config_option_update", "usage_update", "session_info_update"),
    }
)
"""The kinds of update that are known."""
MAX_OFFERED = 200
"""Models of one agent that are listed."""


class SessionFacts:
    """What an agent says of a session, latest first: its mode, models, options, commands, title.

    :ivar options: the ``configOptions`` as ACP has them.
    :ivar models: ids of the models it offers, where it does so outside of the options.
    """

    def __init__(self) -> None:
        self.options: list[dict[str, Any]] = []
        self.models: tuple[str, ...] = ()
        self.model: str | None = None
        self.mode: str | None = None
        self.commands: tuple[str, ...] = ()
        self.title: str | None = None

    def opened(self, answer: dict[str, Any]) -> None:
        """Take the answer to ``session/new``, ``session/load`` or ``session/resume``."""
        self._take_options(answer.get("configOptions"))
        self.mode = text_of(mapping(answer.get("modes")).get("currentModeId"))
        models = mapping(answer.get("models"))
        listed = [
            text_of(mapping(each).get("modelId")) for each in items(models.get("availableModels"))
        ]
        self.models = tuple(id_ for id_ in listed[:1000] if id_ is not None)
        self.model = text_of(models.get("currentModelId"))

    def update(self, update: dict[str, Any]) -> None:
        """Take a ``session/update``."""
        match update.get("sessionUpdate"):
            case "config_option_update":
                self._take_options(update.get("configOptions"))
            case "current_mode_update":
                self.mode = text_of(update.get("currentModeId"))
            case "session_info_update":
                title = text_of(update.get("title"))
                self.title = title[:500] if title else self.title
            case "available_commands_update":
                commands = items(update.get("availableCommands"))[:200]
                names = [text_of(mapping(command).get("name")) for command in commands]
                self.commands = tuple(name[:100] for name in names if name is not None)

    def option(self, category: str) -> dict[str, Any] | None:
        """Return the option of a category (``model``, ``thought_level`` …) that is chosen from a list."""
        for option in self.options:
            if option.get("category") == category and text_of(option.get("id")):
                return option
        return None

    def offered(self) -> tuple[str, ...]:
        """Return the ids of the models that may be chosen, as far as they can be shown."""
        option = self.option("model")
        found = dict.fromkeys(self.models if option is None else choices(option))
        shown = [name for name in found if 0 < len(name) <= 200 and name.isprintable()]
        return tuple(shown[:MAX_OFFERED])

    def _take_options(self, value: Any) -> None:
        if isinstance(value, list):
            kept = bounded([option for option in value[:100] if isinstance(option, dict)], 262_144)
            self.options = kept if isinstance(kept, list) else []


def choices(option: dict[str, Any]) -> tuple[str, ...]:
    """Return the values that an option can have, those of its groups included."""
    found: list[str] = []
    for entry in items(option.get("options")):
        shape = mapping(entry)
        for choice in items(shape.get("options")) or [shape]:
            value = text_of(mapping(choice).get("value"))
            if value is not None:
                found.append(value)
    return tuple(found)


def _text(content: Any) -> str:
    """Return what a content block says in an answer; what can not be shown there is named."""
    shape = mapping(content)
    text = shape.get("text")
    match shape.get("type"):
        case "text":
            return text if isinstance(text, str) else ""
        case "resource_link":
            return f"[{text_of(shape.get('title')) or shape.get('name')}]({shape.get('uri')})"[
                :2000
            ]
        case "resource":
            inner = mapping(shape.get("resource"))
            return text_of(inner.get("text")) or f"[{str(inner.get('uri'))[:500]}]"
        case "image" | "audio" as kind:
            return f"[{kind}: {str(shape.get('mimeType'))[:100]}]"
    return ""

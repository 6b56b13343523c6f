"""Everything that nodes tell by themselves, and who takes it."""

from __future__ import annotations

from gateway.app.agents import AgentDirectory
from gateway.app.copies import ChatCopies
from gateway.app.hub import Hub
from gateway.app.nodeagent import AgentRequests
from gateway.app.nodeevents import NodeEvents
from gateway.app.nodeexec import ExecEvents
from gateway.app.nodepresence import NodePresence
from gateway.app.nodeturns import NodeTurns
from gateway.app.pairednodes import PairedNodes
from gateway.app.periodic import Sized
from gateway.app.push import EVENT as PUSH_EVENT
from gateway.app.push import PushAddresses
from gateway.app.revocation import Revocations
from gateway.app.runs import Runs
from gateway.app.sessions import Sessions
from gateway.app.systemevents import SystemEvents
from gateway.app.voice import Voice
from gateway.core.turnfence import TurnFence
from gateway.core.voice import TranscriptDedupe
from gateway.interfaces import IClock, IEntropy, IStore
from gateway.limits import LimitsConfig


class NodeReports:
    """The handlers of ``node.event``, and what they keep."""

    def __init__(
        self,
        *,
        clock: IClock,
        entropy: IEntropy,
        store: IStore,
        hub: Hub,
        agents: AgentDirectory,
        sessions: Sessions,
        runs: Runs,
        limits: LimitsConfig,
        revocations: Revocations,
    ) -> None:
        paired = PairedNodes(store, revocations)
        turns = NodeTurns(clock=clock, entropy=entropy, runs=runs, agents=agents, limits=limits)
        self.new_sessions = turns.named
        self.voice = Voice(
            clock=clock,
            entropy=entropy,
            runs=runs,
            turns=turns,
            dedupe=TranscriptDedupe(
                max_sessions=limits.voice_sessions_max,
                max_identities=limits.voice_identities_max,
            ),
            fence=TurnFence(maximum=limits.voice_sessions_max),
        )
        self.system_events = SystemEvents(
            clock=clock,
            entropy=entropy,
            store=store,
            sessions=sessions,
            maximum=limits.system_events_max,
        )
        self.commands = ExecEvents(
            clock=clock, turns=turns, events=self.system_events, maximum=limits.exec_ends_max
        )
        self.presence = NodePresence(
            clock=clock, paired=paired, hub=hub, maximum=limits.node_facts_max
        )
        self.requests = AgentRequests(entropy=entropy, runs=runs, turns=turns, limits=limits)
        self.copies = ChatCopies(hub, agents)
        self.push = PushAddresses(paired)
        self.events = NodeEvents(clock, limits)
        self._add_handlers()
        runs.preface = self.system_events.take
        sessions.add_ended(self.system_events.forget)
        sessions.add_ended(self.commands.conversation_ended)
        runs.add_listener(self.voice.heard)

    @property
    def registries(self) -> tuple[Sized, ...]:
        """What is to be swept."""
        presence = self.presence
        kept = (presence.alive_at, presence.stats, presence.told_at)
        bounds = (self.new_sessions, self.events.paces)
        return (self.voice, self.system_events, self.commands, *kept, *bounds)

    def _add_handlers(self) -> None:
        add, commands, presence = self.events.add, self.commands, self.presence
        add("voice.transcript", self.voice.told)
        add("agent.request", self.requests.told)
        add("exec.started", commands.started)
        add("exec.finished", commands.finished)
        add("exec.denied", commands.denied)
        add("node.presence.alive", presence.alive)
        add("node.presence.activity", presence.activity)
        add("node.host.stats", presence.host_stats)
        add("notifications.changed", presence.notification)
        add("chat.subscribe", self.copies.subscribe)
        add("chat.unsubscribe", self.copies.unsubscribe)
        add(PUSH_EVENT, self.push.register)

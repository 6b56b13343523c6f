"""The parts that know nodes, decide what they may do, and ask them to do it."""

from __future__ import annotations

from typing import Any

from gateway.app.invocations import Invocations
from gateway.app.legacynodes import LegacyNodes
from gateway.app.nodedirectory import NodeDirectory
from gateway.app.nodegate import NodeGate
from gateway.app.nodepending import NodePending
from gateway.app.noderecords import NodeRecords
from gateway.app.nodereports import NodeReports
from gateway.app.nodes import Nodes
from gateway.app.periodic import Periodic, Sized
from gateway.app.policies import Policies
from gateway.app.surfaces import Surfaces
from gateway.app.voicewake import VoiceWake
from gateway.core.nodecommands import CommandPolicy
from gateway.wiring.base import Base
from gateway.wiring.pairing import PairingParts


class NodeParts:
    """Nodes, their surfaces and what they are asked, connected."""

    def __init__(
        self, base: Base, pairing: PairingParts, policies: Policies, reports: NodeReports
    ) -> None:
        clock, entropy, store, hub = base.clock, base.entropy, base.store, base.hub
        limits, config = base.config.limits, base.config.nodes
        policy = CommandPolicy(frozenset(config.allow_commands), frozenset(config.deny_commands))
        nodes = Nodes(clock=clock, policy=policy)
        self.records = NodeRecords(clock, store)
        directory = NodeDirectory(clock=clock, store=store, nodes=nodes)
        directory.add_facts(reports.presence.facts)
        pending = NodePending(clock=clock, entropy=entropy, maximum=limits.node_queues_max)
        pairing.revocations.add_listener(pending.end_of)
        # First what ends for it, then what that left behind.
        forget = (nodes.revoked, pending.forget, self.records.forget, reports.presence.forget)
        for forgetting in forget:
            pairing.revocations.add_node_listener(forgetting)
        surfaces = _surfaces(base, nodes, pairing)
        invocations = _invocations(base, nodes, directory, policies)
        invocations.node_failed = pending.put_off
        reports.commands.session_of_run = invocations.session_of_run
        # In the order of what follows from what: a node is known, may do something, is asked.
        for listener in (self.records, surfaces, invocations):
            nodes.add_listener(listener)
        self.services: dict[str, Any] = {
            "nodes": nodes,
            "node_directory": directory,
            "invocations": invocations,
            "node_pending": pending,
            "surfaces": surfaces,
            "legacy_nodes": LegacyNodes(clock=clock, store=store, hub=hub),
            "voice_wake": VoiceWake(clock=clock, store=store, hub=hub),
        }
        """By the names that :class:`gateway.app.context.Services` has for them."""
        self.registries: tuple[Sized, ...] = (
            invocations,
            invocations.answers,
            invocations.runs,
            pending,
            surfaces,
        )
        self.beats: tuple[Periodic, ...] = (self.records,)


def _surfaces(base: Base, nodes: Nodes, pairing: PairingParts) -> Surfaces:
    return Surfaces(
        clock=base.clock,
        entropy=base.entropy,
        store=base.store,
        hub=base.hub,
        nodes=nodes,
        revocations=pairing.revocations,
        notices=pairing.notices,
    )


def _invocations(
    base: Base, nodes: Nodes, directory: NodeDirectory, policies: Policies
) -> Invocations:
    limits = base.config.limits
    gate = NodeGate(
        policy=nodes.policy,
        directory=directory,
        entropy=base.entropy,
        limits=limits,
        system_run=policies.system_run,
    )
    return Invocations(
        clock=base.clock,
        entropy=base.entropy,
        hub=base.hub,
        nodes=nodes,
        gate=gate,
        limits=limits,
        metrics=base.metrics,
    )

"""What the queue modes do with messages that come while a run of their session goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.app.agents import AgentDirectory
from gateway.app.steering import Steering
from gateway.core.batch import alike, fits
from gateway.interfaces import ISteerableBackend
from gateway.model import QueueMode

if TYPE_CHECKING:
    from gateway.app.drive import Drive
    from gateway.app.runs import Runs

INTERRUPTED_BY = "interrupt"
"""Stop reason of a run that another message has interrupted."""


class Queueing:
    """Collects, steers and interrupts. What waits is in the lanes alone: here nothing is kept."""

    def __init__(self, runs: Runs, agents: AgentDirectory) -> None:
        self._runs = runs
        self._agents = agents

    def arrived(self, run_id: str) -> None:
        """A message was accepted, and who sent it is answered: do what its mode asks for if it waits."""
        drive = self._runs.drive(run_id)
        if drive is None or not drive.waiting or self._runs.stopping:
            return
        first = self._runs.lanes.runs(drive.run.session_key)[0]
        if first == run_id:
            return
        mode = drive.run.request.queue_mode
        if mode is QueueMode.INTERRUPT:
            self._runs.abort(first, INTERRUPTED_BY)
        elif mode is QueueMode.STEER:
            self._steer(first)

    def companions(self, drive: Drive) -> list[Drive]:
        """Return those whose messages are answered in one turn with the first of the lane.

        They stand behind it without another one between them, so that the order of a session holds.
        """
        run = drive.run
        found: list[Drive] = []
        if run.request.queue_mode is not QueueMode.COLLECT:
            return found
        for run_id in self._runs.lanes.runs(run.session_key)[1:]:
            other = self._runs.drive(run_id)
            if other is None:
                break  # the session is to be held before those behind it go
            if other.run.state.terminal:
                continue
            same = other.run.actor == run.actor and alike(run.request, other.run.request)
            requests = [each.run.request for each in (drive, *found, other)]
            if not (other.waiting and same and fits(requests)):
                break
            found.append(other)
        return found

    def _steer(self, run_id: str) -> None:
        """Offer what waits behind a run to its agent, if that goes and can take it."""
        drive = self._runs.drive(run_id)
        if drive is None:
            return  # no run goes: the session is held
        agent = self._agents.get(drive.run.request.agent_id)
        backend = None if agent is None else agent.backend
        if drive.steering is None and drive.working and ISteerableBackend.providedBy(backend):
            drive.steering = Steering(self._runs, drive.run, backend)
        if drive.steering is not None:
            drive.steering.offer()

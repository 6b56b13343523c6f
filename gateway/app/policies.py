"""The policy of exec approvals: what may be run unasked, kept as a setting of the gateway.

Requirements. The policy is the server's: who asks for something may be denied or asked because of it, never
allowed for what he claims. A change counts for the next question. Where the policy can not be read,
nothing is allowed.

Design. One record: the file as clients see it without what every use would change, and beside it when an
entry was last used and whose answer made it, by the entry's id. So the hash that guards a change
stays the same while agents work. The record is read once and then replaced by what each change has stored;
uses are collected and written by the sweep.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any, Final

import msgspec
from msgspec import UNSET
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from gateway.app.approvals import Approvals
from gateway.app.context import Caller
from gateway.app.systemrun import gated
from gateway.core.approval import Approval
from gateway.core.execcommand import Command
from gateway.core.execpolicy import (
    MAX_ENTRIES,
    Outcome,
    Ruling,
    as_wished,
    decide,
    resolve,
    stricter,
)
from gateway.core.execpolicyfile import EMPTY, adopted, entries_of, shown
from gateway.errors import GatewayError, InvalidRequest, StoreError, Unavailable
from gateway.interfaces import IClock, IEntropy, IStore
from gateway.limits import LimitsConfig
from gateway.model import (
    ExecAgentPolicy,
    ExecGrant,
    ExecPolicyFile,
    ExecPolicyRecord,
    ExecUsage,
)

SETTING: Final = "exec-approvals"
USED_CHARS: Final = 200
"""Of a longer command the beginning is kept as the last one of an entry."""

_NO_HASH: Final = "exec approvals base hash required; re-run exec.approvals.get and retry"
_CHANGED: Final = "exec approvals changed since last load; re-run exec.approvals.get and retry"


class Policies:
    """Holds the policy, judges commands by it, and changes it; a Sweepable."""

    name = "exec-policy"
    _log = Logger()

    def __init__(
        self,
        *,
        clock: IClock,
        entropy: IEntropy,
        store: IStore,
        limits: LimitsConfig,
        approvals: Approvals,
        path: str,
    ) -> None:
        """Make it; ``path`` is what clients are told of where the policy is kept."""
        self._clock = clock
        self._entropy = entropy
        self._store = store
        self._max_bytes = limits.exec_policy_bytes
        self._approvals = approvals
        self._path = path
        self._record: ExecPolicyRecord | None = None
        self._changes = 0
        self._used: dict[str, ExecUsage] = {}
        self._writing: Deferred[None] | None = None

    def __len__(self) -> int:
        return len(self._used)

    # -- judging

    async def of_run(self, agent_id: str, command: Command | None) -> Ruling:
        """Judge what an agent of this gateway wants to run. Raises Unavailable, StoreError."""
        record = await self._load()
        ruling = decide(resolve(record.file, agent_id), command)
        self._note(ruling, command)
        return ruling

    async def of_client(
        self, agent_id: str | None, command: Command | None, security: str | None, ask: str | None
    ) -> Ruling:
        """Judge what a client asks for an agent that it names, as strictly as it wants.

        It is judged as any agent and as that one, and the stricter verdict counts. Raises Unavailable,
        StoreError.
        """
        record = await self._load()
        ruling = decide(resolve(record.file, None), command)
        if agent_id is not None:
            ruling = stricter(ruling, decide(resolve(record.file, agent_id), command))
        ruling = as_wished(ruling, security, ask)
        self._note(ruling, command)
        return ruling

    def system_run(self, caller: Caller, node_id: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return the params of ``system.run`` that a node is to get; see :mod:`gateway.app.systemrun`.

        Raises InvalidRequest with ``details.code``.
        """
        return gated(self._approvals, caller, node_id, params, now_ms=self._clock.now_ms())

    # -- reading and changing

    async def snapshot(self, protocol: int) -> dict[str, Any]:
        """Return ``ExecApprovalsSnapshot``; version 4 is told more. Raises Unavailable, StoreError."""
        return self._shape(await self._load(), protocol)

    async def replace(
        self, file: ExecPolicyFile, base_hash: str | None, protocol: int
    ) -> dict[str, Any]:
        """Replace the whole policy, and return the new snapshot.

        Raises InvalidRequest for a base hash that is missing or old and for what the policy can not
        mean, and Unavailable, StoreError.
        """
        if base_hash is None:
            raise InvalidRequest(_NO_HASH)

        def change(record: ExecPolicyRecord) -> ExecPolicyRecord:
            if base_hash != _hash(record):
                raise InvalidRequest(_CHANGED)
            wanted = adopted(file, record.file, self._entropy.uuid4, protocol)
            before = {entry.id: entry for entry in entries_of(record.file)}
            same = {e.id for e in entries_of(wanted) if before.get(e.id) == e}
            grants = {key: grant for key, grant in record.grants.items() if key in same}
            return self._fitting(msgspec.structs.replace(record, file=wanted, grants=grants))

        record = await self._change(change)
        self._approvals.policy_changed()
        return self._shape(record, protocol)

    async def keep(self, approval: Approval, by: str) -> str | None:
        """Let an answer of allow-always last; return the id of its entry.

        None where the answer is the asker's own affair, or could not be kept, which is logged.
        """
        entry, agent_id = approval.lasting, approval.question.agent_id
        if entry is None or agent_id is None:
            return None
        entry_id = self._entropy.uuid4()
        grant = ExecGrant(by=by, at_ms=self._clock.now_ms(), approval_id=approval.id)

        def change(record: ExecPolicyRecord) -> ExecPolicyRecord:
            file = record.file or EMPTY
            agents = {} if file.agents is UNSET else file.agents
            agent = agents.get(agent_id, ExecAgentPolicy())
            entries = () if agent.allowlist is UNSET else agent.allowlist
            if len(entries) >= MAX_ENTRIES:
                raise InvalidRequest(f"the list has {MAX_ENTRIES} entries already")
            made = msgspec.structs.replace(entry, id=entry_id, source="allow-always")
            agent = msgspec.structs.replace(agent, allowlist=(*entries, made))
            file = msgspec.structs.replace(file, agents={**agents, agent_id: agent})
            grants = {**record.grants, entry_id: grant}
            return self._fitting(msgspec.structs.replace(record, file=file, grants=grants))

        try:
            await self._change(change)
        except (GatewayError, StoreError) as error:
            self._log.warn(
                "allow-always not kept approval={approval}: {error}",
                approval=approval.id,
                error=error,
            )
            return None
        self._log.info(
            "allow-always kept approval={approval} agent={agent} entry={entry} by={by}",
            approval=approval.id,
            agent=agent_id,
            entry=entry_id,
            by=by,
        )
        return entry_id

    # -- uses

    def sweep(self, now: float) -> int:
        """Write which entries were used since the last time."""
        if self._used and self._writing is None:
            self._writing = Deferred.fromCoroutine(self._write_uses())
            self._writing.addBoth(self._written)
        return 0

    def _written(self, result: object) -> None:
        self._writing = None

    async def _write_uses(self) -> None:
        used, self._used = self._used, {}

        def change(record: ExecPolicyRecord) -> ExecPolicyRecord:
            return self._pruned(msgspec.structs.replace(record, usage={**record.usage, **used}))

        try:
            await self._change(change)
        except (GatewayError, StoreError) as error:
            self._used = {**used, **self._used}
            self._log.warn("uses of the exec policy not stored: {error}", error=error)

    def _note(self, ruling: Ruling, command: Command | None) -> None:
        """Remember that an entry has allowed a command."""
        entry = ruling.matched
        if ruling.outcome is not Outcome.ALLOW or entry is None or command is None:
            return
        words = command.words() or ()
        text = (command.text or " ".join(words))[:USED_CHARS]
        assert entry.id is not UNSET
        self._used[entry.id] = ExecUsage(
            at_ms=self._clock.now_ms(), command=text, path=command.resolved or words[0]
        )

    # -- inside

    async def _load(self) -> ExecPolicyRecord:
        while self._record is None:
            changes = self._changes
            stored = await self._store.get_setting(SETTING)
            if changes == self._changes:  # else what was read may be old
                self._record = _decoded(stored)
        return self._record

    async def _change(
        self, change: Callable[[ExecPolicyRecord], ExecPolicyRecord]
    ) -> ExecPolicyRecord:
        try:
            stored = await self._store.update_setting(
                SETTING, lambda current: msgspec.json.encode(change(_decoded(current)))
            )
        except StoreError:
            # It may have been stored all the same: what counts is read again.
            self._record = None
            self._approvals.policy_changed()
            raise
        finally:
            self._changes += 1
        self._record = record = _decoded(stored)
        return record

    def _fitting(self, record: ExecPolicyRecord) -> ExecPolicyRecord:
        """Return a changed record without what belongs to entries that are gone. Raises InvalidRequest."""
        if len(msgspec.json.encode(record.file)) > self._max_bytes:
            raise InvalidRequest(f"the exec approvals take more than {self._max_bytes} bytes")
        return self._pruned(record)

    def _pruned(self, record: ExecPolicyRecord) -> ExecPolicyRecord:
        ids = {entry.id for entry in entries_of(record.file)}
        return msgspec.structs.replace(
            record,
            usage={key: value for key, value in record.usage.items() if key in ids},
            grants={key: value for key, value in record.grants.items() if key in ids},
        )

    def _shape(self, record: ExecPolicyRecord, protocol: int) -> dict[str, Any]:
        shape: dict[str, Any] = {
            "path": self._path,
            "exists": record.file is not None,
            "hash": _hash(record),
            "file": shown(record.file or EMPTY, {**record.usage, **self._used}, protocol),
        }
        if protocol < 4:
            return shape
        defaults = resolve(record.file, None)
        shape["resolvedDefaults"] = {
            "security": defaults.security,
            "ask": defaults.ask,
            "askFallback": defaults.ask_fallback,
            "autoAllowSkills": defaults.auto_allow_skills,
        }
        if record.grants:
            shape["grants"] = msgspec.to_builtins(record.grants)
        return shape


def _hash(record: ExecPolicyRecord) -> str:
    return sha256(msgspec.json.encode(record.file or EMPTY)).hexdigest()


def _decoded(stored: bytes | None) -> ExecPolicyRecord:
    if stored is None:
        return ExecPolicyRecord()
    try:
        return msgspec.json.decode(stored, type=ExecPolicyRecord)
    except msgspec.DecodeError:
        raise Unavailable("the stored exec approvals can not be read") from None

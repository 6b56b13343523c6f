"""The records of the domain: frozen structs that are stored, sent or handed between layers.

Times ending in ``_ms`` are integers of milliseconds since the epoch.
"""

from __future__ import annotations

from gateway.model.agents import (
    REQUEST_MAX_BYTES,
    ApprovalRequest,
    Attachment,
    Compaction,
    Decision,
    InputProvenance,
    ModelInfo,
    ModelUsage,
    QueueMode,
    ReplyAddress,
    RunRequest,
    RunResult,
    Usage,
    decode_request,
    encode_request,
)
from gateway.model.base import Json, Struct
from gateway.model.devices import Device, DeviceToken, Pairing, PairingRequest, RoleGrant
from gateway.model.execpolicy import (
    ExecAgentPolicy,
    ExecAllowlistEntry,
    ExecAsk,
    ExecDefaults,
    ExecGrant,
    ExecPolicyFile,
    ExecPolicyRecord,
    ExecSecurity,
    ExecUsage,
)
from gateway.model.nodes import NodeRecord, NodeSurface, SurfaceRequest
from gateway.model.people import ClientInfo, Principal, Role
from gateway.model.runs import (
    EventSpan,
    Position,
    Retention,
    RetentionPass,
    RunEvent,
    RunQuery,
    RunRecord,
    RunState,
    TurnEnd,
)
from gateway.model.sessions import Message, Session, SessionPage, SessionQuery
from gateway.model.usage import DaySpan, LatencySum, UsagePart, UsageQuery, UsageSum

__all__ = [
    "REQUEST_MAX_BYTES",
    "ApprovalRequest",
    "Attachment",
    "ClientInfo",
    "Compaction",
    "DaySpan",
    "Decision",
    "Device",
    "DeviceToken",
    "EventSpan",
    "ExecAgentPolicy",
    "ExecAllowlistEntry",
    "ExecAsk",
    "ExecDefaults",
    "ExecGrant",
    "ExecPolicyFile",
    "ExecPolicyRecord",
    "ExecSecurity",
    "ExecUsage",
    "InputProvenance",
    "Json",
    "LatencySum",
    "Message",
    "ModelInfo",
    "ModelUsage",
    "NodeRecord",
    "NodeSurface",
    "Pairing",
    "PairingRequest",
    "Position",
    "Principal",
    "QueueMode",
    "ReplyAddress",
    "Retention",
    "RetentionPass",
    "Role",
    "RoleGrant",
    "RunEvent",
    "RunQuery",
    "RunRecord",
    "RunRequest",
    "RunResult",
    "RunState",
    "Session",
    "SessionPage",
    "SessionQuery",
    "Struct",
    "SurfaceRequest",
    "TurnEnd",
    "Usage",
    "UsagePart",
    "UsageQuery",
    "UsageSum",
    "decode_request",
    "encode_request",
]

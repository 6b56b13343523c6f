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
from gateway.model.people import ClientInfo, Device, DeviceToken, Principal, Role
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
    "InputProvenance",
    "Json",
    "LatencySum",
    "Message",
    "ModelInfo",
    "ModelUsage",
    "Position",
    "Principal",
    "QueueMode",
    "ReplyAddress",
    "Retention",
    "RetentionPass",
    "Role",
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
    "TurnEnd",
    "Usage",
    "UsagePart",
    "UsageQuery",
    "UsageSum",
    "decode_request",
    "encode_request",
]

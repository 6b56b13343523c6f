"""``hello-ok``: what a client learns when it is let in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from gateway.app.admission import Admitted
from gateway.app.context import Caller, Services
from gateway.core.access import ADMIN, READ
from gateway.core.events import ADVERTISED
from gateway.core.frames import encode
from gateway.limits import LimitsConfig

CAPABILITIES = ("published-model-catalog",)
"""What version 4 clients ask for before they use it: `models.list` with `available` and `includeDetails`."""


class Hello:
    """Builds the payload of ``hello-ok``; what is the same for all is encoded once."""

    def __init__(self, services: Services, limits: LimitsConfig, methods: Sequence[str]) -> None:
        self._services = services
        features: dict[str, Any] = {"methods": list(methods), "events": list(ADVERTISED)}
        policy = {
            "maxPayload": limits.payload_bytes,
            "maxBufferedBytes": limits.outbox_bytes,
            "tickIntervalMs": round(limits.tick_interval_s * 1000),
        }
        attachments = {
            "maxBytes": limits.attachment_bytes,
            "maxImageBytes": limits.attachment_bytes,
        }
        self._features = {
            3: msgspec.Raw(encode(features)),
            4: msgspec.Raw(encode({**features, "capabilities": CAPABILITIES})),
        }
        self._policy = {
            3: msgspec.Raw(encode(policy)),
            4: msgspec.Raw(encode({**policy, "attachments": attachments})),
        }

    def payload(self, caller: Caller, admitted: Admitted) -> dict[str, Any]:
        """Return the payload for one connection, within the closed schema of its version."""
        services, protocol = self._services, caller.protocol
        server: dict[str, Any] = {
            "version": services.operations.version,
            "connId": caller.conn_id,
        }
        if protocol >= 4:
            server["bootId"] = services.operations.boot_id
        hello: dict[str, Any] = {
            "type": "hello-ok",
            "protocol": protocol,
            "server": server,
            "features": self._features[protocol],
            "snapshot": self._snapshot(caller),
        }
        auth = _auth(caller, admitted)
        if auth is not None:
            hello["auth"] = auth
        hello["policy"] = self._policy[protocol]
        return hello

    def _snapshot(self, caller: Caller) -> dict[str, Any]:
        services = self._services
        keys = services.agents.keys
        defaults: dict[str, Any] = {
            "defaultAgentId": keys.default_agent_id,
            "mainKey": keys.main_key,
            "mainSessionKey": keys.main_session(),
            "scope": keys.scope,
        }
        if caller.protocol >= 4:
            defaults |= {
                "modelConfigured": True,
                "ownership": "sole",
                "selectionRequired": False,
            }
        snapshot: dict[str, Any] = {
            "presence": services.presence.list(caller.protocol) if READ in caller.scopes else [],
            "health": services.health.seen_by(caller),
            "stateVersion": services.health.state_version(),
            "uptimeMs": round((services.clock.seconds() - services.operations.started_at) * 1000),
            "sessionDefaults": defaults,
        }
        if ADMIN in caller.scopes:
            operations = services.operations
            snapshot |= {
                "configPath": operations.config.path,
                "stateDir": operations.state_dir,
                "authMode": operations.auth_mode,
            }
        return snapshot


def _auth(caller: Caller, admitted: Admitted) -> dict[str, Any] | None:
    """Return ``auth``; version 3 has it only with a device token, and tells that token's scopes in it."""
    principal = caller.principal
    auth: dict[str, Any] = {"role": principal.role.value, "scopes": list(principal.scopes)}
    if caller.protocol >= 4:
        auth["method"] = principal.auth_method
    elif admitted.device_token is None:
        return None
    if admitted.device_token is not None:
        auth["deviceToken"] = admitted.device_token
        if caller.protocol < 4:
            auth["scopes"] = list(admitted.token_scopes)
        if admitted.issued_at_ms is not None:
            auth["issuedAtMs"] = admitted.issued_at_ms
    if admitted.others:
        auth["deviceTokens"] = [
            {
                "deviceToken": other.token,
                "role": other.role,
                "scopes": list(other.scopes),
                "issuedAtMs": other.issued_at_ms,
            }
            for other in admitted.others
        ]
    return auth

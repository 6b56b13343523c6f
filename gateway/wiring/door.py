"""What the configuration says of the door: who may come in, and whose word counts for others."""

from __future__ import annotations

from gateway.config import Config
from gateway.core.access import OriginPolicy, normal_origins
from gateway.core.connect import DoorPolicy
from gateway.core.credentials import TRUSTED_PROXY, AuthPolicy
from gateway.core.hosts import HostPolicy, host_of, own_names
from gateway.core.proxies import ProxyPolicy, networks_of


def door_policy(config: Config, host: str, secret: str | None) -> DoorPolicy:
    """Return who may come in to the machine ``host``, given the shared secret."""
    server, auth = config.server, config.auth
    origins = server.allowed_origins
    return DoorPolicy(
        AuthPolicy(auth.mode, secret, frozenset(auth.allow_users)),
        OriginPolicy(normal_origins(origins), allow_any="*" in origins),
        HostPolicy(own_names(host) | set(map(host_of, server.allowed_hosts))),
    )


def proxy_policy(config: Config) -> ProxyPolicy:
    """Return which proxies are believed, and what."""
    server, auth = config.server, config.auth
    by_proxy = auth.mode == TRUSTED_PROXY
    return ProxyPolicy(
        trusted=networks_of(server.trusted_proxies),
        header=server.proxy_header,
        user_header=auth.user_header.lower() if by_proxy else None,
        required_headers=tuple(name.lower() for name in auth.required_headers),
        allow_loopback=auth.allow_loopback_proxy,
    )

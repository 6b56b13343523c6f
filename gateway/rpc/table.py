"""The method table: one declaration per method, and everything that follows from it.

A handler is a function of the context and (if the method takes any) its params, which returns the
payload or raises a :class:`gateway.errors.GatewayError`; it may be a coroutine. From its declaration
come the checks of role and scope, the decoding of params with a path in the error, the list in
``hello-ok``, the label of the metric and the page of the docs.

The order of checks is the protocol's: role, scope, existence, params. An unknown method asks for
``operator.admin``, so that only an admin learns that it does not exist.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, get_type_hints

import msgspec

from gateway.app.context import Caller, Context
from gateway.core.access import ADMIN
from gateway.core.frames import NotJson, Request, decode_as, describe
from gateway.core.params import Params, VersionRules
from gateway.errors import InvalidParams, MissingScope, UnknownMethod, WrongRole
from gateway.model import Role

Handler = Callable[..., Any]
ScopeRule = Callable[[int, Any], str]
"""From (protocol, params) to the scope that this call asks for. Asked with None before the params are
decoded: for the least that any call of the method needs."""


@dataclass(frozen=True, slots=True)
class TwoPhase:
    """An answer in two responses of the same id: ``accepted`` now, what ``final`` gives later."""

    accepted: Any
    final: Awaitable[Any]


@dataclass(frozen=True, slots=True)
class Method:
    """One method."""

    name: str
    handler: Handler
    doc: str
    scope: str | ScopeRule | None
    """The scope asked for; None for methods that need none."""
    role: Role | None
    """Who may call it; None for everybody."""
    params: type[Params] | None
    decoder: msgspec.json.Decoder[Any] | None
    rules: VersionRules | None
    check: Callable[[Any, int], str | None] | None
    """The method ``violation(protocol)`` of its params, where they have one."""
    advertised: bool
    waits: bool
    """Whether it answers only when something happens; such a call ends with its connection."""

    def scope_for(self, protocol: int, params: Any) -> str | None:
        """Return the scope that a call asks for; with ``params`` None, the least that any call does."""
        return self.scope(protocol, params) if callable(self.scope) else self.scope

    def decode(self, raw: msgspec.Raw, protocol: int) -> Any:
        """Decode params by the schema of the connection's version. Raises InvalidParams."""
        assert self.decoder is not None
        assert self.rules is not None
        try:
            params = decode_as(bytes(raw) or b"{}", self.decoder)
        except msgspec.ValidationError as error:
            raise InvalidParams(self.name, describe(error)) from error
        except NotJson as error:
            raise InvalidParams(self.name, str(error)) from error
        text = self.rules.violation(params, protocol)
        if text is None and self.check is not None:
            text = self.check(params, protocol)
        if text is not None:
            raise InvalidParams(self.name, text)
        return params


class MethodTable:
    """Methods by name."""

    def __init__(self) -> None:
        self._methods: dict[str, Method] = {}

    def __iter__(self) -> Iterator[Method]:
        return iter(self._methods.values())

    def __len__(self) -> int:
        return len(self._methods)

    def get(self, name: str) -> Method | None:
        """Return a method, or None."""
        return self._methods.get(name)

    def method(
        self,
        name: str,
        *,
        scope: str | ScopeRule | None,
        role: Role | None = Role.OPERATOR,
        advertised: bool = True,
        waits: bool = False,
    ) -> Callable[[Handler], Handler]:
        """Declare a method; its first doc line is its description. Raises ValueError for a bad one."""

        def declare(handler: Handler) -> Handler:
            self._add(name, handler, scope=scope, role=role, advertised=advertised, waits=waits)
            return handler

        return declare

    def include(self, other: MethodTable) -> None:
        """Add all methods of another table. Raises ValueError for a name that is taken."""
        for method in other:
            if method.name in self._methods:
                raise ValueError(f"method {method.name} is declared twice")
            self._methods[method.name] = method

    def advertised(self) -> list[str]:
        """Return the names that ``hello-ok`` lists, sorted."""
        return sorted(method.name for method in self if method.advertised)

    def call(self, context: Context, request: Request) -> Any:
        """Check a request and run its handler: a payload, an awaitable, or a GatewayError is raised."""
        caller = context.caller
        method = self._methods.get(request.method)
        if method is None:
            _check(caller, Role.OPERATOR, ADMIN)
            raise UnknownMethod(request.method[:128])
        _check(caller, method.role, method.scope_for(caller.protocol, None))
        if method.params is None:
            return method.handler(context)
        params = method.decode(request.params, caller.protocol)
        if callable(method.scope):
            _check(caller, method.role, method.scope_for(caller.protocol, params))
        return method.handler(context, params)

    def _add(self, name: str, handler: Handler, **facts: Any) -> None:
        doc = inspect.getdoc(handler)
        if not doc:
            raise ValueError(f"method {name} has no doc line")
        if name in self._methods:
            raise ValueError(f"method {name} is declared twice")
        taken = list(inspect.signature(handler).parameters)
        params = get_type_hints(handler).get(taken[1]) if len(taken) > 1 else None
        if len(taken) > 1 and not (isinstance(params, type) and issubclass(params, Params)):
            raise ValueError(f"method {name}: its params are no Params")
        self._methods[name] = Method(
            name=name,
            handler=handler,
            doc=doc.splitlines()[0],
            params=params,
            decoder=None if params is None else msgspec.json.Decoder(params),
            rules=None if params is None else VersionRules(params),
            check=getattr(params, "violation", None),
            **facts,
        )


def _check(caller: Caller, role: Role | None, scope: str | None) -> None:
    if role is not None and caller.principal.role is not role:
        raise WrongRole(caller.principal.role.value)
    if scope is not None and scope not in caller.scopes:
        raise MissingScope(scope, (scope,))

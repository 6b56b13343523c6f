"""The contracts between the layers, and the plugin interfaces of third parties.

Every asynchronous method returns a Deferred; whoever called it may cancel it.
"""

from gateway.interfaces.backends import (
    BackendEnvironment,
    IAgentBackend,
    IAgentBackendFactory,
    ICompactingBackend,
    IModelsBackend,
    IRunSink,
    ISteerableBackend,
    IWorkerBackend,
    IWorkspaceBackend,
    RunListener,
)
from gateway.interfaces.base import IClock, IConnection, IEntropy
from gateway.interfaces.storage import IStore

__all__ = [
    "BackendEnvironment",
    "IAgentBackend",
    "IAgentBackendFactory",
    "IClock",
    "ICompactingBackend",
    "IConnection",
    "IEntropy",
    "IModelsBackend",
    "IRunSink",
    "ISteerableBackend",
    "IStore",
    "IWorkerBackend",
    "IWorkspaceBackend",
    "RunListener",
]

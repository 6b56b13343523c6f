"""Use-cases: coroutines over interfaces. No sockets, no SQL, no JSON."""

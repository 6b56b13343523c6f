"""Sans-IO core: protocol rules, state machines and registries. No I/O, no clock, no randomness."""

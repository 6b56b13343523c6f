"""Fuzzing of a whole gateway in memory: ``python -m tests.fuzz --help``; see docs/attacks.md."""

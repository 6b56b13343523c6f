"""Persistent state behind IStore."""

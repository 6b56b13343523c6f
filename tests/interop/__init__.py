"""Interoperability: the real OpenClaw clients of both protocol versions against a real gateway."""

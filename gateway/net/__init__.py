"""The network edge: WebSocket and HTTP on one port."""

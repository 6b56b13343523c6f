"""How the parts of a gateway hang together: made once, without doing anything yet."""

from gateway.wiring.whole import Wiring

__all__ = ["Wiring"]

"""One named test for each attack of docs/attacks.md, and its twin: the client that must not be hurt."""

"""Agent backends and the programs they supervise."""

"""``python -m gateway.cli``, for when the console script is not on the path."""

from __future__ import annotations

from gateway.cli import main

main()

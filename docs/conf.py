"""Configuration of Sphinx: ``sphinx-build -W -n -b html docs docs/_build``."""

from __future__ import annotations

import gateway

project = "txgateway"
author = "the txgateway authors"
version = release = gateway.__version__

extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build", "changes"]
root_doc = "index"
nitpicky = True

myst_heading_anchors = 3

html_theme = "furo"
html_title = f"txgateway {version}"
html_copy_source = False
html_show_sphinx = False

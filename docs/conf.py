"""Sphinx configuration; reference pages that mirror code are made here, before the build."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from generated import write_reference_pages

project = "Platevault"
copyright = "2026, the Platevault developers"
extensions = ["myst_parser"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build", "examples/**"]
html_theme = "furo"
html_title = "Platevault"

write_reference_pages(Path(__file__).parent / "reference" / "generated")

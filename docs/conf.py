"""Sphinx: `make docs` builds build/docs from these pages and the docstrings; warnings are errors, no network."""

from __future__ import annotations

import re
import sys
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

project = "irae-pipeline"
copyright = "Apache-2.0"
release = version = version_of("irae-pipeline")
extensions = ["myst_parser", "sphinx.ext.autodoc"]
myst_heading_anchors = 3
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True, "imported-members": True}
html_theme = "pydata_sphinx_theme"
html_title = "irae-pipeline"
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {"show_toc_level": 2, "navigation_with_keys": False, "secondary_sidebar_items": ["page-toc"]}


def plain_text(app: Any, kind: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are plain text with `code`: other marks of reStructuredText in them mean themselves."""
    for number, line in enumerate(lines):
        parts = re.split("(`+[^`]*`+)", line)
        lines[number] = "".join(part if part[:1] == "`" else re.sub(r"([|*_])", r"\\\1", part) for part in parts)


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", plain_text)

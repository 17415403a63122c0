"""The help texts in docs/help are those of the commands; the reference shows each of them."""

from __future__ import annotations

import re
import runpy

import pytest

from tests.support import ROOT

HELP = ROOT / "docs/help"


@pytest.mark.integration
def test_help_texts_are_those_of_the_commands() -> None:
    """`make help-texts` writes them again."""
    texts = runpy.run_path(str(ROOT / "docs/make_help.py"))["help_texts"]()
    assert {path.name: path.read_text() for path in HELP.iterdir()} == texts


def test_every_help_text_is_in_the_reference() -> None:
    shown = re.findall(r"literalinclude\} \.\./help/(\S+)", (ROOT / "docs/reference/commands.md").read_text())
    assert sorted(shown) == sorted(path.name for path in HELP.iterdir())

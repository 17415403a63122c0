"""The map of the files in docs/architecture.md."""

from __future__ import annotations

import re

from tests.support import ROOT
from tests.support.imports import PACKAGES

MAP = ROOT / "docs/architecture.md"
BY_PRODUCTS = {"__pycache__", ".DS_Store"}


def product_files() -> list[str]:
    """Files of the packages from the root, without the empty ones that only mark a folder as a package."""
    found = [path for package in PACKAGES for path in (ROOT / package).rglob("*")]
    kept = [path for path in found if path.is_file() and path.stat().st_size and not BY_PRODUCTS & set(path.parts)]
    return sorted(path.relative_to(ROOT).as_posix() for path in kept)


def files_of(map_text: str) -> dict[str, str]:
    """Path -> words of each line `path/to/file.py  words` in the text blocks."""
    blocks = re.findall(r"^```text\n(.*?)^```", map_text, re.DOTALL | re.MULTILINE)
    lines = [line.split(maxsplit=1) for block in blocks for line in block.splitlines() if line.strip()]
    return {line[0]: line[1] if len(line) > 1 else "" for line in lines if line[0].startswith(PACKAGES)}


def differences(map_text: str) -> list[str]:
    """Files that the map lacks, names without a file, files without words."""
    described, files = files_of(map_text), set(product_files())
    return [
        *(f"{path} is not on the map" for path in sorted(files - set(described))),
        *(f"{path} is on the map and does not exist" for path in sorted(set(described) - files)),
        *(f"{path} has no words" for path, words in described.items() if not words),
    ]


def test_map_names_every_file() -> None:
    assert not (found := differences(MAP.read_text())), "\n".join(found)


def test_a_missing_file_is_found() -> None:
    """For every file: the map without its line, or with it misspelled, is refused."""
    text = MAP.read_text()
    for path in product_files():
        without = re.sub(rf"^{re.escape(path)}\s.*\n", "", text, flags=re.MULTILINE)
        assert f"{path} is not on the map" in differences(without)
    assert any("does not exist" in line for line in differences(f"{text}\n```text\nirae/nothing.py  words\n```\n"))

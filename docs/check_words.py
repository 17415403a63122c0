"""Find private words in code, help texts and pages: `python docs/check_words.py` prints file:line and the field's word.

The rules are in docs/words.txt. A line that needs such a word all the same ends in `words: ok` in a comment.
"""

from __future__ import annotations

import functools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
CHECKED = ("irae", "sharding", "infra", "pipeline", "benchmarks", "docs", "*.md", "*.yaml", "Makefile")
HISTORY = ("CHANGELOG.md", "docs/log.md", "docs/words.txt", "docs/check_words.py", "LICENSE")
"""Not checked: what was written in its time, and the words themselves."""
SUFFIXES = {".py", ".md", ".txt", ".yaml", ".yml", ".sh", ".html", ".js", ".css", ""}


@functools.cache
def rules() -> list[tuple[re.Pattern[str], str]]:
    """Pattern and word to use, in the order of words.txt."""
    lines = [line for line in (ROOT / "docs/words.txt").read_text().splitlines() if line and line[0] != "#"]
    return [(re.compile(pattern, re.IGNORECASE), word) for pattern, word in (re.split(r"\s{2,}", x) for x in lines)]


def findings(name: str, text: str) -> Iterator[str]:
    """`file:line: 'found' -> word to use` for each finding."""
    for number, line in enumerate(text.splitlines(), 1):
        for pattern, word in () if "words: ok" in line else rules():
            for match in pattern.finditer(line):
                yield f"{name}:{number}: {match[0]!r} -> {word}"


def main() -> int:
    """Check every tracked file of `CHECKED`, or the files of the command line; exit code 1 when there are findings."""
    tracked = subprocess.run(["git", "ls-files", *CHECKED], cwd=ROOT, capture_output=True, text=True, check=True)
    names = sys.argv[1:] or [name for name in tracked.stdout.split() if name not in HISTORY]
    found = [
        line for name in names if Path(name).suffix in SUFFIXES for line in findings(name, (ROOT / name).read_text())
    ]
    print("\n".join(found) if found else "no private words")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())

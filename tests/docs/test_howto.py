"""How-to guides: files are made, changes applied and commands run as they stand, in a copy of the project."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.docs.commands import irae
from tests.support import ROOT

PAGES = ("add-a-model", "add-a-source", "add-a-degradation", "add-a-schedule")
PACKAGES = ("irae", "sharding", "infra", "pipeline")
BLOCK = re.compile(r"```(python|diff|console)\n(.*?)```", re.DOTALL)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the packages, and beside it a small data set and a folder of photographs in two classes."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / "copy" / package, ignore=shutil.ignore_patterns("__pycache__"))
    work = tmp_path / "work"
    work.mkdir()
    irae("shard --train-images 64 --val-images 8 --test-images 8 --size 32 --no-ray", work, ROOT)
    rng = np.random.default_rng(0)
    for number in range(40):
        file = work / "pets" / ("cat", "dog")[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (48, 40, 3), np.uint8)).save(file)
    return tmp_path


def apply(change: str, folder: Path) -> None:
    """One hunk without line numbers, below `+++ path`: its old lines stand in the file once."""
    first, *lines = change.splitlines()
    path = folder / first.removeprefix("+++ ")
    old = "".join(f"{line[1:]}\n" for line in lines if line[:1] != "+")
    new = "".join(f"{line[1:]}\n" for line in lines if line[:1] != "-")
    text = path.read_text()
    assert text.count(old) == 1, f"{path.name} should hold this once:\n{old}"
    path.write_text(text.replace(old, new))


@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_how_to_works_as_it_stands(page: str, project: Path) -> None:
    blocks = BLOCK.findall((ROOT / f"docs/how-to/{page}.md").read_text())
    assert {"diff", "console"} <= {kind for kind, _ in blocks}
    for kind, text in blocks:
        if kind == "python":
            path = project / "copy" / text.splitlines()[0].removeprefix("# ")
            assert not path.exists()
            path.write_text(text.split("\n", 1)[1])
        elif kind == "diff":
            apply(text, project / "copy")
        else:
            for line in re.findall(r"^\$ irae (.+)$", text, re.MULTILINE):
                irae(line, project / "work", project / "copy")


@pytest.mark.parametrize("page", ["tutorial/first-hour", "how-to/resume", "how-to/gpu-machine"])
def test_console_blocks_hold_commands_alone(page: str) -> None:
    blocks = [text for kind, text in BLOCK.findall((ROOT / f"docs/{page}.md").read_text()) if kind == "console"]
    assert blocks and all(line.lstrip().startswith("$ ") for text in blocks for line in text.strip().splitlines())

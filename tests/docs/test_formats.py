"""docs/reference/files.md against the files of a small data set, run and evaluation."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.docs.commands import irae
from tests.support import ROOT

pytestmark = pytest.mark.integration
PAGE = (ROOT / "docs/reference/files.md").read_text()
TRAIN = "train --no-ray --K 1 --L 1 --width 8 --global-batch-size 4 --max-images 16 --ema-images 8"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    counts = "--train-images 16 --val-images 4 --test-images 4 --size 32"
    irae(f"shard --no-ray {counts} --degrade jpeg:10 mask:box", folder, ROOT)
    irae(f"{TRAIN} --task inpaint", folder, ROOT)
    irae("evaluate", folder, ROOT)
    return folder


def documented(heading: str) -> set[str]:
    """Names in backticks in the tables below a heading."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return {name for row in re.findall(r"^\|.*", section, re.MULTILINE) for name in re.findall(r"`([^`]+)`", row)}


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_data_set(store: Path) -> None:
    folder, names = store / "data/synthetic", documented("A data set")
    written = {re.sub(r"^(train|val|test)-\d+", "SPLIT-NUMBER", name) for name in files(folder)}
    assert written <= names
    assert set(json.loads((folder / "dataset.json").read_text())) <= names
    columns = {
        re.sub(r"^(clean|jpeg10|mask_box)_", "FIELD_", c) for c in pq.read_schema(folder / "manifest.parquet").names
    }
    assert columns <= names


def test_run(store: Path) -> None:
    (folder,) = (store / "runs").iterdir()
    names = documented("A run") | documented("A checkpoint")
    top = {name.split("/")[0] for name in files(folder)}
    assert top <= {name.split("/")[0] for name in names}
    assert set(pq.read_schema(folder / "metrics.parquet").names) <= names
    assert set(json.loads((folder / "best.json").read_text())) <= names


def test_checkpoint(store: Path) -> None:
    newest = sorted(store.glob("runs/*/checkpoints/*"))[-1]
    names = documented("A checkpoint")
    assert files(newest) <= names and re.fullmatch(r"\d{12}", newest.name)
    state = json.loads((newest / "state.json").read_text())
    assert set(state) <= names and set(state["files"]) == files(newest) - {"state.json"}


def test_evaluation(store: Path) -> None:
    (folder,) = store.glob("runs/*/evaluations/*")
    names = documented("An evaluation")
    assert {re.sub(r"/.*", "/KEY-KIND.png", name) for name in files(folder)} <= names
    assert set(pq.read_schema(folder / "per_image.parquet").names) <= names

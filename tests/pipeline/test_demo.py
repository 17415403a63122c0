"""The first command of the README, in a short form, and what it draws."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from infra.local_s3.server import LocalS3
from pipeline import demo
from tests.support import ROOT

STAGES = ["shard", "shard", "train", "evaluate", "restore", "report"]


@pytest.mark.slow
@pytest.mark.integration
def test_every_stage_runs_and_leaves_its_result(tmp_path: Path) -> None:
    pytest.importorskip("skimage")
    pytest.importorskip("boto3")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "IRAE_CACHE": str(tmp_path / "cache")}
    environment["IRAE_LOCAL_S3_DIR"] = str(tmp_path / "s3")
    command = [sys.executable, "-m", "pipeline.demo", "--train-minutes", "0.05", "--train-images", "96"]
    try:
        result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    finally:
        LocalS3(tmp_path / "s3").kill()
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.findall(r"^\$ IRAE_STORE=s3://irae python -m pipeline\.(\w+)", result.stdout, re.MULTILINE) == STAGES
    out = tmp_path / "runs/demo"
    metrics = json.loads((out / "metrics.json").read_text())
    gain_db = metrics["psnr_db_restored"] - metrics["psnr_db_degraded"]
    assert f"{gain_db:+.2f} dB" in result.stdout
    names = {path.name for path in (out / "noisy").iterdir()}
    assert len(names) == len(demo.PHOTOGRAPHS) and names == {path.name for path in (out / "restored").iterdir()}
    with Image.open(out / "demo.png") as sheet:
        assert sheet.height > len(names) * demo.PHOTOGRAPH_SIZE
    assert "<html" in (out / "report.html").read_text()


@pytest.mark.integration
def test_a_stage_that_fails_ends_the_demo_with_its_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IRAE_STORE", str(tmp_path))
    with pytest.raises(SystemExit) as ended:
        demo.run(f"pipeline.evaluate --run {tmp_path}/missing")
    assert ended.value.code == 2


COLOURS = {"clean": "red", "degraded": "green", "restored": "blue"}


def test_triples_stand_in_their_columns(tmp_path: Path) -> None:
    examples, restored = tmp_path / "examples", tmp_path / "restored"
    examples.mkdir(), restored.mkdir()
    size = demo.PHOTOGRAPH_SIZE
    for name in ("a", "b"):
        for kind, colour in COLOURS.items():
            path = restored / f"{name}.png" if kind == "restored" else examples / f"{name}-{kind}.png"
            Image.new("RGB", (size, size), colour).save(path)
    demo.draw_triples(examples, restored, tmp_path / "demo.png")
    with Image.open(tmp_path / "demo.png") as sheet:
        row = sheet.height - size // 2
        found = [sheet.getpixel((int((column + 0.5) * sheet.width / 3), row)) for column in range(3)]
    assert found == [Image.new("RGB", (1, 1), colour).getpixel((0, 0)) for colour in COLOURS.values()]


def test_examples_of_one_kind_are_copied_under_their_own_names(tmp_path: Path) -> None:
    (tmp_path / "examples").mkdir()
    for name in ("a-b-clean", "a-b-degraded", "c-degraded"):
        (tmp_path / f"examples/{name}.png").write_text(name)
    (tmp_path / "target").mkdir()
    (tmp_path / "target/old.png").write_text("of another demo")
    demo.copy_examples(tmp_path / "examples", "degraded", tmp_path / "target")
    assert {path.name: path.read_text() for path in (tmp_path / "target").iterdir()} == {
        "a-b.png": "a-b-degraded",
        "c.png": "c-degraded",
    }

"""The first command of the README, in a short form."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from infra.local_s3.server import LocalS3
from pipeline import demo
from tests.support import ROOT

STAGES = ["shard", "shard", "train", "evaluate", "restore", "report"]


@pytest.mark.slow
@pytest.mark.timeout(900)
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
    assert len(names) == len(demo.PHOTOGRAPHS) and names == {path.name for path in (out / "restored").glob("*.png")}
    assert "<html" in (out / "report.html").read_text()


@pytest.mark.integration
def test_a_stage_that_fails_ends_the_demo_with_its_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IRAE_STORE", str(tmp_path))
    with pytest.raises(SystemExit) as ended:
        demo.run(f"pipeline.evaluate --run {tmp_path}/missing")
    assert ended.value.code == 2

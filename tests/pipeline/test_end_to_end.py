"""The four commands as a user types them: real processes, real Ray, a real S3."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from infra.storage import open_storage
from pipeline.runs.checkpoints import Checkpoints
from pipeline.runs.folder import Run
from tests.support import ROOT

pytestmark = pytest.mark.integration
SMALL = ("--K", "2", "--width", "8", "--global-batch-size", "8", "--precision", "float32")


def run(*arguments: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python -m pipeline.<...>`; the output is shown when the test fails."""
    result = subprocess.run(
        [sys.executable, "-m", f"pipeline.{arguments[0]}", *arguments[1:]],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    print(result.stdout, result.stderr, sep="\n")
    assert not check or result.returncode == 0
    return result


def shard_small(store: str, tmp_path: Path) -> None:
    counts = ("--train-images", "64", "--val-images", "8", "--test-images", "8")
    run("shard", *counts, "--size", "16", IRAE_STORE=store, IRAE_CACHE=str(tmp_path / "cache"))


@pytest.mark.parametrize("workers", ["2"])
def test_the_whole_way_on_s3_with_ray(s3_url: str, tmp_path: Path, workers: str) -> None:
    """Bare commands one after the other find what the one before made."""
    environment = {"IRAE_STORE": s3_url, "IRAE_CACHE": str(tmp_path / "cache")}
    shard_small(s3_url, tmp_path)
    run("train", *SMALL, "--workers-per-node", workers, "--max-images", "256", "--name", "first", **environment)
    store = open_storage(s3_url)
    first = Run(store.at("runs", "first"))
    assert int(first.checkpoints.names()[-1]) == 256
    rows = pq.read_table(_local(store.at("runs", "first"), "metrics.parquet", tmp_path)).to_pylist()
    assert [round(row["epoch"]) for row in rows if row["val_psnr_db"]] == [1, 2, 3, 4]
    assert store.list("runs/first/tensorboard/events")
    assert json.loads(store.get("data/synthetic/metrics.json"))["images"] == 80
    result = run("evaluate", "--examples", "2", **environment)
    assert "PSNR" in result.stdout
    metrics = first.read_json("evaluations/synthetic-test-noise25/metrics.json")
    assert metrics
    assert metrics["images"] == 8
    assert metrics["psnr_db_degraded"] == pytest.approx(20.2, abs=0.5)
    assert metrics["round_trip_max_error"] < 1e-3
    images = pq.read_table(
        _local(first.store.at("evaluations", "synthetic-test-noise25"), "per_image.parquet", tmp_path)
    )
    assert images.num_rows == 8
    assert metrics["psnr_db_restored"] == pytest.approx(np.mean(images["psnr_db_restored"].to_pylist()))
    picture = tmp_path / "in.png"
    Image.fromarray(np.full((30, 21, 3), 90, np.uint8)).save(picture)
    run("restore", str(picture), str(tmp_path / "out.png"), **environment)
    with Image.open(tmp_path / "out.png") as restored:
        assert restored.size == (21, 30)


def _local(store, name: str, tmp_path: Path) -> Path:  # type: ignore[no-untyped-def]
    target = tmp_path / "fetched" / name
    store.get_file(name, target)
    return target


def test_run_that_was_killed_goes_on_from_its_last_checkpoint(tmp_path: Path) -> None:
    store = str(tmp_path)
    shard_small(store, tmp_path)
    command = ["train", *SMALL, "--workers-per-node", "2", "--name", "killed", "--max-images", "1024"]
    environment = {**os.environ, "IRAE_STORE": store, "IRAE_CACHE": str(tmp_path / "cache")}
    process = subprocess.Popen([sys.executable, "-m", "pipeline.train", *command[1:]], env=environment)
    killed_run = Run(open_storage(f"{store}/runs/killed"))
    deadline = time.monotonic() + 120
    while not Checkpoints(killed_run.store).names():
        assert process.poll() is None, "it ended before its first checkpoint"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.wait()
    reached = int(Checkpoints(killed_run.store).names()[-1])
    assert reached < 1024, "it was killed in the middle"
    result = run(*command, IRAE_STORE=store, IRAE_CACHE=str(tmp_path / "cache"))
    assert f"resuming from {int(killed_run_point(result.stdout)):,} images" in result.stdout
    assert int(killed_run_point(result.stdout)) >= reached
    rows = pq.read_table(tmp_path / "runs" / "killed" / "metrics.parquet").to_pylist()
    epochs = [row["images_seen"] for row in rows if row["val_psnr_db"]]
    assert epochs == list(range(64, 1025, 64)), "each epoch is there once"


def killed_run_point(printed: str) -> str:
    line = next(line for line in printed.splitlines() if line.startswith("resuming from"))
    return line.split()[2].replace(",", "")


def test_error_of_a_worker_is_a_sentence_of_the_command(tmp_path: Path) -> None:
    shard_small(str(tmp_path), tmp_path)
    result = run(
        *("train", *SMALL, "--workers-per-node", "2", "--lr", "1e30", "--max-images", "1024"),
        check=False,
        IRAE_STORE=str(tmp_path),
    )
    assert result.returncode == 2
    assert "error: the loss is" in result.stderr
    assert "Traceback" not in result.stderr


ERRORS = [
    (("shard", "--source", "celeba"), "--source celeba needs --root"),
    (("shard", "--source", "celeba", "--root", "nowhere"), "nowhere"),
    (("shard", "--source", "folder", "--root", "empty"), "empty"),
    (("shard", "--size", "2", "--max-bad", "-1"), "--max-bad is -1"),
    (("train",), "make one with `python -m pipeline.shard`"),
    (("train", "--preset", "best-ever"), "--preset is 'best-ever'"),
    (("train", "--data", "./nothing-here"), "no finished data set at"),
    (("evaluate",), "train one with `python -m pipeline.train`"),
    (("restore", "nothing.png", "out.png"), "nothing.png"),
    (("train", "--data", "s3://irae/data"), "http://127.0.0.1:9"),
]


@pytest.mark.parametrize(("arguments", "sentence"), ERRORS, ids=lambda value: " ".join(value)[:40])
def test_user_errors_are_sentences(arguments: tuple[str, ...], sentence: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = subprocess.run(
        [sys.executable, "-m", f"pipeline.{arguments[0]}", *arguments[1:]],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
            "AWS_ACCESS_KEY_ID": "x",
            "AWS_SECRET_ACCESS_KEY": "secret-of-mine",
        },
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2, result.stderr
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr
    assert "secret-of-mine" not in result.stderr + result.stdout
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty"], "nothing is left behind"


def test_broken_images_are_quarantined_and_nothing_is_lost(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    root.mkdir()
    for i in range(6):
        Image.fromarray(np.full((32, 40, 3), 30 * i, np.uint8)).save(root / f"{i}.png")
    (root / "zero.png").write_bytes(b"")
    (root / "page.jpg").write_text("<html>not found</html>")
    (root / "cut.png").write_bytes((root / "3.png").read_bytes()[:60])
    command = ("shard", "--source", "folder", "--root", str(root), "--split", "test", "--size", "16")
    failed = run(*command, "--out", str(tmp_path / "out"), check=False)
    assert failed.returncode == 2
    assert "3 images are unusable" in failed.stderr
    report = json.loads((tmp_path / "out" / "quarantine.json").read_text())
    assert sorted(entry["file"] for entry in report) == ["cut.png", "page.jpg", "zero.png"]
    assert all(entry["reason"] for entry in report)
    assert not (tmp_path / "out" / "dataset.json").exists()
    allowed = run(*command, "--out", str(tmp_path / "out"), "--max-bad", "3")
    assert "6 images" in allowed.stdout
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["splits"]["test"] == 6
    other = run(*command, "--out", str(tmp_path / "out"), "--bits", "5", check=False)
    assert other.returncode == 2
    assert "holds another data set (it differs in bits)" in other.stderr

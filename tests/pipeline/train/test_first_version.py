"""A run that was begun by the first version, with its option and file names, is evaluated and resumed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, load_file

from infra.storage import open_storage
from pipeline.config.options import read_config
from pipeline.config.train import TrainConfig
from pipeline.evaluate.config import EvaluateConfig
from pipeline.evaluate.evaluation import evaluate, prepare
from pipeline.runs.folder import Run
from pipeline.train import launch
from sharding import Dataset
from tests.support.datasets import make_dataset

STORED = Path(__file__).parent / "first_version_run"
"""48 images of a data set of 16 px; expected-96.safetensors: the same run of the first version at 96 images."""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The stored run, with the paths of this machine in its config.json."""
    data = make_dataset(str(tmp_path / "data"))
    folder = shutil.copytree(STORED, tmp_path / "run")
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, "data": data, "out": str(folder)}))
    state_path = folder / "checkpoints" / "000000000048" / "state.json"
    state = json.loads(state_path.read_text())
    # Other versions of the libraries may make other bytes of the data set.
    state_path.write_text(json.dumps({**state, "dataset_sha256": Dataset.open(open_storage(data)).sha256}))
    return folder


def test_it_is_evaluated(run: Path) -> None:
    metrics = evaluate(prepare(EvaluateConfig(run=str(run), examples=1)))
    assert metrics["trained_images"] == 48 and metrics["model"] == "irae" and metrics["label"] == "noise-blind"
    assert metrics["round_trip_max_error"] < 1e-4


def test_it_is_resumed_to_the_same_weights(run: Path) -> None:
    config = read_config(run / "config.json").with_options(ray=False, max_images=96)
    launch.main(config)
    newest = Run(open_storage(run)).checkpoints.newest()
    assert newest and newest.name == "000000000096"
    rows = Run(open_storage(run)).read_metrics(96)
    assert [row["images_seen"] for row in rows if row.get("val_psnr_db")] == [48, 96]
    original = json.loads((STORED / "checkpoints" / "000000000048" / "state.json").read_text())["dataset_sha256"]
    if newest.state["dataset_sha256"] == original:
        expected = load_file(run / "expected-96.safetensors")
        for name, value in load(newest.files["model.safetensors"]).items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-6)


def test_its_options_are_the_same_under_their_present_names(run: Path) -> None:
    options, defaults = read_config(run / "config.json").options(), TrainConfig().options()
    changed = {name: value for name, value in options.items() if value != defaults[name]}
    for name in ("data", "out", "name", "max_images"):
        del changed[name]
    assert changed == {
        "preset": "standard",
        "sigma_255": "blind",
        "K": 1,
        "L": 1,
        "width": 4,
        "precision": "float32",
        "shuffle_window_shards": 2,
        "num_canonical_partitions": 2,
        "flip": True,
        "crop": 12,
        "global_batch_size": 8,
        "lr": 0.002,
        "lr_schedule": "constant",
        "ema_images": 32,
        "keep_checkpoints": 1,
        "ray": False,
    }

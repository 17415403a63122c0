"""Every system and task goes the one way: training, checkpoint, evaluation; exactly resumed; refused where it must."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from infra.storage import open_storage
from irae.ema import running_statistics
from irae.metrics import psnr_db
from pipeline.config.environment import cache_folder
from pipeline.config.task import Task
from pipeline.data.pairs import make_pairs
from pipeline.evaluate.config import EvaluateConfig
from pipeline.evaluate.evaluation import evaluate, prepare
from pipeline.restore.config import RestoreConfig
from pipeline.restore.restoring import known_sigma
from pipeline.runs.load import load_trained
from pipeline.train import launch as command
from sharding import Dataset, ShardReader
from tests.support.training import BATCH, config_for, run_workers, train_alone, trainer_for, weights_hash

CPU = torch.device("cpu")
LABELS: dict[str, dict[str, Any]] = {
    "noise25": {},
    "noise-blind": {"sigma_255": "blind"},
    "jpeg10": {"task": "jpeg"},
    "inpaint-box": {"task": "inpaint"},
    "inpaint-brush": {"task": "inpaint", "mask": "brush"},
}


def pairs_of(data: str, task: Task, bits: int = 8):  # type: ignore[no-untyped-def]
    reader = ShardReader(Dataset.open(open_storage(data)), "test", cache_folder(), fields=task.fields)
    batch = reader.read(np.arange(6))
    return batch, make_pairs(batch, [0] * 6, task, bits=bits, seed=0, device=CPU)


@pytest.mark.parametrize("label", LABELS)
def test_pairs_are_what_the_task_says(data: str, label: str) -> None:
    task = Task.parse(label)
    assert task == Task(**{"kind" if name == "task" else name: value for name, value in LABELS[label].items()})
    assert task.label == label
    batch, pairs = pairs_of(data, task)
    torch.testing.assert_close(pairs.clean, torch.from_numpy(batch.clean).permute(0, 3, 1, 2) / 255)
    assert (pairs.sigma_255 is None) == (task.kind != "noise") and (pairs.hole is None) == (task.kind != "inpaint")
    if task.kind == "jpeg":
        expected = torch.from_numpy(batch.fields["jpeg10"]).permute(0, 3, 1, 2) / 255
        torch.testing.assert_close(pairs.degraded, expected)
    elif pairs.hole is not None:
        hole = pairs.hole.expand_as(pairs.clean)
        assert (pairs.degraded[hole] == 1).all() and torch.equal(pairs.degraded[~hole], pairs.clean[~hole])
        assert task.mask != "box" or pairs.hole.float().mean() == 0.25, "half of each side"
        pasted = pairs.paste(torch.full_like(pairs.clean, 0.5))
        assert (pasted[hole] == 0.5).all() and torch.equal(pasted[~hole], pairs.clean[~hole])
    else:
        assert pairs.sigma_255 is not None
        found = (pairs.degraded - pairs.clean).std(dim=(1, 2, 3)) * 255
        torch.testing.assert_close(found, pairs.sigma_255, rtol=0.15, atol=0)
    parts = list(pairs.split(4))
    assert [len(part.clean) for part in parts] == [4, 2]
    for name in ("clean", "degraded", "sigma_255", "hole"):
        if getattr(pairs, name) is not None:
            assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(pairs, name))


def test_hole_and_picture_are_cropped_and_mirrored_together(data: str, tmp_path: Path) -> None:
    config = config_for(data, tmp_path / "run", task="inpaint", mask="brush", flip=True, crop=8)
    trainer = trainer_for(config)
    (pairs, _) = trainer._next_pairs()
    assert pairs and pairs.hole is not None
    assert pairs.clean.shape == (BATCH, 3, 8, 8) and pairs.hole.shape == (BATCH, 1, 8, 8)
    again = trainer.reader.read(trainer.loader.sampler.global_batch_at(0).sample)
    whole = make_pairs(again, [0] * BATCH, config.task, bits=8, seed=0, device=CPU)
    for image in range(BATCH):
        places = [
            (y, x, flip)
            for y in range(9)
            for x in range(9)
            for flip in (False, True)
            if torch.equal(_cut(whole.clean[image], y, x, flip), pairs.clean[image])
        ]
        assert any(torch.equal(_cut(whole.degraded[image], *p), pairs.degraded[image]) for p in places)


def _cut(image: torch.Tensor, y: int, x: int, flip: bool) -> torch.Tensor:
    cut = image[:, y : y + 8, x : x + 8]
    return cut.flip(2) if flip else cut


RUNS = [("ffdnet", "noise-blind"), ("arcnn", "jpeg10"), ("unet", "inpaint-box"), ("dncnn-17", "noise25")]
RUNS += [("irae", "jpeg10"), ("irae", "inpaint-brush")]


@pytest.mark.parametrize(("model", "label"), RUNS)
def test_the_whole_way_of_a_model_and_a_task(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], model: str, label: str
) -> None:
    """Trained, evaluated with the network that was kept; the figures are there with what they belong to."""
    config = config_for(data, tmp_path / "run", model=model, max_images=2 * BATCH, **LABELS[label])
    command.main(config.with_options(out=str(tmp_path / "run")))
    row = pq.read_table(tmp_path / "run" / "metrics.parquet").to_pylist()[-1]
    assert ("round_trip_max_error" in row) == (model == "irae")
    assert ("val_psnr_db_hole" in row) == (config.task.kind == "inpaint")
    evaluation = prepare(EvaluateConfig(run=str(tmp_path / "run"), examples=2))
    metrics = evaluate(evaluation)
    folder = tmp_path / "run" / "evaluations" / f"synthetic-test-{label}"
    assert json.loads((folder / "metrics.json").read_text()) == metrics
    assert (metrics["model"], metrics["label"], metrics["task"]) == (model, label, config.task.kind)
    assert metrics["parameters"] == sum(p.numel() for p in evaluation.trained.model.parameters())
    assert metrics["images_per_sec"] > 0 and metrics["protocol"] == "standard" and metrics["images"] == 6
    assert ("round_trip_max_error" in metrics) == (model == "irae")
    rows = pq.read_table(folder / "per_image.parquet").to_pylist()
    assert len(rows) == 6
    kept = {path.name.rpartition("-")[0] for path in (folder / "examples").iterdir()}
    assert {r["key"] for r in rows[:2]} <= kept and len(kept) <= 5  # the first two, the best, the median, the worst
    for name in ("psnr_db_degraded", "psnr_db_restored", "ssim_restored", "ssim_released_restored"):
        assert metrics[name] == pytest.approx(np.mean([r[name] for r in rows]))
    _, pairs = pairs_of(data, config.task)
    network = load_trained(str(tmp_path / "run"), "best").model
    with torch.no_grad():
        shown = pairs.paste(network.restore(pairs.degraded, sigma_255=pairs.sigma_255))
    assert [r["psnr_db_restored"] for r in rows] == pytest.approx(psnr_db(shown, pairs.clean).tolist(), abs=1e-3)
    if pairs.hole is not None:
        found = psnr_db(shown, pairs.clean, pairs.hole).tolist()
        assert [r["psnr_db_hole_restored"] for r in rows] == pytest.approx(found, abs=1e-3)
    assert "PSNR" in capsys.readouterr().out


def test_psnr_of_some_pixels_is_theirs() -> None:
    clean, restored = torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)
    restored[:, :, 0, 0] = 0.1
    where = torch.zeros(2, 1, 4, 4, dtype=torch.bool)
    where[0, :, 0, 0], where[1, :, 1:, 1:] = True, True
    assert psnr_db(restored, clean, where).tolist() == pytest.approx([20, math.inf], abs=1e-5)


def test_the_released_protocol_has_five_bits_and_a_folder_of_its_own(data: str, tmp_path: Path) -> None:
    config = config_for(data, tmp_path / "run", model="arcnn", max_images=BATCH)
    command.main(config)
    found = {p: prepare(EvaluateConfig(run=str(tmp_path / "run"), protocol=p)) for p in ("standard", "released")}  # type: ignore[arg-type]
    assert found["released"].out.url == f"{found['standard'].out.url}-released"
    metrics = {p: evaluate(evaluation) for p, evaluation in found.items()}
    assert [metrics[p]["bits"] for p in metrics] == [8, 5] and metrics["released"]["protocol"] == "released"
    _, pairs = pairs_of(data, config.task, bits=5)
    assert metrics["released"]["psnr_db_degraded"] == pytest.approx(
        psnr_db(pairs.degraded, pairs.clean).mean().item(), abs=1e-3
    )


BATCH_NORM: dict[str, Any] = {
    "model": "dncnn-17",
    "max_images": 8 * BATCH,
    "ema_images": 3 * BATCH,
    "micro_batch_size": 3,
}


def test_running_statistics_resume_bitwise_equal_and_are_averaged(data: str, tmp_path: Path) -> None:
    whole = train_alone(config_for(data, tmp_path / "whole", **BATCH_NORM))
    train_alone(config_for(data, tmp_path / "cut", **{**BATCH_NORM, "max_images": 5 * BATCH}))
    resumed = train_alone(config_for(data, tmp_path / "cut", **BATCH_NORM))
    assert weights_hash(resumed) == weights_hash(whole)
    states = [trainer.run.checkpoints.newest() for trainer in (whole, resumed)]
    assert states[0] and states[1] and states[0].state["files"] == states[1].state["files"]
    assert whole.ema
    now = {name: tensor.clone() for name, tensor in running_statistics(whole.model).items()}
    assert len(now) == 30 and all(bool(tensor.abs().sum() > 0) for tensor in now.values())
    with whole.ema.swapped_in():
        assert all(not torch.equal(now[name], t) for name, t in running_statistics(whole.model).items())


@pytest.mark.integration
def test_running_statistics_are_the_same_on_all_workers(data: str, tmp_path: Path) -> None:
    """Whose shares of a batch are unequal."""
    config = config_for(data, tmp_path / "run", model="ffdnet", global_batch_size=9, max_images=3 * 9)
    workers = run_workers(2, config, tmp_path / "workers")
    assert len({w["after"] for w in workers}) == 1 and len({w["before"] for w in workers}) == 1
    assert len({json.dumps([r["val_psnr_db"] for r in w["rows"] if "val_psnr_db" in r]) for w in workers}) == 1


def test_validation_uses_running_statistics_and_training_goes_on_with_the_batch_s(data: str, tmp_path: Path) -> None:
    trainer = train_alone(config_for(data, tmp_path / "run", model="dncnn-17", max_images=2 * BATCH))
    before = weights_hash(trainer)
    assert trainer.model.training
    trainer._validate(epoch_ended=False)
    assert trainer.model.training and weights_hash(trainer) == before


WRONG = [
    ({"model": "bm3d"}, "--model is 'bm3d', but must be one of irae, dncnn"),
    ({"model": "ffdnet", "task": "jpeg"}, "ffdnet has a noise map as an input"),
    ({"model": "unet", "reversible": True}, "--reversible is for --model irae"),
    ({"task": "jpeg", "jpeg_quality": 0}, "--jpeg-quality is 0"),
    ({"model": "unet", "crop": 12}, "--crop 12 does not fit --model unet: it must be divisible by 8"),
    ({"task": "jpeg", "jpeg_quality": 40}, "has no field jpeg40, which --task jpeg reads; make it with `python -m"),
    ({"task": "inpaint", "mask": "center"}, "pipeline.shard --degrade mask:center"),
]


@pytest.mark.parametrize(("changes", "sentence"), WRONG)
def test_what_does_not_fit_is_a_sentence(data: str, tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match="(?s).*" + sentence.replace("(", r"\(")):
        command.resolve(config_for(data, tmp_path / "run", **changes))


def test_runs_are_named_by_task_and_system(data: str, tmp_path: Path) -> None:
    def name(**changes: Any) -> str | None:
        return command.resolve(config_for(data, tmp_path / "run", name=None, **changes)).config.name

    assert name() == "synthetic-noise25-test"
    assert name(model="unet", task="inpaint") == "synthetic-inpaint-box-unet-test"


def test_restore_tells_a_noise_map_what_it_can(data: str, tmp_path: Path) -> None:
    command.main(config_for(data, tmp_path / "run", model="ffdnet", max_images=BATCH, sigma_255="blind"))
    trained = load_trained(str(tmp_path / "run"), "best")
    given = RestoreConfig(Path("a"), Path("b"), sigma_255=12.0)
    assert known_sigma(given, trained) == 12.0
    with pytest.raises(ValueError, match="give --sigma-255"):
        known_sigma(dataclasses.replace(given, sigma_255=None), trained)
    passed = dataclasses.replace(trained, config=trained.config.with_options(sigma_255=25.0))
    assert known_sigma(dataclasses.replace(given, sigma_255=None), passed) == 25.0

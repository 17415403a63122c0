"""Training: equal replicas, exact resumption, errors as sentences. In plain processes; with Ray in test_end_to_end."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from infra.storage import open_storage
from pipeline.runs.checkpoints import Checkpoints
from pipeline.runs.folder import Run
from pipeline.runs.load import load_trained
from pipeline.train import launch as command
from pipeline.train.distributed import PeerLostError, ProcessGroup
from pipeline.train.loop import Trainer, train
from pipeline.train.prepare import Training, reserve_run
from tests.support.counting import count_requests
from tests.support.datasets import make_dataset
from tests.support.training import BATCH, config_for, run_workers, train_alone, trainer_for, weights_hash


@pytest.mark.integration
def test_workers_hold_equal_weights_and_train_as_one(data: str, tmp_path: Path) -> None:
    """Bitwise equal after the start and after 20 steps; one, two and three workers come to the same validation PSNR."""
    results = {n: run_workers(n, config_for(data, tmp_path / f"run{n}"), tmp_path / f"{n}") for n in (1, 2, 3)}
    for workers in results.values():
        assert len({w["before"] for w in workers}) == 1
        assert len({w["after"] for w in workers}) == 1
        assert workers[0]["before"] != workers[0]["after"]
        assert {w["images_seen"] for w in workers} == {20 * BATCH}
    assert len({workers[0]["before"] for workers in results.values()}) == 1, "the start does not depend on the workers"
    psnrs = [[row["val_psnr_db"] for row in ws[0]["rows"] if "val_psnr_db" in row] for ws in results.values()]
    assert len(psnrs[0]) == 4, "three epochs and the end"
    for other in psnrs[1:]:
        assert other == pytest.approx(psnrs[0], abs=1e-3), "only the order of summation differs"
    assert all(row["val_images"] == 10 for ws in results.values() for row in ws[0]["rows"] if "val_images" in row)


@pytest.mark.parametrize("cut", [1, 6, 13])
def test_resumed_run_is_bitwise_equal(data: str, tmp_path: Path, cut: int) -> None:
    whole = train_alone(config_for(data, tmp_path / "whole"))
    train_alone(config_for(data, tmp_path / "cut", max_images=cut * BATCH))
    resumed = train_alone(config_for(data, tmp_path / "cut"))
    assert weights_hash(resumed) == weights_hash(whole)
    assert resumed.schedule == whole.schedule
    figures = [pq.read_table(tmp_path / run / "metrics.parquet").to_pylist() for run in ("whole", "cut")]
    kept = [{(r["images_seen"], r["val_psnr_db"]) for r in rows if r.get("val_psnr_db")} for rows in figures]
    assert {images for images, _ in kept[1] - kept[0]} <= {cut * BATCH}, "where it was stopped it was validated too"
    assert len(kept[0]) == 4 and kept[0] <= kept[1]


RECIPE: dict[str, Any] = {
    "lr_schedule": "cosine",
    "lr_warmup_images": 5 * BATCH,
    "ema_images": 4 * BATCH,
    "flip": True,
    "crop": 12,
}


def test_a_planned_rate_an_average_and_crops_resume_bitwise_equal(data: str, tmp_path: Path) -> None:
    """Broken off two steps after a checkpoint; the budget stays, since the rate of each step depends on it."""
    whole = train_alone(config_for(data, tmp_path / "whole", **RECIPE))
    broken = trainer_for(config_for(data, tmp_path / "cut", **RECIPE))
    read = broken.loader.next

    def fails_later() -> Any:
        if broken.images_seen == 15 * BATCH:
            raise KeyboardInterrupt
        return read()

    broken.loader.next = fails_later  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        broken.train()
    resumed = trainer_for(config_for(data, tmp_path / "cut", **RECIPE))
    assert 0 < resumed.images_seen < 15 * BATCH
    resumed.train()
    assert weights_hash(resumed) == weights_hash(whole)
    newest = [Run(open_storage(tmp_path / run)).checkpoints.newest() for run in ("whole", "cut")]
    assert newest[0] and newest[1] and newest[0].state["files"] == newest[1].state["files"], "averages as well"
    weights = [newest[0].files[name] for name in ("model.safetensors", "raw_weights.safetensors")]
    assert weights[0] != weights[1]


def test_what_is_kept_and_validated_is_the_average(data: str, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = []
    config = config_for(data, tmp_path / "run", **RECIPE)
    reserve_run(Training.open(config))
    trainer = trainer_for(config, rows.append)
    trainer.train()
    assert trainer.ema
    kept = load_trained(str(tmp_path / "run"), "last")
    with trainer.ema.swapped_in():
        for name, tensor in trainer.model.state_dict().items():
            assert torch.equal(kept.model.state_dict()[name], tensor), name
    assert any(not torch.equal(p, q) for p, q in zip(kept.model.parameters(), trainer.model.parameters(), strict=True))
    assert [row["lr"] for row in rows] == sorted((row["lr"] for row in rows), reverse=True), "cosine, after the warm-up"


def test_curves_and_pictures_of_each_validation_are_on_the_board(data: str, tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    train_alone(config_for(data, tmp_path / "run"))
    events = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    images = events.Images("clean, degraded, restored")
    curve = events.Scalars("val_psnr_db")
    assert [image.step for image in images] == [point.step for point in curve] == [48, 96, 144, 160]
    assert (images[0].width, images[0].height) == (8 * 16, 3 * 16)
    assert all(math.isfinite(events.Scalars(name)[-1].value) for name in ("condition_number_max", "coupling_scale_min"))


@pytest.mark.integration
def test_workers_of_a_time_budget_have_one_rate(data: str, tmp_path: Path) -> None:
    """Only the first worker's clock counts: replicas would drift apart otherwise."""
    config = config_for(data, tmp_path / "run", lr_schedule="wsd", max_minutes=0.02, max_images=None)
    results = run_workers(2, config, tmp_path / "workers")
    assert len({w["after"] for w in results}) == 1
    assert results[0]["rows"][-1]["lr"] < config.optimization.lr / 2


def test_the_budget_of_a_planned_rate_cannot_change(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_for(data, tmp_path / "run", max_images=2 * BATCH, lr_schedule="step")
    command.main(config)
    with pytest.raises(ValueError, match="max_images was 16 and is now 32"):
        command.main(config.with_options(max_images=4 * BATCH))


def test_windows_drop_and_carry_are_choices_of_the_run(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_for(
        data,
        tmp_path / "a",
        max_images=4 * BATCH,
        shuffle_window_shards=1,
        num_canonical_partitions=2,
        drop_last=True,
    )
    command.main(config.with_options(global_batch_size=10))
    assert "the rest of 8 is dropped, in windows of 1 shards in each of 2 partitions" in capsys.readouterr().out
    with pytest.raises(ValueError, match="9 cannot be divided by 2 canonical partitions"):
        command.main(config.with_options(global_batch_size=9))
    with pytest.raises(ValueError, match="partitions was 2 and is now 1"):
        command.main(config.with_options(global_batch_size=10, num_canonical_partitions=1))


def test_gradient_accumulation_changes_nothing_but_rounding(data: str, tmp_path: Path) -> None:
    whole = train_alone(config_for(data, tmp_path / "a", max_images=5 * BATCH))
    pieces = train_alone(config_for(data, tmp_path / "b", max_images=5 * BATCH, micro_batch_size=3))
    for a, b in zip(whole.model.parameters(), pieces.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_reversible_training_is_the_same_training(data: str, tmp_path: Path) -> None:
    whole = train_alone(config_for(data, tmp_path / "a", max_images=5 * BATCH))
    reversible = train_alone(config_for(data, tmp_path / "b", max_images=5 * BATCH, reversible=True))
    assert reversible.model.encoder.reversible
    for a, b in zip(whole.model.parameters(), reversible.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-4)


def test_half_written_checkpoint_is_not_one(data: str, tmp_path: Path) -> None:
    trainer = train_alone(config_for(data, tmp_path / "run", max_images=10 * BATCH))
    newest = trainer.run.checkpoints.names()[-1]
    (tmp_path / "run" / "checkpoints" / newest / "state.json").unlink()
    earlier = Checkpoints(trainer.run.store).names()[-1]
    assert earlier < newest
    damaged = tmp_path / "run" / "checkpoints" / newest
    assert damaged.exists()
    resumed = trainer_for(config_for(data, tmp_path / "run"))
    assert resumed.images_seen == int(earlier)


def test_damaged_checkpoint_gives_way_to_the_one_before(data: str, tmp_path: Path) -> None:
    trainer = train_alone(config_for(data, tmp_path / "run", max_images=10 * BATCH))
    earlier, newest = trainer.run.checkpoints.names()[-2:]
    path = tmp_path / "run" / "checkpoints" / newest / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    resumed = trainer_for(config_for(data, tmp_path / "run"))
    assert resumed.images_seen == int(earlier)


def test_end_is_validated_though_the_run_was_ended_just_before(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint may fall on the last step of a time budget, and the process die before the validation."""
    budget = {"max_images": None, "max_minutes": 0.02, "lr_schedule": "cosine"}
    config = config_for(data, tmp_path / "run", **budget, checkpoint_minutes=0, validate_at="end")

    def die(trainer: Trainer, epoch_ended: bool) -> float:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Trainer, "_validate", die)
        train_alone(config)
    resumed = train_alone(config)
    assert resumed.is_finished and resumed.rows[-1]["val_psnr_db"] > 0
    best = resumed.run.read_json("best.json")
    assert best and int(best["checkpoint"]) == resumed.images_seen
    assert len(train_alone(config).rows) == len(resumed.rows)  # once is enough


def test_loss_that_is_not_finite_stops_before_the_weights_change(data: str, tmp_path: Path) -> None:
    config = config_for(data, tmp_path / "run", lr=1e30, max_images=None)
    trainer = trainer_for(config)
    with pytest.raises(ValueError, match=r"in step (\d+);.*largest scale is \S+\.\S+"):
        trainer.train()
    assert trainer.images_seen <= 3 * BATCH


def test_command_resumes_and_refuses_another_configuration(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_for(data, tmp_path / "run", max_images=4 * BATCH)
    command.main(config)
    command.main(config.with_options(max_images=6 * BATCH))
    assert "resuming from 32 images" in capsys.readouterr().out
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["images_seen"] == 6 * BATCH
    with pytest.raises(ValueError, match=r"lr was 0.001 and is now 0.01.*--name"):
        command.main(config.with_options(lr=0.01))
    with pytest.raises(ValueError, match=r"K was 2 and is now 3"):
        command.main(config.with_options(K=3))


def test_another_data_set_is_refused_and_a_moved_one_is_not(data: str, tmp_path: Path) -> None:
    config = config_for(data, tmp_path / "run", max_images=2 * BATCH)
    train_alone(config)
    moved = make_dataset(str(tmp_path / "moved"))
    train_alone(config.with_options(data=moved, max_images=3 * BATCH))
    other = make_dataset(str(tmp_path / "other"), train=32)
    with pytest.raises(ValueError, match="another data set"):
        train_alone(config.with_options(data=other))


def test_dry_run_touches_nothing(data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command.main(config_for(data, tmp_path / "run", dry_run=True))
    assert not (tmp_path / "run").exists()
    printed = capsys.readouterr().out
    assert '"global_batch_size": 8' in printed
    assert "6.0 steps an epoch" in printed


def test_all_problems_of_a_configuration_at_once(data: str, tmp_path: Path) -> None:
    no_val = make_dataset(str(tmp_path / "noval"), val=0, size=20)
    with pytest.raises(ValueError) as error:
        command.main(config_for(no_val, tmp_path / "run", K=0, L=3, lr=-1.0, sigma_255=300.0, global_batch_size=0))
    problems = str(error.value).splitlines()
    for part in (
        "--K is 0",
        "--lr is -1",
        "--sigma-255 is 300",
        "--global-batch-size is 0",
        "no val images",
        "divisible by 8",
    ):
        assert sum(part in problem for problem in problems) == 1, part


def test_broken_shard_stops_all_workers_with_its_name(data: str, tmp_path: Path) -> None:
    broken = Path(make_dataset(str(tmp_path / "broken")))
    shard = bytearray((broken / "train-00001.tar").read_bytes())
    shard[5000] ^= 1
    (broken / "train-00001.tar").write_bytes(shard)
    with pytest.raises(ValueError, match=r"train-00001\.tar is missing or damaged"):
        train(config_for(str(broken), tmp_path / "run"), ProcessGroup(0, 1, torch.device("cpu")), lambda row: None)


@pytest.mark.parametrize("resumed", [False, True])
def test_data_set_and_run_are_opened_once(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resumed: bool
) -> None:
    """Before the first step the manifest is read once and the run's checkpoints are listed once."""
    config = config_for(data, tmp_path / "run", max_images=2 * BATCH)
    if resumed:
        command.main(config)
    counts = count_requests(monkeypatch)
    seen: list[dict[tuple[str, str], int]] = []
    step = Trainer._step

    def first_step(self: Trainer, *pairs: Any) -> Any:
        seen.append(dict(counts))
        return step(self, *pairs)

    monkeypatch.setattr(Trainer, "_step", first_step)
    command.main(config.with_options(max_images=4 * BATCH))
    before = seen[0]
    assert before["get", f"{data}/manifest.parquet"] == 1 and before["get", f"{data}/dataset.json"] == 1
    assert before["list", f"{tmp_path / 'run'}/checkpoints/"] == 1


def test_an_error_of_the_device_in_a_collective_is_no_lost_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    group = ProcessGroup(0, 2, torch.device("cpu"))
    for error, kind in (
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), torch.OutOfMemoryError),
        (ValueError("could not broadcast input array"), ValueError),
        (RuntimeError("[../gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1"), PeerLostError),
    ):

        def fail(tensor: torch.Tensor, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(torch.distributed, "all_reduce", fail)
        with pytest.raises(kind):
            group.all_reduce_sum_(torch.zeros(1))

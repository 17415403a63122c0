"""Spot preemption: its notice brings a checkpoint between the ordinary ones."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch

from infra.storage import open_storage
from pipeline.config.train import TrainConfig
from pipeline.guard import watch as guard
from pipeline.guard.config import GuardConfig
from pipeline.runs.folder import Run
from pipeline.train.distributed import ProcessGroup
from pipeline.train.loop import Trainer
from pipeline.train.prepare import Training
from tests.support.datasets import TRAIN_IMAGES as EPOCH
from tests.support.training import BATCH, config_for


def worker(rank: int, config: TrainConfig, folder: Path, noticed_step: int) -> None:
    """One of two workers, each on a machine of its own; the second one's guard sees a notice in the middle."""
    machine = folder / f"machine-{rank}"
    machine.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(machine))
        torch.set_num_threads(1)
        torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2)
        trainer = Trainer(Training.open(config), ProcessGroup.current(torch.device("cpu")), lambda row: None)
        if rank == 1:
            give_notice_before(trainer, noticed_step, patch)
        trainer.broadcast_weights()
        trainer.train()
        torch.distributed.destroy_process_group()


def give_notice_before(trainer: Trainer, step: int, patch: pytest.MonkeyPatch) -> None:
    read = trainer.loader.next
    patch.setattr(guard, "has_spot_notice", lambda: True)
    patch.setattr(guard, "drain", lambda: None)  # needs a cluster; see tests/cluster

    def next_batch() -> Any:
        if trainer.images_seen == (step - 1) * BATCH:
            guard.Guard(GuardConfig("run")).poll()
        return read()

    patch.setattr(trainer.loader, "next", next_batch)


@pytest.mark.integration
def test_a_notice_to_one_machine_brings_a_checkpoint(data: str, tmp_path: Path) -> None:
    config = config_for(
        data, tmp_path / "run", K=1, L=1, max_images=2 * EPOCH, checkpoint_minutes=60.0, keep_checkpoints=10
    )
    processes = [
        multiprocessing.get_context("spawn").Process(target=worker, args=(rank, config, tmp_path, 9)) for rank in (0, 1)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    saved = [int(name) for name in Run(open_storage(tmp_path / "run")).checkpoints.names()]
    assert saved == [EPOCH, 9 * BATCH, 2 * EPOCH], "one more than the ends of the epochs"

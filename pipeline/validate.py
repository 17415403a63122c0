"""Validation PSNR: each image of the split exactly once, whatever the number of workers."""

from __future__ import annotations

import numpy as np
import torch

from irae.metrics import psnr_db
from irae.model import IRAE
from irae.numerics import round_trip_max_error
from pipeline.config import TrainConfig
from pipeline.distributed import Team
from pipeline.pairs import make_pairs
from pipeline.step import autocast
from sharding import ShardReader
from sharding.order import rank_slice

BATCH = 64
ROUND_TRIP_IMAGES = 8


@torch.inference_mode()
def validate(
    model: IRAE, reader: ShardReader, config: TrainConfig, bits: int, team: Team, precision: str
) -> dict[str, float]:
    """Mean PSNR of the noisy and the restored images (sum over count over the workers), and the round-trip error.

    The noise of an image is the same in every epoch: that of epoch 0.
    """
    mine = np.arange(len(reader))[rank_slice(len(reader), team.rank, team.world_size)]
    sums = torch.zeros(3, dtype=torch.float64, device=team.device)
    round_trip = 0.0
    for start in range(0, len(mine), BATCH):
        batch = reader.read(mine[start : start + BATCH])
        epochs = [0] * len(batch.keys)
        clean, noisy = make_pairs(
            batch.clean,
            batch.keys,
            epochs,
            bits=bits,
            sigma_255=config.sigma_255,
            seed=config.seed,
            device=team.device,
        )
        with autocast(precision, team.device):
            restored = model.restore(noisy)
        sums[0] += psnr_db(noisy, clean).sum()
        sums[1] += psnr_db(restored, clean).sum()
        sums[2] += len(batch.keys)
        if start == 0:
            round_trip = round_trip_max_error(model, noisy[:ROUND_TRIP_IMAGES])
    team.sum_(sums)
    noisy_db, restored_db, count = sums.tolist()
    assert count == len(reader), (count, len(reader))
    return {
        "val_psnr_db_noisy": noisy_db / count,
        "val_psnr_db": restored_db / count,
        "val_images": count,
        "round_trip_max_error": round_trip,
    }

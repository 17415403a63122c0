"""Validation PSNR: each image of the split exactly once, whatever the number of workers."""

from __future__ import annotations

import torch
from torch import Tensor

from irae.metrics import psnr_db
from irae.model import IRAE
from irae.numerics import round_trip_max_error
from pipeline.config import TrainConfig
from pipeline.distributed import Team
from pipeline.pairs import make_pairs
from pipeline.step import autocast
from sharding import ShardReader
from sharding.order import padded_share

BATCH = 64
ROUND_TRIP_IMAGES = 8


@torch.inference_mode()
def validate(
    model: IRAE, reader: ShardReader, config: TrainConfig, bits: int, team: Team, precision: str
) -> dict[str, float]:
    """Mean PSNR of the noisy and the restored images (sum over count over the workers), and the round-trip error.

    The noise of an image is the same in every epoch: that of epoch 0. ValueError, on every worker, when one of them
    cannot read its images.
    """
    sums, round_trip, error = torch.zeros(3, dtype=torch.float64, device=team.device), 0.0, None
    try:
        round_trip = _add_own(sums, model, reader, config, bits, team, precision)
    except ValueError as problem:
        error = problem
    team.agree(error)
    team.sum_(sums)
    noisy_db, restored_db, count = sums.tolist()
    assert count == len(reader), (count, len(reader))
    return {
        "val_psnr_db_noisy": noisy_db / count,
        "val_psnr_db": restored_db / count,
        "val_images": count,
        "round_trip_max_error": round_trip,
    }


def _add_own(
    sums: Tensor, model: IRAE, reader: ShardReader, config: TrainConfig, bits: int, team: Team, precision: str
) -> float:
    """Add this worker's (PSNR of the noisy, PSNR of the restored, count) to `sums`; returns its round-trip error."""
    indices, real = padded_share(len(reader), team.rank, team.world_size)
    starts = range(0, len(indices), BATCH)
    round_trip = 0.0
    for start, batch in zip(starts, reader.batches(indices[s : s + BATCH] for s in starts), strict=True):
        clean, noisy = make_pairs(
            batch.clean,
            batch.keys,
            [0] * len(batch.keys),
            bits=bits,
            sigma_255=config.sigma_255,
            seed=config.seed,
            device=team.device,
        )
        with autocast(precision, team.device):
            restored = model.restore(noisy)
        counted = torch.from_numpy(real[start : start + BATCH]).to(team.device)
        sums[0] += psnr_db(noisy, clean)[counted].sum()
        sums[1] += psnr_db(restored, clean)[counted].sum()
        sums[2] += counted.sum()
        if start == 0:
            round_trip = round_trip_max_error(model, noisy[:ROUND_TRIP_IMAGES])
    return round_trip

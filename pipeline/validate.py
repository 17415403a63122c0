"""Validation PSNR: each image of the split exactly once, whatever the number of workers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from irae.metrics import psnr_db
from irae.model import IRAE
from irae.numerics import condition_number, round_trip_max_error, smallest_scale
from pipeline.config import TrainConfig
from pipeline.distributed import Team
from pipeline.pairs import make_pairs
from pipeline.step import autocast
from sharding import ShardReader
from sharding.order import padded_share

BATCH = 64
NUMERICS_IMAGES = 8
Pictures = tuple[Tensor, Tensor, Tensor]
"""Clean, noisy and restored images, (B, C, H, W)."""


@dataclass(frozen=True)
class Validation:
    """What a validation found."""

    figures: dict[str, float]
    pictures: Pictures
    """Of this worker's first batch."""


@torch.inference_mode()
def validate(
    model: IRAE, reader: ShardReader, config: TrainConfig, bits: int, team: Team, precision: str
) -> Validation:
    """Mean PSNR of the noisy and the restored images (sum over count over the workers), and how well it inverts.

    The noise of an image is the same in every epoch: that of epoch 0. ValueError, on every worker, when one of them
    cannot read its images.
    """
    sums, pictures, error = torch.zeros(3, dtype=torch.float64, device=team.device), None, None
    try:
        pictures = _add_own(sums, model, reader, config, bits, team, precision)
    except ValueError as problem:
        error = problem
    team.agree(error)
    team.sum_(sums)
    noisy_db, restored_db, count = sums.tolist()
    assert count == images_of(config, reader) and pictures, (count, len(reader))
    few = pictures[1][:NUMERICS_IMAGES]
    figures = {
        "val_psnr_db_noisy": noisy_db / count,
        "val_psnr_db": restored_db / count,
        "val_images": count,
        "round_trip_max_error": round_trip_max_error(model, few),
        "condition_number_max": condition_number(model),
        "coupling_scale_min": smallest_scale(model, few),
    }
    return Validation(figures, pictures)


def images_of(config: TrainConfig, reader: ShardReader) -> int:
    """How many images of the split are validated."""
    return min(len(reader), config.val_images or len(reader))


def _add_own(
    sums: Tensor, model: IRAE, reader: ShardReader, config: TrainConfig, bits: int, team: Team, precision: str
) -> Pictures:
    """Add this worker's (PSNR of the noisy, PSNR of the restored, count) to `sums`; returns its first batch."""
    indices, real = padded_share(images_of(config, reader), team.rank, team.world_size)
    starts = range(0, len(indices), BATCH)
    first: Pictures | None = None
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
        first = first or (clean, noisy, restored)
    assert first
    return first

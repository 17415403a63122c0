"""Validation PSNR: each image of the split exactly once, whatever the number of workers."""

from __future__ import annotations

import torch
from torch import Tensor

from infra.storage import UserError
from irae.diagnostics import condition_number, min_coupling_scale, round_trip_max_error
from irae.metrics import psnr_db
from irae.model import IRAE
from irae.restorer import Restorer
from pipeline.config.train import TrainConfig
from pipeline.data.pairs import make_pairs
from pipeline.train.distributed import ProcessGroup
from pipeline.train.step import autocast
from sharding import ShardReader
from sharding.order import padded_rank_indices

BATCH = 64
NUMERICS_IMAGES = 8
Images = tuple[Tensor, Tensor, Tensor]
"""Clean, degraded and restored images, (B, C, H, W)."""


@torch.inference_mode()
def validate(
    model: Restorer, reader: ShardReader, config: TrainConfig, bits: int, group: ProcessGroup, precision: str
) -> tuple[dict[str, float], Images]:
    """Mean PSNR of degraded and restored images (sum over count over the workers), inversion diagnostics; first batch.

    The noise of an image is the same in every epoch: that of epoch 0. Batch normalisation uses its running statistics.
    UserError, on every worker, when one of them cannot read its images.
    """
    sums, images, error = torch.zeros(4, dtype=torch.float64, device=group.device), None, None
    model.eval()
    try:
        images = _add_own(sums, model, reader, config, bits, group, precision)
    except UserError as problem:
        error = problem
    finally:
        model.train()
    group.raise_if_any_rank_failed(error)
    group.all_reduce_sum_(sums)
    degraded_db, restored_db, hole_db, count = sums.tolist()
    assert count == images_of(config, reader) and images, (count, len(reader))
    figures = {
        "val_psnr_db_degraded": degraded_db / count,
        "val_psnr_db": restored_db / count,
        "val_images": count,
    }
    if config.task.kind == "inpaint":
        figures["val_psnr_db_hole"] = hole_db / count
    if isinstance(model, IRAE):
        few = images[1][:NUMERICS_IMAGES]
        figures["round_trip_max_error"] = round_trip_max_error(model, few)
        figures["condition_number_max"] = condition_number(model)
        figures["coupling_scale_min"] = min_coupling_scale(model, few)
    return figures, images


def images_of(config: TrainConfig, reader: ShardReader) -> int:
    """Number of validated images."""
    return min(len(reader), config.checkpointing.val_images or len(reader))


def _add_own(
    sums: Tensor,
    model: Restorer,
    reader: ShardReader,
    config: TrainConfig,
    bits: int,
    group: ProcessGroup,
    precision: str,
) -> Images:
    """Add this worker's PSNR of the degraded, of the restored, of these in the hole, and the count to `sums`; returns
    its first batch."""
    indices, real = padded_rank_indices(images_of(config, reader), group.rank, group.world_size)
    starts = range(0, len(indices), BATCH)
    first: Images | None = None
    for start, batch in zip(starts, reader.batches(indices[s : s + BATCH] for s in starts), strict=True):
        pairs = make_pairs(batch, [0] * len(batch.keys), config.task, bits=bits, seed=config.seed, device=group.device)
        with autocast(precision, group.device):
            restored = model.restore(pairs.degraded, sigma_255=pairs.sigma_255)
        shown = pairs.paste(restored)
        counted = torch.from_numpy(real[start : start + BATCH]).to(group.device)
        sums[0] += psnr_db(pairs.degraded, pairs.clean)[counted].sum()
        sums[1] += psnr_db(shown, pairs.clean)[counted].sum()
        if pairs.hole is not None:
            sums[2] += psnr_db(shown, pairs.clean, pairs.hole)[counted].sum()
        sums[3] += counted.sum()
        first = first or (pairs.clean, pairs.degraded, shown)
    assert first
    return first

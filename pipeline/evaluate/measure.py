"""Measures of each image."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from infra.storage import Storage
from irae.metrics import psnr_db, ssim, ssim_released
from irae.model import IRAE
from pipeline.config.environment import cache_folder
from pipeline.config.task import Task
from pipeline.data.pairs import Pairs, make_pairs
from pipeline.data.pixels import pinned_array, to_pixels
from pipeline.evaluate.config import EvaluateConfig
from pipeline.runs.evaluations import EXAMPLE_KINDS
from pipeline.runs.load import Trained
from sharding import Dataset, ShardReader


@dataclass(frozen=True)
class EvaluationPlan:
    """A run at a checkpoint, the images and the protocol."""

    config: EvaluateConfig
    trained: Trained
    dataset: Dataset
    task: Task
    """The run's task, at the noise level that is evaluated."""
    bits: int
    out: Storage
    """Folder of the results."""

    @property
    def images(self) -> int:
        in_split = self.dataset.split_sizes[self.config.split]
        return min(in_split, self.config.images or in_split)


@dataclass(frozen=True)
class Measured:
    """Measures of a batch."""

    rows: list[dict[str, Any]]
    """A row of measures for each image."""
    pixels: dict[str, np.ndarray]
    """Kind of example -> uint8 (B, H, W, 3), as the images would be shown."""
    restore_s: float
    """Time that the model took to restore the batch."""


def measure(plan: EvaluationPlan, images: Sequence[int]) -> Iterator[Measured]:
    """Measures of these images of the split, batch by batch, in this order."""
    config, trained = plan.config, plan.trained
    fields = plan.task.fields
    reader = ShardReader(plan.dataset, config.split, cache_folder(), fields=fields, allocate=pinned_array)
    indices = np.array(images)
    for found in reader.batches(indices[i : i + config.batch] for i in range(0, len(indices), config.batch)):
        with torch.inference_mode():
            epochs = [0] * len(found.keys)
            pairs = make_pairs(found, epochs, plan.task, bits=plan.bits, seed=config.seed, device=trained.device)
            begin_s = time.perf_counter()
            restored = pairs.paste(trained.model.restore(pairs.degraded, sigma_255=pairs.sigma_255))
            if trained.device.type == "cuda":
                torch.cuda.synchronize(trained.device)
            restore_s = time.perf_counter() - begin_s
            columns = {name: values.tolist() for name, values in measures(trained, pairs, restored).items()}
        rows = [{"key": key, **{n: v[i] for n, v in columns.items()}} for i, key in enumerate(found.keys)]
        shown = zip(EXAMPLE_KINDS, (pairs.clean, pairs.degraded, restored), strict=True)
        yield Measured(rows, {kind: to_pixels(images) for kind, images in shown}, restore_s)


def measures(trained: Trained, pairs: Pairs, restored: Tensor) -> dict[str, Tensor]:
    """Measures by name, (B,) each; `restored`: as it is shown."""
    clean, degraded = pairs.clean, pairs.degraded
    found = {
        f"{name}_{version}": metric(images, clean)
        for name, metric in (("psnr_db", psnr_db), ("ssim", ssim), ("ssim_released", ssim_released))
        for version, images in (("degraded", degraded), ("restored", restored))
    }
    if pairs.hole is not None:
        found["psnr_db_hole_restored"] = psnr_db(restored, clean, pairs.hole)
    if isinstance(trained.model, IRAE):
        back = trained.model.inverse(trained.model(degraded))
        found["round_trip_max_error"] = (back - degraded).abs().amax(dim=(1, 2, 3))
    return found


def means(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Mean of each measure over the images; of the round-trip error the largest."""
    columns = {name: [row[name] for row in rows] for name in rows[0] if name != "key"}
    return {name: max(v) if name == "round_trip_max_error" else sum(v) / len(v) for name, v in columns.items()}

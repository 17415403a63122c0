"""Restoration of image files with a trained run."""

from __future__ import annotations

import json
import logging
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from infra.storage import UserError
from irae.registry import MODELS
from irae.restorer import activation_elements_per_pixel
from pipeline.cli import ProgressLine
from pipeline.config.checks import USER_ERRORS
from pipeline.data.pixels import to_pixels
from pipeline.restore.config import RestoreConfig
from pipeline.restore.image_files import check_writable, plan_outputs, read_image, write_image
from pipeline.restore.tiling import max_tile, restore_tiled
from pipeline.runs.load import Trained, load_trained

logger = logging.getLogger(__name__)

BYTES_PER_PIXEL_AND_WIDTH = 24
"""Memory of a forward pass. IRAE: the widest layer has `width` channels at half the side; a few copies live at once.
Other models: for each activation of the widest layer."""


def main(config: RestoreConfig) -> None:
    """Restore each image; UserError at the end names those that could not be restored."""
    pairs = plan_outputs(config.source, config.target)
    trained = load_trained(config.run, config.checkpoint)
    tile = tile_side(config, trained)
    sigma_255 = known_sigma(config, trained)
    logger.info(f"restoring {len(pairs)} image(s) with {trained.url}, tiles of at most {tile} px")
    if config.dry_run:
        for source, target in pairs:
            logger.info(f"{source} -> {target}")
        return
    rows, problems = [], []
    with ProgressLine("restoring", len(pairs), "images") as line:
        for source, target in pairs:
            try:
                rows.append(restore_file(trained, source, target, tile, config.overlap, sigma_255))
            except USER_ERRORS as error:
                problems.append(str(error))
            line.update(len(rows) + len(problems))
    metrics = config.metrics or (config.target / "metrics.json" if config.target.is_dir() else None)
    if metrics:
        metrics.parent.mkdir(parents=True, exist_ok=True)
        content = {"run": trained.url, "restored": len(rows), "failed": len(problems), "images": rows}
        metrics.write_text(json.dumps(content, indent=1))
    logger.info(f"restored {len(rows)} of {len(pairs)} image(s) into {config.target}")
    if problems:
        raise UserError("\n".join(problems))


def known_sigma(config: RestoreConfig, trained: Trained) -> float | None:
    """Noise level for a model with a noise map: the given one, or the run's. UserError when neither is known."""
    if not MODELS[trained.model.model_name].needs_sigma:
        return None
    sigma = trained.config.task.sigma_255 if config.sigma_255 is None else config.sigma_255
    if sigma == "blind":
        raise UserError(
            f"{trained.url} was trained on noise of any strength and needs the images' noise level: give --sigma-255."
        )
    return sigma


def restore_file(
    trained: Trained, source: Path, target: Path, tile: int, overlap: int, sigma_255: float | None
) -> dict[str, Any]:
    """Restore a file, in tiles when a side is longer than `tile`; returns a row for metrics.json."""
    begin = time.monotonic()
    image = read_image(source)
    height, width = image.rgb.shape[:2]
    check_writable(target, height, width, has_alpha=image.alpha is not None)
    restore = partial(trained.model.restore, sigma_255=sigma_255)
    degraded = torch.from_numpy(image.rgb).permute(2, 0, 1)[None].to(trained.device).float() / 255
    with torch.inference_mode():
        fits = max(height, width) <= tile
        restored = restore(degraded) if fits else restore_tiled(restore, degraded, tile, overlap)
        write_image(target, to_pixels(restored)[0], like=image)
    elapsed_s = round(time.monotonic() - begin, 3)
    return {"source": str(source), "target": str(target), "height": height, "width": width, "elapsed_s": elapsed_s}


def tile_side(config: RestoreConfig, trained: Trained) -> int:
    """--tile, or the largest side that fits into half of the free memory and the model allows, px."""
    multiple = trained.model.side_multiple
    overlap = -(-config.overlap // multiple) * multiple
    if overlap != config.overlap:
        raise UserError(f"--overlap {config.overlap} must be divisible by {multiple} for this model; take {overlap}.")
    if config.tile is None:
        shape = trained.model.config
        width = shape.width if shape else max(activation_elements_per_pixel(trained.model))
        per_pixel = BYTES_PER_PIXEL_AND_WIDTH * width
        return max(max_tile(free_memory_bytes(trained.device) // 2, per_pixel, multiple), 2 * overlap)
    if config.tile % multiple:
        raise UserError(f"--tile {config.tile} must be divisible by {multiple} for this model.")
    return config.tile


def free_memory_bytes(device: torch.device) -> int:
    """Free memory of the GPU, or of the machine (2 GiB where the operating system does not report it)."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 2 << 30
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))

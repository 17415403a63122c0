"""Options of `pipeline.restore`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.cli import PositionalPath
from pipeline.config.checks import check_minimum, raise_problems


@dataclass(frozen=True)
class RestoreConfig:
    """Restore an image, or a folder of images, with a trained run."""

    source: PositionalPath
    """Image or folder of images: PNG, JPEG, WebP; any size."""
    target: PositionalPath
    """File or folder of the results."""
    run: str | None = None
    """URL or name of the run. Default: the only one below IRAE_STORE/runs."""
    checkpoint: str = "best"
    """best, last, or a checkpoint's name."""
    sigma_255: float | None = None
    """Noise of the images in units of 1/255, for a model with a noise map (ffdnet). Default: the run's."""
    tile: int | None = None
    """Side of the tiles that a large image is cut into, px. Default: the largest that fits the free memory."""
    overlap: int = 64
    """Pixels that neighbouring tiles share."""
    metrics: Path | None = None
    """Path of metrics.json. Default: in the target folder; none for a single image."""
    dry_run: bool = False
    """Print what would be done and touch nothing."""

    def __post_init__(self) -> None:
        problems: list[str] = []
        check_minimum(problems, 16, tile=self.tile)
        check_minimum(problems, 0, overlap=self.overlap, sigma_255=self.sigma_255)
        if self.tile is not None and self.tile <= self.overlap:
            problems.append(f"--tile {self.tile} must be larger than --overlap {self.overlap}.")
        raise_problems(problems)

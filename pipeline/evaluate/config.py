"""Options of `pipeline.evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.config.checks import check_minimum, raise_problems
from pipeline.config.task import Sigma, sigma_problems


@dataclass(frozen=True)
class EvaluateConfig:
    """PSNR and SSIM of a trained run on a data set, for the degraded and the restored images, for the run's task."""

    run: str | None = None
    """URL or name of the run. Default: the only one below IRAE_STORE/runs."""
    data: str | None = None
    """URL or name of the data set. Default: the one that the run was trained on."""
    split: Literal["train", "val", "test"] = "test"
    """Evaluated split."""
    protocol: Literal["standard", "released"] = "standard"
    """released: images of 5 bits with dequantisation noise, as in the paper's tables. Figures of the two cannot be
    compared."""
    sigma_255: Sigma | None = None
    """noise: sigma in units of 1/255, or blind. Default: the run's."""
    checkpoint: str = "best"
    """best, last, or a checkpoint's name."""
    images: int = 0
    """Evaluated images, the first of the split, which is in random order. 0: all."""
    batch: int = 32
    """Batch size."""
    seed: int = 0
    """Seed of the noise, together with each image's key."""
    examples: int = 4
    """Example images that are kept as PNG files (clean, degraded, restored): the first of the split, besides the one
    that was restored best, the median and the worst. 0: none."""
    keep: tuple[str, ...] = ()
    """Keys of further example images, such as those that another run restored best and worst."""
    out: str | None = None
    """URL of the results. Default: evaluations/ in the run's folder."""
    dry_run: bool = False
    """Print what would be done and touch nothing."""

    def __post_init__(self) -> None:
        problems: list[str] = []
        check_minimum(problems, 1, batch=self.batch)
        check_minimum(problems, 0, examples=self.examples, seed=self.seed, images=self.images)
        problems += sigma_problems(self.sigma_255)
        raise_problems(problems)

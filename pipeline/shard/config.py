"""What each command can be told: one frozen dataclass a command. Checked whole, so that all problems come at once.

No heavy import here: `--help` prints from these classes in a fraction of a second.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.cli import PositionalText
from pipeline.config.checks import check_minimum, raise_problems

SourceName = Literal["synthetic", "folder", "celeba", "celeba-hq", "cub", "flowers"]


@dataclass(frozen=True)
class ShardConfig:
    """Photographs to WebDataset shards, with a manifest, on a local folder or S3.

    The same command again makes what is missing or damaged. `python -m pipeline.shard verify URL` checks a data set,
    `python -m pipeline.shard inspect URL` shows what is in it.
    """

    source: SourceName = "synthetic"
    """Where the images come from; synthetic needs no download."""
    root: Path | None = None
    """Folder of the images, in the layout of their publishers (not for synthetic)."""
    download: bool = False
    """Fetch the published archives first (celeba, cub, flowers) into --root, default IRAE_CACHE/sources/NAME."""
    out: str | None = None
    """URL of the data set: a folder or s3://bucket/prefix. Default: IRAE_STORE/data/NAME."""
    size: int | None = None
    """Height and width of the stored images, px. Default: the paper's for the source (64, 128), 128 for a folder."""
    bits: Literal[8, 5] = 8
    """Bits kept of each value. 5 is the released code's protocol: dequantisation noise is added when training."""
    degrade: tuple[str, ...] = ()
    """Degraded versions that are stored beside each image: jpeg:QUALITY[:420|422|444] and mask:box|center|brush,
    several parted by commas, as in --degrade jpeg:10,20,30,40 mask:box. Noise is never stored."""
    crop: int | None = None
    """folder: side of the centre crop, px. Default: the largest square."""
    split: str | None = None
    """folder: the split of images that lie in no train/val/test folder, or auto (90/5/5 by hash). flowers: official or
    released."""
    train_images: int = 2400
    """synthetic: images for training."""
    val_images: int = 120
    """synthetic: images for validation."""
    test_images: int = 120
    """synthetic: images for testing."""
    seed: int = 0
    """Decides the order in the shards and everything else that is random."""
    images_per_shard: int | None = None
    """Default: what makes shards of about 32 MiB."""
    max_bad: int = 0
    """Images that may be unusable (they are listed with reasons) before the command fails."""
    overwrite: bool = False
    """Replace the data set, this one or another, that is at the same place."""
    deep: bool = False
    """Read all bytes of the shards that are there already before trusting them, not only sizes and S3's checksums."""
    workers: int | None = None
    """Shards made at once. Default: one for each processor of the cluster (RAY_ADDRESS) or of this machine."""
    ray: bool = True
    """--no-ray: one after the other in this process."""
    dry_run: bool = False
    """Print the plan and touch nothing."""

    def __post_init__(self) -> None:
        problems: list[str] = []
        check_minimum(problems, 8, size=self.size)
        check_minimum(problems, 1, images_per_shard=self.images_per_shard, workers=self.workers, crop=self.crop)
        check_minimum(
            problems,
            0,
            max_bad=self.max_bad,
            seed=self.seed,
            train_images=self.train_images,
            val_images=self.val_images,
            test_images=self.test_images,
        )
        if self.download and self.dry_run:
            problems.append("--dry-run touches nothing, so it goes without --download: point --root at what is there.")
        if self.source != "synthetic" and self.root is None and not self.download:
            problems.append(f"--source {self.source} needs --root FOLDER, the folder that holds its images.")
        if self.crop is not None and self.source != "folder":
            problems.append(f"--crop is for --source folder; {self.source} has a crop of its own.")
        if not self.ray and (self.workers or 1) > 1:
            problems.append("--no-ray makes one shard after the other; leave it out, or leave out --workers.")
        raise_problems(problems)


@dataclass(frozen=True)
class VerifyConfig:
    """Check every shard of a data set: sizes and checksums, or each byte and each image. Exit code 2 for damage."""

    data: PositionalText
    """URL or name of the data set."""
    deep: bool = False
    """Read every byte and decode every image."""


@dataclass(frozen=True)
class InspectConfig:
    """Show what a data set holds: counts, sizes, protocol, brightness, and a sheet of clean and degraded images."""

    data: PositionalText
    """URL or name of the data set."""
    out: Path = Path("sheet.png")
    """Where the sheet of images goes."""
    images: int = 8
    """Images on the sheet."""

    def __post_init__(self) -> None:
        problems: list[str] = []
        check_minimum(problems, 1, images=self.images)
        if self.out.suffix.lower() != ".png":
            problems.append(f"--out {self.out} must end in .png.")
        raise_problems(problems)

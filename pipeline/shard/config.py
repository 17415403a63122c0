"""Options of `pipeline.shard`: one frozen dataclass a command, from which `--help` is printed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.cli import PositionalText
from pipeline.config.checks import check_minimum, raise_problems

SourceName = Literal["synthetic", "folder", "celeba", "celeba-hq", "cub", "flowers"]


@dataclass(frozen=True)
class ShardConfig:
    """Photographs to WebDataset shards with a manifest, in a local folder or on S3.

    The same command again makes missing and damaged shards. `python -m pipeline.shard verify URL` checks a data set,
    `python -m pipeline.shard inspect URL` shows its content.
    """

    source: SourceName = "synthetic"
    """Source of the images; synthetic needs no files."""
    root: Path | None = None
    """Folder of the images, in their publisher's layout (not for synthetic)."""
    download: bool = False
    """Download the published archives first (celeba, cub, flowers) into --root, default IRAE_CACHE/sources/NAME."""
    out: str | None = None
    """URL of the data set: a folder or s3://bucket/prefix. Default: IRAE_STORE/data/NAME."""
    size: int | None = None
    """Height and width of the stored images, px. Default: the paper's for the source (64, 128), 128 for a folder."""
    bits: Literal[8, 5] = 8
    """Bits kept of each value. 5 is the released code's protocol: dequantisation noise is added when training."""
    degrade: tuple[str, ...] = ()
    """Degraded versions to store beside each image: jpeg:QUALITY[:420|422|444] and mask:box|center|brush, with several
    values separated by commas, as in --degrade jpeg:10,20,30,40 mask:box. Noise is never stored."""
    crop: int | None = None
    """folder: side of the centre crop, px. Default: the largest square."""
    split: str | None = None
    """folder: split of images outside of train/val/test folders, or auto (90/5/5 by hash). flowers: official or
    released."""
    train_images: int = 2400
    """synthetic: number of training images."""
    val_images: int = 120
    """synthetic: number of validation images."""
    test_images: int = 120
    """synthetic: number of test images."""
    seed: int = 0
    """Seed of the order in the shards and of everything else that is random."""
    images_per_shard: int | None = None
    """Images in each shard. Default: as many as make about 32 MiB."""
    max_bad: int = 0
    """Unusable images that are allowed; they are listed with reasons."""
    overwrite: bool = False
    """Replace the data set, this one or another, at the same URL."""
    checksum: bool = False
    """Read every byte of existing shards to verify them, instead of only sizes and S3's checksums."""
    workers: int | None = None
    """Shards to make in parallel. Default: one for each processor of the cluster (RAY_ADDRESS) or of this machine."""
    ray: bool = True
    """--no-ray: one shard after the other in this process."""
    dry_run: bool = False
    """Print the plan and write nothing."""

    def __post_init__(self) -> None:
        problems: list[str] = []
        check_minimum(problems, 8, size=self.size)
        check_minimum(problems, 1, images_per_shard=self.images_per_shard, workers=self.workers, crop=self.crop)
        check_minimum(problems, 0, max_bad=self.max_bad, seed=self.seed)
        if self.download and self.dry_run:
            problems.append("--dry-run writes nothing, so it excludes --download: give existing images with --root.")
        if self.source != "synthetic" and self.root is None and not self.download:
            problems.append(f"--source {self.source} needs --root FOLDER, the folder that holds its images.")
        if self.crop is not None and self.source != "folder":
            problems.append(f"--crop is for --source folder; {self.source} has its own crop.")
        if not self.ray and (self.workers or 1) > 1:
            problems.append("--no-ray makes one shard after the other; leave it out, or leave out --workers.")
        raise_problems(problems)


@dataclass(frozen=True)
class VerifyConfig:
    """Check every shard of a data set: sizes and checksums, or each byte and each image. Exit code 2 for damage."""

    data: PositionalText
    """URL or name of the data set."""
    checksum: bool = False
    """Read every byte and decode every image."""


@dataclass(frozen=True)
class InspectConfig:
    """Show a data set: counts, sizes, protocol, brightness, and a sheet of clean and degraded images."""

    data: PositionalText
    """URL or name of the data set."""
    out: Path = Path("sheet.png")
    """File of the sheet of images."""
    images: int = 8
    """Number of images on the sheet."""

    def __post_init__(self) -> None:
        problems: list[str] = []
        check_minimum(problems, 1, images=self.images)
        if self.out.suffix.lower() != ".png":
            problems.append(f"--out {self.out} must end in .png.")
        raise_problems(problems)

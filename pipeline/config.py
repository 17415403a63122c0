"""What each command can be told: one frozen dataclass a command. Checked whole, so that all problems come at once.

No heavy import here: `--help` prints from these classes in a fraction of a second.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

SourceName = Literal["synthetic", "folder", "celeba", "celeba-hq", "cub", "flowers"]
Sigma = float | Literal["blind"]
Task = Literal["noise", "jpeg", "inpaint"]
Mask = Literal["box", "center", "brush"]
PositionalPath = tyro.conf.Positional[Path]
PositionalText = tyro.conf.Positional[str]


def store_url() -> str:
    """Where data sets and runs live unless a command is told otherwise: IRAE_STORE, or the current folder."""
    place = os.environ.get("IRAE_STORE", ".")
    return place if "://" in place else os.path.abspath(place)


def cache_folder() -> Path:
    """Where shards from S3 are kept on this machine: IRAE_CACHE, or ~/.cache/irae."""
    return Path(os.environ.get("IRAE_CACHE", Path.home() / ".cache" / "irae"))


def refuse(problems: list[str]) -> None:
    """Raise one ValueError that holds every problem."""
    if problems:
        raise ValueError("\n".join(problems))


def below(problems: list[str], minimum: float, **values: float | None) -> None:
    """Note each value that is below its minimum."""
    for name, value in values.items():
        if value is not None and value < minimum:
            problems.append(f"--{name.replace('_', '-')} is {value}, but must be at least {minimum}.")


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
        below(problems, 8, size=self.size)
        below(problems, 1, images_per_shard=self.images_per_shard, workers=self.workers, crop=self.crop)
        below(
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
        refuse(problems)


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
        below(problems, 1, images=self.images)
        if self.out.suffix.lower() != ".png":
            problems.append(f"--out {self.out} must end in .png.")
        refuse(problems)


@dataclass(frozen=True)
class EvaluateConfig:
    """PSNR and SSIM of a trained run on a data set, for the degraded and the restored images, for the run's task."""

    run: str | None = None
    """URL or name of the run. Default: the only one below IRAE_STORE/runs."""
    data: str | None = None
    """URL of the data set. Default: the one that the run was trained on."""
    split: Literal["train", "val", "test"] = "test"
    """Its part that is evaluated."""
    protocol: Literal["standard", "released"] = "standard"
    """released: images of 5 bits with dequantisation noise, as in the paper's tables. Figures of the two cannot be
    compared."""
    sigma_255: Sigma | None = None
    """noise: its strength. Default: the run's."""
    checkpoint: str = "best"
    """best, last, or a checkpoint's name."""
    images: int = 0
    """Evaluate the first so many images of the split, which lie in random order. 0: all."""
    batch: int = 32
    """Images at once."""
    seed: int = 0
    """Decides the noise, with each image's key."""
    examples: int = 4
    """The first so many images are kept as PNG files, clean, degraded and restored; besides them the one that was
    restored best, the median and the worst. 0: none."""
    keep: tuple[str, ...] = ()
    """Keys of more images that are kept, such as those that another run restored best and worst."""
    out: str | None = None
    """URL where the results go. Default: evaluations/ in the run's folder."""
    dry_run: bool = False
    """Print what would be done and touch nothing."""

    def __post_init__(self) -> None:
        problems: list[str] = []
        below(problems, 1, batch=self.batch)
        below(problems, 0, examples=self.examples, seed=self.seed, images=self.images)
        if isinstance(self.sigma_255, float | int) and not 0 <= self.sigma_255 <= 255:
            problems.append(f"--sigma-255 is {self.sigma_255}, but must be between 0 and 255, or blind.")
        refuse(problems)


@dataclass(frozen=True)
class RestoreConfig:
    """Restore a picture, or a folder of pictures, with a trained run."""

    source: PositionalPath
    """Picture or folder of pictures: PNG, JPEG, WebP; any size."""
    target: PositionalPath
    """Where the restored ones go."""
    run: str | None = None
    """URL or name of the run. Default: the only one below IRAE_STORE/runs."""
    checkpoint: str = "best"
    """best, last, or a checkpoint's name."""
    sigma_255: float | None = None
    """Noise of the pictures in units of 1/255, for a system that must be told (ffdnet). Default: the run's."""
    tile: int | None = None
    """Side of the tiles that a picture is cut into, px. Default: the largest that fits the free memory."""
    overlap: int = 64
    """Pixels that neighbouring tiles share."""
    metrics: Path | None = None
    """Where metrics.json is written. Default: into the target folder; none for a single picture."""
    dry_run: bool = False
    """Print what would be done and touch nothing."""

    def __post_init__(self) -> None:
        problems: list[str] = []
        below(problems, 16, tile=self.tile)
        below(problems, 0, overlap=self.overlap, sigma_255=self.sigma_255)
        if self.tile is not None and self.tile <= self.overlap:
            problems.append(f"--tile {self.tile} must be larger than --overlap {self.overlap}.")
        refuse(problems)


@dataclass(frozen=True)
class ReportConfig:
    """One page on some runs: figures, curves, pictures with a slider, the inverse, how to repeat them.

    Runs that were evaluated on the same images are compared with each other.
    """

    runs: tyro.conf.Positional[tuple[str, ...]] = ()
    """URLs or names of runs. Default: the only one below IRAE_STORE/runs; with --table, none."""
    table: tuple[Path, ...] = ()
    """table.json files of `pipeline.reproduce`, shown with the paper's figures beside."""
    out: str = "report.html"
    """Where the page goes: a file, or s3://bucket/name.html."""

    def __post_init__(self) -> None:
        if not self.out.endswith(".html"):
            refuse([f"--out {self.out} must end in .html."])


@dataclass(frozen=True)
class PublishedConfig:
    """Make a run of the weights that the authors of FFDNet and DnCNN publish, to be evaluated beside one's own."""

    file: PositionalPath
    """Their MATLAB file with the network for colour images."""
    name: str | None = None
    """Name of the run. Default: the file's."""
    out: str | None = None
    """URL of the run's folder. Default: IRAE_STORE/runs/NAME."""
    sigma_255: Sigma = "blind"
    """Noise that the weights are for, in units of 1/255, or blind: any."""

    def __post_init__(self) -> None:
        if self.sigma_255 != "blind" and not 0 <= self.sigma_255 <= 255:
            refuse([f"--sigma-255 is {self.sigma_255}, but must be between 0 and 255, or blind."])


@dataclass(frozen=True)
class DoctorConfig:
    """Look at this machine, or at every machine of the cluster that runs here; each problem with what to do.

    Exit code 0 when all is well, 2 otherwise.
    """

    cluster: Path | None = None
    """Look at this yaml instead, without network: what is wrong with it, and what an hour costs."""
    store: str | None = None
    """The place to try. Default: IRAE_STORE."""
    nodes: int | None = None
    """Machines with processors that there must be. Default: as many as there are."""
    local: bool = False
    """Look at this machine alone, also when a cluster runs."""


@dataclass(frozen=True)
class GuardConfig:
    """Watch this machine of a cluster on AWS: spot notices, a head that is gone, a cluster that nobody uses."""

    action: tyro.conf.Positional[Literal["start", "run"]]
    """start: in the background, in the place of an older one; run: here."""
    orphan: Literal["shutdown", "ray-stop"] = "shutdown"
    """What a worker does when its head is gone: end the machine, or only Ray on it (for machines of your own)."""
    orphan_minutes: float = 10.0
    """How long the head must have been gone."""
    idle_minutes: float | None = None
    """On the head: end the whole cluster after this time without a running command. Default: never."""

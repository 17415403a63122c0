"""What training can be told. No heavy import here: `--help` prints from this class."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal

import tyro

from infra.storage import UserError
from irae.config import IRAEConfig
from irae.registry import MODELS, side_multiple
from pipeline.config.checks import check_minimum
from pipeline.config.task import Mask, Sigma, TaskKind

LrSchedule = Literal["paper", "constant", "step", "cosine", "one-cycle", "wsd"]


@dataclass(frozen=True)
class TrainConfig:
    """Train IRAE, or a system to compare it with. The same command again goes on from the last checkpoint."""

    config: str | None = None
    """JSON file that the other defaults come from instead, such as best.json of `pipeline.tune best`."""
    preset: str = "auto"
    """Where the other defaults come from: paper, standard, best, laptop; auto: standard with a GPU, else laptop."""
    data: str | None = None
    """URL of the data set. Default: the one below IRAE_STORE/data."""
    name: str | None = None
    """Name of the run. Default: made of the data set, the task, the system and the preset."""
    out: str | None = None
    """URL of the run's folder. Default: IRAE_STORE/runs/NAME."""
    system: str = "irae"
    """What is trained: irae, or to compare it with dncnn, dncnn-17, dncnn-20, ffdnet, unet, arcnn."""
    model: tyro.conf.OmitArgPrefixes[IRAEConfig] = field(default_factory=IRAEConfig)
    """irae: the architecture."""
    task: TaskKind = "noise"
    """What is restored: noise, drawn anew in each epoch; jpeg, inpaint: what `pipeline.shard --degrade` stored."""
    sigma_255: Sigma = 25.0
    """noise: sigma in units of 1/255, or blind (uniform in 0 to 55 for each image)."""
    jpeg_quality: int = 10
    """jpeg: quality of the stored pictures."""
    mask: Mask = "box"
    """inpaint: what is missing."""
    global_batch_size: int = 100
    """Images in a step, over all workers. Belongs to the run, whatever the number of machines."""
    micro_batch_size: int | None = None
    """Images that a worker runs at once; its share of the batch is cut into such pieces. Default: the whole share."""
    drop_last: bool = False
    """Leave out an epoch's last images that fill no batch. Default: they begin the next epoch."""
    shuffle_window_shards: int | None = None
    """For data sets larger than the local disk: shards that are in use at a time. Default: all."""
    num_canonical_partitions: int = 1
    """With windows: parts of each batch that read from shards of their own, so that N nodes which divide them fetch
    about 1/N of the bytes each."""
    flip: bool = False
    """Mirror half of the training images left to right, anew in each epoch."""
    crop: int | None = None
    """Train on random crops of this side, px. Default: the whole images."""
    lr: float = 1e-3
    """Highest learning rate."""
    lr_schedule: LrSchedule = "paper"
    """paper: lowered when validation no longer gains. The others divide up the budget (--max-images or --max-minutes):
    constant, step, cosine, one-cycle, wsd (warm-up, stable, decay)."""
    lr_warmup_images: int = 0
    """The rate rises from 0 over so many images."""
    lr_warmup_share: float = 0.0
    """The rate rises from 0 over this share of the budget."""
    lr_end_share: float = 0.01
    """cosine, wsd: the last rate as a share of --lr."""
    lr_drops: int = 3
    """step: how often the rate drops."""
    lr_drop_factor: float = 5.0
    """step: what it is divided by each time."""
    lr_rise_share: float = 0.3
    """one-cycle: share of the budget until the highest rate."""
    lr_decay_share: float = 0.3
    """wsd: share of the budget in which the rate falls."""
    lr_first_drop_epoch: int = 50
    """paper: epoch after which the rate is divided by 5 for the first time."""
    lr_patience_epochs: int = 10
    """paper: from then on, epochs without better validation PSNR before it is divided by 5 again."""
    lr_min: float = 1e-6
    """paper: training ends when the rate falls below."""
    ema_images: int = 0
    """Validate, keep and use an average of the weights over about so many images. 0: the last step's weights."""
    ema_share: float = 0.0
    """The same over about this share of the images so far, instead of a number of images."""
    clip_norm: float = 50.0
    """Gradients are scaled down to this norm."""
    seed: int = 0
    """Decides weights, order and noise."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the couplings' nets; everything else is float32. auto: bfloat16 where the processor has it."""
    reversible: bool = False
    """Compute activations back from outputs instead of keeping them: memory does not grow with K, a step takes longer.
    Needs couplings with a smallest factor (--scale-min) well above 0."""
    validate_images: int = 0
    """Validate and keep a checkpoint every so many images, besides each epoch's end. 0: at epochs' ends alone."""
    validate_at: Literal["epochs", "end"] = "epochs"
    """end: once, at the end of the budget."""
    val_images: int = 0
    """Validate on the first so many images of the split. 0: on all."""
    max_images: int | None = None
    """Stop after this many images."""
    max_minutes: float | None = None
    """Stop after this many minutes of training; interruptions, validations and checkpoints are not counted."""
    budget_clock: Literal["wall", "processor"] = "wall"
    """What --max-minutes are minutes of: the clock on the wall, or the time that the (first) worker's process had of
    the processors, so that other work on the machine does not change what a run gets."""
    checkpoint_minutes: float = 5.0
    """At most this much work is lost when a machine dies; each epoch's end is kept as well."""
    keep_checkpoints: int = 2
    """Newest checkpoints that stay on the store, besides the best."""
    nodes: int = 1
    """Machines."""
    min_nodes: int | None = None
    """Train with as few as this when others are missing. Default: all to begin with, one when some are lost later."""
    wait_for_nodes: float = 10.0
    """Minutes to wait for machines that the cluster is still starting."""
    simulate_nodes: bool = False
    """Start the nodes on this machine, to see how training on several behaves."""
    workers_per_node: int | None = None
    """Workers on each machine. Default: its GPUs, or one."""
    ray: bool = True
    """--no-ray: one worker in this process."""
    dry_run: bool = False
    """Print the configuration and the plan and touch nothing."""

    def problems(self) -> list[str]:
        """Everything that is wrong with it, a sentence each; what depends on the data set is found later."""
        problems = [f"--{problem}" for problem in self.model.problems()]
        check_minimum(
            problems,
            1,
            nodes=self.nodes,
            workers_per_node=self.workers_per_node,
            global_batch_size=self.global_batch_size,
        )
        check_minimum(
            problems,
            1,
            shuffle_window_shards=self.shuffle_window_shards,
            num_canonical_partitions=self.num_canonical_partitions,
        )
        check_minimum(problems, 1, micro_batch_size=self.micro_batch_size, keep_checkpoints=self.keep_checkpoints)
        check_minimum(problems, 0, max_images=self.max_images, max_minutes=self.max_minutes, seed=self.seed)
        check_minimum(
            problems, 0, lr_warmup_images=self.lr_warmup_images, lr_drops=self.lr_drops, ema_images=self.ema_images
        )
        check_minimum(problems, 0, validate_images=self.validate_images, val_images=self.val_images)
        check_minimum(problems, 8, crop=self.crop)
        check_minimum(problems, 0, wait_for_nodes=self.wait_for_nodes)
        check_minimum(problems, 1, min_nodes=self.min_nodes)
        for name, value in (("lr", self.lr), ("clip-norm", self.clip_norm), ("lr-min", self.lr_min)):
            if not value > 0:
                problems.append(f"--{name} is {value}, but must be above 0.")
        problems += self._task_problems()
        problems += self._schedule_problems()
        if self.sigma_255 != "blind" and not 0 <= self.sigma_255 <= 255:
            problems.append(f"--sigma-255 is {self.sigma_255}, but must be between 0 and 255, or blind.")
        workers = max(1, self.nodes * (self.workers_per_node or 1))
        if workers > self.global_batch_size:
            problems.append(
                f"--global-batch-size {self.global_batch_size} is too small for {workers} workers; raise it."
            )
        if self.reversible and self.model.scale_min < 0.1:
            problems.append(
                f"--reversible needs --scale-min of at least 0.1 (it is {self.model.scale_min:g}): otherwise "
                "activations cannot be computed back in float32."
            )
        if self.min_nodes is not None and self.min_nodes > self.nodes:
            problems.append(f"--min-nodes {self.min_nodes} is more than --nodes {self.nodes}; it is the smaller one.")
        if not self.ray and (self.nodes > 1 or (self.workers_per_node or 1) > 1):
            problems.append(
                "--no-ray runs one worker on one node; leave it out, or leave out --nodes and --workers-per-node."
            )
        return problems

    def _task_problems(self) -> list[str]:
        problems = []
        if self.system not in MODELS:
            problems.append(f"--system is {self.system!r}, but must be one of {', '.join(MODELS)}.")
        elif MODELS[self.system].needs_sigma and self.task != "noise":
            problems.append(f"--system {self.system} has a noise map as an input, so it goes with --task noise alone.")
        if self.reversible and self.system != "irae":
            problems.append(f"--reversible is for --system irae; {self.system} cannot be computed back. Leave it out.")
        if not 1 <= self.jpeg_quality <= 100:
            problems.append(f"--jpeg-quality is {self.jpeg_quality}, but must be from 1 to 100.")
        return problems

    def _schedule_problems(self) -> list[str]:
        problems = [
            f"--{name} is {value}, but must be above 0 and below 1."
            for name, value in (
                ("lr-end-share", self.lr_end_share),
                ("lr-rise-share", self.lr_rise_share),
                ("lr-decay-share", self.lr_decay_share),
            )
            if not 0 < value < 1
        ]
        problems += [
            f"--{name} is {value}, but must be at least 0 and below 1."
            for name, value in (("lr-warmup-share", self.lr_warmup_share), ("ema-share", self.ema_share))
            if not 0 <= value < 1
        ]
        if self.ema_share and self.ema_images:
            problems.append("--ema-share and --ema-images are two ways to say one thing; leave one of them out.")
        if self.validate_at == "end" and self.lr_schedule == "paper":
            problems.append("--validate-at end goes without --lr-schedule paper, which is told of each epoch's PSNR.")
        if self.lr_warmup_share and self.lr_schedule == "paper":
            problems.append("--lr-warmup-share needs a budget's schedule; choose another one than --lr-schedule paper.")
        if self.lr_drop_factor <= 1:
            problems.append(f"--lr-drop-factor is {self.lr_drop_factor}, but must be above 1.")
        if self.lr_schedule != "paper" and not (self.max_images or self.max_minutes):
            problems.append(f"--lr-schedule {self.lr_schedule} needs a budget: give --max-images or --max-minutes.")
        if self.crop and self.sides_problem(self.crop):
            problems.append(f"--crop {self.crop} {self.sides_problem(self.crop)}.")
        return problems

    def sides_problem(self, side: int) -> str | None:
        """Why images of this side cannot be trained on, as the end of a sentence; None if they can."""
        if self.system not in MODELS or self.model.L < 1:
            return None
        multiple = side_multiple(self.system, self.model)
        what = f"--L {self.model.L}" if self.system == "irae" else f"--system {self.system}"
        return f"does not fit {what}: it must be divisible by {multiple}" if side % multiple else None


def train_config(values: dict[str, Any]) -> TrainConfig:
    """The configuration that `dataclasses.asdict` made these JSON values of. ValueError for names that it has not."""
    unknown = sorted(
        {*values} - {f.name for f in fields(TrainConfig)}
        | {*values.get("model", {})} - {f.name for f in fields(IRAEConfig)}
    )
    if unknown:
        raise UserError(f"a training configuration has no {', '.join(unknown)}; take it out.")
    model = {"model": IRAEConfig(**values["model"])} if "model" in values else {}
    return TrainConfig(**{**values, **model})

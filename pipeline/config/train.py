"""Training options: nested parts, flat on the command line. Imports nothing heavy: `--help` prints from this class."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Annotated, Any, Literal

import tyro

from infra.storage.errors import UserError
from irae.config import IRAEConfig
from irae.registry import MODELS, side_multiple
from pipeline.config.checks import check_minimum
from pipeline.config.task import Task

LrSchedule = Literal["paper", "constant", "step", "cosine", "one-cycle", "wsd"]


@dataclass(frozen=True)
class DataConfig:
    """Training data: which images, in which order."""

    url: Annotated[str | None, tyro.conf.arg(name="data")] = None
    """URL or name of the data set. Default: the one below IRAE_STORE/data."""
    drop_last: bool = False
    """Leave out an epoch's last images that fill no batch. Default: they start the next epoch."""
    shuffle_window_shards: int | None = None
    """For data sets larger than the local disk: shards in use at a time. Default: all."""
    num_canonical_partitions: int = 1
    """With windows: parts of each batch that read from shards of their own, so that N nodes which divide them fetch
    about 1/N of the bytes each."""
    flip: bool = False
    """Mirror half of the training images left to right, drawn in each epoch."""
    crop: int | None = None
    """Side of random crops, px. Default: whole images."""


@dataclass(frozen=True)
class ModelConfig:
    """Network and its arithmetic."""

    name: Annotated[str, tyro.conf.arg(name="model")] = "irae"
    """Network: irae, or one to compare it with: dncnn, dncnn-17, dncnn-20, ffdnet, unet, arcnn."""
    irae: tyro.conf.OmitArgPrefixes[IRAEConfig] = field(default_factory=IRAEConfig)
    """irae: the architecture."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the couplings' nets; everything else is float32. auto: bfloat16 where the processor has it."""
    reversible: bool = False
    """Recompute activations from outputs instead of storing them: memory does not grow with K, a step takes longer.
    Needs couplings with a smallest factor (--scale-min) well above 0."""


@dataclass(frozen=True)
class OptimizationConfig:
    """Adam, its batch and the averaged weights."""

    global_batch_size: int = 100
    """Images in a step, over all workers. Belongs to the run, whatever the number of machines."""
    micro_batch_size: int | None = None
    """Per-worker micro-batch; gradients are accumulated. Default: the worker's whole share of the batch."""
    lr: float = 1e-3
    """Highest learning rate."""
    clip_norm: float = 50.0
    """Largest gradient norm; larger gradients are scaled down."""
    ema_images: int = 0
    """Width of the weights' moving average, images; the average is validated and saved. 0: no EMA."""
    ema_share: float = 0.0
    """Width of the EMA as a share of the images so far, instead of a number of images."""


@dataclass(frozen=True)
class ScheduleConfig:
    """Learning-rate schedule."""

    lr_schedule: LrSchedule = "paper"
    """paper: lowered when validation no longer improves. The others divide up the budget (--max-images or
    --max-minutes): constant, step, cosine, one-cycle, wsd (warm-up, stable, decay)."""
    lr_warmup_images: int = 0
    """Length of the linear warm-up, images."""
    lr_warmup_share: float = 0.0
    """Length of the linear warm-up as a share of the budget."""
    lr_end_share: float = 0.01
    """cosine, wsd: last rate as a share of --lr."""
    lr_drops: int = 3
    """step: number of drops."""
    lr_drop_factor: float = 5.0
    """step: divisor at each drop."""
    lr_rise_share: float = 0.3
    """one-cycle: share of the budget until the highest rate."""
    lr_decay_share: float = 0.3
    """wsd: share of the budget in which the rate falls."""
    lr_first_drop_epoch: int = 50
    """paper: epoch after which the rate is divided by 5 for the first time."""
    lr_patience_epochs: int = 10
    """paper: from then on, epochs without better validation PSNR before it is divided by 5 again."""
    lr_min: float = 1e-6
    """paper: rate below which training ends."""


@dataclass(frozen=True)
class BudgetConfig:
    """Length of the training."""

    max_images: int | None = None
    """Stop after this many images."""
    max_minutes: float | None = None
    """Stop after this many minutes of training; interruptions, validations and checkpoints are not counted."""
    budget_clock: Literal["wall", "processor"] = "wall"
    """Clock of --max-minutes: wall time, or processor time of the first worker's process, which other work on the
    machine does not change."""


@dataclass(frozen=True)
class CheckpointingConfig:
    """Validation and checkpoints."""

    validate_images: int = 0
    """Interval between validations and checkpoints, images, besides each epoch's end. 0: at epochs' ends alone."""
    validate_at: Literal["epochs", "end"] = "epochs"
    """end: once, at the end of the budget."""
    val_images: int = 0
    """Validation images, the first of the split. 0: all."""
    checkpoint_minutes: float = 5.0
    """Longest time between checkpoints, and so the work that a failure loses."""
    keep_checkpoints: int = 2
    """Newest checkpoints that are kept, besides the best."""


@dataclass(frozen=True)
class ClusterConfig:
    """Machines."""

    nodes: int = 1
    """Machines."""
    min_nodes: int | None = None
    """Fewest machines to train with when others are missing. Default: all at the start, one after a failure."""
    wait_for_nodes: float = 10.0
    """Longest wait for machines that the cluster is still starting, minutes."""
    simulate_nodes: bool = False
    """Start the nodes on this machine, to try out training on several."""
    workers_per_node: int | None = None
    """Workers on each machine. Default: its GPUs, or one."""
    ray: bool = True
    """--no-ray: one worker in this process."""

    @property
    def workers(self) -> int:
        """Workers in all, as far as the options say."""
        return max(1, self.nodes * (self.workers_per_node or 1))


@dataclass(frozen=True)
class TrainConfig:
    """Train IRAE, or a model to compare it with. The same command again resumes from the last checkpoint."""

    config: str | None = None
    """JSON file with the other defaults, such as best.json of `pipeline.tune best`."""
    preset: str = "auto"
    """Name of the other defaults: paper, standard, best, laptop; auto: standard with a GPU, else laptop."""
    name: str | None = None
    """Name of the run. Default: made of the data set, the task, the model and the preset."""
    out: str | None = None
    """URL of the run's folder. Default: IRAE_STORE/runs/NAME."""
    seed: int = 0
    """Seed of weights, order and noise."""
    task: tyro.conf.OmitArgPrefixes[Task] = field(default_factory=Task)
    data: tyro.conf.OmitArgPrefixes[DataConfig] = field(default_factory=DataConfig)
    model: tyro.conf.OmitArgPrefixes[ModelConfig] = field(default_factory=ModelConfig)
    optimization: tyro.conf.OmitArgPrefixes[OptimizationConfig] = field(default_factory=OptimizationConfig)
    schedule: tyro.conf.OmitArgPrefixes[ScheduleConfig] = field(default_factory=ScheduleConfig)
    budget: tyro.conf.OmitArgPrefixes[BudgetConfig] = field(default_factory=BudgetConfig)
    checkpointing: tyro.conf.OmitArgPrefixes[CheckpointingConfig] = field(default_factory=CheckpointingConfig)
    cluster: tyro.conf.OmitArgPrefixes[ClusterConfig] = field(default_factory=ClusterConfig)
    dry_run: bool = False
    """Print the configuration and the plan and touch nothing."""

    def options(self) -> dict[str, Any]:
        """Every value by its option's name on the command line (`lr`, `K`, `model` ...)."""
        return {name: attrgetter(".".join(path))(self) for name, path in PATHS.items()}

    def with_options(self, **options: Any) -> TrainConfig:
        """The same with other values, by their options' names. UserError for a name that is no option."""
        if unknown := sorted({*options} - {*PATHS}):
            raise UserError(f"a training configuration has no {', '.join(unknown)}; remove it.")
        changed: TrainConfig = self
        for name, value in options.items():
            changed = _replace(changed, PATHS[name], value)
        return changed

    def problems(self) -> list[str]:
        """A sentence for everything that is wrong whatever the data set."""
        return [
            *(f"--{problem}" for problem in self.model.irae.problems()),
            *self._range_problems(),
            *self.task.problems(),
            *self._model_problems(),
            *self._schedule_problems(),
            *self._cluster_problems(),
        ]

    def _range_problems(self) -> list[str]:
        problems: list[str] = []
        options = self.options()
        for minimum, names in MINIMA.items():
            check_minimum(problems, minimum, **{name: options[name] for name in names})
        for name in ("lr", "clip_norm", "lr_min"):
            if not options[name] > 0:
                problems.append(f"--{name.replace('_', '-')} is {options[name]}, but must be above 0.")
        for name in ("lr_end_share", "lr_rise_share", "lr_decay_share"):
            if not 0 < options[name] < 1:
                problems.append(f"--{name.replace('_', '-')} is {options[name]}, but must be above 0 and below 1.")
        for name in ("lr_warmup_share", "ema_share"):
            if not 0 <= options[name] < 1:
                problems.append(f"--{name.replace('_', '-')} is {options[name]}, but must be at least 0 and below 1.")
        return problems

    def _model_problems(self) -> list[str]:
        model, problems = self.model, []
        if model.name not in MODELS:
            problems.append(f"--model is {model.name!r}, but must be one of {', '.join(MODELS)}.")
        elif MODELS[model.name].needs_sigma and self.task.kind != "noise":
            problems.append(f"--model {model.name} has a noise map as an input, so it goes with --task noise alone.")
        if model.reversible and model.name != "irae":
            problems.append(f"--reversible is for --model irae; {model.name} has no inverse. Leave it out.")
        if model.reversible and model.irae.scale_min < 0.1:
            problems.append(
                f"--reversible needs --scale-min of at least 0.1 (it is {model.irae.scale_min:g}): otherwise "
                "activations cannot be recomputed in float32."
            )
        crop = self.data.crop
        if crop and self.sides_problem(crop):
            problems.append(f"--crop {crop} {self.sides_problem(crop)}.")
        return problems

    def _schedule_problems(self) -> list[str]:
        schedule, problems = self.schedule, []
        name = schedule.lr_schedule
        if self.optimization.ema_share and self.optimization.ema_images:
            problems.append("--ema-share and --ema-images both set the EMA's width; leave one of them out.")
        if self.checkpointing.validate_at == "end" and name == "paper":
            problems.append("--validate-at end goes without --lr-schedule paper, which needs each epoch's PSNR.")
        if schedule.lr_warmup_share and name == "paper":
            problems.append("--lr-warmup-share needs a budget's schedule; choose another one than --lr-schedule paper.")
        if schedule.lr_drop_factor <= 1:
            problems.append(f"--lr-drop-factor is {schedule.lr_drop_factor}, but must be above 1.")
        if name != "paper" and not (self.budget.max_images or self.budget.max_minutes):
            problems.append(f"--lr-schedule {name} needs a budget: give --max-images or --max-minutes.")
        return problems

    def _cluster_problems(self) -> list[str]:
        cluster, batch, problems = self.cluster, self.optimization.global_batch_size, []
        if cluster.workers > batch:
            problems.append(f"--global-batch-size {batch} is too small for {cluster.workers} workers; raise it.")
        if cluster.min_nodes is not None and cluster.min_nodes > cluster.nodes:
            problems.append(
                f"--min-nodes {cluster.min_nodes} is more than --nodes {cluster.nodes}; it is the smaller one."
            )
        if not cluster.ray and (cluster.nodes > 1 or (cluster.workers_per_node or 1) > 1):
            problems.append(
                "--no-ray runs one worker on one node; leave it out, or leave out --nodes and --workers-per-node."
            )
        return problems

    def sides_problem(self, side: int) -> str | None:
        """Why images of this side (px) cannot be trained on, as the end of a sentence; None if they can."""
        model = self.model
        if model.name not in MODELS or model.irae.L < 1:
            return None
        multiple = side_multiple(model.name, model.irae)
        what = f"--L {model.irae.L}" if model.name == "irae" else f"--model {model.name}"
        return f"does not fit {what}: it must be divisible by {multiple}" if side % multiple else None


MINIMA: dict[int, tuple[str, ...]] = {
    0: (
        *("max_images", "max_minutes", "seed", "lr_warmup_images", "lr_drops", "ema_images", "validate_images"),
        *("val_images", "wait_for_nodes"),
    ),
    1: (
        *("nodes", "workers_per_node", "global_batch_size", "shuffle_window_shards", "num_canonical_partitions"),
        *("micro_batch_size", "keep_checkpoints", "min_nodes"),
    ),
    8: ("crop",),
}
"""Smallest allowed value: options."""
FORMER_NAMES = {
    "start": "init",
    "global_batch": "global_batch_size",
    "micro_batch": "micro_batch_size",
    "window_shards": "shuffle_window_shards",
    "partitions": "num_canonical_partitions",
}
"""Option names in files of the first version."""
RENAMED = {(Task, "kind"): "task", (DataConfig, "url"): "data", (ModelConfig, "name"): "model"}
"""Fields whose option has another name."""


def _paths(cls: Any, prefix: tuple[str, ...] = ()) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for f in fields(cls):
        path = (*prefix, f.name)
        if dataclasses.is_dataclass(f.default_factory):
            found |= _paths(f.default_factory, path)
        else:
            found[RENAMED.get((cls, f.name), f.name)] = path
    return found


PATHS = _paths(TrainConfig)
"""Option name: path of attributes, such as lr: (optimization, lr)."""


def _replace(value: Any, path: tuple[str, ...], new: Any) -> Any:
    first, *rest = path
    return dataclasses.replace(value, **{first: _replace(getattr(value, first), tuple(rest), new) if rest else new})


def train_config(values: dict[str, Any]) -> TrainConfig:
    """Configuration of a run's config.json, nested or flat as in the first version. UserError for unknown names."""
    return TrainConfig().with_options(**flat_options(values))


def flat_options(values: dict[str, Any], prefix: tuple[str, ...] = ()) -> dict[str, Any]:
    """Values of a config.json by option name."""
    if not prefix and not isinstance(values.get("optimization"), dict):
        return _first_version(values)
    names, options = {path: name for name, path in PATHS.items()}, dict[str, Any]()
    for name, value in values.items():
        path = (*prefix, name)
        options |= flat_options(value, path) if isinstance(value, dict) else {names.get(path, name): value}
    return options


def _first_version(values: dict[str, Any]) -> dict[str, Any]:
    """The flat config.json of the first version, with the present option names."""
    options = {"model": values.get("system", "irae"), **values.get("model", {})}
    options |= {name: value for name, value in values.items() if name not in ("model", "system", "remainder")}
    if "remainder" in values:
        options["drop_last"] = values["remainder"] == "drop"
    return {FORMER_NAMES.get(name, name): value for name, value in options.items()}

"""Preparation of a training: the data set and the run's folder, opened once, and a configuration that fits both."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.storage import UserError
from irae.model import parameter_count
from irae.registry import build
from pipeline.config.checks import USER_ERRORS, raise_problems
from pipeline.config.train import TrainConfig, flat_options
from pipeline.runs.find import find_data, is_path_or_url, open_checked, run_url
from pipeline.runs.folder import CONFIG, Run
from sharding.dataset import Dataset
from sharding.order import DeterministicSampler

MUTABLE_ON_RESUME = {"nodes", "min_nodes", "wait_for_nodes", "simulate_nodes", "workers_per_node", "ray"}
MUTABLE_ON_RESUME |= {"max_images", "max_minutes", "checkpoint_minutes", "keep_checkpoints", "validate_images"}
"""Options that may change when a run is resumed: they decide where and for how long, not what is trained."""
NOT_COMPARED = {"dry_run", "config", "data", "out", "name"}


@dataclass(frozen=True)
class Training:
    """A training ready to start: resolved options (URLs, no auto but the precision), opened data set, run's folder."""

    config: TrainConfig
    dataset: Dataset
    run: Run

    @classmethod
    def open(cls, config: TrainConfig) -> Training:
        """Data set and run of resolved options, as in a worker on another machine."""
        assert config.data.url and config.out
        return cls(config, Dataset.open(open_checked(config.data.url)), Run(open_checked(config.out)))


def resolve(config: TrainConfig) -> Training:
    """Open the data set and the run's folder. UserError, with all problems at once, when options do not fit them."""
    problems = config.problems()
    try:
        dataset = Dataset.open(open_checked(find_data(config.data.url)))
    except UserError as error:
        raise UserError("\n".join([*problems, str(error)])) from None
    raise_problems([*problems, *dataset_problems(config, dataset)])
    model = "" if config.model.name == "irae" else f"{config.model.name}-"
    name = config.name or f"{dataset.name}-{config.task.label}-{model}{config.preset}"
    out = config.out or run_url(name)
    out = out if is_path_or_url(out) else str(Path(out).absolute())
    return Training(config.with_options(data=dataset.store.url, name=name, out=out), dataset, Run(open_checked(out)))


def dataset_problems(config: TrainConfig, dataset: Dataset) -> list[str]:
    """A sentence for every option that does not fit the data set."""
    url, size, crop = dataset.store.url, dataset.image_size, config.data.crop
    problems = [
        f"the data set {url} has no {split} images; training needs both train and val."
        for split in ("train", "val")
        if not dataset.split_sizes.get(split)
    ]
    if config.sides_problem(size):
        problems.append(f"the images' side of {size} px {config.sides_problem(size)}.")
    problems += config.task.missing_fields(url, dataset.fields)
    if crop and crop > size:
        problems.append(f"--crop {crop} is larger than the images of {url}, {size} px.")
    if config.optimization.global_batch_size > 0 and dataset.split_sizes.get("train"):
        try:
            sampler_of(config, dataset)
        except USER_ERRORS as error:
            problems.append(str(error))
    return problems


def sampler_of(config: TrainConfig, dataset: Dataset) -> DeterministicSampler:
    """The order of the training images. UserError when batch, partitions and data set do not fit together."""
    shards = tuple(shard["samples"] for shard in dataset.shards if shard["split"] == "train")
    return DeterministicSampler(
        samples=sum(shards),
        seed=config.seed,
        global_batch_size=config.optimization.global_batch_size,
        drop_last=config.data.drop_last,
        shards=shards,
        shuffle_window_shards=config.data.shuffle_window_shards,
        num_canonical_partitions=config.data.num_canonical_partitions,
    )


def plan(training: Training) -> list[str]:
    """Lines on what will be trained, on what, until when."""
    config, dataset = training.config, training.dataset
    model, budget, batch = config.model, config.budget, config.optimization.global_batch_size
    images = dataset.split_sizes["train"]
    ends = [f"{budget.max_images:,} images" if budget.max_images else ""]
    ends += [f"{budget.max_minutes:g} min" if budget.max_minutes else ""]
    until = " or ".join(filter(None, ends)) or f"learning rate below {config.schedule.lr_min:g}"
    if config.schedule.lr_schedule != "paper":
        until += f", learning rate {config.optimization.lr:g} ({config.schedule.lr_schedule})"
    shape = f" K={model.irae.K} L={model.irae.L} width={model.irae.width}" if model.name == "irae" else ""
    parameters = parameter_count(build(model.name, model.irae))
    return [
        f"data   {dataset.store.url}: {images:,} train, {dataset.split_sizes['val']:,} val, {dataset.image_size} px, "
        f"{dataset.bits} bits",
        f"model  {model.name}{shape}, {parameters:,} parameters (preset {config.preset}), {config.task.title}",
        f"run    {config.out}: batches of {batch} on {config.cluster.workers} worker(s), "
        f"{images / batch:,.1f} steps an epoch, until {until}",
        f"order  {sampler_of(config, dataset).describe()}",
    ]


def reserve_run(training: Training) -> None:
    """Write config.json into a new run's folder. UserError when a run with other options is there."""
    run, config = training.run, training.config
    stored = run.read_json(CONFIG)
    if stored is None:
        run.write_json(CONFIG, dataclasses.asdict(config))
        return
    ignored = MUTABLE_ON_RESUME | NOT_COMPARED
    if config.schedule.lr_schedule not in ("paper", "constant"):
        ignored -= {"max_images", "max_minutes"}  # the rate of every step depends on them
    before: dict[str, Any] = {**TrainConfig().options(), **flat_options(stored)}
    now = json.loads(json.dumps(config.options()))
    differing = [
        f"{name} was {before[name]!r} and is now {now[name]!r}"
        for name in now
        if name not in ignored and before[name] != now[name]
    ]
    if differing:
        raise UserError(
            f"the run {config.out} was started with other settings ({'; '.join(differing)}); repeat those to resume "
            "it, or choose another --name."
        )

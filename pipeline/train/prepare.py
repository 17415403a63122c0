"""python -m pipeline.train: a data set -> a trained run, on this machine or on a Ray cluster."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from infra.storage import UserError, open_storage
from irae.model import parameter_count
from irae.registry import build
from pipeline.config.checks import raise_problems
from pipeline.config.task import missing_fields, task_label, task_text
from pipeline.config.train import TrainConfig
from pipeline.runs.find import find_data, is_path_or_url, open_checked, run_url
from pipeline.runs.folder import CONFIG, Run
from sharding.dataset import Dataset
from sharding.order import DeterministicSampler

MUTABLE_ON_RESUME = {"nodes", "min_nodes", "wait_for_nodes", "simulate_nodes", "workers_per_node", "ray"}
MUTABLE_ON_RESUME |= {"max_images", "max_minutes", "checkpoint_minutes", "keep_checkpoints", "validate_images"}
"""Settings that may differ when a run goes on: they decide where and how long, not what is trained."""
NOT_COMPARED = {"dry_run", "config", "data", "out", "name"}


def resolve(config: TrainConfig) -> TrainConfig:
    """Fill in what depends on the store. ValueError, with all problems at once, when things do not fit together."""

    problems = config.problems()
    try:
        data = find_data(config.data)
        dataset = Dataset.open(open_checked(data))
    except ValueError as error:
        raise UserError("\n".join([*problems, str(error)])) from None
    for split in ("train", "val"):
        if not dataset.split_sizes.get(split):
            problems.append(f"the data set {data} has no {split} images; training needs both train and val.")
    if config.sides_problem(dataset.image_size):
        problems.append(f"the images' side of {dataset.image_size} px {config.sides_problem(dataset.image_size)}.")
    problems += missing_fields(config, data, dataset.fields)
    if config.crop and config.crop > dataset.image_size:
        problems.append(f"--crop {config.crop} is larger than the images of {data}, {dataset.image_size} px.")
    if config.global_batch_size > 0 and dataset.split_sizes.get("train"):
        try:
            order_of(config, dataset)
        except ValueError as error:
            problems.append(str(error))
    raise_problems(problems)
    system = "" if config.system == "irae" else f"{config.system}-"
    name = config.name or f"{dataset.name}-{task_label(config)}-{system}{config.preset}"
    out = config.out or run_url(name)
    if not is_path_or_url(out):
        out = str(Path(out).absolute())
    return dataclasses.replace(config, data=dataset.store.url, name=name, out=out)


def order_of(config: TrainConfig, dataset: Dataset) -> DeterministicSampler:
    """The order of the training images. ValueError when batch, partitions and data set do not fit together."""

    shards = tuple(shard["samples"] for shard in dataset.shards if shard["split"] == "train")
    return DeterministicSampler(
        samples=sum(shards),
        seed=config.seed,
        global_batch_size=config.global_batch_size,
        drop_last=config.drop_last,
        shards=shards,
        shuffle_window_shards=config.shuffle_window_shards,
        num_canonical_partitions=config.num_canonical_partitions,
    )


def plan(config: TrainConfig) -> list[str]:
    """What will be trained, on what, for how long."""

    assert config.data
    dataset = Dataset.open(open_storage(config.data))
    images = dataset.split_sizes["train"]
    workers = config.nodes * (config.workers_per_node or 1)
    ends = [
        f"{config.max_images:,} images" if config.max_images else "",
        f"{config.max_minutes:g} min" if config.max_minutes else "",
    ]
    budget = " or ".join(e for e in ends if e) or f"learning rate below {config.lr_min:g}"
    if config.lr_schedule != "paper":
        budget += f", learning rate {config.lr:g} ({config.lr_schedule})"
    shape = f" K={config.model.K} L={config.model.L} width={config.model.width}" if config.system == "irae" else ""
    parameters = parameter_count(build(config.system, config.model))
    return [
        f"data   {config.data}: {images:,} train, {dataset.split_sizes['val']:,} val, {dataset.image_size} px, "
        f"{dataset.bits} bits",
        f"model  {config.system}{shape}, {parameters:,} parameters (preset {config.preset}), {task_text(config)}",
        f"run    {config.out}: batches of {config.global_batch_size} on {workers} worker(s), "
        f"{images / config.global_batch_size:,.1f} steps an epoch, until {budget}",
        f"order  {order_of(config, dataset).describe()}",
    ]


def claim_run(config: TrainConfig) -> Run:
    """The run's folder, new or of the same configuration. ValueError when another run lies there."""

    assert config.out
    run = Run(open_checked(config.out))
    ours = dataclasses.asdict(config)
    held = run.read_json(CONFIG)
    if held is None:
        run.write_json(CONFIG, ours)
        return run
    ignored = MUTABLE_ON_RESUME | NOT_COMPARED
    if config.lr_schedule not in ("paper", "constant"):
        ignored -= {"max_images", "max_minutes"}  # the rate of every step depends on them
    differing = [
        f"{name} was {held.get(name, default)!r} and is now {ours[name]!r}"
        for name, default in dataclasses.asdict(TrainConfig()).items()
        if name not in ignored and held.get(name, default) != json.loads(json.dumps(ours[name]))
    ]
    if differing:
        raise UserError(
            f"the run {config.out} was begun with other settings ({'; '.join(differing)}); repeat those to go on "
            "with it, or choose another --name."
        )
    return run

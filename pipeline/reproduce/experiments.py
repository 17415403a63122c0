"""The experiments of a table: one training run and its evaluation each, all by one recipe."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import shutil
from dataclasses import dataclass
from typing import Any, Literal

from infra.storage import UserError, join_url, open_storage
from irae.config import IRAEConfig
from pipeline.config.checks import raise_problems
from pipeline.config.environment import store_url
from pipeline.config.presets import PRESETS
from pipeline.config.task import Task
from pipeline.config.train import FORMER_NAMES, TrainConfig
from pipeline.reproduce import paper_numbers as paper
from pipeline.reproduce.config import Budget, ReproduceConfig
from pipeline.runs.find import data_url, find_data, is_path_or_url
from pipeline.train.prepare import MUTABLE_ON_RESUME, NOT_COMPARED, dataset_problems
from sharding.dataset import Dataset

REPRODUCTIONS, RUNS = "reproductions", "cells"
"""Folders below IRAE_STORE: all reproductions; in it, the experiments' runs, under the first version's name."""
VERSION = 2
"""Part of the hash that names an experiment's folder; raised when earlier results no longer count."""
LR = {"irae": 1e-3, "dncnn": 1e-3, "ffdnet": 1e-3, "unet": 3e-4, "arcnn": 3e-3}
"""Highest learning rate of each model, from the short runs in docs/log.md."""
RECIPE: dict[str, Any] = {
    "lr_schedule": "cosine",
    "lr_warmup_share": 0.05,
    "ema_share": 0.05,
    "validate_at": "end",
    "val_images": 200,
    "checkpoint_minutes": 1.0,
    "keep_checkpoints": 1,
}
"""Training options of every experiment but those of the full budget. Nothing is chosen by the one validation."""
BATCH = 16
TABLE_3_K, TABLE_3_L = 8, 3


@dataclass(frozen=True)
class Experiment:
    """One model on one task of one data set with one seed."""

    dataset: str
    """Name or URL, as on the command line."""
    source: str
    """Source of the data set: celeba, cub, ..."""
    config: TrainConfig
    """Resolved; `out` is the experiment's folder."""
    train_images: int
    split: Literal["val", "test"]
    protocol: Literal["standard", "released"]
    test_images: int

    @property
    def url(self) -> str:
        assert self.config.out
        return self.config.out

    @property
    def label(self) -> str:
        """Label of the task."""
        return self.config.task.label

    @property
    def model(self) -> str:
        return self.config.model.name

    @property
    def row(self) -> tuple[str, str, str]:
        """Row of the table: data set, its source, task."""
        return self.dataset, self.source, self.label

    @property
    def name(self) -> str:
        return f"{self.dataset} {self.label} {self.model} seed {self.config.seed}"


def experiments_of(config: ReproduceConfig) -> list[Experiment]:
    """All experiments of a table or a claim, the first seed's first. UserError with all problems at once."""
    problems: list[str] = []
    datasets = {name: _open(config, name, problems) for name in config.chosen_datasets}
    found = []
    opened = [(name, dataset) for name, dataset in datasets.items() if dataset]
    rows = itertools.product(config.seeds, opened, config.chosen_tasks, config.chosen_models)
    for seed, (name, dataset), label, model in rows:
        options = train_config_of(config, dataset, label, model, seed)
        problems += options.problems() + dataset_problems(options, dataset)
        split: Literal["val", "test"] = "val" if config.protocol == "released" and dataset.name == "celeba" else "test"
        if not dataset.split_sizes.get(split):
            problems.append(
                f"the data set {dataset.store.url} has no {split} images to evaluate on; make it with some."
            )
        options = options.with_options(out=experiment_url(options, dataset))
        train_images = dataset.split_sizes.get("train", 0)
        found.append(Experiment(name, dataset.name, options, train_images, split, config.protocol, config.test_images))
    raise_problems(list(dict.fromkeys(problems)))
    return found


def train_config_of(config: ReproduceConfig, dataset: Dataset, label: str, model: str, seed: int) -> TrainConfig:
    """Training of a model for a row of the table: one recipe for all models but for the learning rate."""
    base = PRESETS["standard"].with_options(data=dataset.store.url, model=model, seed=seed, ray=False)
    base = dataclasses.replace(base, task=Task.parse(label))
    if label.startswith("inpaint"):
        fitting = (L for L in range(TABLE_3_L, 1, -1) if dataset.image_size % IRAEConfig(L=L).side_multiple == 0)
        base = base.with_options(K=TABLE_3_K, L=next(fitting, 1))
    budget = Budget.parse(config.budget)
    if budget.is_full and not label.startswith("inpaint"):
        return base.with_options(global_batch_size=config.global_batch_size or paper.BATCH)
    if budget.is_full:  # the paper says nothing of inpainting's schedule: the released code's length and rate
        images = paper.INPAINT_EPOCHS * dataset.split_sizes.get("train", 0)
        batch = config.global_batch_size or paper.INPAINT_BATCH
        return base.with_options(global_batch_size=batch, lr=paper.INPAINT_LR, max_images=images)
    return base.with_options(
        global_batch_size=config.global_batch_size or BATCH,
        lr=LR[model],
        max_images=budget.images,
        max_minutes=budget.minutes,
        budget_clock=budget_clock(config) if budget.minutes else "wall",
        **RECIPE,
    )


def budget_clock(config: ReproduceConfig) -> Literal["wall", "processor"]:
    """Clock of minutes. auto: without a GPU processor time, which other work on the machine does not change."""
    if config.budget_clock != "auto":
        return config.budget_clock
    return "wall" if shutil.which("nvidia-smi") else "processor"


def experiment_url(config: TrainConfig, dataset: Dataset) -> str:
    """The experiment's folder, named by the hash of everything that decides its weights.

    The hash is that of the first version's option names, so that its results still count.
    """
    ignored = NOT_COMPARED | MUTABLE_ON_RESUME - {"max_images", "max_minutes"}
    former = {"model": "system", **{new: old for old, new in FORMER_NAMES.items()}}
    irae = dataclasses.asdict(config.model.irae)
    values = {former.get(n, n): v for n, v in config.options().items() if n not in ignored and n not in irae}
    values["remainder"] = "drop" if values.pop("drop_last") else "carry"
    values["model"] = {former.get(name, name): value for name, value in irae.items()}
    identity = {"version": VERSION, "dataset": dataset.sha256, "bits": dataset.bits, "config": values}
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return join_url(store_url(), REPRODUCTIONS, RUNS, digest[:16])


def _open(config: ReproduceConfig, name: str, problems: list[str]) -> Dataset | None:
    """The data set, or None and a sentence with the command that makes it."""
    url, command = find_data(name), shard_command(config, name)
    try:
        dataset = Dataset.open(open_storage(url))
    except UserError as error:
        problems.append(f"{str(error).split('; ')[0].rstrip('.')}; make it with `{command}`.")
        return None
    bits = 5 if config.protocol == "released" else 8
    if missing := [field for field in needed_fields(config) if field not in dataset.fields]:
        problem = f"has no {', '.join(missing)}; make it, at another URL or with --overwrite, with"
    elif dataset.bits != bits:
        needed = f"--protocol {config.protocol} needs {bits}"
        problem = f"has {dataset.bits} bits, but {needed}; make one, under another name, with"
    else:
        return dataset
    problems.append(f"the data set {url} {problem} `{command}`.")
    return None


def needed_fields(config: ReproduceConfig) -> list[str]:
    """Stored fields that the table reads besides the clean image."""
    return [field for label in config.chosen_tasks for field in Task.parse(label).fields[1:]]


def shard_command(config: ReproduceConfig, name: str) -> str:
    """Command that makes a data set for this table."""
    source = name if name in ("celeba", "celeba-hq", "cub", "flowers", "synthetic") else "folder"
    words = ["python -m pipeline.shard", f"--source {source}"]
    if source != "synthetic":
        words.append("--root FOLDER")
    if config.protocol == "released":
        words.append("--bits 5" + (" --split released" if source == "flowers" else ""))
    fields = needed_fields(config)
    if fields:
        kind = "jpeg" if fields[0].startswith("jpeg") else "mask"
        words.append(f"--degrade {kind}:" + ",".join(field.removeprefix(kind).removeprefix("_") for field in fields))
    if source == "folder":
        words.append(f"--out {name if is_path_or_url(name) else data_url(name)}")
    return " ".join(words)

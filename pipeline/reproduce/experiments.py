"""The cells of a table: one training run and its evaluation each, all by one recipe."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from dataclasses import dataclass
from typing import Any, Literal

from infra.storage import UserError, join_url, open_storage
from pipeline.config.checks import raise_problems
from pipeline.config.environment import store_url
from pipeline.config.presets import PRESETS
from pipeline.config.task import task_label
from pipeline.config.train import TrainConfig
from pipeline.reproduce import paper_numbers as paper
from pipeline.reproduce.config import Budget, ReproduceConfig
from pipeline.runs.find import data_url, find_data, is_path_or_url
from pipeline.train.prepare import MUTABLE_ON_RESUME, NOT_COMPARED, resolve
from sharding.dataset import Dataset

REPRODUCTIONS, CELLS = "reproductions", "cells"
VERSION = 2
"""Counted up when a change of the code makes cells that were trained before worth nothing."""
LR = {"irae": 1e-3, "dncnn": 1e-3, "ffdnet": 1e-3, "unet": 3e-4, "arcnn": 3e-3}
"""Highest rate of each system, from the short runs in docs/log.md."""
BATCH = 16
WARMUP_SHARE, EMA_SHARE = 0.05, 0.05
VAL_IMAGES = 200
"""One validation at the end, for the curves; nothing is chosen by it."""
TABLE_3_K, TABLE_3_L = 8, 3


@dataclass(frozen=True)
class Cell:
    """One run of a table."""

    dataset: str
    """As it was asked for."""
    source: str
    """What the data set was made from: celeba, cub, ..."""
    config: TrainConfig
    """Resolved; `out` is the cell's folder."""
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
        return task_label(self.config)

    @property
    def name(self) -> str:
        return f"{self.dataset} {self.label} {self.config.system} seed {self.config.seed}"


def cells_of(config: ReproduceConfig) -> list[Cell]:
    """All cells of a table or a claim; the first seed's come first. ValueError with all problems at once."""
    problems: list[str] = []
    cells: list[Cell] = []
    datasets = {name: _open(config, name, problems) for name in config.chosen_datasets}
    for seed in config.seeds:
        for name, dataset in datasets.items():
            for label in config.chosen_tasks:
                for system in config.chosen_systems:
                    if dataset is None:
                        continue
                    wanted = train_config_of(config, dataset, label, system, seed)
                    try:
                        cells.append(_cell(config, name, dataset, wanted))
                    except ValueError as error:
                        problems += str(error).splitlines()
    raise_problems(list(dict.fromkeys(problems)))
    return cells


def _cell(config: ReproduceConfig, name: str, dataset: Dataset, wanted: TrainConfig) -> Cell:
    resolved = resolve(wanted)
    source = dataset.name
    split: Literal["val", "test"] = "val" if config.protocol == "released" and source == "celeba" else "test"
    if not dataset.split_sizes.get(split):
        raise UserError(f"the data set {dataset.store.url} has no {split} images to evaluate on; make it with some.")
    place = dataclasses.replace(resolved, out=cell_url(resolved, dataset), name=None)
    return Cell(name, source, place, dataset.split_sizes["train"], split, config.protocol, config.test_images)


def train_config_of(config: ReproduceConfig, dataset: Dataset, label: str, system: str, seed: int) -> TrainConfig:
    """How this system is trained for this row: one recipe for all, but for the rate."""
    base = dataclasses.replace(
        PRESETS["standard"], data=dataset.store.url, system=system, seed=seed, ray=False, **_task(label)
    )
    if label.startswith("inpaint"):
        model = dataclasses.replace(base.model, K=TABLE_3_K, L=TABLE_3_L)
        while dataset.image_size % model.side_multiple and model.L > 1:
            model = dataclasses.replace(model, L=model.L - 1)
        base = dataclasses.replace(base, model=model)
    budget = Budget.parse(config.budget)
    if budget.is_full:
        return dataclasses.replace(base, **_paper_recipe(config, label, dataset.split_sizes.get("train", 0)))
    return dataclasses.replace(
        base,
        global_batch_size=config.global_batch_size or BATCH,
        lr=LR[system],
        lr_schedule="cosine",
        lr_warmup_share=WARMUP_SHARE,
        ema_share=EMA_SHARE,
        max_images=budget.images,
        max_minutes=budget.minutes,
        budget_clock=budget_clock(config) if budget.minutes else "wall",
        validate_at="end",
        val_images=VAL_IMAGES,
        checkpoint_minutes=1.0,
        keep_checkpoints=1,
    )


def _task(label: str) -> dict[str, Any]:
    """The training options of a row."""
    if label.startswith("jpeg"):
        return {"task": "jpeg", "jpeg_quality": int(label.removeprefix("jpeg"))}
    if label.startswith("inpaint-"):
        return {"task": "inpaint", "mask": label.removeprefix("inpaint-")}
    level = label.removeprefix("noise").removeprefix("-")
    return {"task": "noise", "sigma_255": "blind" if level == "blind" else float(level)}


def _paper_recipe(config: ReproduceConfig, label: str, train_images: int) -> dict[str, Any]:
    """The paper's schedule; for inpainting, of which it says nothing, the released code's length and rate."""
    if label.startswith("inpaint"):
        images = paper.INPAINT_EPOCHS * train_images
        return {
            "global_batch_size": config.global_batch_size or paper.INPAINT_BATCH,
            "lr": paper.INPAINT_LR,
            "max_images": images,
        }
    return {"global_batch_size": config.global_batch_size or paper.BATCH}


def budget_clock(config: ReproduceConfig) -> Literal["wall", "processor"]:
    """What minutes are measured with. On a processor, other work would take from a budget of the wall's clock."""
    if config.budget_clock != "auto":
        return config.budget_clock
    return "wall" if shutil.which("nvidia-smi") else "processor"


def cell_url(config: TrainConfig, dataset: Dataset) -> str:
    """The cell's folder, named by the hash of everything that decides its weights."""
    apart = NOT_COMPARED | {*MUTABLE_ON_RESUME} - {"max_images", "max_minutes"}
    values = {name: value for name, value in dataclasses.asdict(config).items() if name not in apart}
    identity = {"version": VERSION, "dataset": dataset.sha256, "bits": dataset.bits, "config": values}
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return join_url(store_url(), REPRODUCTIONS, CELLS, digest[:16])


def _open(config: ReproduceConfig, name: str, problems: list[str]) -> Dataset | None:
    """The data set, or None and a sentence with the command that makes it."""
    url = find_data(name)
    try:
        dataset = Dataset.open(open_storage(url))
    except ValueError as error:
        problems.append(f"{str(error).split('; ')[0].rstrip('.')}; make it with `{shard_command(config, name)}`.")
        return None
    fields, bits = needed_fields(config), 5 if config.protocol == "released" else 8
    if missing := [field for field in fields if field not in dataset.fields]:
        problems.append(
            f"the data set {url} has no {', '.join(missing)}; make it, at another place or with --overwrite, with "
            f"`{shard_command(config, name)}`."
        )
    elif dataset.bits != bits:
        problems.append(
            f"the data set {url} has {dataset.bits} bits, but --protocol {config.protocol} needs {bits}; make one, "
            f"under another name, with `{shard_command(config, name)}`."
        )
    else:
        return dataset
    return None


def needed_fields(config: ReproduceConfig) -> list[str]:
    """Stored fields that the table reads besides the clean image."""
    fields = [label for label in config.chosen_tasks if label.startswith("jpeg")]
    return fields + [f"mask_{t.removeprefix('inpaint-')}" for t in config.chosen_tasks if t.startswith("inpaint")]


def shard_command(config: ReproduceConfig, name: str) -> str:
    """What makes a data set for this table."""
    source = name if name in ("celeba", "celeba-hq", "cub", "flowers", "synthetic") else "folder"
    words = ["python -m pipeline.shard", f"--source {source}"]
    if source != "synthetic":
        words.append("--root FOLDER")
    if config.protocol == "released":
        words.append("--bits 5" + (" --split released" if source == "flowers" else ""))
    fields = needed_fields(config)
    if fields and fields[0].startswith("jpeg"):
        words.append("--degrade jpeg:" + ",".join(field.removeprefix("jpeg") for field in fields))
    elif fields:
        words.append("--degrade mask:" + ",".join(field.removeprefix("mask_") for field in fields))
    if source == "folder":
        words.append(f"--out {name if is_path_or_url(name) else data_url(name)}")
    return " ".join(words)

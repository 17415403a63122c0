"""python -m pipeline.train: a data set -> a trained run, on this machine or on a Ray cluster."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.cli import ProgressLine, guarded, parse
from pipeline.config import refuse
from pipeline.presets import preset
from pipeline.tasks import missing_fields, task_label, task_text
from pipeline.training.config import TrainConfig, train_config

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.run import Run
    from sharding import Dataset, SampleOrder

MAY_CHANGE = {"nodes", "min_nodes", "wait_for_nodes", "simulate_nodes", "workers_per_node", "ray"}
MAY_CHANGE |= {"max_images", "max_minutes", "checkpoint_minutes", "keep_checkpoints", "validate_images"}
"""Settings that may differ when a run goes on: they decide where and how long, not what is trained."""
NOT_SAVED = {"dry_run", "config", "data", "out", "name"}


def main(config: TrainConfig) -> None:
    """Resolve, say what will be done, claim the run's folder, train, sum up."""
    from pipeline.places import open_checked
    from pipeline.run_log import RunLog
    from sharding.lock import locked

    config = resolve(config)
    lines = plan(config)
    print("\n".join(lines))
    if config.dry_run:
        print(json.dumps(dataclasses.asdict(config), indent=1))
        return
    assert config.out
    with locked(open_checked(config.out)) as lock:
        run = claim_run(config)
        with RunLog(run.store, 60 * config.checkpoint_minutes, lock.check) as log:
            log.add("\n".join(lines))
            if done := run.checkpoints():
                log.say(f"going on from {int(done[-1]):,} images")
            with ProgressLine("training", progress_total(config), progress_unit(config), log.add) as line:
                last = train_with(config, line, lock.check)
            summarise(config, run, last, log.say)


def resolve(config: TrainConfig) -> TrainConfig:
    """Fill in what depends on the store. ValueError, with all problems at once, when things do not fit together."""
    from pipeline.places import find_data, is_url, open_checked, run_url
    from sharding.manifest import Dataset

    problems = config.problems()
    try:
        data = find_data(config.data)
        dataset = Dataset.open(open_checked(data))
    except ValueError as error:
        raise ValueError("\n".join([*problems, str(error)])) from None
    for split in ("train", "val"):
        if not dataset.split_sizes.get(split):
            problems.append(f"the data set {data} has no {split} images; training needs both train and val.")
    if config.sides_problem(dataset.image_size):
        problems.append(f"the images' side of {dataset.image_size} px {config.sides_problem(dataset.image_size)}.")
    problems += missing_fields(config, data, dataset.fields)
    if config.crop and config.crop > dataset.image_size:
        problems.append(f"--crop {config.crop} is larger than the images of {data}, {dataset.image_size} px.")
    if config.global_batch > 0 and dataset.split_sizes.get("train"):
        try:
            order_of(config, dataset)
        except ValueError as error:
            problems.append(str(error))
    refuse(problems)
    system = "" if config.system == "irae" else f"{config.system}-"
    name = config.name or f"{dataset.name}-{task_label(config)}-{system}{config.preset}"
    out = config.out or run_url(name)
    if not is_url(out):
        out = str(Path(out).absolute())
    return dataclasses.replace(config, data=dataset.store.url, name=name, out=out)


def order_of(config: TrainConfig, dataset: Dataset) -> SampleOrder:
    """The order of the training images. ValueError when batch, partitions and data set do not fit together."""
    from sharding.order import SampleOrder

    shards = tuple(shard["samples"] for shard in dataset.shards if shard["split"] == "train")
    return SampleOrder(
        samples=sum(shards),
        seed=config.seed,
        global_batch=config.global_batch,
        remainder=config.remainder,
        shards=shards,
        window_shards=config.window_shards,
        partitions=config.partitions,
    )


def plan(config: TrainConfig) -> list[str]:
    """What will be trained, on what, for how long."""
    from infra.storage import open_storage
    from irae.model import parameter_count
    from irae.systems import build
    from sharding.manifest import Dataset

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
        f"run    {config.out}: batches of {config.global_batch} on {workers} worker(s), "
        f"{images / config.global_batch:,.1f} steps an epoch, until {budget}",
        f"order  {order_of(config, dataset).describe()}",
    ]


def claim_run(config: TrainConfig) -> Run:
    """The run's folder, new or of the same configuration. ValueError when another run lies there."""
    from pipeline.places import open_checked
    from pipeline.run import CONFIG, Run

    assert config.out
    run = Run(open_checked(config.out))
    ours = dataclasses.asdict(config)
    held = run.read_json(CONFIG)
    if held is None:
        run.write_json(CONFIG, ours)
        return run
    ignored = MAY_CHANGE | NOT_SAVED
    if config.lr_schedule not in ("paper", "constant"):
        ignored -= {"max_images", "max_minutes"}  # the rate of every step depends on them
    differing = [
        f"{name} was {held.get(name, default)!r} and is now {ours[name]!r}"
        for name, default in dataclasses.asdict(TrainConfig()).items()
        if name not in ignored and held.get(name, default) != json.loads(json.dumps(ours[name]))
    ]
    if differing:
        raise ValueError(
            f"the run {config.out} was begun with other settings ({'; '.join(differing)}); repeat those to go on "
            "with it, or choose another --name."
        )
    return run


def progress_total(config: TrainConfig) -> float | None:
    return config.max_images or (config.max_minutes * 60 if config.max_minutes else None)


def progress_unit(config: TrainConfig) -> str:
    return "s" if config.max_minutes and not config.max_images else "images"


def show(config: TrainConfig, line: ProgressLine, row: dict[str, Any]) -> None:
    """One row of metrics on the display; validations are kept as lines."""
    done = row["train_s"] if progress_unit(config) == "s" else row["images_seen"]
    text = f"loss {row['loss']:.4f}  {row['images_per_sec']:,.0f} images/s  lr {row['lr']:.1e}"
    line.update(done, f"{text}  waiting for data {row['data_wait_share']:.1%}  {row['peak_memory_mb']:,.0f} MB")
    if "val_psnr_db" in row:
        back = f", round trip {row['round_trip_max_error']:.1e}" if "round_trip_max_error" in row else ""
        line.print(
            f"epoch {row['epoch']:.1f}: validation {row['val_psnr_db']:.2f} dB "
            f"(degraded {row['val_psnr_db_degraded']:.2f}), {text}{back}"
        )


def train_with(config: TrainConfig, line: ProgressLine, may_save: Callable[[], None]) -> dict[str, Any]:
    """Train in this process or with Ray; returns the last row of metrics."""
    last: dict[str, Any] = {}

    def report(row: dict[str, Any]) -> None:
        last.update(row)
        show(config, line, row)

    if config.ray:
        from pipeline.training.ray_train import run

        run(config, report, line.print, may_save)
    else:
        from pipeline.training.distributed import Team
        from pipeline.training.loop import train

        train(config, Team.alone(), report, line.print, may_save)
    return last


def summarise(config: TrainConfig, run: Run, last: dict[str, Any], say: Callable[[str], None]) -> None:
    """metrics.json and a closing line."""
    from pipeline.run import BEST
    from pipeline.training.patience import patiently

    def write() -> tuple[int, dict[str, Any]]:
        best = run.read_json(BEST) or {}
        images_seen = int(run.checkpoints()[-1])
        run.write_json("metrics.json", {"images_seen": images_seen, "best": best, "last": last})
        return images_seen, best

    images_seen, best = patiently(write, run.store, print)
    text = f"best validation {best['val_psnr_db']:.2f} dB" if best else "no validation yet (less than an epoch)"
    say(f"trained {images_seen:,} images, {text}; the run is {config.out}")
    say(f"next: python -m pipeline.evaluate --run {config.out}")


def defaults(arguments: list[str]) -> TrainConfig:
    """The defaults of everything that the command line does not say: a --config file's, or the preset's.

    A GPU is recognised without torch.
    """
    file = option(arguments, "--config")
    if file is not None:
        return read_config(Path(file))
    several_nodes = any(argument.split("=")[0] == "--nodes" for argument in arguments)
    name = option(arguments, "--preset") or TrainConfig.preset
    return preset(name, has_gpu=lambda: several_nodes or shutil.which("nvidia-smi") is not None)


def option(arguments: list[str], name: str) -> str | None:
    """The value of an option of the command line."""
    for place, argument in enumerate(arguments):
        if argument == name and place + 1 < len(arguments):
            return arguments[place + 1]
        if argument.startswith(f"{name}="):
            return argument.split("=", 1)[1]
    return None


def read_config(path: Path) -> TrainConfig:
    """A training configuration from a JSON file. ValueError when it is none."""
    try:
        return train_config(json.loads(path.read_text()))
    except OSError as error:
        raise ValueError(f"--config {path} cannot be read ({error.strerror}); name a file.") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"--config {path} holds no training configuration: {error}") from None


def command() -> None:
    """Parse on top of the preset, then run."""
    arguments = sys.argv[1:]
    config = parse(TrainConfig, arguments, default=defaults(arguments))
    if config.preset == "auto":
        config = dataclasses.replace(config, preset=defaults(arguments).preset)
    main(config)


if __name__ == "__main__":
    sys.exit(guarded(command))

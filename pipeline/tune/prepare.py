"""Preparation of a search: the data set and the search's folder, opened once, and options that fit both."""

from __future__ import annotations

import dataclasses
import logging

from infra.storage import join_url
from pipeline.config.checks import USER_ERRORS, raise_problems
from pipeline.config.environment import store_url
from pipeline.runs.find import open_checked
from pipeline.train.prepare import dataset_problems
from pipeline.train.prepare import resolve as resolve_base
from pipeline.tune.config import TuneConfig
from pipeline.tune.folder import SEARCHES, StudyFolder
from pipeline.tune.space import choices, ranges
from sharding.dataset import Dataset

logger = logging.getLogger(__name__)


def resolve(config: TuneConfig) -> tuple[TuneConfig, StudyFolder, Dataset]:
    """Resolved options, the search's folder and the data set, opened. Raises UserError, with all problems at once."""
    problems, base = config.problems(), config.base
    batches = config.batches or (base.optimization.global_batch_size,)
    largest = {"L": max(*config.L_range, base.model.irae.L)} if config.is_irae else {}
    try:
        training = resolve_base(base.with_options(**largest, global_batch_size=batches[0]))
        for batch in batches[1:]:
            problems += dataset_problems(training.config.with_options(global_batch_size=batch), training.dataset)
    except USER_ERRORS as error:
        raise_problems(list(dict.fromkeys([*problems, *str(error).splitlines()])))
        raise
    raise_problems(problems)
    resolved = training.config
    assert resolved.name and resolved.out
    out = resolved.out if base.out else join_url(store_url(), SEARCHES, resolved.name)
    base = base.with_options(data=resolved.data.url, name=resolved.name, out=out)
    return dataclasses.replace(config, base=base), StudyFolder(open_checked(out)), training.dataset


def log_plan(config: TuneConfig) -> None:
    """Log the search space, the budget and the objectives."""
    base = config.base
    space = {name: f"{low} to {high}" for name, (low, high) in ranges(config).items()}
    space["lr"] = f"{config.lr_range[0]:g} to {config.lr_range[1]:g} ({', '.join(config.lr_schedules)})"
    space |= {name: f"of {', '.join(map(str, values))}" for name, values in choices(config).items()}
    pruning = "pruned at a quarter or a half when in the lower half" if config.asha else "none is pruned"
    second = "" if config.second_objective == "none" else f" and {config.second_objective}"
    logger.info(f"data    {base.data.url}")
    logger.info(f"space   {base.model.name}: {', '.join(f'{name} {values}' for name, values in space.items())}")
    logger.info(
        f"trials  {config.trials} of {config.trial_images:,} images each, {pruning}; {config.sampler}, seed {base.seed}"
    )
    logger.info(f"search  {base.out}: validation PSNR{second}")

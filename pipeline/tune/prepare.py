"""Options of a search, resolved against the store, and its plan in words."""

from __future__ import annotations

import dataclasses
import logging

from pipeline.config.checks import USER_ERRORS, raise_problems
from pipeline.train.prepare import resolve as resolve_base
from pipeline.tune.config import TuneConfig
from pipeline.tune.folder import search_url

logger = logging.getLogger(__name__)


def resolve(config: TuneConfig) -> TuneConfig:
    """Fill in what depends on the store. Raises UserError with all problems at once."""
    problems = config.problems()
    base = config.base
    if base.system == "irae":
        largest = dataclasses.replace(base.model, L=max(*config.L_range, base.model.L))
        base = dataclasses.replace(base, model=largest)
    try:
        for batch in config.batches or (base.global_batch_size,):
            resolved = resolve_base(dataclasses.replace(base, global_batch_size=batch))
    except USER_ERRORS as error:
        problems += str(error).splitlines()
    raise_problems(list(dict.fromkeys(problems)))
    name = config.base.name or resolved.name
    assert name
    out = resolved.out if config.base.out else search_url(name)
    base = dataclasses.replace(config.base, data=resolved.data, name=name, out=out)
    return dataclasses.replace(config, base=base)


def log_plan(config: TuneConfig) -> None:
    """Log the search space, the budget and the objectives."""
    base = config.base
    choices = {"width": config.widths, "scale-min": config.scale_mins, "batch": config.batches}
    parts = [f"{name} of {', '.join(map(str, values))}" for name, values in choices.items() if values]
    levels = f"K {config.K_range[0]} to {config.K_range[1]}, L {config.L_range[0]} to {config.L_range[1]}"
    rates = f"lr {config.lr_range[0]:g} to {config.lr_range[1]:g} ({', '.join(config.lr_schedules)})"
    pruning = "pruned at a quarter or a half when in the lower half" if config.asha else "none is pruned"
    second = "" if config.second_objective == "none" else f" and {config.second_objective}"
    logger.info(f"data    {base.data}")
    logger.info(f"space   {', '.join([levels if base.system == 'irae' else base.system, rates, *parts])}")
    logger.info(
        f"trials  {config.trials} of {base.max_images:,} images each, {pruning}; {config.sampler}, seed {base.seed}"
    )
    logger.info(f"search  {base.out}: validation PSNR{second}")

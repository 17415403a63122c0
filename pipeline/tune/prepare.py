"""python -m pipeline.tune: search for K, L, learning rate and schedule; `best` ends it, `dashboard` shows it."""

from __future__ import annotations

import dataclasses
import logging

from pipeline.config.checks import raise_problems
from pipeline.train.prepare import resolve as resolve_base
from pipeline.tune.config import TuneConfig
from pipeline.tune.folder import search_url

logger = logging.getLogger(__name__)


def resolve(config: TuneConfig) -> TuneConfig:
    """Fill in what depends on the store. ValueError, with all problems at once, when things do not fit together."""

    problems = config.problems()
    base = config.base
    if base.system == "irae":
        largest = dataclasses.replace(base.model, L=max(*config.L_range, base.model.L))
        base = dataclasses.replace(base, model=largest)
    try:
        for batch in config.batches or (base.global_batch_size,):
            resolved = resolve_base(dataclasses.replace(base, global_batch_size=batch))
    except ValueError as error:
        problems += str(error).splitlines()
    raise_problems(list(dict.fromkeys(problems)))
    name = config.base.name or resolved.name
    assert name
    out = resolved.out if config.base.out else search_url(name)
    base = dataclasses.replace(config.base, data=resolved.data, name=name, out=out)
    return dataclasses.replace(config, base=base)


def print_plan(config: TuneConfig) -> None:
    """What will be searched, and what it will cost."""
    base = config.base
    choices = {"width": config.widths, "scale-min": config.scale_mins, "batch": config.batches}
    parts = [f"{name} of {', '.join(map(str, values))}" for name, values in choices.items() if values]
    logger.info(f"data    {base.data}")
    levels = f"K {config.K_range[0]} to {config.K_range[1]}, L {config.L_range[0]} to {config.L_range[1]}"
    logger.info(
        f"space   {levels if base.system == 'irae' else base.system}, lr "
        f"{config.lr_range[0]:g} to {config.lr_range[1]:g} ({', '.join(config.lr_schedules)})"
        + "".join(f", {part}" for part in parts)
    )
    cut = "cut at a quarter or a half when in the lower half" if config.asha else "none is cut"
    logger.info(
        f"trials  {config.trials} of {base.max_images:,} images each, {cut}; {config.sampler}, seed {base.seed}"
    )
    against = "" if config.against == "none" else f" against {config.against}"
    logger.info(f"search  {base.out}: validation PSNR{against}")

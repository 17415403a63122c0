"""python -m pipeline.tune: search for K, L, learning rate and schedule; `best` ends it, `dashboard` shows it."""

from __future__ import annotations

import dataclasses
import sys

from pipeline.cli import guarded, parse, run_command
from pipeline.config import refuse
from pipeline.search.config import BestConfig, DashboardConfig, TuneConfig
from pipeline.train import defaults

TRIAL_IMAGES = {"laptop": 3_000}
TRIAL_IMAGES_OTHERS = 300_000
"""A trial's budget unless --max-images says another."""


def main(config: TuneConfig) -> None:
    """Resolve, say what will be searched, search, and end with the table and the plots."""
    from pipeline.places import open_checked
    from pipeline.search.best import report_on
    from pipeline.search.driver import search
    from pipeline.search.home import Home
    from sharding.lock import locked
    from sharding.manifest import Dataset

    config = resolve(config)
    assert config.base.data and config.base.out
    home, dataset = Home(open_checked(config.base.out)), Dataset.open(open_checked(config.base.data))
    print_plan(config)
    if config.base.dry_run:
        return
    with locked(home.store):
        home.claim({**config.identity(), "dataset": dataset.sha256})
        home.mend()
        search(config, home, dataset)
        report_on(home)
    print(f"next: python -m pipeline.tune best {home.store.url}")


def resolve(config: TuneConfig) -> TuneConfig:
    """Fill in what depends on the store. ValueError, with all problems at once, when things do not fit together."""
    from pipeline.search.home import search_url
    from pipeline.train import resolve as resolve_base

    problems = config.problems()
    base = config.base
    if base.system == "irae":
        largest = dataclasses.replace(base.model, L=max(*config.L_range, base.model.L))
        base = dataclasses.replace(base, model=largest)
    try:
        for batch in config.batches or (base.global_batch,):
            resolved = resolve_base(dataclasses.replace(base, global_batch=batch))
    except ValueError as error:
        problems += str(error).splitlines()
    refuse(list(dict.fromkeys(problems)))
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
    print(f"data    {base.data}")
    levels = f"K {config.K_range[0]} to {config.K_range[1]}, L {config.L_range[0]} to {config.L_range[1]}"
    print(
        f"space   {levels if base.system == 'irae' else base.system}, lr "
        f"{config.lr_range[0]:g} to {config.lr_range[1]:g} ({', '.join(config.lr_schedules)})"
        + "".join(f", {part}" for part in parts)
    )
    cut = "cut at a quarter or a half when in the lower half" if config.asha else "none is cut"
    print(f"trials  {config.trials} of {base.max_images:,} images each, {cut}; {config.sampler}, seed {base.seed}")
    against = "" if config.against == "none" else f" against {config.against}"
    print(f"search  {base.out}: validation PSNR{against}")


def base_defaults(arguments: list[str]) -> TuneConfig:
    """The preset, or --config, as the base of all trials, with a trial's budget instead of a run's."""
    base = defaults(arguments)
    images = TRIAL_IMAGES.get(base.preset, TRIAL_IMAGES_OTHERS)
    return TuneConfig(base=dataclasses.replace(base, max_minutes=None, max_images=base.max_images or images, name=None))


def command() -> None:
    """Parse on top of the preset, then search."""
    arguments = sys.argv[1:]
    config = parse(TuneConfig, arguments, default=base_defaults(arguments))
    if config.base.preset == "auto":
        preset = defaults(arguments).preset
        config = dataclasses.replace(config, base=dataclasses.replace(config.base, preset=preset))
    main(config)


def best_main(config: BestConfig) -> None:
    """The winner."""
    from pipeline.search.best import conclude

    conclude(config)


def dashboard_main(config: DashboardConfig) -> None:
    """Serve the dashboard until interrupted."""
    from pipeline.search.dashboard import serve

    serve(config)


if __name__ == "__main__":
    if sys.argv[1:2] == ["best"]:
        run_command(BestConfig, best_main, skip=1)
    elif sys.argv[1:2] == ["dashboard"]:
        run_command(DashboardConfig, dashboard_main, skip=1)
    else:
        sys.exit(guarded(command))

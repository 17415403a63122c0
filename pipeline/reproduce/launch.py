"""Runs the experiments of a table or of the claim, and writes the results."""

from __future__ import annotations

import logging

from infra.storage import UserError, join_url
from pipeline.config.environment import store_url
from pipeline.reproduce.config import ReproduceConfig
from pipeline.reproduce.experiments import REPRODUCTIONS, experiments_of
from pipeline.reproduce.information_loss import measure_claim
from pipeline.reproduce.scheduler import run_all
from pipeline.reproduce.table import table_of, write
from pipeline.runs.find import open_checked
from pipeline.runs.texts import url_name

logger = logging.getLogger(__name__)


def main(config: ReproduceConfig) -> None:
    """List the experiments, run the unfinished ones, print and write the table. UserError if one failed."""
    experiments = experiments_of(config)
    out = config.out or default_url(config)
    names = ", ".join(dict.fromkeys(experiment.dataset for experiment in experiments))
    logger.info(
        f"{len(experiments)} experiments of {config.budget} each: {', '.join(config.chosen_models)} for "
        f"{', '.join(config.chosen_tasks)} on {names}; seeds {' '.join(map(str, config.seeds))}; results in {out}"
    )
    if config.dry_run:
        for e in experiments:
            optimization = e.config.optimization
            logger.info(f"{e.name}: lr {optimization.lr:g}, batch {optimization.global_batch_size}, {e.url}")
        return
    store = open_checked(out)
    if config.claim:
        results = measure_claim(config, experiments, store)
    else:
        results = run_all(experiments, config.ray)
        logger.info(write(store, table_of(config, results)))
        logger.info(f"table.md, .csv, .parquet and .json are in {store.url}")
    if failed := sum(result.error is not None for result in results):
        raise UserError(f"{failed} of {len(results)} experiments failed; their messages are in the table.")


def default_url(config: ReproduceConfig) -> str:
    """IRAE_STORE/reproductions/table1-celeba-3min."""
    parts = ["claim" if config.claim else f"table{config.table}", *map(url_name, config.chosen_datasets)]
    parts += [config.budget.replace(" ", ""), *(["released"] if config.protocol == "released" else [])]
    return join_url(store_url(), REPRODUCTIONS, "-".join(parts))

"""python -m pipeline.reproduce: the paper's tables, trained and evaluated here, beside the paper's numbers."""

from __future__ import annotations

import logging

from infra.storage import UserError, join_url
from pipeline.cli import run_command
from pipeline.config.environment import store_url
from pipeline.reproduce.config import ReproduceConfig
from pipeline.reproduce.experiments import REPRODUCTIONS, Cell, cells_of
from pipeline.reproduce.information_loss import measure
from pipeline.reproduce.scheduler import run_all
from pipeline.reproduce.table import table_of, write
from pipeline.runs.find import open_checked

logger = logging.getLogger(__name__)


def main(config: ReproduceConfig) -> None:
    """List the cells, run those that are left, print and keep the table."""

    cells = cells_of(config)
    out = config.out or default_url(config)
    print_plan(config, cells, out)
    if config.dry_run:
        return
    store = open_checked(out)

    if config.claim:
        measure(config, cells, store)
        return

    results = run_all(cells, config.ray)
    logger.info(write(store, table_of(config, results)))
    logger.info(f"table.md, .csv, .parquet and .json are in {store.url}")
    if failed := sum(result.error is not None for result in results):
        raise UserError(f"{failed} of {len(results)} cells failed; their messages are in the table.")


def default_url(config: ReproduceConfig) -> str:
    """IRAE_STORE/reproductions/table1-celeba-3min."""

    names = [name.rstrip("/").rpartition("/")[2] for name in config.chosen_datasets]
    parts = ["claim" if config.claim else f"table{config.table}", *names, config.budget.replace(" ", "")]
    if config.protocol != "standard":
        parts.append(config.protocol)
    return join_url(store_url(), REPRODUCTIONS, "-".join(parts))


def print_plan(config: ReproduceConfig, cells: list[Cell], out: str) -> None:
    """What will be trained; with --dry-run each cell with its folder."""
    names = ", ".join(dict.fromkeys(cell.dataset for cell in cells))
    logger.info(
        f"{len(cells)} cells of {config.budget} each: {', '.join(config.chosen_systems)} for "
        f"{', '.join(config.chosen_tasks)} on {names}; seeds {' '.join(map(str, config.seeds))}; results in {out}"
    )
    if config.dry_run:
        for cell in cells:
            logger.info(f"{cell.name}: lr {cell.config.lr:g}, batch {cell.config.global_batch_size}, {cell.url}")


if __name__ == "__main__":
    run_command(ReproduceConfig, main)

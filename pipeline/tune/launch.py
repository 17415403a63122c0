"""A search from options to the table of its trials."""

from __future__ import annotations

import logging

from infra.storage.lease import hold_lease
from pipeline.tune.best import show_trials
from pipeline.tune.config import TuneConfig
from pipeline.tune.prepare import log_plan, resolve
from pipeline.tune.search import run_search

logger = logging.getLogger(__name__)


def main(config: TuneConfig) -> None:
    """Resolve the options, log the plan, take the search's lease, search, show the trials."""
    search = resolve(config)
    config, folder = search.config, search.folder
    log_plan(config)
    if config.base.dry_run:
        return
    with hold_lease(folder.store):
        folder.start_or_resume({**config.identity(), "dataset": search.dataset.sha256})
        folder.truncate_partial_record()
        run_search(search)
        show_trials(folder)
    logger.info(f"next: python -m pipeline.tune best {folder.store.url}")

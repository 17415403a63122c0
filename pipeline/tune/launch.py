"""python -m pipeline.tune: search for K, L, learning rate and schedule."""

from __future__ import annotations

import logging

from infra.storage.lease import hold_lease
from pipeline.runs.find import open_checked
from pipeline.tune.best import show_trials
from pipeline.tune.config import TuneConfig
from pipeline.tune.folder import StudyFolder
from pipeline.tune.prepare import log_plan, resolve
from pipeline.tune.search import search
from sharding.dataset import Dataset

logger = logging.getLogger(__name__)


def main(config: TuneConfig) -> None:
    """Resolve the options, log the plan, search, and end with the table and the plots."""
    config = resolve(config)
    assert config.base.data and config.base.out
    folder, dataset = StudyFolder(open_checked(config.base.out)), Dataset.open(open_checked(config.base.data))
    log_plan(config)
    if config.base.dry_run:
        return
    with hold_lease(folder.store):
        folder.start_or_resume({**config.identity(), "dataset": dataset.sha256})
        folder.truncate_partial_record()
        search(config, folder, dataset)
        show_trials(folder)
    logger.info(f"next: python -m pipeline.tune best {folder.store.url}")

"""python -m pipeline.tune: search for K, L, learning rate and schedule; `best` ends it, `dashboard` shows it."""

from __future__ import annotations

import logging

from infra.storage.lease import hold_lease
from pipeline.runs.find import open_checked
from pipeline.tune.best import report_on
from pipeline.tune.config import TuneConfig
from pipeline.tune.folder import Home
from pipeline.tune.prepare import print_plan, resolve
from pipeline.tune.search import search
from sharding.dataset import Dataset

logger = logging.getLogger(__name__)


def main(config: TuneConfig) -> None:
    """Resolve, say what will be searched, search, and end with the table and the plots."""

    config = resolve(config)
    assert config.base.data and config.base.out
    home, dataset = Home(open_checked(config.base.out)), Dataset.open(open_checked(config.base.data))
    print_plan(config)
    if config.base.dry_run:
        return
    with hold_lease(home.store):
        home.claim({**config.identity(), "dataset": dataset.sha256})
        home.mend()
        search(config, home, dataset)
        report_on(home)
    logger.info(f"next: python -m pipeline.tune best {home.store.url}")

"""Integrity check of a data set, as a command."""

from __future__ import annotations

import logging

from infra.storage import UserError
from pipeline.cli import ProgressLine
from pipeline.runs.find import find_data, open_checked
from pipeline.shard.config import VerifyConfig
from sharding.dataset import Dataset
from sharding.verify import verify

logger = logging.getLogger(__name__)


def verify_main(config: VerifyConfig) -> None:
    """Check a data set. Raises UserError with a line for each damaged shard."""
    store = open_checked(find_data(config.data))
    dataset = Dataset.open(store)
    images, size_bytes = dataset.table.num_rows, sum(shard["bytes"] for shard in dataset.shards)
    with ProgressLine("verifying", images, "images") as progress:
        report = verify(store, config.checksum, progress.update)
    for name in report.left_over:
        logger.info(f"{store.url}/{name} is left over: it belongs to no data set and may be deleted.")
    if report.problems:
        raise UserError("\n".join(report.problems))
    how = "every byte and every image" if config.checksum else "sizes and checksums"
    size = f"{len(dataset.shards)} shards, {images:,} images, {size_bytes / 1e6:,.1f} MB"
    logger.info(f"{store.url} is whole: {size} ({how} checked)")

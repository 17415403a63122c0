"""A small search space, and a search over it without Ray."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from infra.storage import open_storage
from pipeline.config.train import TrainConfig
from pipeline.tune.config import TuneConfig
from pipeline.tune.folder import StudyFolder

BASE = TrainConfig().with_options(
    K=2, width=8, global_batch_size=8, max_images=160, precision="float32", ray=False, lr_schedule="paper"
)
CONFIG = TuneConfig(base=BASE, K_range=(1, 3), batches=(8, 16), scale_mins=(0.25, 0.5), widths=(8, 16), trials=5)
TWO_OBJECTIVES = dataclasses.replace(CONFIG, second_objective="parameters")


def start_or_resume(path: Path, config: TuneConfig = CONFIG, **options: Any):  # type: ignore[no-untyped-def]
    """The searcher of a search in this folder, as its command makes it. Imports Ray."""
    from pipeline.tune.searcher import JournalSearch

    folder = StudyFolder(open_storage(str(path)))
    folder.truncate_partial_record()
    return JournalSearch(config, folder, **{"epochs": 5.0, "exceeds_memory": fits, **options})


def fits(params: dict[str, Any]) -> None:
    """Any trial fits into the memory."""


def result(images: int, psnr_db: float, **more: Any) -> dict[str, Any]:
    """A result as a trial reports it to Ray Tune."""
    measured = {"parameters": 100, "images_per_sec": 5.0, "peak_memory_mb": 1.0}
    return {"images_seen": images, "val_psnr_db": psnr_db, "finished": False, **measured, **more}

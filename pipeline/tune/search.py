"""A search from options to the table of its trials, by Ray Tune."""

from __future__ import annotations

import functools
import logging
import os
import tempfile

import ray
from ray import tune

from infra.cluster import ray_session
from infra.storage.lease import hold_lease
from pipeline.cli import ProgressLine
from pipeline.tune.best import show_trials
from pipeline.tune.config import TuneConfig
from pipeline.tune.folder import StudyFolder
from pipeline.tune.prepare import log_plan, resolve
from pipeline.tune.resources import ResourcePlan, exceeds_memory, gpu_memory_mb, plan_resources
from pipeline.tune.searcher import MAX_WORKER_FAILURES, JournalSearch, ResumedASHA, WorkerFailureLog
from pipeline.tune.trial import run_trial
from sharding.dataset import Dataset

logger = logging.getLogger(__name__)


def main(config: TuneConfig) -> None:
    """Resolve the options, log the plan, take the search's lease, search, show the trials."""
    config, folder, dataset = resolve(config)
    log_plan(config)
    if config.base.dry_run:
        return
    with hold_lease(folder.store):
        folder.start_or_resume({**config.identity(), "dataset": dataset.sha256})
        folder.truncate_partial_record()
        os.environ |= {"TUNE_DISABLE_SIGINT_HANDLER": "1", "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1"}
        os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # the search itself logs why a trial failed
        with ray_session(config.base.cluster.nodes):
            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
            has_gpus = any(node.get("GPU") for node in nodes)
            gpu_mb = ray.get(ray.remote(num_gpus=1, num_cpus=0)(gpu_memory_mb).remote()) if has_gpus else None
            with ProgressLine("searching", config.trials, "trials") as line:
                run_trials(config, folder, dataset, plan_resources(config, nodes, gpu_mb), line)
        show_trials(folder)
    logger.info(f"next: python -m pipeline.tune best {folder.store.url}")


def run_trials(
    config: TuneConfig, folder: StudyFolder, dataset: Dataset, plan: ResourcePlan, line: ProgressLine
) -> None:
    """Let Ray Tune work until every trial in the journal is finished."""
    searcher = JournalSearch(
        config,
        folder,
        epochs=config.trial_images / dataset.split_sizes["train"],
        exceeds_memory=functools.partial(exceeds_memory, config, dataset.image_size, plan.worker_mb),
        show_progress=line.update,
    )
    trainable = tune.with_parameters(run_trial, tune_config=config, search_url=folder.store.url)
    try:
        with tempfile.TemporaryDirectory(prefix="irae-tune-") as temporary:
            tune.Tuner(
                tune.with_resources(trainable, plan.resources),
                tune_config=tune.TuneConfig(
                    search_alg=searcher,
                    scheduler=ResumedASHA(config, searcher.study.trials) if config.asha else None,
                    num_samples=-1,
                    max_concurrent_trials=plan.concurrent,
                ),
                run_config=tune.RunConfig(
                    name="search",
                    storage_path=temporary,
                    verbose=0,
                    failure_config=tune.FailureConfig(max_failures=MAX_WORKER_FAILURES),
                    callbacks=[WorkerFailureLog()],
                ),
            ).fit()
    finally:
        searcher.stop()
    assert searcher.finished_trials >= config.trials, "Ray Tune stopped before the search was finished"

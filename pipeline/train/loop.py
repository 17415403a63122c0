"""The training loop: the same in a plain process and in each Ray worker."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from infra.spot_notice import PreemptionNotice
from infra.storage import UserError, open_storage
from infra.storage.retry import retry_with_backoff
from irae.checkpoint import (
    bytes_to_tensors,
    load_optimizer,
    load_weights,
    model_to_files,
    optimizer_to_bytes,
    tensors_to_bytes,
)
from irae.diagnostics import largest_layer_gain
from irae.ema import EMA
from irae.model import IRAE, on_device
from irae.registry import build
from pipeline.config.checks import USER_ERRORS
from pipeline.config.environment import cache_folder
from pipeline.config.train import TrainConfig
from pipeline.data.augment import augment
from pipeline.data.pairs import Pairs, make_pairs
from pipeline.data.pixels import pinned_array
from pipeline.train.budget import BudgetTimer
from pipeline.train.distributed import FlatGradientBucket, PeerFailedError, ProcessGroup
from pipeline.train.prepare import Training
from pipeline.train.schedule import learning_rate, make_schedule
from pipeline.train.step import StepResult, autocast, resolve_precision, train_step
from pipeline.train.tensorboard import TensorBoardWriter
from pipeline.train.validate import validate
from sharding import Batch, Loader, ShardReader

LogMetrics = Callable[[dict[str, Any]], None]
AssertLeaseHeld = Callable[[], object]
OPTIMIZER, RAW_WEIGHTS = "optimizer.safetensors", "raw_weights.safetensors"
"""Files of a checkpoint: Adam's state; the last step's weights where model.safetensors holds the EMA."""
RAW_WEIGHTS_BEFORE = "training.safetensors"
"""The same file in checkpoints of the first version."""


def train(
    config: TrainConfig,
    group: ProcessGroup,
    log_metrics: LogMetrics,
    assert_lease_held: AssertLeaseHeld = lambda: None,
    training: Training | None = None,
) -> None:
    """Train this worker's share of a run to its end. UserError, on every worker, when it cannot.

    `config` is resolved; `training` is the same with the data set and the run opened, if they are. `log_metrics` gets
    each row of metrics; `assert_lease_held`, called before each checkpoint, raises UserError when another command has
    taken the run over.
    """
    trainer, error = None, None
    assert config.out
    try:
        make = lambda: Trainer(training or Training.open(config), group, log_metrics, assert_lease_held)  # noqa: E731
        trainer = retry_with_backoff(make, open_storage(config.out))
    except USER_ERRORS as problem:
        error = problem
    group.raise_if_any_rank_failed(error)
    assert trainer
    try:
        trainer.broadcast_weights()
        trainer.train()
    finally:
        if trainer.board:
            trainer.board.close()


class Trainer:
    """Model, optimizer, EMA, loader and timers of one worker. Made from the storage (UserError); no collectives."""

    def __init__(
        self,
        training: Training,
        group: ProcessGroup,
        log_metrics: LogMetrics,
        assert_lease_held: AssertLeaseHeld = lambda: None,
    ) -> None:
        config = self.config = training.config
        self.dataset, self.run = training.dataset, training.run
        self.group, self.log_metrics, self.assert_lease_held = group, log_metrics, assert_lease_held
        self.reader, self.val_reader = (
            ShardReader(self.dataset, split, cache_folder(), fields=config.task.fields, allocate=pinned_array)
            for split in ("train", "val")
        )
        self.precision = resolve_precision(config.model.precision, group.device)
        self.schedule = make_schedule(config)
        self.images_seen, self.budget_fraction, self.rows = 0, 0.0, list[dict[str, Any]]()
        self.timer = BudgetTimer(config.budget, config.checkpointing.checkpoint_minutes)
        torch.manual_seed(config.seed)
        self.model = on_device(build(config.model.name, config.model.irae), group.device)
        if isinstance(self.model, IRAE):
            self.model.use_reversible(config.model.reversible)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=config.optimization.lr, fused=True)
        self.names = [name for name, _ in self.model.named_parameters()]
        self.ema: EMA | None = None
        self.loader = self._start_or_resume()
        self.gradients = FlatGradientBucket(self.model)
        self.preemption_notice = PreemptionNotice()
        self.board = TensorBoardWriter(self.run.store, self.images_seen) if group.is_first else None

    def _start_or_resume(self) -> Loader:
        """Weights and state of the newest checkpoint, or weights initialised from the global first batch."""
        checkpoint = self.run.checkpoints.newest()
        loader = Loader(
            self.reader,
            global_batch_size=self.config.optimization.global_batch_size,
            rank=self.group.rank,
            world_size=self.group.world_size,
            seed=self.config.seed,
            drop_last=self.config.data.drop_last,
            shuffle_window_shards=self.config.data.shuffle_window_shards,
            num_canonical_partitions=self.config.data.num_canonical_partitions,
        )
        if checkpoint is None:
            first = loader.sampler.global_batch_at(0)
            batch = replace(self.reader.read(first.sample), epoch=first.epoch)
            self.model.initialise(self.pairs(batch).degraded)
            self._start_ema()
            return loader
        state, files = checkpoint.state, checkpoint.files
        try:
            loader.load_state_dict(state)
        except UserError as error:
            raise UserError(f"{self.run.url} cannot be resumed with {self.dataset.store.url}: {error}") from None
        load_weights(self.model, files)
        self._start_ema()
        raw_weights = files.get(RAW_WEIGHTS) or files.get(RAW_WEIGHTS_BEFORE)
        if raw_weights:
            self.model.load_state_dict(bytes_to_tensors(raw_weights))
        load_optimizer(self.optimizer, self.names, files[OPTIMIZER])
        self.schedule.load_state_dict(state["schedule"])
        self.images_seen, self.timer.train_s = state["images_seen"], state["train_s"]
        self.budget_fraction = self.timer.budget_fraction
        self.rows = self.run.read_metrics(self.images_seen)
        return loader

    def _start_ema(self) -> None:
        """From the present weights: initial ones, or a checkpoint's EMA."""
        optimization = self.config.optimization
        if optimization.ema_images or optimization.ema_share:
            self.ema = EMA(self.model, optimization.ema_images, optimization.ema_share)

    def _ema_weights(self) -> AbstractContextManager[None]:
        """Inside, the model has the weights that are validated and kept."""
        return self.ema.swapped_in() if self.ema else nullcontext()

    def broadcast_weights(self) -> None:
        """Give every worker rank 0's weights and EMA."""
        for context in (nullcontext(), self._ema_weights()):
            with context:
                self.group.broadcast_from_rank0_([*self.model.parameters(), *self.model.buffers()])

    def pairs(self, batch: Batch) -> Pairs:
        """Clean and degraded images of a batch, on the device."""
        assert batch.epoch is not None
        epochs, data, seed = list(batch.epoch), self.config.data, self.config.seed
        fields = {
            name: augment(pixels, batch.keys, epochs, seed=seed, flip=data.flip, crop=data.crop)
            for name, pixels in batch.fields.items()
        }
        batch = replace(batch, fields=fields)
        return make_pairs(batch, epochs, self.config.task, bits=self.dataset.bits, seed=seed, device=self.group.device)

    @property
    def lr(self) -> float:
        """Learning rate of the next step, the same on every worker."""
        return learning_rate(self.config, self.schedule, self.images_seen, self.budget_fraction)

    @property
    def is_at_max_images(self) -> bool:
        return self.images_seen >= (self.config.budget.max_images or float("inf"))

    @property
    def is_finished(self) -> bool:
        """Whether the schedule or the budget was at its end when the run was started or resumed."""
        max_s = 60 * (self.config.budget.max_minutes or float("inf"))
        return self.schedule.finished or self.is_at_max_images or self.timer.train_s >= max_s

    def train(self) -> None:
        """Step after step, to the end of the schedule or the budget."""
        self.timer.start()
        stop = self.is_finished
        # A run that was killed just before its last validation lacks one of the present weights.
        last = (row for row in self.rows if row["images_seen"] == self.images_seen)
        if stop and self.images_seen and all(row.get("val_psnr_db") is None for row in last):
            self._save(self._validate(epoch_ended=False))
        while not stop:
            # Step.
            result = self._step(*self._next_pairs())
            self.images_seen += self.config.optimization.global_batch_size
            self.budget_fraction = result.flags["budget_fraction"]
            if self.ema:
                self.ema.update(self.config.optimization.global_batch_size, self.images_seen)
            self.timer.count(self.config.optimization.global_batch_size, result.loss)
            # Validate.
            epoch_ended = self.images_seen // self.loader.sampler.images_per_epoch > self.schedule.epoch
            validate_now = self._should_validate(epoch_ended)
            stop = bool(result.flags["stop"]) or self.is_at_max_images
            best = self._validate(epoch_ended) if validate_now or stop else None
            stop = stop or self.schedule.finished
            # Log, save.
            if result.flags["log"] and not validate_now and not stop:
                self._log({})
            if validate_now or stop or result.flags["checkpoint"]:
                self._save(best)
        self.loader.close()

    def _should_validate(self, epoch_ended: bool) -> bool:
        """At an epoch's end, and when the step completed a multiple of `validate_images`."""
        options = self.config.checkpointing
        every = options.validate_images
        between = bool(every) and self.images_seen % every < self.config.optimization.global_batch_size
        return options.validate_at == "epochs" and (epoch_ended or between)

    def _next_pairs(self) -> tuple[Pairs | None, Exception | None]:
        """The next share, or the error that prevents it: the other workers must learn of it, or they wait for ever."""
        try:
            with self.timer.waiting():
                batch = retry_with_backoff(self.loader.next, self.dataset.store)
        except UserError as error:
            return None, self.group.with_rank(error)
        return self.pairs(batch), None

    def _step(self, pairs: Pairs | None, failure: Exception | None) -> StepResult:
        options = self.config.optimization
        if failure:
            self.gradients.set_flag("failed", 1)
        if self.group.is_first:
            self.gradients.set_flag("budget_fraction", self.timer.budget_fraction)
            for name in self.timer.due_events():
                self.gradients.set_flag(name, 1)
        if self.preemption_notice.poll():
            self.gradients.set_flag("checkpoint", 1)
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = self.lr
        result = train_step(
            self.model,
            self.optimizer,
            self.gradients,
            pairs,
            self.group,
            global_batch_size=options.global_batch_size,
            micro_batch_size=options.micro_batch_size or options.global_batch_size,
            clip_norm=options.clip_norm,
            autocast=autocast(self.precision, self.group.device),
        )
        if failure:
            raise failure
        if result.flags["failed"]:
            raise PeerFailedError("another worker could not read its data; its message says why.")
        if not result.finite:
            raise UserError(self._divergence(result))
        return result

    def _divergence(self, result: StepResult) -> str:
        layer, gain = largest_layer_gain(self.model)
        step = self.images_seen // self.config.optimization.global_batch_size + 1
        return (
            f"the loss is {result.loss:.4g} and the gradient's norm {result.gradient_norm:.4g} in step {step}; "
            f"training stopped before the weights changed. The layer with the largest scale is {layer} ({gain:.3g}). "
            "Start again with a smaller --lr or --clip-norm, under another --name."
        )

    def _validate(self, epoch_ended: bool) -> float | None:
        """Validate; returns the PSNR if it is the best so far, the same on all workers.

        The schedule gets the PSNR at epochs' ends alone, not where a budget ended: a run that is resumed there must
        not differ from one that was never stopped.
        """
        with self.timer.excluded(), self._ema_weights():
            bits, precision = self.dataset.bits, self.precision
            figures, images = validate(self.model, self.val_reader, self.config, bits, self.group, precision)
        psnr_db = figures["val_psnr_db"]
        is_best = psnr_db > self.schedule.best_psnr_db
        if epoch_ended:
            self.schedule.end_epoch(psnr_db)
        self._log(figures)
        if self.board:
            self.board.add_images(images, self.images_seen)
        return psnr_db if is_best else None

    def _log(self, values: dict[str, float]) -> None:
        """One row of metrics: shown now, in the run's folder with the next checkpoint."""
        row = {
            "images_seen": self.images_seen,
            "epoch": self.images_seen / self.loader.sampler.images_per_epoch,
            "lr": self.lr,
            **self.timer.rates(self.group.world_size),
            **values,
        }
        if self.board:
            self.rows.append(row)
            self.board.add(row)
        self.log_metrics(row)

    def _save(self, best_psnr_db: float | None) -> None:
        """Rank 0 writes a checkpoint while the others wait. UserError, on every worker, when the storage fails."""
        error = None
        if self.group.is_first:
            try:
                with self.timer.excluded():
                    retry_with_backoff(partial(self._write, best_psnr_db), self.run.store)
            except UserError as problem:
                error = problem
        self.group.raise_if_any_rank_failed(error)
        self.timer.checkpoint_done()

    def _write(self, best_psnr_db: float | None) -> None:
        """A checkpoint (the best one, if given a PSNR), the metrics so far, TensorBoard's events."""
        self.assert_lease_held()
        with self._ema_weights():
            files = model_to_files(self.model)
        if self.ema:
            files[RAW_WEIGHTS] = tensors_to_bytes(self.model.state_dict())
        files[OPTIMIZER] = optimizer_to_bytes(self.optimizer, self.names)
        state = {**self.loader.state_dict(), "train_s": self.timer.train_s, "schedule": self.schedule.state_dict()}
        checkpoints = self.run.checkpoints
        name = checkpoints.save(files, state)
        if best_psnr_db is not None:
            checkpoints.update_best(name, best_psnr_db)
        self.run.write_metrics(self.rows)
        checkpoints.prune(self.config.checkpointing.keep_checkpoints)
        assert self.board
        self.board.upload()

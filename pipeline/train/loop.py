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
from pipeline.config.environment import cache_folder
from pipeline.config.task import stored_fields
from pipeline.config.train import TrainConfig
from pipeline.data.augment import augment
from pipeline.data.pairs import Pairs, make_pairs
from pipeline.data.pinned import pinned_array
from pipeline.runs.folder import Run
from pipeline.train.budget import BudgetTimer
from pipeline.train.distributed import FlatGradientBucket, PeerFailedError, ProcessGroup
from pipeline.train.schedule import learning_rate, make_schedule
from pipeline.train.step import StepResult, autocast, resolve_precision, train_step
from pipeline.train.tensorboard import TensorBoardWriter
from pipeline.train.validate import validate
from sharding import Batch, Dataset, Loader, ShardReader

LogMetrics = Callable[[dict[str, Any]], None]
MaySave = Callable[[], object]
OPTIMIZER, RAW_WEIGHTS = "optimizer.safetensors", "training.safetensors"
"""The second: the last step's weights, where model.safetensors holds their average."""


def train(
    config: TrainConfig,
    group: ProcessGroup,
    log_metrics: LogMetrics,
    assert_lease_held: MaySave = lambda: None,
) -> None:
    """Train this worker's share of a run to its end. ValueError, on every worker, when it cannot go on.

    `log_metrics` gets each row of metrics; `assert_lease_held`, called before each checkpoint, raises UserError when
    another command has taken the run over.
    """
    trainer, error = None, None
    assert config.out
    try:
        make = partial(Trainer, config, group, log_metrics, assert_lease_held)
        trainer = retry_with_backoff(make, open_storage(config.out))
    except ValueError as problem:
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
    """Everything that a worker holds while it trains. `config` is resolved: data and out are URLs, no auto is left.

    Making one reads the store and may raise UserError; it takes part in no collective.
    """

    def __init__(
        self,
        config: TrainConfig,
        group: ProcessGroup,
        log_metrics: LogMetrics,
        assert_lease_held: MaySave = lambda: None,
    ) -> None:
        assert config.data and config.out
        self.config, self.group, self.log_metrics, self.assert_lease_held = (
            config,
            group,
            log_metrics,
            assert_lease_held,
        )
        self.dataset = Dataset.open(open_storage(config.data))
        self.run = Run(open_storage(config.out))
        fields = stored_fields(config)
        self.reader = ShardReader(self.dataset, "train", cache_folder(), fields=fields, allocate=pinned_array)
        self.val_reader = ShardReader(self.dataset, "val", cache_folder(), fields=fields, allocate=pinned_array)
        self.precision = resolve_precision(config.precision, group.device)
        self.schedule = make_schedule(config)
        self.images_seen, self.budget_fraction, self.rows = 0, 0.0, list[dict[str, Any]]()
        self.timer = BudgetTimer(config)
        torch.manual_seed(config.seed)
        self.model = on_device(build(config.system, config.model), group.device)
        if isinstance(self.model, IRAE):
            self.model.use_reversible(config.reversible)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=config.lr, fused=True)
        self.names = [name for name, _ in self.model.named_parameters()]
        self.average: EMA | None = None
        self.loader = self._start_or_resume()
        self.gradients = FlatGradientBucket(self.model)
        self.preemption_notice = PreemptionNotice()
        self.board = TensorBoardWriter(self.run.store, self.images_seen) if group.is_first else None

    def _start_or_resume(self) -> Loader:
        """State of the newest checkpoint, or weights initialised from the global first batch; where to read on."""
        checkpoint = self.run.newest_checkpoint()
        if checkpoint is None:
            loader = self._make_loader()
            first = loader.sampler.global_batch_at(0)
            batch = replace(self.reader.read(first.sample), epoch=first.epoch)
            self.model.initialise(self.pairs(batch).degraded)
            self._start_average()
            return loader
        state = checkpoint.state
        try:
            loader = self._make_loader()
            loader.load_state_dict(state)
        except ValueError as error:
            raise UserError(
                f"the run {self.run.store.url} cannot go on with {self.dataset.store.url}: {error}"
            ) from None
        load_weights(self.model, checkpoint.files)
        self._start_average()
        if RAW_WEIGHTS in checkpoint.files:
            self.model.load_state_dict(bytes_to_tensors(checkpoint.files[RAW_WEIGHTS]))
        load_optimizer(self.optimizer, self.names, checkpoint.files[OPTIMIZER])
        self.schedule.load_state(state["schedule"])
        self.images_seen, self.timer.train_s = state["images_seen"], state["train_s"]
        self.budget_fraction = self.timer.budget_fraction
        self.rows = self.run.read_metrics(self.images_seen)
        return loader

    def _start_average(self) -> None:
        """From the weights as they are: those of the beginning, or a checkpoint's averages."""
        if self.config.ema_images or self.config.ema_share:
            self.average = EMA(self.model, self.config.ema_images, self.config.ema_share)

    def _averaged(self) -> AbstractContextManager[None]:
        """Inside, the model has the weights that are validated and kept."""
        return self.average.in_place() if self.average else nullcontext()

    def _make_loader(self) -> Loader:
        return Loader(
            self.reader,
            global_batch_size=self.config.global_batch_size,
            rank=self.group.rank,
            world_size=self.group.world_size,
            seed=self.config.seed,
            drop_last=self.config.drop_last,
            shuffle_window_shards=self.config.shuffle_window_shards,
            num_canonical_partitions=self.config.num_canonical_partitions,
        )

    def broadcast_weights(self) -> None:
        """Give every worker the first one's weights."""
        for context in (nullcontext(), self._averaged()):
            with context:
                self.group.broadcast_from_rank0_([*self.model.parameters(), *self.model.buffers()])

    def pairs(self, batch: Batch) -> Pairs:
        """A batch's pairs, on the device."""
        assert batch.epoch is not None
        epochs, config = list(batch.epoch), self.config
        fields = {
            name: augment(pixels, batch.keys, epochs, seed=config.seed, flip=config.flip, crop=config.crop)
            for name, pixels in batch.fields.items()
        }
        batch = replace(batch, fields=fields)
        return make_pairs(batch, epochs, config, bits=self.dataset.bits, seed=config.seed, device=self.group.device)

    @property
    def lr(self) -> float:
        """Learning rate of the next step, the same on every worker."""
        return learning_rate(self.config, self.schedule, self.images_seen, self.budget_fraction)

    @property
    def finished(self) -> bool:
        """The schedule has ended, or the budget is used up when the run begins or goes on."""
        return (
            self.schedule.finished
            or self.images_seen >= (self.config.max_images or float("inf"))
            or self.timer.train_s >= 60 * (self.config.max_minutes or float("inf"))
        )

    def train(self) -> None:
        """Step after step, to the end of the schedule or the budget."""
        self.timer.start()
        stop = self.finished
        if stop and self.images_seen and not self._is_validated:
            self._save(self._validate(epoch_ended=False))
        while not stop:
            result = self._step(*self._next_pairs())
            self.images_seen += self.config.global_batch_size
            self.budget_fraction = result.flags["budget_fraction"]
            if self.average:
                self.average.update(self.config.global_batch_size, self.images_seen)
            self.timer.count(self.config.global_batch_size, result.loss)
            epoch_ended = self.images_seen // self.loader.sampler.images_per_epoch > self.schedule.epoch
            check_due = self.config.validate_at == "epochs" and (epoch_ended or self._between_epochs())
            stop = bool(result.flags["stop"]) or self.images_seen >= (self.config.max_images or float("inf"))
            best = self._validate(epoch_ended) if check_due or stop else None
            stop = stop or self.schedule.finished
            if result.flags["log"] and not check_due and not stop:
                self._log({})
            if check_due or stop or result.flags["checkpoint"]:
                self._save(best)
        self.loader.close()

    @property
    def _is_validated(self) -> bool:
        """Not when a run was ended between its last checkpoint and the validation of its end."""
        return any(r["images_seen"] == self.images_seen and r.get("val_psnr_db") is not None for r in self.rows)

    def _between_epochs(self) -> bool:
        """Whether the step that just ended completed a multiple of `validate_images`."""
        every = self.config.validate_images
        return bool(every) and self.images_seen % every < self.config.global_batch_size

    def _next_pairs(self) -> tuple[Pairs | None, ValueError | None]:
        """The next share, or the error that prevents it: the others must hear of it, or they wait for ever."""
        try:
            with self.timer.waiting():
                batch = retry_with_backoff(self.loader.next, self.dataset.store)
        except ValueError as error:
            return None, self.group.with_rank(error)
        return self.pairs(batch), None

    def _step(self, pairs: Pairs | None, failure: ValueError | None) -> StepResult:
        if failure:
            self.gradients.set_flag("failed", 1)
        if self.group.is_first:
            self.gradients.set_flag("budget_fraction", self.timer.budget_fraction)
            for name in self.timer.due_events():
                self.gradients.set_flag(name, 1)
        if self.preemption_notice.poll():
            self.gradients.set_flag("checkpoint", 1)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr
        result = train_step(
            self.model,
            self.optimizer,
            self.gradients,
            pairs,
            self.group,
            global_batch_size=self.config.global_batch_size,
            micro_batch_size=self.config.micro_batch_size or self.config.global_batch_size,
            clip_norm=self.config.clip_norm,
            autocast=autocast(self.precision, self.group.device),
        )
        if failure:
            raise failure
        if result.flags["failed"]:
            raise PeerFailedError("another worker could not read its data; its message says why.")
        if not result.finite:
            raise UserError(self._not_finite(result))
        return result

    def _not_finite(self, result: StepResult) -> str:
        layer, scale = largest_layer_gain(self.model)
        return (
            f"the loss is {result.loss:.4g} and the gradient's norm {result.gradient_norm:.4g} in step "
            f"{self.images_seen // self.config.global_batch_size + 1}; training stopped before the weights changed. The "
            f"layer with the largest scale is {layer} ({scale:.3g}). Start again with a smaller --lr or --clip-norm, "
            "under another --name."
        )

    def _validate(self, epoch_ended: bool) -> float | None:
        """Validate, and let the schedule know of an epoch's end; returns the PSNR if it is the best so far.

        The same on all workers. The schedule hears of epochs alone, not of where a budget ended: a run that goes on
        from there must not differ from one that was never stopped.
        """
        with self.timer.excluded(), self._averaged():
            found = validate(self.model, self.val_reader, self.config, self.dataset.bits, self.group, self.precision)
        psnr_db = found.figures["val_psnr_db"]
        is_best = psnr_db > self.schedule.best_psnr_db
        if epoch_ended:
            self.schedule.end_epoch(psnr_db)
        self._log(found.figures)
        if self.board:
            self.board.add_images(found.pictures, self.images_seen)
        return psnr_db if is_best else None

    def _log(self, values: dict[str, float]) -> None:
        """One row of metrics: to the store with the next checkpoint, to the display now."""
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
        """The first worker's state goes to the store; all workers go on together. ValueError, on every worker, when
        the store does not take it."""
        error = None
        if self.group.is_first:
            try:
                with self.timer.excluded():
                    retry_with_backoff(partial(self._write, best_psnr_db), self.run.store)
            except ValueError as problem:
                error = problem
        self.group.raise_if_any_rank_failed(error)
        self.timer.checkpoint_done()

    def _write(self, best_psnr_db: float | None) -> None:
        """A checkpoint (the best one, if given a PSNR), the metrics so far, the curves."""
        self.assert_lease_held()
        with self._averaged():
            files = model_to_files(self.model)
        if self.average:
            files[RAW_WEIGHTS] = tensors_to_bytes(self.model.state_dict())
        files[OPTIMIZER] = optimizer_to_bytes(self.optimizer, self.names)
        state = {
            **self.loader.state_dict(),
            "train_s": self.timer.train_s,
            "schedule": self.schedule.state(),
        }
        name = self.run.save_checkpoint(files, state)
        if best_psnr_db is not None:
            self.run.update_best(name, best_psnr_db)
        self.run.write_metrics(self.rows)
        self.run.prune_checkpoints(self.config.keep_checkpoints)
        assert self.board
        self.board.upload()

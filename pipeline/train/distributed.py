"""The group of workers that train together, in the terms that the loop needs. One process alone is a group too."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn

from irae.ema import running_statistics


class PeerFailedError(ValueError):
    """Raised on the workers that are well when another one has a user's error to tell of."""


class PeerLostError(RuntimeError):
    """Raised on the workers that are left when one is gone. A restart mends it, so it is no user's error."""


@dataclass
class Progress:
    """How far a worker has come, for whoever watches from another thread."""

    collectives_entered: int = 0
    """Sums over all workers that it has come to."""


@dataclass(frozen=True)
class ProcessGroup:
    """This worker's place among all workers."""

    rank: int
    world_size: int
    device: torch.device
    progress: Progress = field(default_factory=Progress, compare=False)

    @classmethod
    def single_process(cls) -> ProcessGroup:
        """One worker, in this process."""
        return cls(0, 1, torch.device("cuda" if torch.cuda.is_available() else "cpu"))

    @classmethod
    def current(cls, device: torch.device) -> ProcessGroup:
        """The place in the process group that has been set up already."""
        return cls(dist.get_rank(), dist.get_world_size(), device)

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def all_reduce_sum_(self, tensor: Tensor) -> Tensor:
        """Add up over all workers, in place."""
        if self.world_size > 1:
            with self._collective():
                dist.all_reduce(tensor)
        return tensor

    def with_rank(self, error: ValueError) -> ValueError:
        """The error with the worker that met it."""
        return ValueError(f"rank {self.rank} of {self.world_size}: {error}") if self.world_size > 1 else error

    def raise_if_any_rank_failed(self, error: ValueError | None) -> None:
        """Raise on every worker when any worker has an error: one that left alone would leave the others waiting."""
        failed = self.all_reduce_sum_(torch.tensor(float(error is not None), device=self.device)).item()
        if error:
            raise self.with_rank(error)
        if failed:
            raise PeerFailedError("another worker could not go on; its message says why.")

    @torch.no_grad()
    def broadcast_from_rank0_(self, tensors: Iterable[Tensor]) -> None:
        """Copy the first worker's values into every worker's tensors."""
        if self.world_size > 1:
            with self._collective():
                for tensor in tensors:
                    dist.broadcast(tensor, src=0)

    @contextmanager
    def _collective(self) -> Iterator[None]:
        """PeerLostError for all the ways in which torch tells that another worker or the whole group has ended."""
        self.progress.collectives_entered += 1
        try:
            yield
        except (RuntimeError, ValueError) as error:
            reason = str(error).strip().splitlines()[0].rpartition("] ")[2].partition(". ")[0]
            raise PeerLostError(f"it lost touch with the other workers: {reason}") from error


class FlatGradientBucket:
    """All gradients of a model, the running statistics of its batch normalisation (if any) and a few numbers, in one
    buffer: one collective a step.

    A fixed layout adds up in the same order in every step and after every restart, which DistributedDataParallel does
    not promise: it regroups its buckets after the first step. With a model of a few million parameters nothing is
    lost by not overlapping.
    """

    FLAGS = ("loss", "failed", "log", "checkpoint", "stop", "budget_fraction")

    def __init__(self, model: nn.Module) -> None:
        parameters = [p for p in model.parameters() if p.requires_grad]
        self._running = list(running_statistics(model).values())
        count = sum(p.numel() for p in parameters)
        behind = count + sum(s.numel() for s in self._running)
        self.buffer = torch.zeros(behind + len(self.FLAGS), device=parameters[0].device)
        self.gradients = self.buffer[:count]
        self._statistics = self.buffer[count:behind]
        self.flags = self.buffer[behind:]
        start = 0
        for p in parameters:
            p.grad = self.buffer.as_strided(p.shape, p.stride(), start)  # in the parameter's own memory layout
            start += p.numel()

    def pack_bn_stats(self, share: float) -> None:
        """Put this worker's running statistics beside the gradients; `share`: its part of the batch's images."""
        if self._running:
            self._statistics.copy_(torch.cat(self._running)).mul_(share)

    def unpack_bn_stats(self) -> None:
        """After the sum: every worker goes on with the same."""
        if self._running:
            for held, mean in zip(
                self._running, self._statistics.split([s.numel() for s in self._running]), strict=True
            ):
                held.copy_(mean)

    def clear(self) -> None:
        self.buffer.zero_()

    def set_flag(self, name: str, value: float | Tensor) -> None:
        """Add to one of the numbers beside the gradients."""
        self.flags[self.FLAGS.index(name)] += value

    def read_flags(self) -> dict[str, float]:
        return dict(zip(self.FLAGS, self.flags.tolist(), strict=True))


def use_threads(count: int) -> None:
    """Let torch use this many processor threads."""
    os.environ["OMP_NUM_THREADS"] = str(count)
    torch.set_num_threads(count)

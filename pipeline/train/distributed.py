"""Collectives of the workers of a training. A single process is a group too."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from infra.storage.errors import UserError
from irae.ema import running_statistics

LOST_PEER_WORDS = (
    "gloo",
    "Connection",
    "connection",
    "Socket",
    "socket",
    "timed out",
    "Timed out",
    "peer",
    "process group",
)
"""Words of the errors with which gloo reports a lost peer."""


class PeerFailedError(UserError):
    """Raised on healthy workers when another one reports a user's error."""


class PeerLostError(RuntimeError):
    """Raised on the remaining workers when one is lost. Ray restarts the group; no user's error."""


@dataclass
class ProcessGroup:
    """Rank, world size and device of this worker, and its collectives."""

    rank: int
    world_size: int
    device: torch.device
    collectives_entered: int = 0
    """Progress of the worker, read by its heartbeat thread."""

    @classmethod
    def single_process(cls) -> ProcessGroup:
        """One worker, in this process."""
        return cls(0, 1, torch.device("cuda" if torch.cuda.is_available() else "cpu"))

    @classmethod
    def current(cls, device: torch.device) -> ProcessGroup:
        """The worker of the torch.distributed group that is initialised already."""
        return cls(dist.get_rank(), dist.get_world_size(), device)

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def all_reduce_sum_(self, tensor: Tensor) -> Tensor:
        """All-reduce (sum), in place."""
        if self.world_size > 1:
            with self._collective():
                dist.all_reduce(tensor)
        return tensor

    def with_rank(self, error: Exception) -> Exception:
        """The error with this worker's rank in its message."""
        return UserError(f"rank {self.rank} of {self.world_size}: {error}") if self.world_size > 1 else error

    def raise_if_any_rank_failed(self, error: Exception | None) -> None:
        """Raise on every worker when any has an error: if one left alone, the others would wait for ever."""
        failed = self.all_reduce_sum_(torch.tensor(float(error is not None), device=self.device)).item()
        if error:
            raise self.with_rank(error)
        if failed:
            raise PeerFailedError("another worker failed; its message says why.")

    @torch.no_grad()
    def broadcast_from_rank0_(self, tensors: Iterable[Tensor]) -> None:
        """Broadcast rank 0's values into every worker's tensors."""
        if self.world_size > 1:
            with self._collective():
                for tensor in tensors:
                    dist.broadcast(tensor, src=0)

    @contextmanager
    def _collective(self) -> Iterator[None]:
        """Raises PeerLostError when torch reports that another worker or its connection is lost."""
        self.collectives_entered += 1
        try:
            yield
        except dist.DistError as error:
            raise PeerLostError(f"connection to the other workers lost: {error}") from error
        except (RuntimeError, ValueError) as error:
            # gloo reports a lost peer as a plain RuntimeError; an error of the device (out of memory) is none.
            if not any(word in str(error) for word in LOST_PEER_WORDS):
                raise
            raise PeerLostError(f"connection to the other workers lost: {error}") from error


class FlatGradientBucket:
    """One flat bucket of gradients, running statistics of batch normalisation and flags: one all-reduce a step.

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
        """Copy the running statistics into the bucket, weighted by this worker's share of the batch's images."""
        if self._running:
            self._statistics.copy_(torch.cat(self._running)).mul_(share)

    def unpack_bn_stats(self) -> None:
        """Copy the mean running statistics back after the all-reduce."""
        if self._running:
            for held, mean in zip(
                self._running, self._statistics.split([s.numel() for s in self._running]), strict=True
            ):
                held.copy_(mean)

    def set_flag(self, name: str, value: float | Tensor) -> None:
        """Add to a flag; flags are summed over the workers with the gradients."""
        self.flags[self.FLAGS.index(name)] += value

    def read_flags(self) -> dict[str, float]:
        return dict(zip(self.FLAGS, self.flags.tolist(), strict=True))


def use_threads(count: int) -> None:
    """Let torch use this many processor threads."""
    os.environ["OMP_NUM_THREADS"] = str(count)
    torch.set_num_threads(count)

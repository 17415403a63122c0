"""One step of training. It knows nothing of where it runs: a plain process, a Ray worker, one GPU."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from irae.restorer import Restorer
from pipeline.data.pairs import Pairs
from pipeline.train.distributed import FlatGradientBucket, ProcessGroup


@dataclass(frozen=True)
class StepResult:
    """Result of a step, the same on every worker."""

    loss: float
    """Mean absolute error over the global batch."""
    gradient_norm: float
    flags: dict[str, float]

    @property
    def finite(self) -> bool:
        return abs(self.loss) + self.gradient_norm < float("inf")


def train_step(
    model: Restorer,
    optimizer: torch.optim.Optimizer,
    gradients: FlatGradientBucket,
    pairs: Pairs | None,
    group: ProcessGroup,
    *,
    global_batch_size: int,
    micro_batch_size: int,
    clip_norm: float,
    autocast: AbstractContextManager,
) -> StepResult:
    """Gradient of the global batch's mean L1 loss (the paper's), clipped; weights change unless it is not finite.

    `pairs`: this worker's share, or None when it failed to get any and only takes part in the sum. Signals set in
    `gradients` before the call are summed over the workers with it. Batch normalisation sees a micro batch at a time;
    its running statistics become the mean of the workers', by the images that each had.
    """
    for part in pairs.split(micro_batch_size) if pairs else ():
        with autocast:
            restored = model(part.degraded, part.sigma_255)
        # A share of the global mean, so that unequal shares on the workers add up to the same gradient.
        loss = (restored - part.clean).abs().sum() / (part.clean[0].numel() * global_batch_size)
        loss.backward()
        gradients.set_flag("loss", loss.detach())
    gradients.pack_bn_stats(len(pairs.clean) / global_batch_size if pairs else 0.0)
    group.all_reduce_sum_(gradients.buffer)
    gradients.unpack_bn_stats()
    norm = torch.linalg.vector_norm(gradients.gradients)
    flags = gradients.read_flags()
    result = StepResult(flags["loss"], norm.item(), flags)
    if result.finite and not flags["failed"]:
        gradients.gradients.mul_(torch.clamp(clip_norm / (norm + 1e-6), max=1.0))
        optimizer.step()
    gradients.buffer.zero_()
    return result


def autocast(precision: str, device: torch.device) -> AbstractContextManager:
    """The context that the model's forward runs in."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")


def resolve_precision(precision: str, device: torch.device) -> str:
    """auto -> bfloat16 where the processor computes in it, else float32."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    probes = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return "bfloat16" if any(probe and probe() for probe in probes) else "float32"

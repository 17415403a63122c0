"""Steps joined to whole flows: an image (B, C, H, W) on one side, the codes of all levels on the other.

Codes: a tuple of L + 1 tensors, z_1 ... z_L and the half that the last level's split leaves. With C = 3 and L = 2 they
are (B, 6, H/2, W/2), (B, 12, H/4, W/4) and (B, 12, H/4, W/4): as many numbers as the image has.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from irae.layers import squeeze, unsqueeze
from irae.reversible import run_reversible
from irae.steps import FlowStep, GenerativeStep, StepShape

Codes = tuple[Tensor, ...]


def level_channels(channels: int, levels: int) -> list[int]:
    """Channels inside each level: a squeeze takes them times 4, the split before it kept half."""
    return [4 * channels * 2**level for level in range(levels)]


def run_steps(x: Tensor, steps: Sequence[FlowStep], reversible: bool) -> Tensor:
    """The steps one after the other."""
    if reversible and torch.is_grad_enabled():
        return run_reversible(x, steps)
    for step, weights in zip(steps, type(steps[0]).fused(steps), strict=True):
        x = step.forward_fused(x, weights)
    return x


def invert_steps(y: Tensor, steps: Sequence[FlowStep], reversible: bool) -> Tensor:
    """The inverses of the steps, the last step first."""
    if reversible and torch.is_grad_enabled():
        return run_reversible(y, steps, inverse=True)
    for step, weights in zip(reversed(steps), reversed(type(steps[0]).fused(steps, inverse=True)), strict=True):
        y = step.inverse_fused(y, weights)
    return y


class Flow(nn.Module):
    """Image to codes: in each level squeeze, K steps, split. (The paper's encoder, and its decoder's inverse.)"""

    levels: Any  # nn.ModuleList of nn.ModuleList of FlowStep; torch's own types forget what a list holds
    reversible = False
    """Recompute activations from outputs in the backward pass instead of storing them (reversible.py)."""

    def __init__(self, channels: int, K: int, L: int, shape: StepShape) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            nn.ModuleList(FlowStep(c, shape) for _ in range(K)) for c in level_channels(channels, L)
        )

    def forward(self, x: Tensor) -> Codes:
        codes = []
        for level in self.levels:
            x, code = run_steps(squeeze(x), level, self.reversible).chunk(2, dim=1)
            codes.append(code)
        return (*codes, x)

    def inverse(self, codes: Codes) -> Tensor:
        *levels, x = codes
        for level, code in zip(reversed(self.levels), reversed(levels), strict=True):
            x = torch.cat([x, code], dim=1)
            x = unsqueeze(invert_steps(x, level, self.reversible))
        return x

    def log_det(self, x: Tensor) -> Tensor:
        """log |det d codes / d x|, (B,)."""
        return torch.stack([step.log_det(entering) for step, entering in self.iter_steps_with_input(x)]).sum(0)

    def iter_steps_with_input(self, x: Tensor) -> Iterator[tuple[FlowStep, Tensor]]:
        """Each step and its input."""
        for level in self.levels:
            x = squeeze(x)
            for step in level:
                yield step, x
                x = step(x)
            x = x.chunk(2, dim=1)[0]

    @torch.no_grad()
    def initialise(self, x: Tensor) -> Codes:
        """Set every ActNorm from the batch x; returns its codes."""
        codes = []
        for level in self.levels:
            x = squeeze(x)
            for step in level:
                x = step.initialise(x)
            x, code = x.chunk(2, dim=1)
            codes.append(code)
        return (*codes, x)

    @torch.no_grad()
    def init_coupling_nets_reversed(self, codes: Codes) -> None:
        """Set the ActNorms inside the couplings from the inverse pass of the codes; the steps' own are unchanged."""
        *levels, x = codes
        for level, code in zip(reversed(self.levels), reversed(levels), strict=True):
            x = torch.cat([x, code], dim=1)
            for step in reversed(level):
                step.coupling.initialise(x)
                x = step.inverse(x)
            x = unsqueeze(x)


class GenerativeFlow(nn.Module):
    """Codes to image: in each level join, K steps, unsqueeze. Levels are stored from the codes' end to the image."""

    levels: Any  # the same with GenerativeStep
    reversible = False

    def __init__(self, channels: int, K: int, L: int, shape: StepShape) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            nn.ModuleList(GenerativeStep(c, shape) for _ in range(K)) for c in reversed(level_channels(channels, L))
        )

    def forward(self, codes: Codes) -> Tensor:
        *levels, x = codes
        for level, code in zip(self.levels, reversed(levels), strict=True):
            x = torch.cat([x, code], dim=1)
            x = unsqueeze(run_steps(x, level, self.reversible))
        return x

    def inverse(self, x: Tensor) -> Codes:
        codes = []
        for level in reversed(self.levels):
            x, code = invert_steps(squeeze(x), level, self.reversible).chunk(2, dim=1)
            codes.append(code)
        return (*codes, x)

    def log_det(self, codes: Codes) -> Tensor:
        """log |det d image / d codes|, (B,)."""
        return torch.stack([step.log_det(entering) for step, entering in self.iter_steps_with_input(codes)]).sum(0)

    def iter_steps_with_input(self, codes: Codes) -> Iterator[tuple[FlowStep, Tensor]]:
        """Each step and its input."""
        *levels, x = codes
        for level, code in zip(self.levels, reversed(levels), strict=True):
            x = torch.cat([x, code], dim=1)
            for step in level:
                yield step, x
                x = step(x)
            x = unsqueeze(x)

    def init_as_inverse_of(self, flow: Flow) -> None:
        """Make this flow after `flow` the identity as long as all couplings are untrained."""
        for step, mirror in self._mirrored_steps(flow):
            step.init_as_inverse_of(mirror)

    @torch.no_grad()
    def initialise_like(self, codes: Codes, flow: Flow) -> Tensor:
        """Set every ActNorm so that each step's output matches the input of its mirror in `flow` (initialised)."""
        *levels, x = codes
        mirrored = iter(self._mirrored_steps(flow))
        for level, code in zip(self.levels, reversed(levels), strict=True):
            x = torch.cat([x, code], dim=1)
            for _ in level:
                step, mirror = next(mirrored)
                x = step.initialise_like(x, mirror)
            x = unsqueeze(x)
        return x

    def _mirrored_steps(self, flow: Flow) -> list[tuple[GenerativeStep, FlowStep]]:
        steps = [step for level in self.levels for step in level]
        mirrors = [step for level in reversed(flow.levels) for step in reversed(level)]
        return list(zip(steps, mirrors, strict=True))

"""Steps joined to whole flows: an image (B, C, H, W) on one side, the codes of all levels on the other.

Codes: a tuple of L + 1 tensors, z_1 ... z_L and what is left after the last level. With C = 3 and L = 2 they are
(B, 6, H/2, W/2), (B, 12, H/4, W/4) and (B, 12, H/4, W/4): as many numbers as the image has.
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
    for step, folded in zip(steps, type(steps[0]).folded(steps), strict=True):
        x = step.run(x, folded)
    return x


def run_steps_back(x: Tensor, steps: Sequence[FlowStep], reversible: bool) -> Tensor:
    """Their inverses, the last step first."""
    if reversible and torch.is_grad_enabled():
        return run_reversible(x, steps, backwards=True)
    for step, folded in zip(reversed(steps), reversed(type(steps[0]).folded(steps, undo=True)), strict=True):
        x = step.undo(x, folded)
    return x


class Flow(nn.Module):
    """Image to codes: in each level squeeze, K steps, split. (The paper's encoder, and its decoder's inverse.)"""

    levels: Any  # nn.ModuleList of nn.ModuleList of FlowStep; torch's own types forget what a list holds
    reversible = False
    """Compute activations back from outputs in the backward pass instead of keeping them."""

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
            x = unsqueeze(run_steps_back(x, level, self.reversible))
        return x

    def log_det(self, x: Tensor) -> Tensor:
        """log |det d codes / d x|, (B,)."""
        return torch.stack([step.log_det(entering) for step, entering in self.walk(x)]).sum(0)

    def walk(self, x: Tensor) -> Iterator[tuple[FlowStep, Tensor]]:
        """Each step with what enters it."""
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
    def initialise_nets_back(self, codes: Codes) -> None:
        """Set the ActNorms inside the couplings from what they are given on the way back; the steps' own stay as they
        are."""
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
            x, code = run_steps_back(squeeze(x), level, self.reversible).chunk(2, dim=1)
            codes.append(code)
        return (*codes, x)

    def log_det(self, codes: Codes) -> Tensor:
        """log |det d image / d codes|, (B,)."""
        return torch.stack([step.log_det(entering) for step, entering in self.walk(codes)]).sum(0)

    def walk(self, codes: Codes) -> Iterator[tuple[FlowStep, Tensor]]:
        """Each step with what enters it."""
        *levels, x = codes
        for level, code in zip(self.levels, reversed(levels), strict=True):
            x = torch.cat([x, code], dim=1)
            for step in level:
                yield step, x
                x = step(x)
            x = unsqueeze(x)

    def start_as_inverse_of(self, flow: Flow) -> None:
        """With untrained couplings, this flow after `flow` is the identity."""
        for step, mirror in self._pairs(flow):
            step.start_as_inverse_of(mirror)

    @torch.no_grad()
    def initialise_like(self, codes: Codes, flow: Flow) -> Tensor:
        """Set every ActNorm so that each step gives out what its mirror in `flow` (already initialised) was given."""
        *levels, x = codes
        mirrors = iter(self._pairs(flow))
        for level, code in zip(self.levels, reversed(levels), strict=True):
            x = torch.cat([x, code], dim=1)
            for _ in level:
                step, mirror = next(mirrors)
                x = step.initialise_like(x, mirror)
            x = unsqueeze(x)
        return x

    def _pairs(self, flow: Flow) -> list[tuple[GenerativeStep, FlowStep]]:
        steps = [step for level in self.levels for step in level]
        mirrors = [step for level in reversed(flow.levels) for step in reversed(level)]
        return list(zip(steps, mirrors, strict=True))

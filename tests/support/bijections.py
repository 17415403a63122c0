"""The one check that every bijection passes, and the whole model too."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

Tensors = Tensor | tuple[Tensor, ...]
MAX_ERROR = {torch.float32: 2e-4, torch.float64: 1e-10}


def perturb(module: nn.Module, size: float = 0.05) -> None:
    """Perturb every weight: layers initialised at zero or at the identity would pass any check."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(size * torch.randn(p.shape, generator=generator).to(p.dtype))


def check_bijection(
    forward: Callable[[Tensors], Tensors],
    inverse: Callable[[Tensors], Tensors],
    log_det: Callable[[Tensors], Tensor],
    x: Tensors,
    y: Tensors,
) -> None:
    """Inverse after forward, forward after inverse, and the log-determinant against autograd's Jacobian.

    x and y: batches of inputs and of outputs, drawn independently of each other.
    """
    assert distance(inverse(forward(x)), x) < MAX_ERROR[dtype_of(x)]
    assert distance(forward(inverse(y)), y) < MAX_ERROR[dtype_of(x)]
    if dtype_of(x) == torch.float64:
        expected = torch.stack([jacobian_log_det(forward, one_of(x, i)) for i in range(batch_size(x))])
        torch.testing.assert_close(log_det(x), expected, rtol=1e-8, atol=1e-8)


def jacobian_log_det(forward: Callable[[Tensors], Tensors], x: Tensors) -> Tensor:
    """log |det| of the map at one input (a batch of one), by autograd."""
    shapes = [part.shape for part in parts(x)]
    whole = isinstance(x, Tensor)

    def flat(vector: Tensor) -> Tensor:
        pieces = vector.split([shape.numel() for shape in shapes])
        values = tuple(piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True))
        return torch.cat([part.flatten() for part in parts(forward(values[0] if whole else values))])

    jacobian = torch.autograd.functional.jacobian(flat, torch.cat([part.flatten() for part in parts(x)]))
    assert jacobian.shape[0] == jacobian.shape[1], jacobian.shape
    return torch.linalg.slogdet(jacobian)[1]


def parts(x: Tensors) -> tuple[Tensor, ...]:
    return (x,) if isinstance(x, Tensor) else x


def one_of(x: Tensors, i: int) -> Tensors:
    return x[i : i + 1] if isinstance(x, Tensor) else tuple(part[i : i + 1] for part in x)


def batch_size(x: Tensors) -> int:
    return parts(x)[0].shape[0]


def dtype_of(x: Tensors) -> torch.dtype:
    return parts(x)[0].dtype


def distance(a: Tensors, b: Tensors) -> float:
    return max((p - q).abs().max().item() for p, q in zip(parts(a), parts(b), strict=True))

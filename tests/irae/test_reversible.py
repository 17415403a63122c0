"""Gradients with activations recomputed from outputs equal ordinary ones."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from irae.config import IRAEConfig
from irae.layers import exact_inverse
from irae.model import IRAE
from irae.reversible import Affine
from irae.steps import FlowStep, GenerativeStep, StepShape, matvec
from tests.support.bijections import perturb

FORMS = [(decoder, scale_min) for decoder in ("inverse", "direct") for scale_min in (0.0, 0.5)]


def gradients(model: IRAE, noisy: Tensor, reversible: bool, bfloat16: bool = False) -> dict[str, Tensor]:
    """Of the loss by every parameter and by the input, and the loss itself."""
    model = copy.deepcopy(model)
    model.use_reversible(reversible)
    noisy = noisy.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
        loss = (model(noisy) - 0.3).abs().mean()
    loss.backward()
    assert noisy.grad is not None
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert len(found) == len(list(model.parameters()))
    return {**found, "input": noisy.grad, "loss": loss.detach()}


def relative_error(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    a, b = (torch.cat([g[name].flatten().double() for name in theirs]) for g in (ours, theirs))
    return ((a - b).norm() / b.norm()).item()


def model_of(decoder: str, scale_min: float) -> tuple[IRAE, Tensor]:
    torch.manual_seed(0)
    model = IRAE(IRAEConfig(K=6, L=2, width=12, decoder=decoder, scale_min=scale_min))  # type: ignore[arg-type]
    noisy = torch.rand(3, 3, 16, 16)
    model.initialise(noisy)
    perturb(model, 0.01)
    return model, noisy


@pytest.mark.parametrize(("decoder", "scale_min"), FORMS)
def test_gradients_in_float64(decoder: str, scale_min: float) -> None:
    model, noisy = model_of(decoder, scale_min)
    model, noisy = model.double(), noisy.double()
    assert relative_error(gradients(model, noisy, True), gradients(model, noisy, False)) < 1e-10


@pytest.mark.parametrize(("decoder", "scale_min"), FORMS)
def test_gradients_in_float32(decoder: str, scale_min: float) -> None:
    """The stated tolerance, relative to the whole gradient's norm."""
    model, noisy = model_of(decoder, scale_min)
    assert relative_error(gradients(model, noisy, True), gradients(model, noisy, False)) < 1e-4


def test_gradients_under_autocast() -> None:
    """No further from the exact gradient than bfloat16 itself takes them."""
    model, noisy = model_of("direct", 0.5)
    exact = gradients(model, noisy, False)
    ordinary = relative_error(gradients(model, noisy, False, bfloat16=True), exact)
    assert ordinary > 1e-4, "bfloat16 was really in use"
    assert relative_error(gradients(model, noisy, True, bfloat16=True), exact) < 1.5 * ordinary


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("kind", [FlowStep, GenerativeStep])
def test_autocast_leaves_the_affine_maps_alone(kind: type[FlowStep], inverse: bool) -> None:
    """Composed in bfloat16, W = P L U and its bias made a trained network 0.4 dB worse."""
    torch.manual_seed(0)
    steps = [kind(12, StepShape(8)) for _ in range(3)]
    for step in steps:
        perturb(step, 0.3)
    exact = kind.affines(steps, inverse)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = kind.affines(steps, inverse)
    for a, b in zip(ours, exact, strict=True):
        assert a.dtype == torch.float32 and torch.equal(a, b)


def test_autocast_leaves_gradients_of_affine_maps_alone() -> None:
    torch.manual_seed(0)
    matrix, bias = torch.randn(12, 12), torch.randn(12)
    inverse = exact_inverse(matrix)
    layer = Affine((inverse, -matvec(inverse, bias)))
    y, grad = torch.randn(2, 2, 12, 8, 8)
    _, _, exact = layer.backward(y, grad, (matrix, bias))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, _, ours = layer.backward(y, grad, (matrix, bias))
    for a, b in zip(ours, exact, strict=True):
        assert a.dtype == torch.float32 and torch.equal(a, b)


def test_nothing_is_kept_but_the_outputs_of_levels() -> None:
    """Saved tensors of the batch: as many elements for K=2 as for K=8."""
    kept = {}
    for steps in (2, 8):
        model = IRAE(IRAEConfig(K=steps, L=2, width=12))
        model.use_reversible(True)
        saved: list[int] = []

        def pack(tensor: Tensor, saved: list[int] = saved) -> Tensor:
            if tensor.dim() == 4 and tensor.shape[0] == 5:
                saved.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            model(torch.rand(5, 3, 16, 16))
        kept[steps] = sum(saved)
    assert kept[2] == kept[8] > 0

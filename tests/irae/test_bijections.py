"""Every bijection in both directions, with perturbed weights; log-determinants against the Jacobian."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from irae.config import IRAEConfig
from irae.flow import Flow, GenerativeFlow
from irae.layers import ActNorm, AffineCoupling, Conv1x1, LUConv1x1, squeeze, unsqueeze
from irae.model import IRAE
from irae.steps import FlowStep, GenerativeStep, StepShape
from tests.support.bijections import check_bijection, distance, perturb

DTYPES = (torch.float64, torch.float32)
LAYERS = {
    "actnorm": lambda: ActNorm(8),
    "conv1x1": lambda: Conv1x1(8),
    "conv1x1 lu": lambda: LUConv1x1(8),
    "coupling": lambda: AffineCoupling(8, width=6),
    "coupling with a smallest scale": lambda: AffineCoupling(8, width=6, scale_min=0.3),
    "step": lambda: FlowStep(8, StepShape(6)),
    "step plain": lambda: FlowStep(8, StepShape(6, lu=False)),
    "generative step": lambda: GenerativeStep(8, StepShape(6)),
}


def prepared(layer: nn.Module, dtype: torch.dtype) -> nn.Module:
    perturb(layer)
    return layer.to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_layer(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    layer = prepared(LAYERS[name](), dtype)
    x, y = torch.randn(2, 2, 8, 3, 4, dtype=dtype)
    check_bijection(layer, layer.inverse, layer.log_det, x, y)


@pytest.mark.parametrize("lu", [False, True])
def test_fused_steps_are_their_layers_one_after_the_other(lu: bool) -> None:
    torch.manual_seed(6)
    steps = [prepared(FlowStep(8, StepShape(6, lu, scale_min=0.3)), torch.float64) for _ in range(3)]
    mirrored = [prepared(GenerativeStep(8, StepShape(6, lu, scale_min=0.3)), torch.float64) for _ in range(3)]
    x = torch.randn(2, 8, 3, 4, dtype=torch.float64)
    for step, weights in zip(steps, FlowStep.fused(steps), strict=True):
        torch.testing.assert_close(step.forward_fused(x, weights), step.coupling(step.conv(step.norm(x))))
    for step, weights in zip(steps, FlowStep.fused(steps, inverse=True), strict=True):
        layers = step.norm.inverse(step.conv.inverse(step.coupling.inverse(x)))
        torch.testing.assert_close(step.inverse_fused(x, weights), layers)
    for step, weights in zip(mirrored, GenerativeStep.fused(mirrored), strict=True):
        torch.testing.assert_close(step.forward_fused(x, weights), step.norm(step.conv(step.coupling(x))))
    for step, weights in zip(mirrored, GenerativeStep.fused(mirrored, inverse=True), strict=True):
        layers = step.coupling.inverse(step.conv.inverse(step.norm.inverse(x)))
        torch.testing.assert_close(step.inverse_fused(x, weights), layers)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("flow_class", [Flow, GenerativeFlow])
def test_flow(flow_class: type[Flow] | type[GenerativeFlow], dtype: torch.dtype) -> None:
    torch.manual_seed(2)
    flow = prepared(flow_class(3, 2, 2, StepShape(5, scale_min=0.2)), dtype)
    images = torch.randn(2, 3, 8, 4, dtype=dtype)
    codes = tuple(torch.randn(2, c, h, w, dtype=dtype) for c, h, w in ((6, 4, 2), (12, 2, 1), (12, 2, 1)))
    x, y = (images, codes) if flow_class is Flow else (codes, images)
    check_bijection(flow, flow.inverse, flow.log_det, x, y)


MODELS = list(itertools.product(("lu", "plain"), ("inverse", "direct"), ("random", "identity")))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("conv1x1", "decoder", "init"), MODELS)
def test_model(conv1x1: str, decoder: str, init: str, dtype: torch.dtype) -> None:
    torch.manual_seed(3)
    model = IRAE(IRAEConfig(K=2, L=2, width=6, conv1x1=conv1x1, decoder=decoder, init=init))  # type: ignore[arg-type]
    model.initialise(torch.rand(8, 3, 8, 8))
    model = prepared(model, dtype)
    x, y = torch.rand(2, 2, 3, 8, 4, dtype=dtype)
    check_bijection(model, model.inverse, model.log_det, x, y)
    check_bijection(
        model.encode, lambda codes: model.encoder.inverse(codes) + 0.5, encoder_log_det(model), x, model.encode(y)
    )


def encoder_log_det(model: IRAE):
    return lambda x: model.encoder.log_det(x - 0.5)


def test_squeeze_is_a_permutation() -> None:
    x = torch.arange(2 * 3 * 4 * 6, dtype=torch.float32).view(2, 3, 4, 6)
    y = squeeze(x)
    assert y.shape == (2, 12, 2, 3)
    assert sorted(y.flatten().tolist()) == sorted(x.flatten().tolist())
    assert distance(unsqueeze(y), x) == 0
    assert y[0, :4, 0, 0].tolist() == x[0, 0, :2, :2].flatten().tolist(), "a 2x2 block becomes neighbouring channels"


def test_lu_keeps_the_given_matrix_and_is_invertible_for_any_weights() -> None:
    torch.manual_seed(4)
    layer, matrix = LUConv1x1(12), torch.randn(12, 12)
    layer.set_weight(matrix)
    torch.testing.assert_close(layer.weight(), matrix)
    perturb(layer, size=3.0)
    assert torch.isfinite(layer.log_abs_det())
    torch.testing.assert_close(layer.double().log_abs_det(), torch.linalg.slogdet(layer.weight())[1])


def test_check_sees_a_wrong_log_det_and_a_wrong_inverse() -> None:
    torch.manual_seed(5)
    layer = prepared(AffineCoupling(8, 6), torch.float64)
    x, y = torch.randn(2, 2, 8, 3, 4, dtype=torch.float64)
    with pytest.raises(AssertionError):
        check_bijection(layer, layer.inverse, lambda x: layer.log_det(x) + 1e-6, x, y)
    with pytest.raises(AssertionError):
        check_bijection(layer, lambda y: layer.inverse(y) + 1e-9, layer.log_det, x, y)

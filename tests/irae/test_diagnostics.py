"""Diagnostics of a model's inverse at each validation."""

from __future__ import annotations

import math

import pytest
import torch

from irae.config import IRAEConfig
from irae.diagnostics import condition_number, min_coupling_scale
from irae.layers import coupling_scale
from irae.model import IRAE
from irae.steps import FlowStep

FORMS = [("direct", "identity", 0.5), ("inverse", "random", 0.0)]


def model_of(form: tuple[str, str, float]) -> tuple[IRAE, list[FlowStep]]:
    torch.manual_seed(0)
    decoder, init, scale_min = form
    model = IRAE(IRAEConfig(K=2, L=2, width=8, decoder=decoder, init=init, scale_min=scale_min))  # type: ignore[arg-type]
    return model, [module for module in model.modules() if isinstance(module, FlowStep)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("index", range(8))
def test_min_coupling_scale_is_found_in_any_step(form: tuple[str, str, float], index: int) -> None:
    model, steps = model_of(form)
    images = torch.rand(2, 3, 8, 8)
    untrained = coupling_scale(torch.zeros(()), form[2]).item()
    assert min_coupling_scale(model, images) == pytest.approx(untrained)
    bias = steps[index].coupling.conv_out.bias
    assert bias is not None
    with torch.no_grad():
        bias[1] = -3.0  # the raw scale of the first channel
    assert min_coupling_scale(model, images) == pytest.approx(coupling_scale(torch.tensor(-3.0), form[2]).item())


@pytest.mark.parametrize("form", FORMS)
def test_the_largest_condition_number_is_found_in_any_step(form: tuple[str, str, float]) -> None:
    model, steps = model_of(form)
    for index, step in enumerate(steps):
        channels = step.norm.bias.numel()
        step.conv.set_weight(torch.diag(torch.linspace(1, 100 + index, channels)))
        assert condition_number(model) == pytest.approx(100 + index, rel=1e-4)
    with torch.no_grad():
        next(steps[0].conv.parameters()).fill_(math.nan)
    assert condition_number(model) == math.inf

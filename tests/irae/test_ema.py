"""The moving average of weights."""

from __future__ import annotations

import torch
from torch import nn

from irae.ema import EMA

BATCH, HORIZON = 10, 1000.0


def trained(steps: int) -> tuple[nn.Linear, EMA, list[float]]:
    """A model whose weights walk about, its average, and the values that one weight had after each step."""
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    average, seen = EMA(model, HORIZON), []
    for step in range(1, steps + 1):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p))
        average.update(BATCH, BATCH * step)
        seen.append(model.weight[0, 0].item())
    return model, average, seen


def test_a_short_run_is_averaged_evenly() -> None:
    model, average, seen = trained(50)
    with average.in_place():
        assert abs(model.weight[0, 0].item() - sum(seen) / len(seen)) < 1e-5


def test_a_long_run_forgets_exponentially() -> None:
    """Against the closed form, an even average of the first horizon and then a decay of exp(-batch / horizon)."""
    model, average, seen = trained(400)
    decay = torch.exp(torch.tensor(-BATCH / HORIZON, dtype=torch.float64)).item()
    expected = 0.0
    for step, value in enumerate(seen, 1):
        share = max(1 - decay, 1 / step)
        expected += share * (value - expected)
    with average.in_place():
        assert abs(model.weight[0, 0].item() - expected) < 1e-4


def test_the_weights_come_back_also_after_an_error() -> None:
    model, average, seen = trained(5)
    before = [p.clone() for p in model.parameters()]
    try:
        with average.in_place():
            assert not torch.equal(before[0], model.weight)
            raise RuntimeError
    except RuntimeError:
        pass
    assert all(torch.equal(p, q) for p, q in zip(before, model.parameters(), strict=True))

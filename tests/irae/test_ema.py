"""EMA of the weights."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from irae.ema import EMA, running_statistics

BATCH, HORIZON = 10, 1000.0


def trained(steps: int) -> tuple[nn.Linear, EMA, list[float]]:
    """A model whose weights do a random walk, its average, and one weight's values after each step."""
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
    with average.swapped_in():
        assert abs(model.weight[0, 0].item() - sum(seen) / len(seen)) < 1e-5


def test_a_long_run_forgets_exponentially() -> None:
    """Against the closed form, an even average of the first horizon and then a decay of exp(-batch / horizon)."""
    model, average, seen = trained(400)
    decay = torch.exp(torch.tensor(-BATCH / HORIZON, dtype=torch.float64)).item()
    expected = 0.0
    for step, value in enumerate(seen, 1):
        share = max(1 - decay, 1 / step)
        expected += share * (value - expected)
    with average.swapped_in():
        assert abs(model.weight[0, 0].item() - expected) < 1e-4


def test_the_weights_come_back_also_after_an_error() -> None:
    model, average, seen = trained(5)
    before = [p.clone() for p in model.parameters()]
    try:
        with average.swapped_in():
            assert not torch.equal(before[0], model.weight)
            raise RuntimeError
    except RuntimeError:
        pass
    assert all(torch.equal(p, q) for p, q in zip(before, model.parameters(), strict=True))


@settings(max_examples=20, deadline=None)
@given(st.floats(0.05, 0.5), st.integers(50, 300))
def test_relative_width_is_a_share_of_the_images_so_far(relative_width: float, steps: int) -> None:
    """In the limit of many steps the first half of a run weighs 2^(-1 / relative_width), whatever its length."""
    model = nn.Linear(1, 1)
    nn.init.ones_(model.weight)
    average = EMA(model, 0, relative_width)
    for step in range(1, 2 * steps + 1):
        nn.init.constant_(model.weight, float(step <= steps))
        average.update(BATCH, BATCH * step)
    with average.swapped_in():
        assert model.weight.item() == pytest.approx(2 ** (-1 / relative_width), abs=0.02)


def test_an_average_resumes_from_the_weights_at_its_start() -> None:
    """A checkpoint's averages are the model's weights at that moment; the raw weights are loaded after it."""
    model, average, _ = trained(50)
    raw = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with average.swapped_in():
        again = EMA(model, HORIZON)
    model.load_state_dict(raw)
    expected = []
    for ema in (average, again):
        ema.update(BATCH, BATCH * 51)
        with ema.swapped_in():
            expected.append([p.clone() for p in model.parameters()])
    assert all(torch.equal(p, q) for p, q in zip(*expected, strict=True))


def test_running_statistics_of_batch_normalisation_are_averaged_and_swapped() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    average = EMA(model, HORIZON)
    means = []
    for step in range(1, 6):
        model(torch.randn(8, 3, 4, 4) + step)
        means.append(running_statistics(model)["1.running_mean"].clone())
        average.update(BATCH, BATCH * step)
    with average.swapped_in():
        torch.testing.assert_close(running_statistics(model)["1.running_mean"], torch.stack(means).mean(0))
        assert model[1].num_batches_tracked == 5
    assert torch.equal(running_statistics(model)["1.running_mean"], means[-1])

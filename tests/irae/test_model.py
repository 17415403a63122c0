"""The paper's statements about IRAE, and the defects of its released code, avoided."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from irae.config import IRAEConfig
from irae.diagnostics import largest_layer_gain, round_trip_max_error
from irae.layers import ActNorm
from irae.model import IRAE, parameter_count
from irae.restorer import pad_to_multiple
from tests.support.bijections import perturb

SMALL = IRAEConfig(K=2, L=2, width=8)


@pytest.mark.parametrize(("conv1x1", "count"), [("plain", 1_301_504), ("lu", 1_325_696)])
@pytest.mark.parametrize("decoder", ["inverse", "direct"])
def test_parameter_count_is_the_papers(conv1x1: str, decoder: str, count: int) -> None:
    config = IRAEConfig(K=16, L=2, width=64, conv1x1=conv1x1, decoder=decoder)  # type: ignore[arg-type]
    assert parameter_count(IRAE(config)) == count


@pytest.mark.parametrize("decoder", ["inverse", "direct"])
@pytest.mark.parametrize("initialised", [False, True])
def test_identity_init_is_the_identity(decoder: str, initialised: bool) -> None:
    torch.manual_seed(0)
    model = IRAE(IRAEConfig(K=4, width=16, decoder=decoder, init="identity"))  # type: ignore[arg-type]
    noisy = torch.rand(16, 3, 16, 16)
    if initialised:
        model.initialise(noisy)
    assert (model(noisy) - noisy).abs().max() < 1e-5


@pytest.mark.parametrize("decoder", ["inverse", "direct"])
@pytest.mark.parametrize("init", ["random", "identity"])
def test_initialise_sets_every_actnorm(decoder: str, init: str) -> None:
    """Except the steps' own in the paper's randomly initialised decoder, as in the released code."""
    torch.manual_seed(0)
    model = IRAE(IRAEConfig(K=2, width=8, decoder=decoder, init=init))  # type: ignore[arg-type]
    model.initialise(torch.rand(32, 3, 16, 16))
    norms = {name: m for name, m in model.named_modules() if isinstance(m, ActNorm)}
    assert len(norms) == 2 * 2 * 2 * 3
    untouched = {name for name, m in norms.items() if not m.log_scale.any() and not m.bias.any()}
    left_alone = {name for name in norms if name.startswith("decoder") and name.endswith(".norm")}
    assert untouched == (left_alone if (decoder, init) == ("inverse", "random") else set())


def test_the_paper_s_form_survives_its_first_steps() -> None:
    """K=16 at the paper's learning rate, on flat noisy images."""
    torch.manual_seed(0)
    model = IRAE(IRAEConfig(K=16, L=2, width=64, decoder="inverse", init="random", scale_min=0.0))
    clean = torch.rand(8, 3, 1, 1).expand(8, 3, 32, 32).clone()
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=1e-3), []
    model.initialise(clean + 0.1 * torch.randn_like(clean))
    for _ in range(6):
        loss = (model(clean + 0.1 * torch.randn_like(clean)) - clean).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 50.0)
        optimizer.step()
        losses.append(loss.item())
    assert all(math.isfinite(loss) for loss in losses) and losses[-1] < losses[0], losses


def test_initialised_encoder_is_normalised() -> None:
    torch.manual_seed(0)
    model = IRAE(SMALL)
    batch = torch.rand(64, 3, 16, 16)
    model.initialise(batch)
    first = model.encoder.levels[0][0].norm(torch.nn.functional.pixel_unshuffle(batch - 0.5, 2))
    torch.testing.assert_close(first.mean(dim=(0, 2, 3)), torch.zeros(12), atol=1e-4, rtol=0)
    torch.testing.assert_close(first.std(dim=(0, 2, 3)), torch.ones(12), atol=1e-3, rtol=0)


@pytest.mark.parametrize("decoder", ["inverse", "direct"])
def test_no_use_of_the_model_changes_a_weight(decoder: str) -> None:
    model = IRAE(IRAEConfig(K=2, width=8, decoder=decoder, init="random"))  # type: ignore[arg-type]
    before = copy.deepcopy(model.state_dict())
    images = torch.rand(4, 3, 8, 8)
    model.train()
    model.inverse(model(images))
    model.log_det(images)
    model.restore(images)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_gradient_reaches_every_parameter() -> None:
    for decoder in ("inverse", "direct"):
        model = IRAE(IRAEConfig(K=2, width=8, decoder=decoder))  # type: ignore[arg-type]
        perturb(model)
        (model(torch.rand(4, 3, 8, 8)) - torch.rand(4, 3, 8, 8)).abs().mean().backward()
        assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 21), st.integers(1, 21))
def test_restore_takes_any_size(height: int, width: int) -> None:
    model = IRAE(SMALL)
    image = torch.rand(1, 3, height, width)
    restored = model.restore(image)
    assert restored.shape == image.shape
    assert (restored - image).abs().max() < 1e-4, "an untrained model with the identity init changes nothing"


def test_padding_reflects_at_the_lower_right() -> None:
    padded = pad_to_multiple(torch.arange(6.0).view(1, 1, 1, 6), 4)
    assert padded.shape == (1, 1, 4, 8)
    assert pad_to_multiple(torch.arange(30.0).view(1, 1, 5, 6), 4)[0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5, 4, 3]


def test_sides_that_do_not_fit_are_refused_with_a_sentence() -> None:
    with pytest.raises(ValueError, match=r"10x8 do not fit L=2.*divisible by 4"):
        IRAE(SMALL)(torch.rand(1, 3, 10, 8))


def test_config_names_all_problems_at_once() -> None:
    with pytest.raises(ValueError, match=r"(?s)K is 0.*width is -3.*decoder is 'sideways'"):
        IRAE(IRAEConfig(K=0, width=-3, decoder="sideways"))  # type: ignore[arg-type]


def test_round_trip_of_perturbed_weights_in_float32() -> None:
    torch.manual_seed(0)
    model = IRAE(IRAEConfig(K=16, L=2, width=16))
    images = torch.rand(4, 3, 32, 32)
    model.initialise(images)
    perturb(model, 0.02)
    assert 0 < round_trip_max_error(model, images) < 1e-3


def test_largest_layer_gain_names_the_layer() -> None:
    model = IRAE(SMALL)
    with torch.no_grad():
        model.decoder.levels[1][0].coupling.norm_in.log_scale[3] = 9.0
    assert largest_layer_gain(model) == ("decoder.levels.1.0.coupling.norm_in", pytest.approx(8103.08, rel=1e-3))
    with torch.no_grad():
        model.encoder.levels[0][1].conv.lower[2, 1] = float("nan")
    assert largest_layer_gain(model)[0] == "encoder.levels.0.1.conv"

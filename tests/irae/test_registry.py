"""Every model: the paper's sizes, any image size, overfitting, the noise map, the bottleneck."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from irae.config import IRAEConfig
from irae.model import on_device, parameter_count
from irae.registry import MODELS, build, side_multiple
from irae.restorer import Restorer

SMALL = IRAEConfig(K=2, L=2, width=8)
SIGMA_255 = 25.0
COUNTS = {
    "irae": 1_325_696,
    "dncnn": 1_483_136,
    "dncnn-17": 558_400,
    "dncnn-20": 669_376,
    "dncnn-17-folded": 557_443,
    "dncnn-20-folded": 668_227,
    "ffdnet": 854_688,
    "ffdnet-folded": 852_108,
    "unet": 7_699_011,
    "arcnn": 117_734,
}
"""irae, dncnn, ffdnet, unet, arcnn: the IRAE paper's. The others follow from their authors' tables of layers."""


@pytest.mark.parametrize("name", MODELS)
def test_parameter_counts(name: str) -> None:
    assert parameter_count(build(name, IRAEConfig(K=16, L=2))) == COUNTS[name]


@pytest.mark.parametrize("name", MODELS)
def test_any_size_is_restored(name: str) -> None:
    """Also sides that are not divisible, and thinner than the padding; the result is an image."""
    model = build(name, SMALL).eval()
    multiple = side_multiple(name, SMALL)
    with torch.no_grad():
        for height, width in ((8, 16), (13, 9), (1, 3)):
            degraded = torch.rand(2, 3, height, width)
            restored = model.restore(degraded, sigma_255=SIGMA_255)
            assert restored.shape == degraded.shape and restored.dtype == torch.float32
            assert restored.min() >= 0 and restored.max() <= 1
            if height % multiple == width % multiple == 0:
                assert torch.equal(restored, model(degraded, SIGMA_255).clamp(0, 1))


def images() -> tuple[Tensor, Tensor]:
    """Eight smooth images and the same with noise."""
    generator = torch.Generator().manual_seed(0)
    clean = torch.nn.functional.interpolate(torch.rand(8, 3, 4, 4, generator=generator), size=(8, 8), mode="bilinear")
    return clean, clean + SIGMA_255 / 255 * torch.randn(clean.shape, generator=generator)


STEPS = {"irae": 60, "dncnn": 140, "dncnn-17": 80, "dncnn-20": 80, "ffdnet": 70, "unet": 150, "arcnn": 200}
SLOW = ("dncnn", "unet")


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in STEPS])
def test_eight_images_are_overfitted(name: str) -> None:
    torch.manual_seed(0)
    clean, degraded = images()
    model = on_device(build(name, SMALL), torch.device("cpu"))
    model.initialise(degraded)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    losses = []
    for _ in range(STEPS[name]):
        loss = (model(degraded, SIGMA_255) - clean).abs().mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    noise = (degraded - clean).abs().mean().item()
    assert losses[-1] < noise / 3, (losses[0], losses[-1], noise)


@pytest.mark.parametrize("name", sorted({*MODELS} - {"irae"}))
def test_init_is_a_linear_map_of_each_pixel(name: str) -> None:
    """At no noise; `block`: side of the block of pixels that a model maps jointly, px."""
    torch.manual_seed(0)
    model = build(name, SMALL).eval()
    block = 2 if name.startswith("ffdnet") else 8 if name == "unet" else 1
    with torch.no_grad():
        one, other = torch.rand(2, 1, 3, 16, 16)
        both = model(one, 0.0) + model(other, 0.0)
        torch.testing.assert_close(model(one + other, 0.0), both, rtol=1e-4, atol=1e-5)
        # Part of the image passes all layers, also in a network that predicts a residual.
        assert both.abs().mean() > 0.01 and (model(one, 0.0) - one).abs().mean() > 1e-3
        one[:, :, block:] = other[:, :, block:]
        difference = model(one, 0.0) - model(other, 0.0)
        assert difference[:, :, :block].abs().max() > 1e-3 and difference[:, :, block:].abs().max() < 1e-5


def test_the_noise_map_differs_per_image_and_matters() -> None:
    model = build("ffdnet", SMALL).eval()
    degraded = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        both = model(degraded, torch.tensor([10.0, 50.0]))
        for image, sigma_255 in enumerate((10.0, 50.0)):
            torch.testing.assert_close(both[image], model(degraded, sigma_255)[image])
        assert not torch.allclose(both[1], model(degraded, 10.0)[1])
    with pytest.raises(ValueError, match="give --sigma-255"):
        model(degraded)


def test_unusable_inputs_are_refused() -> None:
    with pytest.raises(ValueError, match="divisible by 8"):
        build("unet", SMALL)(torch.rand(1, 3, 8, 12))
    with pytest.raises(ValueError, match="must be even"):
        build("ffdnet", SMALL)(torch.rand(1, 3, 8, 9), 25.0)
    with pytest.raises(ValueError, match="--model is 'bm3d', but must be one of irae, dncnn"):
        build("bm3d", SMALL)


BOTTLENECK = {"irae": 3, "dncnn": 64, "ffdnet": 24, "unet": 8, "arcnn": 16}
"""Elements per image pixel."""


@pytest.mark.parametrize("name", BOTTLENECK)
def test_the_bottleneck_is_inside_the_network(name: str) -> None:
    model: Restorer = build(name, SMALL).eval()
    degraded = torch.rand(2, 3, 16, 24)
    with torch.no_grad():
        inside = model.bottleneck(degraded, SIGMA_255)
    assert inside.shape[0] == 2 and inside.numel() == 2 * BOTTLENECK[name] * 16 * 24
    assert not any(module._forward_hooks for module in model.modules())


def test_irae_codes_as_one_map_say_where() -> None:
    """A change in one corner of the image is a change in the same corner of the codes."""
    model = build("irae", SMALL).eval()
    image = torch.rand(1, 3, 32, 32)
    changed = image.clone()
    changed[..., :4, :4] += 0.1
    with torch.no_grad():
        moved = (model.bottleneck(changed) - model.bottleneck(image)).abs().amax(dim=(0, 1))
    assert moved.shape == (8, 8) and moved[0, 0] > 0 and moved[-1, -1] == 0

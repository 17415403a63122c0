"""PSNR and SSIM against independent implementations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from irae.metrics import psnr_db, ssim, ssim_released


def images(seed: int, noise: float) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    clean = torch.nn.functional.interpolate(torch.rand(3, 3, 7, 9, generator=generator), size=(40, 33), mode="bicubic")
    clean = clean.clamp(0, 1)
    return clean, clean + noise * torch.randn(clean.shape, generator=generator)


@pytest.mark.parametrize("noise", [0.02, 0.3])
def test_against_scikit_image(noise: float) -> None:
    clean, restored = images(0, noise)
    for i, (ours_psnr, ours_ssim) in enumerate(zip(psnr_db(restored, clean), ssim(restored, clean), strict=True)):
        a, b = clean[i].double().numpy(), restored[i].clamp(0, 1).double().numpy()
        assert ours_psnr == pytest.approx(peak_signal_noise_ratio(a, b, data_range=1), abs=1e-9)
        options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1}
        expected = structural_similarity(np.moveaxis(a, 0, -1), np.moveaxis(b, 0, -1), channel_axis=-1, **options)
        assert ours_ssim == pytest.approx(expected, abs=1e-9)


def test_values_that_are_known() -> None:
    zero, tenth = torch.zeros(1, 3, 16, 16), torch.full((1, 3, 16, 16), 0.1)
    assert psnr_db(tenth, zero).item() == pytest.approx(20, abs=1e-6)
    assert psnr_db(zero, zero).item() == math.inf
    assert ssim(tenth, tenth).item() == pytest.approx(1)
    assert psnr_db(torch.full_like(zero, -3.0), zero).item() == math.inf, "clamped before the comparison"


def test_image_smaller_than_the_window_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 11 px"):
        ssim(torch.zeros(1, 3, 10, 20), torch.zeros(1, 3, 10, 20))


@pytest.mark.parametrize("noise", [0.02, 0.3])
def test_the_released_ssim_is_scikit_image_s_as_it_is_called_there(noise: float) -> None:
    """Arrays (C, H, W) whose last axis, the columns, is taken for the channels."""
    clean, restored = images(1, noise)
    for i, ours in enumerate(ssim_released(restored, clean)):
        a, b = clean[i].double().numpy(), restored[i].clamp(0, 1).double().numpy()
        expected = structural_similarity(a, b, win_size=3, channel_axis=-1, data_range=2)
        assert ours == pytest.approx(expected, abs=1e-9)
    assert (ssim_released(restored, clean) > ssim(restored, clean)).all()
    with pytest.raises(ValueError, match="at least 3 px"):
        ssim_released(torch.zeros(1, 3, 2, 9), torch.zeros(1, 3, 2, 9))

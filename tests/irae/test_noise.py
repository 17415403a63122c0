"""Noise is a function of (seed, epoch, key), has the right statistics, and nothing else moves it."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from irae.noise import WORD, awgn, noise_levels, normal, philox2x32, sample_seeds, uniform, unit_range

KEYS = [f"image{i:04d}" for i in range(64)]


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0), 0, (0xFF1DAE59, 0x6CD10DF2)),
        ((WORD, WORD), WORD, (0x2C3F628B, 0xAB4FD7AD)),
        ((0x243F6A88, 0x85A308D3), 0x13198A2E, (0xDD7CE038, 0xF62A4C12)),
    ],
)
def test_philox_known_answers(counter: tuple[int, int], key: int, expected: tuple[int, int]) -> None:
    """The test vectors published with Random123, for 10 rounds."""
    words = philox2x32(torch.tensor(counter[0]), torch.tensor(counter[1]), torch.tensor(key), rounds=10)
    assert tuple(int(word) for word in words) == expected


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(8)), st.integers(1, 7))
def test_noise_does_not_depend_on_the_batch(order: list[int], cut: int) -> None:
    seeds = sample_seeds(7, [3] * 8, KEYS[:8], "noise")
    whole = normal(seeds, (4, 5, 3))
    pieces = torch.cat([normal(seeds[order[:cut]], (4, 5, 3)), normal(seeds[order[cut:]], (4, 5, 3))])
    assert torch.equal(pieces, whole[order])


def test_every_part_of_the_seed_matters() -> None:
    base = sample_seeds(0, [0], ["a"], "noise")
    others = [
        sample_seeds(1, [0], ["a"], "noise"),
        sample_seeds(0, [1], ["a"], "noise"),
        sample_seeds(0, [0], ["b"], "noise"),
        sample_seeds(0, [0], ["a"], "sigma"),
    ]
    fields = [normal(s, (1000,)) for s in (base, *others)]
    for field in fields[1:]:
        assert abs(torch.corrcoef(torch.stack([fields[0][0], field[0]]))[0, 1]) < 0.15


def test_normal_statistics() -> None:
    """64 * 12288 draws: four standard errors of mean, variance, kurtosis and tail share."""
    x = normal(sample_seeds(0, [0] * 64, KEYS, "noise"), (64, 64, 3)).double().flatten()
    n = x.numel()
    assert abs(x.mean()) < 4 / math.sqrt(n)
    assert abs(x.var() - 1) < 4 * math.sqrt(2 / n)
    assert abs((x**4).mean() - 3) < 4 * math.sqrt(96 / n)
    tail = math.erfc(3 / math.sqrt(2))
    assert abs((x.abs() > 3).double().mean() - tail) < 4 * math.sqrt(tail / n)
    assert abs((x[1:] * x[:-1]).mean()) < 4 / math.sqrt(n), "neighbouring pixels are independent"


def test_uniform_covers_the_unit_interval() -> None:
    u = uniform(sample_seeds(0, [0] * 64, KEYS, "x"), (1001,))
    assert u.shape == (64, 1001)
    assert 0 <= u.min() < 1e-3
    assert 1 - 1e-3 < u.max() < 1
    counts = torch.histc(u.double(), 16, 0, 1) / u.numel() * 16
    assert (counts - 1).abs().max() < 0.07


def test_awgn_has_the_sigma_asked_for_and_is_not_clipped() -> None:
    clean = torch.zeros(64, 3, 32, 32)
    sigma = torch.linspace(5, 50, 64)
    noisy = awgn(clean, sigma, sample_seeds(0, [0] * 64, KEYS, "noise"))
    torch.testing.assert_close(noisy.std(dim=(1, 2, 3)) * 255, sigma, rtol=0.06, atol=0)
    assert noisy.min() < 0


def test_blind_sigma_is_uniform_from_0_to_55() -> None:
    sigma = noise_levels(None, sample_seeds(0, range(2000), ["a"] * 2000, "sigma"))
    assert 0 <= sigma.min() < 1
    assert 54 < sigma.max() < 55
    assert abs(sigma.mean() - 27.5) < 1.5
    assert noise_levels(25.0, sample_seeds(0, [0], ["a"], "sigma")).tolist() == [25.0]


def test_eight_bits_are_exact() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1)
    assert torch.equal(unit_range(pixels, 8).flatten(), torch.arange(256) / 255)


def test_five_bits_follow_the_released_code() -> None:
    """x = floor(v / 8) / 32 + U[0, 1/32)."""
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1)
    x = unit_range(pixels, 5, sample_seeds(0, [0], ["a"], "dequantise")).flatten()
    floor = (torch.arange(256) // 8) / 32
    assert ((x >= floor) & (x < floor + 1 / 32)).all()
    assert abs((x - floor).mean() * 32 - 0.5) < 0.08


def test_images_lie_channels_last() -> None:
    assert unit_range(torch.zeros(2, 8, 8, 3, dtype=torch.uint8), 8).is_contiguous(memory_format=torch.channels_last)

"""Counter-based noise and dequantisation, computed on the device as a function of (seed, epoch, sample key) alone.

The numbers are the same on any number of ranks, in any batch, on any device (up to the last bit of log and cos):
each pixel's noise is Philox (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") of its index and its
image's 64-bit seed, so that there is no generator state to save or restore.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

WORD = 0xFFFFFFFF
PHILOX_MULTIPLIER, PHILOX_WEYL = 0xD256D193, 0x9E3779B9
PHILOX_ROUNDS = 7
"""Fewest rounds with which Philox2x32 passes BigCrush (Salmon et al., table 2)."""
BLIND_SIGMA_MAX_255 = 55.0
"""Upper end of the uniform distribution of sigma in the paper's blind denoising (BLD)."""


def sample_seeds(seed: int, epochs: Iterable[int], keys: Sequence[str], purpose: str) -> Tensor:
    """One int64 seed for each sample, (B,), from its epoch and key.

    `purpose` keeps noise, sigma and dequantisation independent of each other.
    """
    names = (f"{seed}/{purpose}/{epoch}/{key}".encode() for epoch, key in zip(epochs, keys, strict=True))
    digests = (hashlib.blake2b(name, digest_size=8).digest() for name in names)
    return torch.tensor([int.from_bytes(d, "little", signed=True) for d in digests], dtype=torch.int64)


def philox2x32(counter_0: Tensor, counter_1: Tensor, key: Tensor, rounds: int = PHILOX_ROUNDS) -> tuple[Tensor, Tensor]:
    """Two random 32-bit words for each counter pair; all tensors int64 holding values below 2^32, broadcastable."""
    for _ in range(rounds):
        product = counter_0 * PHILOX_MULTIPLIER  # wraps around, which leaves both 32-bit halves right
        counter_0, counter_1 = ((product >> 32) & WORD) ^ key ^ counter_1, product & WORD
        key = (key + PHILOX_WEYL) & WORD
    return counter_0, counter_1


def random_words(seeds: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Two (B, count) tensors of 32-bit words for the (B,) seeds."""
    index = torch.arange(count, device=seeds.device, dtype=torch.int64)
    return philox2x32(index[None, :], ((seeds >> 32) & WORD)[:, None], (seeds & WORD)[:, None])


def uniform(seeds: Tensor, shape: Sequence[int]) -> Tensor:
    """float32 (B, *shape), uniform in [0, 1), 24 bits."""
    count = math.prod(shape)
    first, second = random_words(seeds, -(-count // 2))
    words = torch.cat([first, second], dim=1)[:, :count]
    return ((words >> 8).float() * 2.0**-24).view(-1, *shape)


def normal(seeds: Tensor, shape: Sequence[int]) -> Tensor:
    """float32 (B, *shape), standard normal, by Box and Muller (1958); the largest value is 5.9."""
    count = math.prod(shape)
    first, second = random_words(seeds, -(-count // 2))
    radius = torch.sqrt(-2.0 * torch.log(((first >> 8) + 1).float() * 2.0**-24))
    angle = (second >> 8).float() * (2.0 * math.pi * 2.0**-24)
    return torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)[:, :count].view(-1, *shape)


def unit_range(pixels: Tensor, bits: int, seeds: Tensor | None = None) -> Tensor:
    """Stored pixels, uint8 (B, H, W, C), to float32 (B, C, H, W) in [0, 1], channels last in memory.

    bits 8: v / 255. bits 5, the released code's protocol: floor(v / 8) / 32 + U[0, 1/32), with U from `seeds`; such a
    target caps PSNR near 40.9 dB, and its figures cannot be compared with 8-bit ones.
    """
    images = as_image(pixels)
    if bits == 8:
        return images.float() / 255
    assert seeds is not None, "dequantisation needs seeds"
    levels = 2**bits
    quantised = (images // (256 // levels)).float()
    return (quantised + as_image(uniform(seeds, pixels.shape[1:]))) / levels


def as_image(values: Tensor) -> Tensor:
    """(B, H, W, C) -> (B, C, H, W), channels last in memory."""
    return values.permute(0, 3, 1, 2)


def awgn(clean: Tensor, sigma_255: Tensor, seeds: Tensor) -> Tensor:
    """Add white Gaussian noise: clean (B, C, H, W) in [0, 1], sigma_255 (B,) in units of 1/255; not clipped."""
    batch, channels, height, width = clean.shape
    assert sigma_255.shape == (batch,), sigma_255.shape
    noise = as_image(normal(seeds, (height, width, channels)))
    return clean + (sigma_255 / 255).to(clean.dtype)[:, None, None, None] * noise.to(clean.dtype)


def noise_levels(sigma_255: float | None, seeds: Tensor) -> Tensor:
    """sigma of each image, float32 (B,): the given one, or for None (blind) uniform in [0, 55) from `seeds`."""
    if sigma_255 is None:
        return uniform(seeds, (1,))[:, 0] * BLIND_SIGMA_MAX_255
    return torch.full((seeds.shape[0],), float(sigma_255), device=seeds.device)

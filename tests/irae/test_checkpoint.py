"""Weights and optimizer survive a file; foreign files are refused with a sentence."""

from __future__ import annotations

import pytest
import torch

from irae.checkpoint import load_optimizer, load_weights, model_from_files, model_to_files, optimizer_to_bytes
from irae.config import IRAEConfig
from irae.model import IRAE
from irae.registry import build
from tests.support.bijections import perturb

CONFIG = IRAEConfig(K=2, L=2, width=8)


def trained() -> tuple[IRAE, torch.optim.Adam, torch.Tensor]:
    torch.manual_seed(0)
    model = IRAE(CONFIG).to(memory_format=torch.channels_last)
    images = torch.rand(4, 3, 8, 8)
    model.initialise(images)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    for _ in range(3):
        step(model, optimizer, images)
    return model, optimizer, images


def step(model: IRAE, optimizer: torch.optim.Adam, images: torch.Tensor) -> None:
    optimizer.zero_grad()
    (model(images) - images.flip(0)).abs().mean().backward()
    optimizer.step()


@pytest.mark.parametrize("conv1x1", ["lu", "plain"])
def test_model_survives_bitwise_and_is_not_initialised_again(conv1x1: str) -> None:
    model = IRAE(IRAEConfig(K=2, width=8, conv1x1=conv1x1))  # type: ignore[arg-type]
    model.initialise(torch.rand(4, 3, 8, 8))
    perturb(model)
    again = model_from_files(model_to_files(model))
    again.train()
    again.inverse(again(torch.rand(2, 3, 8, 8)))
    assert again.config == model.config
    ours, theirs = model.state_dict(), again.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_training_goes_on_bitwise_equal() -> None:
    model, optimizer, images = trained()
    names = [name for name, _ in model.named_parameters()]
    files, state = model_to_files(model), optimizer_to_bytes(optimizer, names)
    again = IRAE(CONFIG).to(memory_format=torch.channels_last)
    load_weights(again, files)
    other = torch.optim.Adam(again.parameters(), lr=1e-3, fused=True)
    load_optimizer(other, names, state)
    for _ in range(2):
        step(model, optimizer, images)
        step(again, other, images)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_another_architecture_is_refused_by_name() -> None:
    files = model_to_files(IRAE(CONFIG))
    with pytest.raises(ValueError, match=r"another architecture: K is 2 there and 3 here, width is 8 there and 4 here"):
        load_weights(IRAE(IRAEConfig(K=3, L=2, width=4)), files)


def test_damaged_and_foreign_files_are_refused() -> None:
    files = model_to_files(IRAE(CONFIG))
    with pytest.raises(ValueError, match="damaged"):
        model_from_files({**files, "model.safetensors": files["model.safetensors"][:100]})
    with pytest.raises(ValueError, match="the system 'bm3d', which is none of irae, dncnn"):
        model_from_files({**files, "config.json": b'{"system": "bm3d"}'})
    with pytest.raises(ValueError, match="system is irae there and unet here"):
        load_weights(build("unet", CONFIG), files)
    other = model_to_files(IRAE(IRAEConfig(K=1, width=8)))
    with pytest.raises(ValueError, match="tensors are missing"):
        model_from_files({**files, "model.safetensors": other["model.safetensors"]})

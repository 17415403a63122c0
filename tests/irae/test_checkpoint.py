"""Weights and optimizer state survive a file; foreign and damaged files are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from irae.checkpoint import (
    bytes_to_tensors,
    load_optimizer,
    load_weights,
    model_from_files,
    model_to_files,
    optimizer_to_bytes,
)
from irae.config import IRAEConfig
from irae.model import IRAE
from irae.registry import build
from tests.support.bijections import perturb

CONFIG = IRAEConfig(K=2, L=2, width=8)
FIRST_VERSION = Path(__file__).parent / "data" / "first_version"
"""A checkpoint of version 0.1 after 5 steps of Adam: config.json has "system" and "start". example.safetensors: a
batch, its restoration, and the restoration after one more step."""


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
def test_model_survives_bitwise_and_is_not_initialised_twice(conv1x1: str) -> None:
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


def test_training_resumes_bitwise_equal() -> None:
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


def test_a_checkpoint_of_the_first_version_is_loaded_and_resumed() -> None:
    files = {path.name: path.read_bytes() for path in FIRST_VERSION.iterdir()}
    example = bytes_to_tensors(files["example.safetensors"])
    model = model_from_files(files)
    assert isinstance(model, IRAE) and model.model_name == "irae"
    assert model.config == IRAEConfig(K=1, L=1, width=4, init="identity")
    torch.testing.assert_close(model(example["degraded"]), example["restored"])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, fused=True)
    load_optimizer(optimizer, [name for name, _ in model.named_parameters()], files["optimizer.safetensors"])
    step(model, optimizer, example["degraded"])
    torch.testing.assert_close(model(example["degraded"]), example["restored_after_a_step"])
    again = model_to_files(model)
    assert bytes_to_tensors(again["model.safetensors"]).keys() == bytes_to_tensors(files["model.safetensors"]).keys()
    assert b'"model": "irae"' in again["config.json"] and b'"init": "identity"' in again["config.json"]


def test_another_architecture_is_refused_by_name() -> None:
    files = model_to_files(IRAE(CONFIG))
    with pytest.raises(
        ValueError, match=r"has another architecture: K is 2 there and 3 here, width is 8 there and 4 here"
    ):
        load_weights(IRAE(IRAEConfig(K=3, L=2, width=4)), files)


def test_damaged_and_foreign_files_are_refused() -> None:
    files = model_to_files(IRAE(CONFIG))
    with pytest.raises(ValueError, match="damaged"):
        model_from_files({**files, "model.safetensors": files["model.safetensors"][:100]})
    with pytest.raises(ValueError, match="config.json is damaged"):
        model_from_files({**files, "config.json": b'{"model": '})
    with pytest.raises(ValueError, match="the model 'bm3d', which is none of irae, dncnn"):
        model_from_files({**files, "config.json": b'{"model": "bm3d"}'})
    with pytest.raises(ValueError, match="fields that IRAE has not .depth, tilt."):
        model_from_files({**files, "config.json": b'{"model": "irae", "tilt": 1, "depth": 2}'})
    with pytest.raises(ValueError, match="model is irae there and unet here"):
        load_weights(build("unet", CONFIG), files)
    other = model_to_files(IRAE(IRAEConfig(K=1, width=8)))
    with pytest.raises(ValueError, match="tensors are missing"):
        model_from_files({**files, "model.safetensors": other["model.safetensors"]})

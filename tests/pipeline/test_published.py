"""Published weights: MATLAB files as the authors lay them out, and their published figure where the files are there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image
from torch import nn

from irae.config import IRAEConfig
from irae.metrics import psnr_db
from irae.noise import awgn, sample_seeds
from irae.registry import build
from irae.restorer import Restorer
from pipeline.published import PublishedConfig, main, pixels_by_rows, read_convolutions, read_published
from pipeline.runs.load import load_trained


def convolutions(model: Restorer) -> list[tuple[np.ndarray, np.ndarray]]:
    """Filters (height, width, inputs, outputs) and biases (outputs, 1), as MATLAB has them."""
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    found = [(layer.weight.detach().numpy(), layer.bias.detach().numpy()) for layer in layers]  # type: ignore[union-attr]
    if model.model_name == "ffdnet-folded":
        found = pixels_by_rows(found)
    return [(filters.transpose(2, 3, 1, 0), biases[:, None]) for filters, biases in found]


def write_matlab_5(path: Path, model: Restorer) -> None:
    layers: list[dict[str, Any]] = []
    for filters, biases in convolutions(model):
        weights = np.empty((1, 2), object)
        weights[0, 0], weights[0, 1] = filters, biases
        layers += [{"type": "conv", "weights": weights, "pad": 1.0}, {"type": "relu", "leak": 0.0}]
    cell = np.empty((1, len(layers)), object)
    for place, layer in enumerate(layers):
        cell[0, place] = layer
    scipy.io.savemat(path, {"net": {"layers": cell}})


def write_matlab_73(path: Path, model: Restorer) -> None:
    """Every array with its axes turned round, cells as references; MATLAB's own 512 bytes before it."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w", userblock_size=512) as file:
        references = []
        for number, (filters, biases) in enumerate(convolutions(model)):
            layer = file.create_group(f"#refs#/layer{number}")
            layer["type"] = np.frombuffer(b"conv", np.uint8).astype(np.uint16)[:, None]
            parts = [file.create_dataset(f"#refs#/w{number}_{i}", data=a.T) for i, a in enumerate((filters, biases))]
            layer.create_dataset("weights", data=[part.ref for part in parts], dtype=h5py.ref_dtype)
            references.append([layer.ref])
        file.create_group("net").create_dataset("layers", data=references, dtype=h5py.ref_dtype)
    with path.open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64")


@pytest.mark.parametrize("write", [write_matlab_5, write_matlab_73])
@pytest.mark.parametrize("system", ["ffdnet-folded", "dncnn-17-folded", "dncnn-20-folded"])
def test_a_file_becomes_the_system_that_is_in_it(system: str, write: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build(system, IRAEConfig())
    write(tmp_path / "Some_Net.mat", model)
    main(PublishedConfig(tmp_path / "Some_Net.mat", out=str(tmp_path / "runs" / "net"), sigma_255=25.0))
    main(PublishedConfig(tmp_path / "Some_Net.mat", out=str(tmp_path / "runs" / "net"), sigma_255=25.0))
    trained = load_trained(str(tmp_path / "runs" / "net"), "best")
    assert trained.config.model.name == trained.model.model_name == system and trained.config.task.sigma_255 == 25.0
    images = torch.rand(2, 3, 9, 8)
    with torch.no_grad():
        expected, found = (m.restore(images, sigma_255=25.0) for m in (model, trained.model))
    torch.testing.assert_close(found, expected)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.mat"
    path.write_bytes(b"MATLAB 7.3 nothing of the kind")
    for content in (b"MATLAB 7.3 nothing of the kind", b"", b"PK\x03\x04 a zip file"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="x.mat holds no published network"):
            read_convolutions(path)
    with pytest.raises(ValueError, match="holds no published network"):
        read_convolutions(tmp_path / "nothing.mat")
    model = build("dncnn-17-folded", IRAEConfig())
    del model.net[4:6]
    write_matlab_5(path, model)
    with pytest.raises(ValueError, match="16 convolutions from 3 to 3 channels, which is neither FFDNet"):
        read_published(path)


def test_a_trained_run_is_not_replaced(tmp_path: Path) -> None:
    write_matlab_5(tmp_path / "net.mat", build("dncnn-17-folded", IRAEConfig()))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text('{"preset": "paper"}')
    with pytest.raises(ValueError, match="choose another --name"):
        main(PublishedConfig(tmp_path / "net.mat", out=str(tmp_path / "run")))


def needed(variable: str, *path: str) -> Path:
    """A place below the folder that a variable names; without it the test is skipped."""
    place = Path(os.environ.get(variable, "/nonexistent"), *path)
    if not place.exists():
        pytest.skip(f"{variable} names no folder with {'/'.join(path)}")
    return place


@pytest.mark.slow
def test_ffdnet_s_published_figure() -> None:
    """31.21 dB on CBSD68 at sigma 25 (Zhang et al. 2018, table V): whole images, unclipped noise."""
    pytest.importorskip("h5py")
    model = read_published(needed("IRAE_TEST_WEIGHTS", "FFDNet_color.mat")).eval()
    found = []
    for path in sorted(needed("IRAE_TEST_DATA", "cbsd68").glob("*.png")):
        clean = torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)[None].float() / 255
        degraded = awgn(clean, torch.tensor([25.0]), sample_seeds(0, [0], [path.stem], "noise"))
        with torch.inference_mode():
            found.append(psnr_db(model.restore(degraded, sigma_255=25.0), clean).item())
    assert len(found) == 68 and np.mean(found) == pytest.approx(31.21, abs=0.05)

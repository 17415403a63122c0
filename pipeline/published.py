"""python -m pipeline.published FILE.mat: the weights that FFDNet's and DnCNN's authors publish, as a run of ours.

Such a run is not trained any further; `pipeline.evaluate` and `pipeline.restore` take it like any other. The file is
MATLAB's, a MatConvNet network `net.layers` whose convolutions have the batch normalisation folded in: filters (height,
width, inputs, outputs) and biases.
"""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.storage import UserError
from pipeline.cli import PositionalPath, run_command
from pipeline.config.checks import raise_problems
from pipeline.config.task import Sigma, sigma_problems
from pipeline.config.train import TrainConfig

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    import numpy as np

    from irae.restorer import Restorer

    Convolutions = list[tuple[np.ndarray, np.ndarray]]
    """Filters float32 (outputs, inputs, 3, 3) and biases (outputs,) of each, in order."""

MATLAB_73 = b"MATLAB 7.3"
CONVOLUTIONS = {(12, 13, 12): "ffdnet-folded", (17, 3, 3): "dncnn-17-folded", (20, 3, 3): "dncnn-20-folded"}
"""Number of convolutions, inputs of the first, outputs of the last -> system."""


@dataclass(frozen=True)
class PublishedConfig:
    """Make a run of the weights that the authors of FFDNet and DnCNN publish, to be evaluated beside one's own."""

    file: PositionalPath
    """Their MATLAB file with the network for colour images."""
    name: str | None = None
    """Name of the run. Default: the file's."""
    out: str | None = None
    """URL of the run's folder. Default: IRAE_STORE/runs/NAME."""
    sigma_255: Sigma = "blind"
    """Noise that the weights are for, in units of 1/255, or blind: any."""

    def __post_init__(self) -> None:
        raise_problems(sigma_problems(self.sigma_255))


def main(config: PublishedConfig) -> None:
    """Read, recognise, write the run's folder."""
    from irae.checkpoint import model_to_files
    from irae.model import parameter_count
    from pipeline.runs.find import open_checked, run_url
    from pipeline.runs.folder import CONFIG, Run

    model = read_published(config.file)
    name = config.name or config.file.stem.lower()
    run = Run(open_checked(config.out or run_url(name)))
    settings = TrainConfig().with_options(
        preset="published", model=model.model_name, sigma_255=config.sigma_255, name=name
    )
    held = run.read_json(CONFIG)
    if held is not None and held.get("preset") != settings.preset:
        raise UserError(f"{run.url} is a run that was trained here; choose another --name.")
    run.write_json(CONFIG, dataclasses.asdict(settings))
    run.checkpoints.save(model_to_files(model), {"images_seen": 0, "published": config.file.name})
    logger.info(f"{config.file}: {model.model_name}, {parameter_count(model):,} parameters; the run is {run.url}")
    logger.info(f"next: python -m pipeline.evaluate --run {run.url} --data DATA --sigma-255 25")


def read_published(path: Path) -> Restorer:
    """The model in the file, with its weights. UserError when it is no such file."""
    import torch

    from irae.config import IRAEConfig
    from irae.registry import build

    convolutions = read_convolutions(path)
    first, last = convolutions[0][0], convolutions[-1][0]
    shape = (len(convolutions), first.shape[1], last.shape[0])
    if shape not in CONVOLUTIONS:
        raise UserError(
            f"{path} holds {shape[0]} convolutions from {shape[1]} to {shape[2]} channels, which is neither FFDNet for "
            "colour (12, from 13 to 12) nor DnCNN for colour (17 or 20, from 3 to 3)."
        )
    model = build(CONVOLUTIONS[shape], IRAEConfig())
    if model.model_name == "ffdnet-folded":
        convolutions = pixels_by_rows(convolutions)
    layers = [layer for layer in model.modules() if isinstance(layer, torch.nn.Conv2d)]
    with torch.no_grad():
        for number, (layer, (weight, bias)) in enumerate(zip(layers, convolutions, strict=True), 1):
            assert layer.bias is not None
            if layer.weight.shape != weight.shape or layer.bias.shape != bias.shape:
                raise UserError(
                    f"convolution {number} of {path} has filters {weight.shape} and {bias.size} biases, but "
                    f"{model.model_name} has {tuple(layer.weight.shape)} and {layer.bias.numel()}."
                )
            layer.weight.copy_(torch.from_numpy(weight))
            layer.bias.copy_(torch.from_numpy(bias))
    return model


def pixels_by_rows(convolutions: Convolutions) -> Convolutions:
    """FFDNet's with the four pixels of a 2x2 block taken row by row, as torch does, instead of column by column, as
    MATLAB does (or the other way round). With the wrong order CBSD68 gives 29.42 dB instead of 31.21."""
    order = [4 * colour + pixel for colour in range(3) for pixel in (0, 2, 1, 3)]
    (first, first_bias), *middle, (last, last_bias) = convolutions
    return [(first[:, [*order, 12]], first_bias), *middle, (last[order], last_bias[order])]


def read_convolutions(path: Path) -> Convolutions:
    """All convolutions of the network in a MATLAB file. UserError when there are none, or it is no such file."""
    try:
        with path.open("rb") as file:
            is_hdf5 = file.read(len(MATLAB_73)) == MATLAB_73
        found = _read_hdf5(path) if is_hdf5 else _read_matlab_5(path)
    except ImportError as error:
        needed = f"reading {path.name} needs {error.name}; install it with `pip install -e '.[matlab]'`."
        raise UserError(needed) from error
    except MemoryError:
        raise
    except Exception as error:  # h5py and scipy raise many kinds for files of another make
        raise UserError(f"{path} holds no published network that can be read ({error}).") from error
    if not found:
        raise UserError(f"{path} holds no convolutions; take the file with the authors' network in it.")
    return found


def _read_hdf5(path: Path) -> Convolutions:
    """Version 7.3. HDF5 has the axes in the other order: filters lie there as (outputs, inputs, width, height)."""
    import h5py
    import numpy as np

    found = []
    with h5py.File(path) as file:
        for reference in np.ravel(file["net"]["layers"]):
            layer = file[reference]
            if "".join(map(chr, np.ravel(layer["type"]))) == "conv":
                filters, biases = (np.asarray(file[part], np.float32) for part in np.ravel(layer["weights"]))
                found.append((np.ascontiguousarray(filters.transpose(0, 1, 3, 2)), biases.ravel()))
    return found


def _read_matlab_5(path: Path) -> Convolutions:
    """Version 5, scipy's."""
    import numpy as np
    from scipy.io import loadmat

    found = []
    for cell in np.ravel(loadmat(path)["net"]["layers"][0, 0]):
        layer: Any = np.ravel(cell)[0]
        if str(np.ravel(layer["type"])[0]) == "conv":
            filters, biases = (np.asarray(part, np.float32) for part in np.ravel(layer["weights"]))
            found.append((np.ascontiguousarray(filters.transpose(3, 2, 0, 1)), biases.ravel()))
    return found


if __name__ == "__main__":
    run_command(PublishedConfig, main)

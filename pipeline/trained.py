"""A run's model and configuration, read back from the store."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from irae.checkpoint import model_from_files
from irae.config import IRAEConfig
from irae.model import IRAE, on_device
from pipeline.config import TrainConfig
from pipeline.places import find_run, open_checked
from pipeline.run import CONFIG, Run


@dataclass(frozen=True)
class Trained:
    """A checkpoint of a run, ready to be used."""

    run: Run
    config: TrainConfig
    model: IRAE
    checkpoint: str
    device: torch.device

    @property
    def url(self) -> str:
        return self.run.store.url


def load_trained(run: str | None, checkpoint: str) -> Trained:
    """The run (URL, name, or None for the only one) at `best`, `last` or a named checkpoint, on the GPU if any.

    ValueError when there is none.
    """
    folder = Run(open_checked(find_run(run)))
    values = folder.read_json(CONFIG)
    if values is None:
        raise ValueError(f"{folder.store.url} is no run: it has no {CONFIG}; name another one with --run.")
    config = TrainConfig(**{**values, "model": IRAEConfig(**values["model"])})
    chosen = folder.chosen_checkpoint(checkpoint)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = on_device(model_from_files(chosen.files), device).eval()
    return Trained(folder, config, model, chosen.name, device)

"""Model and configuration of a run at a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from infra.storage import UserError
from irae.checkpoint import model_from_files
from irae.model import on_device
from irae.restorer import Restorer
from pipeline.config.train import TrainConfig, train_config
from pipeline.runs.find import find_run, open_checked
from pipeline.runs.folder import CONFIG, Run


@dataclass(frozen=True)
class Trained:
    """A checkpoint of a run, loaded."""

    run: Run
    config: TrainConfig
    model: Restorer
    checkpoint: str
    device: torch.device

    @property
    def url(self) -> str:
        return self.run.url


def load_trained(run: str | None, checkpoint: str) -> Trained:
    """The run (URL, name, None: the only one) at `best`, `last` or a name, on the GPU if any. UserError without one."""
    folder = Run(open_checked(find_run(run)))
    values = folder.read_json(CONFIG)
    if values is None:
        raise UserError(f"{folder.store.url} is no run: it has no {CONFIG}; name another one with --run.")
    chosen = folder.checkpoints.resolve(checkpoint)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = on_device(model_from_files(chosen.files), device).eval()
    return Trained(folder, train_config(values), model, chosen.name, device)

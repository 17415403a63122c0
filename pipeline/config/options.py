"""Defaults of a training's options, which depend on --config and --preset."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from infra.storage.errors import UserError
from pipeline.config.presets import preset
from pipeline.config.train import TrainConfig, train_config


def defaults(arguments: list[str]) -> TrainConfig:
    """Defaults of options that are not given: the --config file's, or the preset's (a GPU is found without torch)."""
    file = option(arguments, "--config")
    if file is not None:
        return read_config(Path(file))
    several_nodes = any(argument.split("=")[0] == "--nodes" for argument in arguments)
    name = option(arguments, "--preset") or TrainConfig.preset
    return preset(name, has_gpu=lambda: several_nodes or shutil.which("nvidia-smi") is not None)


def option(arguments: list[str], name: str) -> str | None:
    """Value of an option of the command line."""
    for i, argument in enumerate(arguments):
        if argument == name and i + 1 < len(arguments):
            return arguments[i + 1]
        if argument.startswith(f"{name}="):
            return argument.split("=", 1)[1]
    return None


def read_config(path: Path) -> TrainConfig:
    """A training configuration from a JSON file. UserError when it holds none."""
    try:
        return train_config(json.loads(path.read_text()))
    except OSError as error:
        raise UserError(f"--config {path} cannot be read ({error.strerror}); name a file.") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"--config {path} holds no training configuration: {error}") from None
